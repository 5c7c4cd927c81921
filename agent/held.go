package agent

import (
	"maps"
	"slices"
	"sync"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	journalv1 "github.com/sealane/sealane/api/journal/v1"
)

// held is what the agent keeps in its journal. It is immutable: holder.change
// makes another one.
type held struct {
	generation uint64
	epoch      uint64
	// revision is the highest of an update of that epoch.
	revision uint64
	parts    map[string]*federationv1.Part
	// hash is the StateHash of parts.
	hash string
	// doomed are removed parts of which something may still be there.
	doomed map[string]*federationv1.Part
	grants map[string]*journalv1.IssuedGrant // by peer
	// ended are grants in accounts that links share which others replaced.
	ended   []*journalv1.IssuedGrant
	choices map[string]string // peer by failover group
	owned   map[string]bool
}

func heldFrom(s *journalv1.State) *held {
	h := &held{
		generation: s.Generation,
		epoch:      s.Epoch,
		revision:   s.Revision,
		parts:      make(map[string]*federationv1.Part, len(s.Parts)),
		doomed:     make(map[string]*federationv1.Part, len(s.Doomed)),
		grants:     make(map[string]*journalv1.IssuedGrant, len(s.Grants)),
		choices:    maps.Clone(s.Choices),
		owned:      make(map[string]bool, len(s.Owned)),
		ended:      s.Ended,
	}
	if h.choices == nil {
		h.choices = map[string]string{}
	}
	for _, p := range s.Parts {
		h.parts[p.Id] = p
	}
	for _, p := range s.Doomed {
		h.doomed[p.Id] = p
	}
	for _, g := range s.Grants {
		h.grants[g.Peer] = g
	}
	for _, id := range s.Owned {
		h.owned[id] = true
	}
	h.rehash()
	return h
}

func (h *held) state() *journalv1.State {
	s := &journalv1.State{
		Generation: h.generation,
		Epoch:      h.epoch,
		Revision:   h.revision,
		Choices:    h.choices,
		Owned:      slices.Sorted(maps.Keys(h.owned)),
		Ended:      h.ended,
	}
	for _, id := range slices.Sorted(maps.Keys(h.parts)) {
		s.Parts = append(s.Parts, h.parts[id])
	}
	for _, id := range slices.Sorted(maps.Keys(h.doomed)) {
		s.Doomed = append(s.Doomed, h.doomed[id])
	}
	for _, peer := range slices.Sorted(maps.Keys(h.grants)) {
		s.Grants = append(s.Grants, h.grants[peer])
	}
	return s
}

func (h *held) clone() *held {
	c := *h
	c.parts = maps.Clone(h.parts)
	c.doomed = maps.Clone(h.doomed)
	c.grants = maps.Clone(h.grants)
	c.choices = maps.Clone(h.choices)
	c.owned = maps.Clone(h.owned)
	return &c
}

func (h *held) rehash() { h.hash = federationv1.StateHash(h.hashes()) }

// hashes maps the ids of the held parts to their hashes.
func (h *held) hashes() map[string]string {
	m := make(map[string]string, len(h.parts))
	for id, p := range h.parts {
		m[id] = p.Hash
	}
	return m
}

// inventory lists the held parts, by id.
func (h *held) inventory() *federationv1.Inventory {
	inv := &federationv1.Inventory{HeldHash: h.hash}
	for _, id := range slices.Sorted(maps.Keys(h.parts)) {
		inv.Parts = append(inv.Parts, &federationv1.HeldPart{Id: id, Hash: h.parts[id].Hash})
	}
	return inv
}

// ids are the ids of the held parts, sorted.
func (h *held) ids() []string { return slices.Sorted(maps.Keys(h.parts)) }

// holder keeps the present held state and writes each next one to the journal
// before anyone sees it.
type holder struct {
	journal *journal // nil: in memory only

	mu  sync.Mutex
	cur *held
}

func openHolder(j *journal) (*holder, error) {
	s, err := j.load()
	if err != nil {
		return nil, err
	}
	return &holder{journal: j, cur: heldFrom(s)}, nil
}

// now returns the present state, which must not be modified.
func (h *holder) now() *held {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cur
}

// change lets f modify a copy of the state, in which f must replace and not
// modify what the maps point to. If f returns true the copy is journalled and
// becomes the state.
func (h *holder) change(f func(*held) bool) (*held, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := h.cur.clone()
	if !f(next) {
		return h.cur, nil
	}
	next.generation++
	next.rehash()
	if h.journal != nil {
		if err := h.journal.save(next.state()); err != nil {
			return h.cur, err
		}
	}
	h.cur = next
	return next, nil
}
