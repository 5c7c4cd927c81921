package agent

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// flowKey identifies a flow at its destination.
type flowKey struct {
	bridge, origin, account, stream string
}

// view is one state of everything that the agent tells the hub. What its maps
// point to is immutable.
type view struct {
	heldHash string
	parts    map[string]*federationv1.PartStatus
	facts    *federationv1.Facts
	grants   map[string]*federationv1.Grant
	links    map[string]*federationv1.LinkHealth
	flows    map[flowKey]*federationv1.FlowHealth
}

func (v *view) clone() *view {
	c := *v
	c.parts = maps.Clone(v.parts)
	c.grants = maps.Clone(v.grants)
	c.links = maps.Clone(v.links)
	c.flows = maps.Clone(v.flows)
	return &c
}

// picture is the present view. However often it changes, all that a slow or
// absent hub makes the agent keep is this one: a report is the difference
// between the view that was sent last and the present one.
type picture struct {
	changed chan struct{} // one slot

	mu    sync.Mutex
	cur   *view
	rttAt map[string]time.Time // when a link's round trip was last shown
}

func newPicture(facts *federationv1.Facts) *picture {
	return &picture{
		changed: make(chan struct{}, 1),
		cur:     &view{facts: facts, heldHash: federationv1.EmptyHash},
		rttAt:   map[string]time.Time{},
	}
}

// now returns the present view, which must not be modified.
func (p *picture) now() *view {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cur
}

// edit replaces the view by what f makes of a copy, if f returns true.
func (p *picture) edit(f func(*view) bool) {
	p.mu.Lock()
	next := p.cur.clone()
	ok := f(next)
	if ok {
		p.cur = next
	}
	p.mu.Unlock()
	if ok {
		wake(p.changed)
	}
}

// wake fills a one-slot channel.
func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// hold shows a held state: its hash, together with the fact that the parts
// which are new in it are not applied yet.
func (p *picture) hold(h *held) {
	p.edit(func(v *view) bool {
		v.heldHash = h.hash
		parts := make(map[string]*federationv1.PartStatus, len(h.parts))
		for id, part := range h.parts {
			if s := v.parts[id]; s != nil && s.Hash == part.Hash {
				parts[id] = s
				continue
			}
			parts[id] = &federationv1.PartStatus{Id: id, Hash: part.Hash, State: federationv1.PartStatus_PENDING}
		}
		v.parts = parts
		return true
	})
}

// setParts shows the results of the applier. A result for a part that is not
// held any more, or with another content, is dropped.
func (p *picture) setParts(results []*federationv1.PartStatus) {
	p.edit(func(v *view) bool {
		changed := false
		for _, r := range results {
			old := v.parts[r.Id]
			if old == nil || old.Hash != r.Hash || proto.Equal(old, r) {
				continue
			}
			v.parts[r.Id] = r
			changed = true
		}
		return changed
	})
}

func (p *picture) setFacts(f *federationv1.Facts) {
	p.edit(func(v *view) bool {
		if proto.Equal(v.facts, f) {
			return false
		}
		v.facts = f
		return true
	})
}

func (p *picture) setGrants(grants map[string]*federationv1.Grant) {
	p.edit(func(v *view) bool {
		if maps.EqualFunc(v.grants, grants, func(a, b *federationv1.Grant) bool { return proto.Equal(a, b) }) {
			return false
		}
		v.grants = grants
		return true
	})
}

// rttInterval is how often a round trip is shown that changed by less than a
// quarter.
const rttInterval = 30 * time.Second

// setLinks shows the health of exactly these links.
func (p *picture) setLinks(now time.Time, links map[string]*federationv1.LinkHealth) {
	p.edit(func(v *view) bool {
		next := make(map[string]*federationv1.LinkHealth, len(links))
		changed := len(links) != len(v.links)
		for peer, l := range links {
			old := v.links[peer]
			if old != nil && sameLink(old, l) && now.Sub(p.rttAt[peer]) < rttInterval || proto.Equal(old, l) {
				next[peer] = old
				continue
			}
			next[peer], changed = l, true
			p.rttAt[peer] = now
		}
		maps.DeleteFunc(p.rttAt, func(peer string, _ time.Time) bool { return links[peer] == nil })
		v.links = next
		return changed
	})
}

