package topology

import (
	"cmp"
	"container/heap"
	"hash/fnv"
	"math"
	"slices"

	"github.com/sealane/sealane/api/v1alpha1"
)

// graph knows the routes of a fabric.
//
// Links that are always in use divide the members into islands. A cut is a
// member with a choice of parents: its links of that choice, of which one is in
// use at a time, are the only way between its side (what can be reached from it
// without them) and the rest. So whatever the members choose, what is in use is
// a forest of islands: there is one way between two islands, or none, and within
// an island the shortest path is taken.
type graph struct {
	f        *fabric
	island   []int32   // by member
	islands  []*island // by number
	cuts     []*cut
	ownCuts  [][]int32 // by island: the cuts whose child is in it
	parentOf [][]int32 // by island: the cuts with a parent in it
	whole    []int32   // by island: the component over all links

	// By member: the step towards the island's core (-1 in the core), how many
	// steps it takes, the index in the core, and the links within the core.
	up    []int32
	depth []int32
	local []int32
	next  [][]hopCost
}

// cut is a member with a choice of parents.
type cut struct {
	child   int32
	parents []int32 // by priority
	side    map[int32]bool
}

func newGraph(f *fabric, rep *report) *graph {
	n := len(f.names)
	g := &graph{
		f: f, island: make([]int32, n), up: make([]int32, n), depth: make([]int32, n), local: make([]int32, n),
		next: make([][]hopCost, n),
	}
	for i := range g.island {
		g.island[i], g.up[i] = -1, -1
	}
	for m := range f.names {
		if g.island[m] < 0 {
			g.addIsland(int32(m))
		}
	}
	g.findCuts()
	g.components()
	g.checkCuts(rep)
	return g
}

func (g *graph) findCuts() {
	byChild := map[int32]*cut{}
	links := slices.Clone(g.f.links)
	slices.SortStableFunc(links, func(a, b link) int { return cmp.Compare(a.priority, b.priority) })
	for _, l := range links {
		if l.group == "" {
			continue
		}
		c := byChild[l.dialer]
		if c == nil {
			c = &cut{child: l.dialer}
			byChild[l.dialer] = c
			g.cuts = append(g.cuts, c)
		}
		c.parents = append(c.parents, l.acceptor)
	}
	slices.SortFunc(g.cuts, func(a, b *cut) int { return cmp.Compare(a.child, b.child) })
	g.ownCuts = make([][]int32, len(g.islands))
	g.parentOf = make([][]int32, len(g.islands))
	for i, c := range g.cuts {
		own := g.island[c.child]
		g.ownCuts[own] = append(g.ownCuts[own], int32(i))
		seen := map[int32]bool{}
		for _, p := range c.parents {
			if is := g.island[p]; !seen[is] {
				seen[is] = true
				g.parentOf[is] = append(g.parentOf[is], int32(i))
			}
		}
	}
}

// reach is the set of islands that can be reached without the links of one cut
// (-1: with all).
func (g *graph) reach(from, without int32) map[int32]bool {
	seen := map[int32]bool{from: true}
	todo := []int32{from}
	visit := func(is int32) {
		if !seen[is] {
			seen[is] = true
			todo = append(todo, is)
		}
	}
	for len(todo) > 0 {
		is := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, c := range g.ownCuts[is] {
			if c != without {
				for _, p := range g.cuts[c].parents {
					visit(g.island[p])
				}
			}
		}
		for _, c := range g.parentOf[is] {
			if c != without {
				visit(g.island[g.cuts[c].child])
			}
		}
	}
	return seen
}

func (g *graph) components() {
	g.whole = make([]int32, len(g.islands))
	for i := range g.whole {
		g.whole[i] = -1
	}
	for i := range g.islands {
		if g.whole[i] < 0 {
			for is := range g.reach(int32(i), -1) {
				g.whole[is] = int32(i)
			}
		}
	}
}

// checkCuts refuses choices of parents around which another way leads: a message
// would take both.
func (g *graph) checkCuts(rep *report) {
	for i, c := range g.cuts {
		c.side = g.reach(g.island[c.child], int32(i))
		for _, p := range c.parents {
			if !c.side[g.island[p]] {
				continue
			}
			names := g.f.names
			rep.refuse("spec.links", v1alpha1.ReasonAmbiguousPath,
				"%s has a choice of parents, but %s can be reached from it on other links too, so that a message would arrive twice: remove those links, or set maxParents to 1",
				names[c.child], names[p])
			break
		}
	}
}

// separating is a cut with x on one side and y on the other; nil if there is
// none.
func (g *graph) separating(x, y int32) *cut {
	ix, iy := g.island[x], g.island[y]
	for _, own := range [2]int32{ix, iy} {
		for _, c := range g.ownCuts[own] {
			if c := g.cuts[c]; c.side[ix] != c.side[iy] {
				return c
			}
		}
	}
	for _, c := range g.cuts {
		if c.side[ix] != c.side[iy] {
			return c
		}
	}
	return nil
}

