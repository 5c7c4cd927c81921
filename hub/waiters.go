package hub

import (
	"slices"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/topology"
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
	desired := f.desired(name)
	if m.plannedOf != desired {
		m.plannedOf, m.plannedWaits = desired, plannedWaits(desired)
	}
	waits := m.plannedWaits
	if pr := f.progress[name]; desired != nil && pr != nil && m.heldHash != desired.Hash {
		var more []string
		pr.Superfluous(desired, func(id string) {
			if peer := federationv1.IDPeer(id); peer != "" {
				more = append(more, peer)
			}
		})
		if len(more) > 0 {
			waits = sortedSet(slices.Concat(waits, more))
		}
	}
	if !slices.Equal(waits, m.waits) {
		f.waiters.set(name, m.waits, waits)
	}
	m.waits = waits
}

// plannedWaits are the members of whose parts some come before those of a state.
func plannedWaits(state *topology.MemberState) []string {
	if state == nil {
		return nil
	}
	var out []string
	for _, p := range state.Parts {
		for _, after := range p.After {
			if len(out) == 0 || out[len(out)-1] != after.Cluster {
				out = append(out, after.Cluster)
			}
		}
	}
	return sortedSet(out)
}

func sortedSet(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
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
// one and the member does not hold what it shall.
func (f *Fleet) wake(name string) {
	if m := f.members[name]; m != nil && m.due(f.desired(name)) {
		f.outbox.add(m.session)
	}
}

// due tells whether a member that can be sent something holds not what it shall.
func (m *member) due(desired *topology.MemberState) bool {
	return m.session != nil && desired != nil && m.heldHash != "" && m.heldHash != desired.Hash && m.session.inflight == nil
}
