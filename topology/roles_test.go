package topology

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/sealane/sealane/api/v1alpha1"
)

// TestRoles checks on random graphs of members of one and of several servers that
// links are split only between single servers, that a way ends only where it must,
// and that what the planner takes for the ways of neighbours are their routes.
func TestRoles(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 7).Draw(t, "members")
		in := meshOf(n)
		three := int32(3)
		topo := in.Topologies[0]
		rule := v1alpha1.LinkRule{Name: "edges", Type: v1alpha1.LinkEdges}
		for range rapid.IntRange(1, 9).Draw(t, "links") {
			p := rapid.SliceOfNDistinct(rapid.IntRange(0, n-1), 2, 2, rapid.ID[int]).Draw(t, "edge")
			rule.Edges = append(rule.Edges, v1alpha1.Edge{A: in.Members[p[0]].Name, B: in.Members[p[1]].Name})
		}
		topo.Spec.Links = []v1alpha1.LinkRule{rule}
		for _, m := range in.Members {
			if rapid.Bool().Draw(t, "several") {
				topo.Spec.Groups[0].Overrides = append(topo.Spec.Groups[0].Overrides, v1alpha1.BrokerOverride{Cluster: m.Name, Broker: v1alpha1.BrokerTemplate{Replicas: &three}})
			}
			if rapid.IntRange(0, 3).Draw(t, "dials only") == 0 {
				m.Status.Agent, m.Status.Endpoints = &v1alpha1.AgentInfo{LinkRoles: true}, nil
			}
		}
		f := Compile(in).memo.world.fabrics[0]
		for _, l := range f.links {
			if l.split && (f.several[l.dialer] || f.several[l.acceptor]) {
				t.Errorf("%v is split", l)
			}
		}
		broken := 0
		for at := range int32(n) {
			for i, a := range f.peers[at] {
				for _, b := range f.peers[at][i+1:] {
					way := f.graph.path(nil, a.member, b.member)
					if slices.Equal(way, []int32{a.member, at, b.member}) != f.between(at, a, b) {
						t.Errorf("%d between %d and %d: the way is %v", at, a.member, b.member, way)
					}
					if f.between(at, a, b) && !(f.carries(a.member, at, b.member) && f.carries(b.member, at, a.member)) {
						broken++
					}
				}
			}
		}
		if (broken > 0) != f.stops {
			t.Errorf("%d places where a way ends, and it is said %t", broken, f.stops)
		}
		if broken > 0 && solvable(f, in) {
			t.Errorf("there are forms with which no way ends, and %d do: %v", broken, f.links)
		}
	})
}

// solvable tries all forms.
func solvable(f *fabric, in Input) bool {
	turns := func(l link) bool {
		return len(endpoints(in.Members[l.dialer])) > 0 && len(endpoints(in.Members[l.acceptor])) > 0
	}
	links := slices.Clone(f.links)
	defer func() { f.links = links }()
	for form := range 1 << len(links) {
		f.links = slices.Clone(links)
		possible := true
		for i := range f.links {
			l, other := &f.links[i], form>>i&1 == 1
			switch {
			case !f.several[l.dialer] && !f.several[l.acceptor]:
				l.split = other
			case other && turns(*l):
				l.dialer, l.acceptor = l.acceptor, l.dialer
			case other:
				possible = false
			}
		}
		f.stops = false
		if f.findStops(); possible && !f.stops {
			return true
		}
	}
	return false
}

// Links do not change when a parent gets more servers, and at most those of a member
// that dials two others do.
func TestRolesAreSteady(t *testing.T) {
	t.Parallel()
	three := int32(3)
	in := meshOf(5)
	topo := in.Topologies[0]
	name := func(i int) string { return in.Members[i].Name }
	// m004 below m003 below m001, m001 and m002 below m000.
	topo.Spec.Groups = nil
	for i := range in.Members {
		topo.Spec.Groups = append(topo.Spec.Groups, v1alpha1.Group{Name: fmt.Sprint("g", i), Clusters: []string{name(i)}})
	}
	topo.Spec.Links = nil
	for child, parent := range map[int]int{1: 0, 2: 0, 3: 1, 4: 3} {
		topo.Spec.Links = append(topo.Spec.Links, v1alpha1.LinkRule{
			Name: fmt.Sprint("l", child), Type: v1alpha1.LinkHubAndSpoke,
			HubAndSpoke: &v1alpha1.HubAndSpoke{Hubs: fmt.Sprint("g", parent), Spokes: fmt.Sprint("g", child), MaxParents: 1},
		})
	}
	before := Compile(in).Links
	for i := range in.Members {
		topo.Spec.Groups[i].Broker.Replicas = &three
		if after := Compile(in).Links; !slices.Equal(before, after) {
			t.Errorf("with %d members of three servers: %v, was %v", i+1, after, before)
		}
	}
}
