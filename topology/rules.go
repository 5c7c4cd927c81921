package topology

import (
	"cmp"
	"hash/fnv"
	"slices"

	"github.com/sealane/sealane/api/v1alpha1"
)

const (
	// maxParents is the most parents among which a spoke may choose.
	maxParents = 4
	// maxLinks bounds the links of one topology: a mesh of 128 members, or 4,096
	// spokes with four parents.
	maxLinks = 16384
)

// defaultNearestBy are the labels that tell how near two members are.
var defaultNearestBy = []string{"topology.kubernetes.io/zone", "topology.kubernetes.io/region"}

// wish is a pair of members that rules want joined.
type wish struct {
	a, b int32 // a < b
	// spoke is the end that dials if both can, or -1.
	spoke int32
	// plain: some rule wants the link always in use.
	plain bool
	// group is the rule that wants it as one of several, and rank its place.
	group string
	rank  int32
	field string // of the rule that wanted it first
	// share is the rule by which its spoke may share it, asks how often it was wanted.
	share string
	asks  int
}

// wishes collects the pairs of all rules.
type wishes struct {
	f    *fabric
	rep  *report
	list []*wish
	at   map[[2]int32]*wish
}

// linkRules fills f.links and f.peers, and makes its graph.
func linkRules(f *fabric, members map[string]*v1alpha1.MemberCluster, rep *report) {
	w := &wishes{f: f, rep: rep, at: map[[2]int32]*wish{}}
	for i, l := range f.topology.Spec.Links {
		field := index("spec.links", i)
		switch l.Type {
		case v1alpha1.LinkMesh:
			m := w.union(l.Groups)
			if n := len(m) * (len(m) - 1) / 2; n > maxLinks {
				rep.refuse(field+".groups", v1alpha1.ReasonLimitExceeded,
					"a mesh of %d members has %d links, and a topology at most %d: use HubAndSpoke for most of them", len(m), n, maxLinks)
				return
			}
			for i, a := range m {
				for _, b := range m[i+1:] {
					w.join(a, b, field).plain = true
				}
			}
		case v1alpha1.LinkRing, v1alpha1.LinkChain:
			m := w.ordered(l, field)
			for i := 1; i < len(m); i++ {
				w.join(m[i-1], m[i], field).plain = true
			}
			if l.Type == v1alpha1.LinkRing && len(m) > 2 {
				w.join(m[len(m)-1], m[0], field).plain = true
			}
		case v1alpha1.LinkEdges:
			for j, e := range l.Edges {
				w.edge(e, index(field+".edges", j))
			}
		case v1alpha1.LinkHubAndSpoke:
			w.hubAndSpoke(l, field+".hubAndSpoke", members)
		}
	}
	if len(w.list) > maxLinks {
		rep.refuse("spec.links", v1alpha1.ReasonLimitExceeded, "%d links are more than the %d that a topology may have: use HubAndSpoke for most members", len(w.list), maxLinks)
		return
	}
	w.orient(members)
	if !rep.refused {
		f.graph = newGraph(f, rep)
	}
}

// join wishes for a link, or returns the wish that is there.
func (w *wishes) join(a, b int32, field string) *wish {
	if a > b {
		a, b = b, a
	}
	if x := w.at[[2]int32{a, b}]; x != nil {
		x.asks++
		return x
	}
	x := &wish{a: a, b: b, spoke: -1, field: field, asks: 1}
	w.at[[2]int32{a, b}] = x
	w.list = append(w.list, x)
	return x
}

// union are the members of all groups.
func (w *wishes) union(groups []string) []int32 {
	s := newSet(len(w.f.names))
	for _, g := range groups {
		s = s.or(w.f.groups[g])
	}
	return s.list()
}

// ordered are the members of a Ring or Chain in their order.
func (w *wishes) ordered(l v1alpha1.LinkRule, field string) []int32 {
	all := newSet(len(w.f.names))
	for _, i := range w.union(l.Groups) {
		all.add(i)
	}
	var out []int32
	for i, name := range l.Order {
		m, ok := w.f.index[name]
		if !ok || !all.has(m) {
			w.rep.wait(index(field+".order", i), v1alpha1.ReasonUnknownMember, "%s is in none of the rule's groups yet: it is passed over", name)
			continue
		}
		out = append(out, m)
		all.remove(m)
	}
	return append(out, all.list()...)
}

