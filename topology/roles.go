package topology

import (
	"cmp"
	"slices"
	"strings"

	"github.com/sealane/sealane/api/v1alpha1"
)

// A leaf connection has a hub and a spoke. Each server of the spoke opens it, and
// what comes in over a connection of which a member is the spoke it does not pass on
// over another one of which it is the spoke. A link between members of one server
// may therefore have one of two forms (see docs/adr/0014-roles-of-links.md):
//
//   - The acceptor is the hub of both connections. This works whatever the number of
//     servers, and is the rule.
//   - Each member is the hub of the connection on which it sends ("split"). Only
//     between single servers; then a member passes on between two members that it
//     dials.
//
// settleRoles chooses the forms, and turns the direction of dialing around where
// both could dial, so that members can pass on what leads through them.
type roles struct {
	f     *fabric
	alone []bool // by link: between single servers, so that it may be split
	turn  []bool // by link: either end may dial
	fixed []bool // by link: it has the form that it has
	other []bool // by link: not the form that it has by itself
	sure  []bool // by link: decided
}

// settle gives links their forms. turn tells of each link whether either end may
// dial, capable of each member whether its agent knows the first form.
func (f *fabric) settle(turn []bool, capable []bool) {
	r := &roles{f: f, turn: turn}
	n := len(f.links)
	r.alone, r.fixed, r.other, r.sure = make([]bool, n), make([]bool, n), make([]bool, n), make([]bool, n)
	for i, l := range f.links {
		r.alone[i] = !f.several[l.dialer] && !f.several[l.acceptor]
		switch {
		case r.alone[i] && !capable[l.dialer]:
			r.fixed[i], r.other[i] = true, true
		case !r.alone[i] && !turn[i]:
			r.fixed[i] = true
		}
	}
	for at := range f.names {
		r.mend(int32(at))
	}
	for i := range f.links {
		l := &f.links[i]
		switch {
		case r.alone[i]:
			l.split = r.other[i]
		case r.other[i]:
			l.dialer, l.acceptor = l.acceptor, l.dialer
		}
	}
}

// hub tells whether a member is the hub of a link's incoming and outgoing
// connection.
func (r *roles) hub(link, member int32, other bool) (in, out bool) {
	l := r.f.links[link]
	if r.alone[link] && other {
		return false, true
	}
	accepts := (l.acceptor == member) != other
	return accepts, accepts
}

func (r *roles) passes(at, a, b int32, otherA, otherB bool) bool {
	inA, outA := r.hub(a, at, otherA)
	inB, outB := r.hub(b, at, otherB)
	return (inA || outB) && (inB || outA)
}

// mend makes a member able to pass on between all its neighbours that need it, as
// far as that is possible.
func (r *roles) mend(at int32) {
	var spokes []peer
	for _, p := range r.f.peers[at] {
		if in, out := r.hub(p.link, at, r.other[p.link]); !in || !out {
			spokes = append(spokes, p)
		}
	}
	for i, a := range spokes {
		for _, b := range spokes[i+1:] {
			if r.passes(at, a.link, b.link, r.other[a.link], r.other[b.link]) || !r.f.between(at, a, b) {
				continue
			}
			for _, l := range []int32{a.link, b.link} {
				if !r.fixed[l] && !r.sure[l] && r.try(l, !r.other[l]) {
					break
				}
			}
		}
	}
}

// try gives a link a form, with all that follows from it, or changes nothing.
func (r *roles) try(link int32, other bool) bool {
	var undo []form
	queue := []form{{link, other}}
	for len(queue) > 0 {
		next := queue[0]
		queue = queue[1:]
		if r.sure[next.link] || r.fixed[next.link] {
			if r.other[next.link] == next.other {
				continue
			}
			for _, b := range slices.Backward(undo) {
				r.other[b.link], r.sure[b.link] = b.other, false
			}
			return false
		}
		undo = append(undo, form{next.link, r.other[next.link]})
		r.other[next.link], r.sure[next.link] = next.other, true
		for _, at := range []int32{r.f.links[next.link].dialer, r.f.links[next.link].acceptor} {
			queue = append(queue, r.implied(at, next.link)...)
		}
	}
	return true
}

// form is one that a link has or must have.
type form struct {
	link  int32
	other bool
}

