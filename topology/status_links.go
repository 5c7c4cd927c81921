package topology

import (
	"slices"
	"strings"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// linkState is what is known of a link, from the worst to the best of
// alternatives.
type linkState int

const (
	linkUnseen  linkState = iota // neither end is connected
	linkPending                  // not set up at both ends yet, or standing by
	linkDown                     // an end says that it does not work
	linkUp                       // every connected end says that it works
)

// linkView is a link with what its ends say of it.
type linkView struct {
	Link
	state linkState
	// unseen are the ends that are not connected.
	unseen []string
}

// linkGroup is a link, or alternative links of which one is enough.
type linkGroup struct {
	name  string
	links []*linkView
}

// best is the alternative by which the group is judged.
func (g *linkGroup) best() *linkView {
	best := g.links[0]
	for _, l := range g.links[1:] {
		if l.state > best.state || l.state == best.state && len(l.unseen) < len(best.unseen) {
			best = l
		}
	}
	return best
}

// linkIndex finds links and the groups that they form.
type linkIndex struct {
	ofTopology map[string][]*linkGroup
	ofMember   map[string][]*linkGroup
	byPair     map[[2]string]*linkView
}

func indexLinks(p *Plan, prog Progress) *linkIndex {
	x := &linkIndex{
		ofTopology: map[string][]*linkGroup{},
		ofMember:   map[string][]*linkGroup{},
		byPair:     make(map[[2]string]*linkView, len(p.Links)),
	}
	type choice struct{ topology, dialer, group string }
	choices := map[choice]*linkGroup{}
	for _, l := range p.Links {
		v := lookAtLink(p, prog, l)
		x.byPair[pair(l.Dialer, l.Acceptor)] = v
		key := choice{l.Topology, l.Dialer, l.FailoverGroup}
		g := choices[key]
		if g == nil || l.FailoverGroup == "" {
			g = &linkGroup{name: linkName(l.Dialer, l.Acceptor)}
			if l.FailoverGroup != "" {
				g.name = l.Dialer + linkMark + l.Acceptor
			}
			x.ofTopology[l.Topology] = append(x.ofTopology[l.Topology], g)
			x.ofMember[l.Dialer] = append(x.ofMember[l.Dialer], g)
			if l.FailoverGroup != "" {
				choices[key] = g
			}
		} else {
			g.name += "|" + l.Acceptor
		}
		g.links = append(g.links, v)
		x.ofMember[l.Acceptor] = append(x.ofMember[l.Acceptor], g)
	}
	return x
}

// hop is the group of the links of which a hop needs one.
func (x *linkIndex) hop(h Hop) *linkGroup {
	g := &linkGroup{name: h.Member + linkMark + strings.Join(h.Peers, "|")}
	if len(h.Peers) == 1 {
		g.name = linkName(h.Member, h.Peers[0])
	}
	for _, peer := range h.Peers {
		if v := x.byPair[pair(h.Member, peer)]; v != nil {
			g.links = append(g.links, v)
		}
	}
	if len(g.links) == 0 {
		g.links = []*linkView{{state: linkPending, Link: Link{Granted: true}}}
	}
	return g
}

func pair(a, b string) [2]string {
	if a > b {
		a, b = b, a
	}
	return [2]string{a, b}
}

const linkMark = "<->"

// linkName names a link, whoever dials; alternatives read member<->one|other.
func linkName(a, b string) string {
	p := pair(a, b)
	return p[0] + linkMark + p[1]
}

func lookAtLink(p *Plan, prog Progress, l Link) *linkView {
	v := &linkView{Link: l}
	ends := [2][2]string{{l.Dialer, l.Acceptor}, {l.Acceptor, l.Dialer}}
	seen, up, down, standby, setUp := 0, 0, false, false, l.Granted
	for _, end := range ends {
		m := prog[end[0]]
		if m == nil || !m.Connected {
			v.unseen = append(v.unseen, end[0])
			continue
		}
		seen++
		r, reported := m.Links[end[1]]
		switch v1alpha1.LinkState(r.State) {
		case v1alpha1.LinkUp:
			up++
		case v1alpha1.LinkDown:
			down = true
		case v1alpha1.LinkStandby:
			standby = true
		}
		state, id := p.Members[end[0]], federationv1.LinkID(end[1])
		setUp = setUp && reported && state != nil && state.Part(id) != nil && m.Applied(id, state.Part(id).Part.Hash)
	}
	switch {
	case seen == 0:
		v.state = linkUnseen
	case up == seen:
		v.state = linkUp
	case standby:
		v.state = linkPending
	case down, setUp:
		v.state = linkDown
	default:
		v.state = linkPending
	}
	return v
}

// linkTally adds up groups of links.
type linkTally struct {
	total, up                  int
	notUp, pending, notGranted []string
	unseen                     []string
}

func (t *linkTally) add(g *linkGroup) {
	t.total++
	best := g.best()
	switch best.state {
	case linkUp:
		t.up++
		t.unseen = append(t.unseen, best.unseen...)
	case linkDown:
		t.notUp = append(t.notUp, g.name)
	case linkPending:
		t.pending = append(t.pending, g.name)
	case linkUnseen:
		t.unseen = append(t.unseen, best.unseen...)
	}
	for _, l := range g.links {
		if !l.Granted {
			t.notGranted = append(t.notGranted, linkName(l.Dialer, l.Acceptor))
		}
	}
}

func (t *linkTally) downs() []finding {
	return linkFinding(v1alpha1.ReasonLinksDown, "links not up: ", t.notUp)
}

func (t *linkTally) pendings() []finding {
	return linkFinding(v1alpha1.ReasonPending, "links not set up yet: ", t.pending)
}

// ungranted are the links whose dialer has nothing to apply yet.
func (t *linkTally) ungranted() []finding {
	return linkFinding(v1alpha1.ReasonPending, "links that the accepting member has not granted yet: ", t.notGranted)
}

func linkFinding(reason, text string, names []string) []finding {
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return []finding{{reason: reason, text: text + firstNames(slices.Compact(names))}}
}
