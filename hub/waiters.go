package hub

import (
	"slices"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// waiters says of each member which others may have something to send once it
// made progress: those with planned parts that come after one of its parts, and
// those that still hold a part towards it that the plan has no more.
//
// It errs on the side of waking too many; a wake without anything to send costs
// one call of topology.Next.
type waiters map[string]map[string]struct{}

func (w waiters) set(name string, before, after []string) {
	for _, peer := range before {
		if _, still := slices.BinarySearch(after, peer); still {
			continue
		}
		delete(w[peer], name)
		if len(w[peer]) == 0 {
			delete(w, peer)
		}
	}
	for _, peer := range after {
		if w[peer] == nil {
			w[peer] = map[string]struct{}{}
		}
		w[peer][name] = struct{}{}
	}
}

// setWaits brings waiters up to date with the plan for a member and what it
// holds.
func (f *Fleet) setWaits(name string) {
	m := f.members[name]
	if m == nil {
		return
	}
	var waits []string
	if desired := f.desired(name); desired != nil {
		for _, p := range desired.Parts {
			for _, after := range p.After {
				waits = append(waits, after.Cluster)
			}
		}
		if pr := f.progress[name]; pr != nil && m.heldHash != desired.Hash {
			for id := range pr.Held {
				if peer := federationv1.IDPeer(id); peer != "" && desired.Part(id) == nil {
					waits = append(waits, peer)
				}
			}
		}
	}
	slices.Sort(waits)
	waits = slices.Compact(waits)
	f.waiters.set(name, m.waits, waits)
	m.waits = waits
}

// wakeWaiters wakes the sessions that may have waited for what name did.
func (f *Fleet) wakeWaiters(name string) {
	for peer := range f.waiters[name] {
		f.wake(peer)
	}
}

// wakeFar is wakeWaiters for bad news: that something cannot come from name for
// now also ends the waiting of those who wait for name through others that are
// not done themselves.
func (f *Fleet) wakeFar(name string) {
	seen := map[string]bool{name: true}
	for queue := []string{name}; len(queue) > 0; queue = queue[1:] {
		for peer := range f.waiters[queue[0]] {
			if seen[peer] || f.settled(peer) {
				continue
			}
			seen[peer] = true
			f.wake(peer)
			queue = append(queue, peer)
		}
	}
}

// settled tells whether a member holds, and has applied, what it shall.
func (f *Fleet) settled(name string) bool {
	m, desired, pr := f.members[name], f.desired(name), f.progress[name]
	return m != nil && desired != nil && pr != nil && m.heldHash == desired.Hash && len(pr.Unapplied) == 0
}

// wake makes the session of a member look for something to send, if there is
// one and the member does not hold what it shall; it tells whether there is.
func (f *Fleet) wake(name string) bool {
	m, desired := f.members[name], f.desired(name)
	if m == nil || m.session == nil || desired == nil || m.heldHash == "" || m.heldHash == desired.Hash || m.session.inflight != nil {
		return false
	}
	m.session.nudge()
	return true
}
