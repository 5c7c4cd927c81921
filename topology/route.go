package topology

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
	// forward and reply hold for each step the marked names of the first and of
	// the last member: the first as seen going there, the last as seen coming back.
	forward []string
	reply   []string
}

// routes are the ways from o to d, of which o is not d; none if there is no path
// for some choice of parents, and then stuck names the choice ("" if there is no
// path at all). more tells that there are over maxRoutes.
func (f *fabric) routes(o, d int32) (out []route, stuck string, more bool) {
	g := f.graph
	if g.island[o] == g.island[d] {
		return []route{f.mark(g.path(nil, o, d))}, "", false
	}
	if g.whole[g.island[o]] != g.whole[g.island[d]] {
		return nil, "", false
	}
	ways, stuck := g.ways(o, d)
	if len(ways) > maxRoutes {
		return nil, "", true
	}
	if stuck != "" {
		return nil, stuck, false
	}
	for _, w := range ways {
		out = append(out, f.mark(w))
	}
	return out, "", false
}

// ways finds the paths for every choice of parents on the way. It splits the way
// at the cuts between x and y until what is left is on one island.
func (g *graph) ways(x, y int32) (out [][]int32, stuck string) {
	if g.island[x] == g.island[y] {
		return [][]int32{g.path(nil, x, y)}, ""
	}
	c := g.separating(x, y)
	if c == nil {
		return nil, g.f.names[x] + " and " + g.f.names[y]
	}
	for _, p := range c.parents {
		near, far := p, c.child
		if c.side[g.island[x]] {
			near, far = c.child, p
		}
		heads, stuck := g.ways(x, near)
		if stuck != "" {
			return nil, stuck
		}
		tails, stuck := g.ways(far, y)
		if stuck != "" {
			return nil, stuck
		}
		for _, h := range heads {
			for _, t := range tails {
				out = append(out, append(append(make([]int32, 0, len(h)+len(t)), h...), t...))
			}
		}
		if len(out) > maxRoutes {
			return out, ""
		}
	}
	return out, ""
}

// mark names the traffic on each step of a path.
func (f *fabric) mark(nodes []int32) route {
	n := len(nodes) - 1
	r := route{nodes: nodes, forward: make([]string, n), reply: make([]string, n)}
	name := f.names[nodes[0]]
	for i := range n {
		if f.climbs(nodes[i], nodes[i+1]) {
			name += ":" + f.names[nodes[i+1]]
		}
		r.forward[i] = name
	}
	name = f.names[nodes[n]]
	for i := n - 1; i >= 0; i-- {
		if f.climbs(nodes[i+1], nodes[i]) {
			name += ":" + f.names[nodes[i]]
		}
		r.reply[i] = name
	}
	return r
}

// climbs tells whether the step from child goes to one of the parents among
// which it chooses.
func (f *fabric) climbs(child, parent int32) bool {
	if len(f.graph.cuts) == 0 {
		return false
	}
	l, ok := f.peerAt(child, parent)
	return ok && l.group != "" && l.dialer == child
}