// implied are the forms that a member's other links must have because of that of
// one. Where no form will do, a link must have the one that it cannot have.
func (r *roles) implied(at, link int32) []form {
	if in, out := r.hub(link, at, r.other[link]); in && out {
		return nil
	}
	var out []form
	self := peer{link: link, member: r.f.links[link].dialer}
	if self.member == at {
		self.member = r.f.links[link].acceptor
	}
	for _, p := range r.f.peers[at] {
		if p.link == link {
			continue
		}
		same := r.passes(at, link, p.link, r.other[link], r.other[p.link])
		turned := r.passes(at, link, p.link, r.other[link], !r.other[p.link])
		if same && turned || !r.f.between(at, self, p) {
			continue
		}
		switch {
		case same:
			out = append(out, form{p.link, r.other[p.link]})
		case turned:
			out = append(out, form{p.link, !r.other[p.link]})
		default:
			return []form{{link, !r.other[link]}}
		}
	}
	return out
}

// between tells whether the way between two neighbours of a member leads through
// it. Of two parents among which it chooses one at most is in use; links of
// choices are else taken for the only way.
func (f *fabric) between(at int32, a, b peer) bool {
	la, lb := &f.links[a.link], &f.links[b.link]
	if la.group != "" || lb.group != "" {
		return la.group == "" || lb.group == "" || la.dialer != at || lb.dialer != at
	}
	var best uint64
	through := int32(-1)
	x, y := f.peers[a.member], f.peers[b.member]
	for len(x) > 0 && len(y) > 0 {
		switch {
		case x[0].member == b.member && f.links[x[0].link].group == "":
			return false
		case x[0].member < y[0].member:
			x = x[1:]
			continue
		case x[0].member > y[0].member:
			y = y[1:]
			continue
		}
		m := x[0].member
		if f.links[x[0].link].group == "" && f.links[y[0].link].group == "" {
			if w := tie(f.names[a.member], f.names[m]) + tie(f.names[m], f.names[b.member]); through < 0 || w < best {
				through, best = m, w
			}
		}
		x, y = x[1:], y[1:]
	}
	for _, p := range x {
		if p.member == b.member && f.links[p.link].group == "" {
			return false
		}
	}
	return through == at
}

// hubs tells whether a member is the hub of a link's incoming and outgoing
// connection.
func (l *link) hubs(member int32) (in, out bool) {
	if l.split {
		return false, true
	}
	return l.acceptor == member, l.acceptor == member
}

// carries tells whether a member passes on what comes from one neighbour to
// another.
func (f *fabric) carries(from, at, to int32) bool {
	in, _ := f.links[f.linkOf(at, from)].hubs(at)
	_, out := f.links[f.linkOf(at, to)].hubs(at)
	return in || out
}

// stop is where a way ends because of the roles of links: at does not pass on what
// comes from one neighbour to the next.
type stop struct{ from, at, to int32 }

// stopOn finds the first such place of a way.
func (f *fabric) stopOn(way []int32) (stop, bool) {
	for i := 1; i < len(way)-1; i++ {
		if !f.carries(way[i-1], way[i], way[i+1]) {
			return stop{way[i-1], way[i], way[i+1]}, true
		}
	}
	return stop{}, false
}

// stopped finds where a way between two members, which are routable, ends.
func (f *fabric) stopped(o, d int32) (stop, bool) {
	if !f.stops {
		return stop{}, false
	}
	for _, w := range f.graph.ways(o, d) {
		if s, found := f.stopOn(w); found {
			return s, true
		}
	}
	return stop{}, false
}

// findStops notes whether there is any place where a way ends.
func (f *fabric) findStops() {
	for at := range f.names {
		m := int32(at)
		var spokes []peer
		for _, p := range f.peers[m] {
			if in, out := f.links[p.link].hubs(m); !in || !out {
				spokes = append(spokes, p)
			}
		}
		for i, a := range spokes {
			for _, b := range spokes[i+1:] {
				if (!f.carries(a.member, m, b.member) || !f.carries(b.member, m, a.member)) && f.between(m, a, b) {
					f.stops = true
					return
				}
			}
		}
	}
}

// sortLinks brings the links into their order, and finds the neighbours.
func (f *fabric) sortLinks() {
	slices.SortFunc(f.links, func(a, b link) int {
		return cmp.Or(strings.Compare(f.names[a.dialer], f.names[b.dialer]), strings.Compare(f.names[a.acceptor], f.names[b.acceptor]))
	})
	f.peers = make([][]peer, len(f.names))
	for i, l := range f.links {
		f.peers[l.dialer] = append(f.peers[l.dialer], peer{l.acceptor, int32(i)})
		f.peers[l.acceptor] = append(f.peers[l.acceptor], peer{l.dialer, int32(i)})
	}
	for _, p := range f.peers {
		slices.SortFunc(p, func(a, b peer) int { return cmp.Compare(a.member, b.member) })
	}
}

// knowsRoles tells whether a member's agent can be the spoke of both connections.
// One that has never connected will be of this version or a later one.
func knowsRoles(m *v1alpha1.MemberCluster) bool {
	return m.Status.Agent == nil || m.Status.Agent.LinkRoles
}