// sameLink tells whether only the round trip differs, and that by little.
func sameLink(a, b *federationv1.LinkHealth) bool {
	if a.State != b.State || a.Since != b.Since || a.Message != b.Message {
		return false
	}
	d := a.RttMicros - b.RttMicros
	return max(d, -d)*4 <= a.RttMicros && a.RttMicros != 0
}

// setFlows shows the health of exactly these flows.
func (p *picture) setFlows(flows map[flowKey]*federationv1.FlowHealth) {
	p.edit(func(v *view) bool {
		if maps.EqualFunc(v.flows, flows, func(a, b *federationv1.FlowHealth) bool { return proto.Equal(a, b) }) {
			return false
		}
		next := make(map[flowKey]*federationv1.FlowHealth, len(flows))
		for k, f := range flows {
			if old := v.flows[k]; proto.Equal(old, f) {
				f = old // unchanged ones stay the same, so that report skips them
			}
			next[k] = f
		}
		v.flows = next
		return true
	})
}

// report tells what is new in v against sent, the view that the hub has. Nil
// means that nothing was sent in this session: the report is complete. It
// returns nil if there is nothing to tell.
func (v *view) report(sent *view) *federationv1.Report {
	r := &federationv1.Report{HeldHash: v.heldHash}
	first := sent == nil
	if first {
		sent = &view{}
	}
	for id, s := range v.parts {
		if sent.parts[id] != s {
			r.Parts = append(r.Parts, s)
		}
	}
	if v.facts != sent.facts {
		r.Facts = v.facts
	}
	for peer, g := range v.grants {
		if sent.grants[peer] != g {
			r.Grants = append(r.Grants, g)
		}
	}
	for peer, l := range v.links {
		if sent.links[peer] != l {
			r.Links = append(r.Links, l)
		}
	}
	for peer := range sent.links {
		if v.links[peer] == nil {
			r.Links = append(r.Links, &federationv1.LinkHealth{Peer: peer, Removed: true})
		}
	}
	for k, f := range v.flows {
		if sent.flows[k] != f {
			r.Flows = append(r.Flows, f)
		}
	}
	for k := range sent.flows {
		if v.flows[k] == nil {
			r.Flows = append(r.Flows, &federationv1.FlowHealth{Bridge: k.bridge, Origin: k.origin, Account: k.account, Stream: k.stream, Removed: true})
		}
	}
	if !first && v.heldHash == sent.heldHash && len(r.Parts)+len(r.Grants)+len(r.Links)+len(r.Flows) == 0 && r.Facts == nil {
		return nil
	}
	slices.SortFunc(r.Parts, func(a, b *federationv1.PartStatus) int { return cmp.Compare(a.Id, b.Id) })
	slices.SortFunc(r.Grants, func(a, b *federationv1.Grant) int { return cmp.Compare(a.Peer, b.Peer) })
	slices.SortFunc(r.Links, func(a, b *federationv1.LinkHealth) int { return cmp.Compare(a.Peer, b.Peer) })
	slices.SortFunc(r.Flows, func(a, b *federationv1.FlowHealth) int {
		return cmp.Or(cmp.Compare(a.Bridge, b.Bridge), cmp.Compare(a.Origin, b.Origin), cmp.Compare(a.Account, b.Account), cmp.Compare(a.Stream, b.Stream))
	})
	return r
}

// unapplied lists the held parts that are not applied.
func (v *view) unapplied() []*federationv1.PartStatus {
	var l []*federationv1.PartStatus
	for _, id := range slices.Sorted(maps.Keys(v.parts)) {
		if s := v.parts[id]; s.State != federationv1.PartStatus_APPLIED {
			l = append(l, s)
		}
	}
	return l
}
