package topology

import (
	"slices"
	"strings"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// partUpdate is a part of a member that is made anew, or removed: then part is nil.
type partUpdate struct {
	member int32
	id     string
	part   *PlannedPart
}

// put notes an update; of several of one part the last one counts.
func (w *partWriter) put(member int32, id string, p *PlannedPart) {
	w.updates = append(w.updates, partUpdate{member, id, p})
}

// states are those of all members with the updates; prev are those before, if any.
func (w *partWriter) states(prev []*MemberState) []*MemberState {
	names := w.fabric.names
	// Counting sort by member: it keeps the order of the updates of each.
	end := make([]int, len(names)+1)
	for _, u := range w.updates {
		end[u.member+1]++
	}
	for i := range names {
		end[i+1] += end[i]
	}
	sorted := make([]partUpdate, len(w.updates))
	for _, u := range w.updates {
		sorted[end[u.member]] = u
		end[u.member]++
	}
	out := make([]*MemberState, len(names))
	var h federationv1.StateHasher
	from := 0
	for i, name := range names {
		var old *MemberState
		if prev != nil {
			old = prev[i]
		}
		out[i] = updated(name, old, sorted[from:end[i]], &h)
		from = end[i]
	}
	return out
}

// updated is a member's state with some parts replaced or removed. It reorders
// updates.
func updated(cluster string, old *MemberState, updates []partUpdate, h *federationv1.StateHasher) *MemberState {
	if old != nil && len(updates) == 0 {
		return old
	}
	var before []*PlannedPart
	if old != nil {
		before = old.Parts
	}
	slices.SortStableFunc(updates, func(a, b partUpdate) int { return strings.Compare(a.id, b.id) })
	s := &MemberState{Cluster: cluster, Parts: make([]*PlannedPart, 0, len(before)+len(updates))}
	for i, u := range updates {
		if i+1 < len(updates) && updates[i+1].id == u.id {
			continue
		}
		at, found := slices.BinarySearchFunc(before, u.id, func(p *PlannedPart, id string) int { return strings.Compare(p.Part.Id, id) })
		s.Parts, before = append(s.Parts, before[:at]...), before[at:]
		if found {
			before = before[1:]
		}
		if u.part != nil {
			s.Parts = append(s.Parts, u.part)
		}
	}
	s.Parts = append(s.Parts, before...)
	for _, p := range s.Parts {
		h.Add(p.Part.Id, p.Part.Hash)
	}
	s.Hash = h.Sum()
	return s
}