func (w *wishes) edge(e v1alpha1.Edge, field string) {
	a, okA := w.f.index[e.A]
	b, okB := w.f.index[e.B]
	if okA && okB {
		w.join(a, b, field).plain = true
		return
	}
	var missing []string
	if !okA {
		missing = append(missing, e.A)
	}
	if !okB {
		missing = append(missing, e.B)
	}
	for _, name := range missing {
		w.rep.wait(field, v1alpha1.ReasonUnknownMember, "%s is in no group of the topology yet: put it into one, or remove the edge", name)
	}
}

func (w *wishes) hubAndSpoke(l v1alpha1.LinkRule, field string, members map[string]*v1alpha1.MemberCluster) {
	h := l.HubAndSpoke
	hubs := w.f.groups[h.Hubs].list()
	most := int(h.MaxParents)
	if most == 0 {
		most = 2
	}
	order := map[int32]int{}
	for i, name := range h.Order {
		m, ok := w.f.index[name]
		if !ok || !w.f.groups[h.Hubs].has(m) {
			w.rep.wait(index(field+".order", i), v1alpha1.ReasonUnknownMember, "%s is not in group %s yet: it is passed over", name, h.Hubs)
			continue
		}
		order[m] = i + 1
	}
	byOrder := func(a, b int32) int {
		oa, ob := order[a], order[b]
		if (oa == 0) != (ob == 0) {
			return cmp.Compare(ob, oa)
		}
		return cmp.Or(cmp.Compare(oa, ob), cmp.Compare(a, b))
	}
	nearestBy := h.NearestBy
	if len(nearestBy) == 0 {
		nearestBy = defaultNearestBy
	}
	for _, spoke := range w.f.groups[h.Spokes].list() {
		parents := slices.Clone(hubs)
		if h.Parents == v1alpha1.ParentsNearest {
			w.nearest(spoke, parents, nearestBy, members, byOrder, len(h.Order) > 0)
		} else {
			slices.SortFunc(parents, byOrder)
		}
		parents = parents[:min(most, len(parents))]
		if len(parents) > 1 {
			parents = w.reachable(spoke, parents, field, members)
		}
		for rank, p := range parents {
			x := w.join(spoke, p, field)
			if x.spoke < 0 {
				x.spoke = spoke
			}
			if h.Links == v1alpha1.SpokeLinksShared && x.spoke == spoke {
				x.share = l.Name
			}
			switch {
			case len(parents) == 1:
				x.plain = true
			case x.group != "":
				w.rep.refuse(field, v1alpha1.ReasonAmbiguousPath, "rules %s and %s both let %s choose %s as a parent: keep one of them", x.group, l.Name, w.f.names[spoke], w.f.names[p])
			default:
				x.group, x.rank = l.Name, int32(rank)
			}
		}
	}
}

// nearest sorts parents by how many labels they share with the spoke, then by an
// explicit order if there is one, then by a hash that spreads the spokes and
// moves few of them when a parent comes or goes.
func (w *wishes) nearest(spoke int32, parents []int32, by []string, members map[string]*v1alpha1.MemberCluster, byOrder func(a, b int32) int, ordered bool) {
	self := w.f.names[spoke]
	type rank struct {
		shared int
		hash   uint64
	}
	ranks := map[int32]rank{}
	own := members[self].Labels
	for _, p := range parents {
		other := members[w.f.names[p]].Labels
		r := rank{hash: rendezvous(self, w.f.names[p])}
		for _, key := range by {
			if v, ok := own[key]; ok && other[key] == v {
				r.shared++
			}
		}
		ranks[p] = r
	}
	slices.SortFunc(parents, func(a, b int32) int {
		ra, rb := ranks[a], ranks[b]
		if ra.shared != rb.shared {
			return cmp.Compare(rb.shared, ra.shared)
		}
		if ordered {
			if c := byOrder(a, b); c != 0 {
				return c
			}
		}
		return cmp.Or(cmp.Compare(rb.hash, ra.hash), cmp.Compare(a, b))
	})
}

