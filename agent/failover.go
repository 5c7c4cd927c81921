package agent

import (
	"cmp"
	"context"
	"slices"
	"time"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

const (
	// unusable is how long the link in use may be without its connection before
	// another parent is tried.
	unusable = 4 * time.Second
	// silent is the same for a link whose connection is there but whose probes do
	// not come back: three missing ones.
	silent = 6 * time.Second
	// When no parent works, each is given up to patience more before the next.
	patience = 30 * time.Second
)

// failoverGroups lists the links of each failover group, the preferred first.
func failoverGroups(h *held) map[string][]*federationv1.LinkSpec {
	groups := map[string][]*federationv1.LinkSpec{}
	for _, p := range h.parts {
		if l := p.GetLink(); l.GetRole() == federationv1.LinkSpec_DIAL && l.FailoverGroup != "" {
			groups[l.FailoverGroup] = append(groups[l.FailoverGroup], l)
		}
	}
	for _, g := range groups {
		slices.SortFunc(g, func(a, b *federationv1.LinkSpec) int {
			return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Peer, b.Peer))
		})
	}
	return groups
}

// activePeer is the one link of a group that is in use: the journalled choice,
// or the preferred one if that choice is not among them.
func activePeer(group []*federationv1.LinkSpec, choice string) string {
	for _, l := range group {
		if l.Peer == choice {
			return choice
		}
	}
	if len(group) == 0 {
		return ""
	}
	return group[0].Peer
}

// standby tells of each link of which another one of its group is in use.
func standby(h *held) map[string]bool {
	idle := map[string]bool{}
	for name, group := range failoverGroups(h) {
		active := activePeer(group, h.choices[name])
		for _, l := range group {
			if l.Peer != active {
				idle[l.Peer] = true
			}
		}
	}
	return idle
}

// watch is what a failover group's link in use was observed to do.
type watch struct {
	// connected: its outgoing leaf connection is up.
	connected bool
	// connectedAt is when it was last seen so, worked when a probe last came back.
	connectedAt, worked time.Time
}

// attempt is how far a group has come in its search for a link that works.
type attempt struct {
	// since is when the link in use was put in use.
	since time.Time
	// failed counts the links that were given up since one last worked.
	failed int
}

// nextPeer decides whether a group goes on with the link in use. It returns the
// peer to use, and the attempt as it is then. There is no way back to the
// preferred link but through a failure of the others.
func nextPeer(now time.Time, peers []string, active string, w watch, a attempt) (string, attempt) {
	if a.since.IsZero() {
		a.since = now
	}
	if w.worked.After(a.since) {
		a.failed = 0
	}
	at := slices.Index(peers, active)
	if len(peers) < 2 || at < 0 {
		return active, a
	}
	grace, since := unusable, later(w.connectedAt, a.since)
	if w.connected {
		grace, since = silent, later(w.worked, a.since)
	}
	// After a full round without success everyone gets more time.
	for range a.failed / len(peers) {
		grace = min(2*grace, patience)
	}
	if now.Sub(since) <= grace {
		return active, a
	}
	return peers[(at+1)%len(peers)], attempt{since: now, failed: a.failed + 1}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// failover switches groups from a link that does not work to the next.
type failover struct {
	*member
	attempts map[string]attempt
}

// failoverInterval is how often the links in use are looked at.
const failoverInterval = 500 * time.Millisecond

func (f *failover) run(ctx context.Context) {
	t := time.NewTicker(failoverInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			f.look(ctx, time.Now())
		}
	}
}

func (f *failover) look(ctx context.Context, now time.Time) {
	h := f.holder.now()
	groups := failoverGroups(h)
	for name := range f.attempts {
		if groups[name] == nil {
			delete(f.attempts, name)
		}
	}
	for name, group := range groups {
		active := activePeer(group, h.choices[name])
		peers := make([]string, len(group))
		for i, l := range group {
			peers[i] = l.Peer
		}
		next, a := nextPeer(now, peers, active, f.prober.watch(active), f.attempts[name])
		f.attempts[name] = a
		if next == active {
			continue
		}
		f.log.Warn("link does not work, using another parent", "group", name, "from", active, "to", next)
		if _, err := f.holder.change(func(h *held) bool {
			h.choices[name] = next
			return true
		}); err != nil {
			f.log.Error("cannot write the choice of a parent to the journal", "error", err)
			continue
		}
		f.prober.refresh()
		if err := f.links.sync(ctx).err(); err != nil {
			f.log.Error("cannot switch to another parent", "group", name, "error", err)
		}
		f.wakeApplier()
		// The time it took to switch is not held against the next one.
		f.attempts[name] = attempt{since: time.Now(), failed: a.failed}
	}
}