// island is a set of members joined by links that are always in use. Members on
// branches of a tree point towards the core, where routes are searched for.
type island struct {
	core []int32
	// tables are made when needed: by core member, the step back towards it from
	// each member of the core.
	tables map[int32][]int32
}

type hopCost struct {
	to  int32
	tie uint64
}

// addIsland makes the island that start is in.
func (g *graph) addIsland(start int32) {
	f, n := g.f, int32(len(g.islands))
	g.island[start] = n
	members := []int32{start}
	degree := map[int32]int{}
	for i := 0; i < len(members); i++ {
		m := members[i]
		for _, p := range f.peers[m] {
			if f.links[p.link].group != "" {
				continue
			}
			degree[m]++
			if g.island[p.member] < 0 {
				g.island[p.member] = n
				members = append(members, p.member)
			}
		}
	}
	g.prune(members, degree)
	is := &island{}
	for _, m := range members {
		if g.up[m] < 0 {
			is.core = append(is.core, m)
		}
	}
	slices.Sort(is.core)
	for i, m := range is.core {
		g.local[m] = int32(i)
		for _, p := range f.peers[m] {
			if g.up[p.member] < 0 && f.links[p.link].group == "" {
				g.next[m] = append(g.next[m], hopCost{p.member, tie(f.names[m], f.names[p.member])})
			}
		}
	}
	g.islands = append(g.islands, is)
}

// prune takes branches off an island until what is left is one member or has no
// ends.
func (g *graph) prune(members []int32, degree map[int32]int) {
	left := len(members)
	var order []int32
	for _, m := range members {
		if degree[m] == 1 {
			order = append(order, m)
		}
	}
	for i := 0; i < len(order) && left > 1; i++ {
		m := order[i]
		for _, p := range g.f.peers[m] {
			if g.up[p.member] >= 0 || g.f.links[p.link].group != "" {
				continue
			}
			g.up[m] = p.member
			left--
			if degree[p.member]--; degree[p.member] == 1 {
				order = append(order, p.member)
			}
			break
		}
	}
	for i := len(order) - 1; i >= 0; i-- {
		if up := g.up[order[i]]; up >= 0 {
			g.depth[order[i]] = g.depth[up] + 1
		}
	}
}

// tie is the weight of a link among paths of the same length. Because the sums
// of different paths differ, the shortest path is unique, the same in both
// directions, and each part of it is the shortest path of its ends.
func tie(a, b string) uint64 {
	if a > b {
		a, b = b, a
	}
	h := fnv.New64a()
	h.Write([]byte(a))
	h.Write([]byte{0})
	h.Write([]byte(b))
	return mix(h.Sum64()) >> 16
}

// path appends to buf the members from x to y, both included, which are on one
// island.
func (g *graph) path(buf []int32, x, y int32) []int32 {
	var tail []int32
	for x != y && g.depth[x]+g.depth[y] > 0 {
		if g.depth[x] >= g.depth[y] {
			buf = append(buf, x)
			x = g.up[x]
		} else {
			tail = append(tail, y)
			y = g.up[y]
		}
	}
	if x == y {
		buf = append(buf, x)
	} else {
		buf = g.corePath(buf, x, y)
	}
	slices.Reverse(tail)
	return append(buf, tail...)
}

func (g *graph) corePath(buf []int32, x, y int32) []int32 {
	from, to := min(x, y), max(x, y)
	back := g.table(from)
	at := len(buf)
	for m := to; m != from; m = back[g.local[m]] {
		buf = append(buf, m)
	}
	buf = append(buf, from)
	if x == from {
		slices.Reverse(buf[at:])
	}
	return buf
}

// table holds, for each member of the core, the step back towards from.
func (g *graph) table(from int32) []int32 {
	is := g.islands[g.island[from]]
	if t := is.tables[from]; t != nil {
		return t
	}
	cost := make([]pathCost, len(is.core))
	back := make([]int32, len(is.core))
	done := make([]bool, len(is.core))
	for i := range cost {
		cost[i].hops = math.MaxInt32
	}
	cost[g.local[from]] = pathCost{member: from}
	q := costHeap{cost[g.local[from]]}
	for len(q) > 0 {
		c := heap.Pop(&q).(pathCost)
		i := g.local[c.member]
		if done[i] {
			continue
		}
		done[i] = true
		for _, h := range g.next[c.member] {
			j := g.local[h.to]
			d := pathCost{c.hops + 1, c.tie + h.tie, h.to}
			if !done[j] && d.less(cost[j]) {
				cost[j], back[j] = d, c.member
				heap.Push(&q, d)
			}
		}
	}
	if is.tables == nil {
		is.tables = map[int32][]int32{}
	}
	is.tables[from] = back
	return back
}

type pathCost struct {
	hops   int32
	tie    uint64
	member int32
}

func (c pathCost) less(d pathCost) bool {
	if c.hops != d.hops {
		return c.hops < d.hops
	}
	return c.tie < d.tie
}

type costHeap []pathCost

func (h costHeap) Len() int           { return len(h) }
func (h costHeap) Less(i, j int) bool { return h[i].less(h[j]) }
func (h costHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *costHeap) Push(x any)        { *h = append(*h, x.(pathCost)) }
func (h *costHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
