package hub

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/topology"
)

// silentBeats is how many heartbeats may be missing before a session is ended.
const silentBeats = 3

// session is one agent's open Sync stream. It is a small state machine: open
// makes it from a Hello, handle takes every later message, next says what to
// send, close takes it away. Its fields are guarded by the fleet's mu, but for
// the last ones.
type session struct {
	identity
	last   time.Time // of the last message
	opened time.Time
	// early holds, by id, what the agent said of parts that the hub does not know
	// it to hold: an Inventory is read with it.
	early map[string]*federationv1.PartStatus
	// partial is a report of which more follows, and partialSize its bytes.
	partial      *federationv1.Report
	partialSize  int
	partialSince time.Time
	// reported tells that the first report, which is complete, was there.
	reported bool
	// inflight is the update that the agent has not answered yet.
	inflight *federationv1.Update
	launched time.Time // when it was put in flight
	toward   string    // the desired hash that it was on the way to
	// refused is the desired hash on the way to which the agent refused an
	// update: nothing more is sent until the plan is another.
	refused string

	turn turn // guarded by the outbox
	line line

	ended  chan struct{}
	err    error // why it ended; read after ended is closed
	ending sync.Mutex
	// hangUp tells the agent how the session ended; nil while there is no stream.
	hangUp func(error)
}

// end ends the session; the agent is told err. Only the first call counts. It never
// waits for the agent.
func (s *session) end(err error) {
	s.ending.Lock()
	defer s.ending.Unlock()
	select {
	case <-s.ended:
		return
	default:
	}
	s.err = err
	close(s.ended)
	if s.hangUp != nil {
		s.hangUp(err)
	}
}

// onEnd has hangUp called when the session ends: at once if it has.
func (s *session) onEnd(hangUp func(error)) {
	s.ending.Lock()
	defer s.ending.Unlock()
	s.hangUp = hangUp
	select {
	case <-s.ended:
		hangUp(s.err)
	default:
	}
}

// open starts the session of a member. A session that it has already is ended:
// the agent that dials again knows better than the hub which stream is alive.
func (f *Fleet) open(id identity, h *federationv1.Hello) (*session, *federationv1.Welcome, error) {
	if err := validHello(h); err != nil {
		return nil, nil, err
	}
	if err := f.outdated(id.cluster, h); err != nil {
		return nil, nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &session{identity: id, last: f.now(), opened: f.now(), ended: make(chan struct{})}
	if f.closed != nil {
		return nil, nil, f.closed
	}
	m := f.members[id.cluster]
	if m == nil {
		m = &member{}
		f.members[id.cluster] = m
	}
	if err := f.restless(id.cluster, m.facts.Facts, h.Facts); err != nil {
		return nil, nil, err
	}
	if m.session != nil {
		f.log.Warn("a newer session replaces the member's present one", "member", id.cluster)
		m.session.end(refused(reasonReplaced, codes.Aborted, "a newer session of member %q took over", id.cluster))
	} else {
		f.metrics.connected.Inc()
	}
	f.rush(s.opened)
	m.session = s
	m.facts = MemberFacts{Agent: h.Agent, Facts: cmp.Or(h.Facts, m.facts.Facts), LastSeen: s.last}
	held, planned, known := f.recognise(id.cluster, h.HeldHash)
	m.heldHash = ""
	if known {
		m.heldHash = h.HeldHash
	} else {
		for _, st := range brief(h.Unapplied, 0) {
			s.remember(st, maxParts)
		}
	}
	f.update(id.cluster, func(n *topology.MemberProgress) {
		n.Connected, n.Features, n.Held, n.Planned = true, h.Features, held, planned
		n.Unapplied = map[string]topology.PartFailure{}
		for _, st := range brief(h.Unapplied, 0) {
			if n.Hash(st.Id) == st.Hash && st.State != federationv1.PartStatus_APPLIED {
				n.Unapplied[st.Id] = failureOf(st)
			}
		}
	})
	f.heldChanged(id.cluster)
	f.wakeFar(id.cluster)
	return s, &federationv1.Welcome{
		Epoch:            f.epoch,
		HeartbeatSeconds: uint32(max(f.heartbeat/time.Second, 1)),
		WantInventory:    !known,
	}, nil
}

// recognise finds the parts that a held hash stands for, without asking.
func (f *Fleet) recognise(name, hash string) (held map[string]string, planned *topology.MemberState, known bool) {
	if desired := f.desiredAs(name, hash); desired != nil {
		return nil, desired, true
	}
	if f.members[name].heldHash == hash {
		pr := f.progress[name]
		return pr.Held, pr.Planned, true
	}
	if hash == federationv1.EmptyHash {
		return map[string]string{}, nil, true
	}
	return nil, nil, false
}

// heldChanged follows up on a change of what a member holds.
func (f *Fleet) heldChanged(name string) {
	f.setWaits(name)
	if m, desired := f.members[name], f.desired(name); desired != nil && m.heldHash == desired.Hash && f.progress[name].Refusal != "" {
		f.update(name, func(n *topology.MemberProgress) { n.Refusal = "" })
	}
	f.wake(name)
	f.wakeWaiters(name)
}

// close takes a session away, unless another took its place.
func (f *Fleet) close(s *session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.metrics.sessions.WithLabelValues(status.Code(s.err).String()).Inc()
	m := f.members[s.cluster]
	if m == nil || m.session != s {
		return
	}
	f.metrics.connected.Dec()
	f.follow.lost(s.cluster, "disconnected")
	m.session = nil
	f.update(s.cluster, func(n *topology.MemberProgress) { n.Connected = false })
	f.wakeFar(s.cluster)
	if f.desired(s.cluster) == nil {
		f.forget(s.cluster)
	}
}

// next takes the update that shall be sent now, if any: it is in flight from
// then on.
func (f *Fleet) next(s *session) *federationv1.Update {
	for {
		plan, base, step := f.step(s)
		if step.Target == "" {
			return nil
		}
		if u, ok := f.launch(s, plan, base, step); ok {
			return u
		}
	}
}

// step computes what could be sent now, and says from what. It only reads, so
// that sessions do it side by side.
func (f *Fleet) step(s *session) (plan *topology.Plan, base string, step topology.Step) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	m, desired := f.members[s.cluster], f.desired(s.cluster)
	if m == nil || m.session != s || s.inflight != nil || desired == nil || s.refused == desired.Hash ||
		m.heldHash == "" || m.heldHash == desired.Hash {
		return nil, "", topology.Step{}
	}
	return f.plan, m.heldHash, topology.Next(f.plan, f.progress, s.cluster)
}