// rendezvous is the weight of b for a.
func rendezvous(a, b string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(a))
	h.Write([]byte{0})
	h.Write([]byte(b))
	return mix(h.Sum64())
}

// mix spreads the bits of an FNV hash, whose upper ones change little between
// names that differ in their last letters.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// reachable leaves out the parents that a spoke with a choice cannot dial: only
// the side that dials can choose.
func (w *wishes) reachable(spoke int32, parents []int32, field string, members map[string]*v1alpha1.MemberCluster) []int32 {
	var out []int32
	for _, p := range parents {
		if len(endpoints(members[w.f.names[p]])) > 0 {
			out = append(out, p)
			continue
		}
		w.noEndpoint(field, []int32{p}, members, "%s is a parent to choose for %s but has no endpoint to dial: start its agent with --advertise, set its spec.endpoints, or set maxParents to 1",
			w.f.names[p], w.f.names[spoke])
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// noEndpoint reports a link that cannot be. It waits if one of the members that
// lack an endpoint has never connected, so that it may have one yet.
func (w *wishes) noEndpoint(field string, lacking []int32, members map[string]*v1alpha1.MemberCluster, format string, args ...any) {
	for _, m := range lacking {
		if !everConnected(members[w.f.names[m]]) {
			w.f.awaits = true
			w.rep.wait(field, v1alpha1.ReasonNoEndpoint, format, args...)
			return
		}
	}
	w.rep.blame(field, v1alpha1.ReasonNoEndpoint, format, args...)
}

// orient decides who dials, and builds the links.
func (w *wishes) orient(members map[string]*v1alpha1.MemberCluster) {
	f := w.f
	chosen := map[int32]string{}
	for _, x := range w.list {
		a, b := f.names[x.a], f.names[x.b]
		if x.group != "" && x.plain {
			w.rep.refuse(x.field, v1alpha1.ReasonAmbiguousPath,
				"%s and %s are joined always and also as a choice of parents of rule %s: remove one of the two, or set maxParents to 1", a, b, x.group)
			continue
		}
		if x.group != "" {
			if other := chosen[x.spoke]; other != "" && other != x.group {
				w.rep.refuse(x.field, v1alpha1.ReasonAmbiguousPath,
					"%s has a choice of parents by rule %s and by rule %s: a member can have one, so set maxParents to 1 in the other", f.names[x.spoke], other, x.group)
				continue
			}
			chosen[x.spoke] = x.group
		}
		hasA, hasB := len(endpoints(members[a])) > 0, len(endpoints(members[b])) > 0
		l := link{dialer: x.b, acceptor: x.a, group: x.group, priority: x.rank}
		if x.asks == 1 {
			l.share = x.share
		}
		switch {
		case !hasA && !hasB:
			w.noEndpoint(x.field, []int32{x.a, x.b}, members, "%s and %s cannot be joined, as neither has an endpoint to dial: start the agent of one with --advertise, or set its spec.endpoints", a, b)
			continue
		case !hasA || hasB && x.spoke == x.a:
			l.dialer, l.acceptor = x.a, x.b
		}
		f.links = append(f.links, l)
	}
	f.sortLinks()
	turn, capable := make([]bool, len(f.links)), make([]bool, len(f.names))
	for i, l := range f.links {
		turn[i] = l.group == "" && !w.spoke(l) && len(endpoints(members[f.names[l.dialer]])) > 0
	}
	for i, name := range f.names {
		capable[i] = knowsRoles(members[name])
	}
	f.settle(turn, capable)
	f.sortLinks()
	f.findShares(members)
	f.findStops()
}

// spoke tells whether a rule says which end of a link dials.
func (w *wishes) spoke(l link) bool {
	return w.at[[2]int32{min(l.dialer, l.acceptor), max(l.dialer, l.acceptor)}].spoke >= 0
}
