package hub

import (
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/topology"
)

// What others wait for must end. A member that is connected and does nothing is
// as good as one that refuses: see topology.Next on what cannot come.
const (
	// answerTimeout bounds how long an update, or the wish for an inventory, may
	// be without an answer, and a report without its end.
	answerTimeout = time.Minute
	// applyTimeout bounds how long a part may be on its way to being applied
	// before others go on without it.
	applyTimeout = 2 * time.Minute
	// letGoTimeout bounds how long an outlet that shall go is kept for a destination
	// that does not let go of it, whatever that says meanwhile.
	letGoTimeout = 10 * time.Minute
)

// codeStalled is the failure of a part that a member does not get done with. The
// member may yet say that it is applied.
const codeStalled = "Stalled"

// pending is a part that was being applied at the last look.
type pending struct {
	hash  string
	since time.Time
}

// unstall ends the sessions of members that owe an answer for too long, and
// gives up parts that are being applied for too long.
func (f *Fleet) unstall() {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	for name, m := range f.members {
		if s := m.session; s != nil {
			if what := s.owes(m, now); what != "" {
				f.stalled(name, s, what)
			}
		}
		f.giveUp(name, m, now)
		f.letGo(name, m, now)
	}
}

// owes says what the hub waits for in vain, or "".
func (s *session) owes(m *member, now time.Time) string {
	switch {
	case m.heldHash == "" && now.Sub(s.opened) > answerTimeout:
		return "no inventory came"
	case s.inflight != nil && now.Sub(s.launched) > answerTimeout && now.Sub(s.launched) > answerTimeout+travel(s.inflight):
		return "an update was not answered"
	case s.partial != nil && now.Sub(s.partialSince) > answerTimeout:
		return "a report that comes in several messages did not end"
	}
	return ""
}

// travel is how long an update may be under way to a member with a poor network.
func travel(u *federationv1.Update) time.Duration {
	const slowest = 64 << 10 // bytes per second
	return time.Duration(proto.Size(u)) * time.Second / slowest
}

// stalled ends a session, and makes that nobody waits for the member, also when
// it is back, until it made progress or the plan is another.
func (f *Fleet) stalled(name string, s *session, what string) {
	err := refused(reasonStalled, codes.DeadlineExceeded, "%s in time", what)
	f.log.Warn("member stalls", "member", name, "reason", what)
	f.update(name, func(n *topology.MemberProgress) { n.Refusal = what + " in time" })
	s.end(err)
	f.wakeFar(name)
}

// giveUp makes failures of the parts that a connected member is applying for
// longer than applyTimeout.
func (f *Fleet) giveUp(name string, m *member, now time.Time) {
	pr := f.progress[name]
	if pr == nil || m.session == nil || len(pr.Unapplied) == 0 {
		m.pending = nil
		return
	}
	next := make(map[string]pending, len(pr.Unapplied))
	var late []string
	for id, why := range pr.Unapplied {
		if why.Code != "" {
			continue
		}
		p, has := m.pending[id]
		if !has || p.hash != pr.Hash(id) {
			p = pending{pr.Hash(id), now}
		}
		next[id] = p
		if now.Sub(p.since) > applyTimeout {
			late = append(late, id)
		}
	}
	m.pending = next
	if len(late) == 0 {
		return
	}
	f.metrics.refused.WithLabelValues(reasonStalled).Inc()
	f.update(name, func(n *topology.MemberProgress) {
		n.Unapplied = maps.Clone(n.Unapplied)
		for _, id := range late {
			n.Unapplied[id] = topology.PartFailure{Code: codeStalled, Message: "it is being applied for more than " + applyTimeout.String()}
		}
	})
	f.wakeFar(name)
}

// letGo makes overdue the outlets that a member keeps for destinations for longer
// than letGoTimeout. It looks at the member's own state only, so that a destination
// cannot begin the time anew. While a rollout keeps the destination as it was it
// does not run.
func (f *Fleet) letGo(name string, m *member, now time.Time) {
	pr, desired := f.progress[name], f.desired(name)
	if pr == nil {
		return
	}
	if desired == nil || m.heldHash == desired.Hash {
		pr = &topology.MemberProgress{Overdue: pr.Overdue} // of what is not planned it keeps nothing
	}
	var next map[string]time.Time
	var overdue map[string]bool
	late := false
	for id := range pr.All() {
		if !strings.HasPrefix(id, "outlet/") || desired.Part(id) != nil || f.plan.Staged[federationv1.IDPeer(id)] != nil {
			continue
		}
		since, has := m.kept[id]
		if !has {
			since = now
		}
		if next == nil {
			next, overdue = map[string]time.Time{}, map[string]bool{}
		}
		next[id] = since
		if now.Sub(since) > letGoTimeout {
			overdue[id] = true
			late = late || !pr.Overdue[id]
		}
	}
	m.kept = next
	if !late && len(overdue) == len(pr.Overdue) {
		return
	}
	if late {
		f.log.Warn("the consumer of a bridge is removed although its destination does not let go of it", "member", name, "kept", slices.Sorted(maps.Keys(overdue)))
	}
	f.update(name, func(n *topology.MemberProgress) { n.Overdue = overdue })
	f.wake(name)
}