// launch puts a step in flight, unless what it was computed from has changed.
func (f *Fleet) launch(s *session, plan *topology.Plan, base string, step topology.Step) (u *federationv1.Update, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.members[s.cluster]
	if m == nil || m.session != s {
		return nil, true
	}
	if f.plan != plan || m.heldHash != base {
		return nil, false
	}
	s.launched, s.toward = f.now(), f.desired(s.cluster).Hash
	revision := f.revision.Load()
	f.issued[s.cluster] = max(f.issued[s.cluster], revision)
	s.inflight = &federationv1.Update{
		Epoch: f.epoch, BaseHash: base, TargetHash: step.Target,
		Upserts: step.Upserts, Removals: step.Removals,
		RemovalMeant: step.Meant, Revision: revision,
	}
	s.inflight.Traceparent = f.follow.traceparent(s.cluster)
	return s.inflight, true
}

// sent notes that an update went out, in a message of size.
func (f *Fleet) sent(s *session, u *federationv1.Update, size int) {
	f.lastSent.Store(f.now().UnixNano())
	f.follow.sent(s.cluster)
	f.metrics.updates.Inc()
	f.metrics.bytes.Add(float64(size))
	if !f.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	f.log.Debug("update sent", "member", s.cluster, "upserts", len(u.Upserts), "removals", len(u.Removals), "target", u.TargetHash)
}

// apply is what is held after an update, if it is no planned state.
func apply(was *topology.MemberProgress, upserts []*federationv1.Part, removals []string) map[string]string {
	out := maps.Collect(was.All())
	for _, p := range upserts {
		out[p.Id] = p.Hash
	}
	for _, id := range removals {
		delete(out, id)
	}
	return out
}

// sweep ends the sessions that are silent for too long, and those whose
// certificate has expired: a live agent has a newer one.
func (f *Fleet) sweep() {
	f.unstall()
	f.follow.sweep()
	now := f.now()
	f.mu.RLock()
	defer f.mu.RUnlock()
	for _, m := range f.members {
		switch s := m.session; {
		case s == nil:
		case now.After(s.cert.NotAfter):
			s.end(status.Errorf(codes.Aborted, "the certificate of member %q has expired: connect with the renewed one", s.cluster))
		case now.Sub(s.last) > silentBeats*f.heartbeat:
			s.end(refused(reasonSilent, codes.DeadlineExceeded, "nothing was heard of member %q for %s", s.cluster, silentBeats*f.heartbeat))
		}
	}
}

// revoke ends the session of a member if it is of an identity that does not
// hold any more.
func (f *Fleet) revoke(cluster string, why error, void func(identity) bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if m := f.members[cluster]; m != nil && m.session != nil && void(m.session.identity) {
		f.log.Info("session revoked", "member", cluster)
		m.session.end(why)
	}
}

// shut ends all sessions and admits no more.
func (f *Fleet) shut(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = err
	for _, m := range f.members {
		if m.session != nil {
			m.session.end(err)
		}
	}
}
