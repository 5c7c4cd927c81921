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
// Links that are always in use divide the members into islands. A member with a
// choice of parents uses one of its links to them at a time. So that there is one
// way at most between any two members, whatever is chosen, the islands and the
// links in use must form a forest: no cycle may be possible in which each chooser
// has one link. That is so if islands can be taken away one after the other, each
// with the links of one chooser at most to those that are left. A way then leads
// from island to island in the order in which they were taken away and back down:
// it could pass an island that is lower than both its neighbours only on two links
// of the same chooser.
type graph struct {
	f        *fabric
	island   []int32   // by member
	islands  []*island // by number
	choosers []chooser // by child
	own      [][]int32 // by island: choosers in it
	below    [][]int32 // by island: choosers with a parent in it
	whole    []int32   // by island: which of them are joined by any links
	rank     []int32   // by island: when it was taken away
	exit     []int32   // by island: the chooser on whose links it was left then, or -1

	// By member: the step towards the island's core (-1 in the core), how many
	// steps it takes, the index in the core, and the links within the core.
	up    []int32
	depth []int32
	local []int32
	next  [][]hopCost
}

// chooser is a member with a choice of parents.
type chooser struct {
	child   int32
	parents []int32 // by priority
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
	g.findChoosers()
	g.join()
	g.takeAway(rep)
	return g
}

func (g *graph) findChoosers() {
	links := slices.Clone(g.f.links)
	slices.SortFunc(links, func(a, b link) int {
		return cmp.Or(cmp.Compare(a.dialer, b.dialer), cmp.Compare(a.priority, b.priority))
	})
	for _, l := range links {
		if l.group == "" {
			continue
		}
		if n := len(g.choosers); n == 0 || g.choosers[n-1].child != l.dialer {
			g.choosers = append(g.choosers, chooser{child: l.dialer})
		}
		c := &g.choosers[len(g.choosers)-1]
		c.parents = append(c.parents, l.acceptor)
	}
	g.own = make([][]int32, len(g.islands))
	g.below = make([][]int32, len(g.islands))
	for i, c := range g.choosers {
		own := g.island[c.child]
		g.own[own] = append(g.own[own], int32(i))
		for _, is := range g.parentIslands(c) {
			g.below[is] = append(g.below[is], int32(i))
		}
	}
}

// parentIslands are those of a chooser's parents, each once.
func (g *graph) parentIslands(c chooser) []int32 {
	var out []int32
	for _, p := range c.parents {
		if is := g.island[p]; !slices.Contains(out, is) {
			out = append(out, is)
		}
	}
	return out
}

// join finds out which islands are joined at all.
func (g *graph) join() {
	g.whole = make([]int32, len(g.islands))
	for i := range g.whole {
		g.whole[i] = int32(i)
	}
	var find func(i int32) int32
	find = func(i int32) int32 {
		if g.whole[i] != i {
			g.whole[i] = find(g.whole[i])
		}
		return g.whole[i]
	}
	for _, c := range g.choosers {
		for _, p := range c.parents {
			g.whole[find(g.island[p])] = find(g.island[c.child])
		}
	}
	for i := range g.whole {
		g.whole[i] = find(int32(i))
	}
}

// takeAway takes islands away, and refuses links with which that does not come to
// an end.
func (g *graph) takeAway(rep *report) {
	n := len(g.islands)
	g.rank, g.exit = make([]int32, n), make([]int32, n)
	gone := make([]bool, n)
	parents := make([]int, len(g.choosers)) // islands left that hold parents; 0: it joins nothing any more
	joins := make([]int, n)                 // choosers that join it to islands left
	for i, c := range g.choosers {
		parents[i] = len(g.parentIslands(c))
	}
	var todo []int32
	for i := range n {
		if joins[i] = len(g.own[i]) + len(g.below[i]); joins[i] <= 1 {
			todo = append(todo, int32(i))
		}
	}
	drop := func(is int32) {
		if joins[is]--; joins[is] == 1 {
			todo = append(todo, is)
		}
	}
	for at := 0; at < len(todo); at++ { //nolint:intrange // todo grows meanwhile
		is := todo[at]
		g.rank[is], g.exit[is], gone[is] = int32(at), -1, true
		for _, c := range g.own[is] {
			if parents[c] == 0 {
				continue
			}
			g.exit[is], parents[c] = c, 0
			for _, p := range g.parentIslands(g.choosers[c]) {
				if !gone[p] {
					drop(p)
				}
			}
		}
		for _, c := range g.below[is] {
			if parents[c] == 0 {
				continue
			}
			g.exit[is] = c
			if parents[c]--; parents[c] == 0 {
				drop(g.island[g.choosers[c].child])
			}
		}
	}
	if len(todo) == n {
		return
	}
	var children []string
	for i, c := range g.choosers {
		if parents[i] > 0 {
			children = append(children, g.f.names[c.child])
		}
	}
	slices.Sort(children)
	rep.refuse("spec.links", v1alpha1.ReasonAmbiguousPath,
		"other links lead around the choice of parents that %s, so that a message would arrive twice: remove the links that join them otherwise, or set maxParents to 1", hasHave(children))
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
