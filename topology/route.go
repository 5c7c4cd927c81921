package topology

import "slices"

// maxRoutes bounds the routes between two members: choices of parents on the way
// multiply.
const maxRoutes = 16

// route is one way from an origin to a destination. Of the routes of a pair at
// most one is in use at a time: they differ in the parents that members with a
// choice have chosen.
//
// The trees of routes that belong to different choices on the origin's side must
// not mix, or a message would be passed on where another choice's tree goes. So
// from the link on which it goes up to a chosen parent P, the name of its origin
// is marked: ORIGIN:P. On the way down no mark is needed: where a branch ends at
// a link that is not in use, nothing arrives. Replies go back the same way, and
// are marked by the choices that lie on the responder's side.
type route struct {
	nodes []int32
	// origin and responder are the names of the ends.
	origin, responder string
	// forward and reply hold for each step the marked names of origin and responder;
	// nil where no step is marked.
	forward []string
	reply   []string
	// links are those of the steps, ids tell steps of the same origin apart: the
	// mark, the member before, and the two of the step.
	links []int32
	ids   []int32
}

// stepKey is what the id of a step stands for.
type stepKey struct {
	mark             string
	prev, from, next int32
}

// maxKnownRoutes bounds the pairs of members whose routes a fabric remembers:
// many bridges join the same ones.
const maxKnownRoutes = 1 << 15

// from is the name of the origin on the i-th step.
func (r *route) from(i int) string {
	if r.forward == nil {
		return r.origin
	}
	return r.forward[i]
}

// back is the name of the responder on the i-th step, counted from the origin.
func (r *route) back(i int) string {
	if r.reply == nil {
		return r.responder
	}
	return r.reply[i]
}

// routes are the ways from o to another member d; none unless they are routable.
func (f *fabric) routes(o, d int32) []route {
	known, ok := f.known[[2]int32{o, d}]
	if !ok {
		known = f.findRoutes(o, d)
		if len(f.known) < maxKnownRoutes {
			f.known[[2]int32{o, d}] = known
		}
	}
	return known
}

// liveRoutes are the ways of live bridges, under the names that they have for them.
func (f *fabric) liveRoutes(o, d int32) []route {
	switch {
	case f.shared(o) == nil && f.shared(d) == nil:
		return f.routes(o, d)
	case f.siblings(o, d):
		return nil
	}
	known, ok := f.live[[2]int32{o, d}]
	if !ok {
		for _, r := range f.routes(o, d) {
			known = append(known, f.mark(r.nodes, f.liveName(o), f.liveName(d)))
		}
		if len(f.live) < maxKnownRoutes {
			f.live[[2]int32{o, d}] = known
		}
	}
	return known
}

func (f *fabric) findRoutes(o, d int32) []route {
	if n, _ := f.routable(o, d); n == 0 || n > maxRoutes {
		return nil
	}
	if _, found := f.stopped(o, d); found {
		return nil
	}
	ways := f.graph.ways(o, d)
	out := make([]route, len(ways))
	for i, w := range ways {
		out[i] = f.mark(w, f.names[o], f.names[d])
	}
	return out
}

// ways finds the paths for every choice of parents on the way. Of two members on
// different islands, the one on the island that was taken away first goes a step.
func (g *graph) ways(x, y int32) [][]int32 {
	ix, iy := g.island[x], g.island[y]
	if ix == iy {
		return [][]int32{g.path(nil, x, y)}
	}
	if g.rank[ix] > g.rank[iy] {
		out := g.ways(y, x)
		for _, w := range out {
			slices.Reverse(w)
		}
		return out
	}
	var out [][]int32
	c := g.choosers[g.exit[ix]]
	for _, p := range c.parents {
		from, to := c.child, p
		if g.island[c.child] != ix {
			from, to = p, c.child
		}
		head := g.path(nil, x, from)
		for _, tail := range g.ways(to, y) {
			out = append(out, append(slices.Clip(head), tail...))
		}
	}
	return out
}

// routable counts the routes from x to y, up to more than maxRoutes. It is 0 if
// there is no path for some choice of parents, and then stuck names two members
// that a link would help ("": there is no path at all).
func (f *fabric) routable(x, y int32) (n int, stuck string) {
	g := f.graph
	if g.whole[g.island[x]] != g.whole[g.island[y]] {
		return 0, ""
	}
	return g.count(x, y, nil)
}

// count is how many ways there are, as ways finds them. A chooser that is used has
// one link in use.
func (g *graph) count(x, y int32, used []int32) (n int, stuck string) {
	ix, iy := g.island[x], g.island[y]
	if ix == iy {
		return 1, ""
	}
	if g.rank[ix] > g.rank[iy] {
		x, y, ix = y, x, iy
	}
	at := g.exit[ix]
	if at < 0 || slices.Contains(used, at) {
		return 0, g.f.names[min(x, y)] + " and " + g.f.names[max(x, y)]
	}
	used = append(slices.Clip(used), at)
	c := g.choosers[at]
	for _, p := range c.parents {
		to := p
		if g.island[c.child] != ix {
			if to = c.child; g.island[p] != ix {
				return 0, g.f.names[min(x, p)] + " and " + g.f.names[max(x, p)]
			}
		}
		more, stuck := g.count(to, y, used)
		if stuck != "" {
			return 0, stuck
		}
		n = min(n+more, maxRoutes+1)
	}
	return n, ""
}

// mark names the traffic on each step of a path between members of these names.
func (f *fabric) mark(nodes []int32, origin, responder string) route {
	n := len(nodes) - 1
	numbers := make([]int32, 2*n)
	r := route{nodes: nodes, origin: origin, responder: responder, links: numbers[:n:n], ids: numbers[n:]}
	for i := range n {
		r.links[i] = f.linkOf(nodes[i], nodes[i+1])
		if f.climbs(r.links[i], nodes[i]) {
			if r.forward == nil {
				r.forward = repeat(r.origin, n)
			}
			for j := i; j < n; j++ {
				r.forward[j] += ":" + f.names[nodes[i+1]]
			}
		}
	}
	for i := n - 1; i >= 0; i-- {
		if f.climbs(r.links[i], nodes[i+1]) {
			if r.reply == nil {
				r.reply = repeat(r.responder, n)
			}
			for j := i; j >= 0; j-- {
				r.reply[j] += ":" + f.names[nodes[i]]
			}
		}
	}
	for i := range n {
		key := stepKey{r.from(i), -1, nodes[i], nodes[i+1]}
		if i > 0 {
			key.prev = nodes[i-1]
		}
		id, ok := f.steps[key]
		if !ok {
			id = int32(len(f.steps))
			f.steps[key] = id
		}
		r.ids[i] = id
	}
	return r
}

func repeat(s string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = s
	}
	return out
}

// climbs tells whether a link leads from its child to one of the parents among
// which it chooses.
func (f *fabric) climbs(link, child int32) bool {
	l := &f.links[link]
	return l.group != "" && l.dialer == child
}
