package topology

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// meshOf is a topology of n members m000, m001, ... in one group.
func meshOf(n int, links ...v1alpha1.LinkRule) Input {
	var in Input
	topo := &v1alpha1.MessagingTopology{ObjectMeta: metav1.ObjectMeta{Name: "main", UID: "t", Generation: 1}}
	topo.Spec.Groups = []v1alpha1.Group{{Name: "all", Selector: &metav1.LabelSelector{}}}
	topo.Spec.Links = links
	topo.Spec.Accounts = []v1alpha1.Account{{Name: "orders", Namespaces: []string{"*"}}}
	in.Topologies = []*v1alpha1.MessagingTopology{topo}
	for i := range n {
		m := &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("m%03d", i)}}
		m.Status.LinkKey, m.Status.Endpoints = "U", []string{m.Name + ":1"}
		in.Members = append(in.Members, m)
	}
	return in
}

func events(name string, from, to v1alpha1.Placement, subjects ...string) *v1alpha1.Bridge {
	b := &v1alpha1.Bridge{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: name}}
	b.Spec.Account, b.Spec.Type, b.Spec.Subjects, b.Spec.From, b.Spec.To = "orders", v1alpha1.BridgeEvents, subjects, from, to
	return b
}

// TestRoutes checks on random graphs that routes are shortest, the same in both
// directions, and that each part of one is the route of its ends.
func TestRoutes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 12).Draw(t, "members")
		in := meshOf(n)
		rule := v1alpha1.LinkRule{Name: "edges", Type: v1alpha1.LinkEdges}
		for range rapid.IntRange(1, 2*n).Draw(t, "links") {
			p := rapid.SliceOfNDistinct(rapid.IntRange(0, n-1), 2, 2, rapid.ID[int]).Draw(t, "edge")
			rule.Edges = append(rule.Edges, v1alpha1.Edge{A: in.Members[p[0]].Name, B: in.Members[p[1]].Name})
		}
		in.Topologies[0].Spec.Links = []v1alpha1.LinkRule{rule}
		f := Compile(in).memo.world.fabrics[0]
		for x := range int32(n) {
			hops := distances(f, x)
			for y := range int32(n) {
				if x == y {
					continue
				}
				if known, _ := f.routable(x, y); (known == 1) != (hops[y] > 0) {
					t.Fatalf("%d to %d: %d routes, %d hops", x, y, known, hops[y])
				}
				if hops[y] == 0 {
					continue
				}
				there := f.routes(x, y)[0].nodes
				if len(there)-1 != hops[y] || there[0] != x || there[len(there)-1] != y {
					t.Errorf("%d to %d: %v is not shortest (%d hops)", x, y, there, hops[y])
				}
				back := slices.Clone(f.routes(y, x)[0].nodes)
				slices.Reverse(back)
				if !slices.Equal(there, back) {
					t.Errorf("%d to %d: %v there, %v back", x, y, there, back)
				}
				for i := range there {
					for j := i + 1; j < len(there); j++ {
						if part := f.routes(there[i], there[j])[0].nodes; !slices.Equal(part, there[i:j+1]) {
							t.Errorf("%v is part of %v, but the route is %v", there[i:j+1], there, part)
						}
					}
				}
			}
		}
	})
}

// distances are the hops from x, by breadth-first search.
func distances(f *fabric, x int32) map[int32]int {
	hops := map[int32]int{}
	todo := []int32{x}
	for len(todo) > 0 {
		m := todo[0]
		todo = todo[1:]
		for _, p := range f.peers[m] {
			if _, seen := hops[p.member]; !seen && p.member != x {
				hops[p.member] = hops[m] + 1
				todo = append(todo, p.member)
			}
		}
	}
	return hops
}

func TestParents(t *testing.T) {
	t.Parallel()
	in := meshOf(0)
	add := func(name string, labels map[string]string, tier string) {
		m := &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"tier": tier}}}
		for k, v := range labels {
			m.Labels["topology.kubernetes.io/"+k] = v
		}
		m.Status.LinkKey, m.Status.Endpoints = "U", []string{name + ":1"}
		in.Members = append(in.Members, m)
	}
	add("far", map[string]string{"region": "r2", "zone": "z9"}, "hub")
	add("near", map[string]string{"region": "r1", "zone": "z2"}, "hub")
	add("nearest", map[string]string{"region": "r1", "zone": "z1"}, "hub")
	add("spoke", map[string]string{"region": "r1", "zone": "z1"}, "spoke")
	tier := func(s string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"tier": s}}
	}
	in.Topologies[0].Spec.Groups = []v1alpha1.Group{{Name: "hubs", Selector: tier("hub")}, {Name: "spokes", Selector: tier("spoke")}}
	tests := map[string]struct {
		rule v1alpha1.HubAndSpoke
		want string
	}{
		"by name":          {v1alpha1.HubAndSpoke{}, "far near"},
		"in order":         {v1alpha1.HubAndSpoke{Order: []string{"nearest", "far"}}, "nearest far"},
		"the order first":  {v1alpha1.HubAndSpoke{Order: []string{"nearest"}, MaxParents: 3}, "nearest far near"},
		"nearest":          {v1alpha1.HubAndSpoke{Parents: v1alpha1.ParentsNearest, MaxParents: 3}, "nearest near far"},
		"nearest one":      {v1alpha1.HubAndSpoke{Parents: v1alpha1.ParentsNearest, MaxParents: 1}, "nearest"},
		"nearest by":       {v1alpha1.HubAndSpoke{Parents: v1alpha1.ParentsNearest, MaxParents: 1, NearestBy: []string{"topology.kubernetes.io/zone"}}, "nearest"},
		"equal, but order": {v1alpha1.HubAndSpoke{Parents: v1alpha1.ParentsNearest, NearestBy: []string{"none"}, Order: []string{"near", "far"}}, "near far"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := in
			topo := in.Topologies[0].DeepCopy()
			test.rule.Hubs, test.rule.Spokes = "hubs", "spokes"
			topo.Spec.Links = []v1alpha1.LinkRule{{Name: "choice", Type: v1alpha1.LinkHubAndSpoke, HubAndSpoke: &test.rule}}
			in.Topologies = []*v1alpha1.MessagingTopology{topo}
			f := Compile(in).memo.world.fabrics[0]
			got := make([]string, len(f.links))
			for _, l := range f.links {
				if f.names[l.dialer] != "spoke" {
					t.Errorf("%s dials", f.names[l.dialer])
				}
				if (l.group == "choice") != (len(f.links) > 1) {
					t.Errorf("group %q with %d parents", l.group, len(f.links))
				}
				got[l.priority] = f.names[l.acceptor]
			}
			if s := strings.Join(got, " "); s != test.want {
				t.Errorf("parents are %s, want %s", s, test.want)
			}
		})
	}
}

// TestSpread checks that spokes without a nearest parent spread evenly.
func TestSpread(t *testing.T) {
	t.Parallel()
	in := meshOf(400, v1alpha1.LinkRule{Name: "choice", Type: v1alpha1.LinkHubAndSpoke, HubAndSpoke: &v1alpha1.HubAndSpoke{
		Hubs: "hubs", Spokes: "spokes", Parents: v1alpha1.ParentsNearest, MaxParents: 1,
	}})
	var hubs, spokes []string
	for i, m := range in.Members {
		if i < 4 {
			hubs = append(hubs, m.Name)
		} else {
			spokes = append(spokes, m.Name)
		}
	}
	in.Topologies[0].Spec.Groups = []v1alpha1.Group{{Name: "hubs", Clusters: hubs}, {Name: "spokes", Clusters: spokes}}
	of := map[string]int{}
	for _, l := range Compile(in).Links {
		of[l.Acceptor]++
	}
	for _, h := range hubs {
		if of[h] < 70 || of[h] > 130 {
			t.Errorf("%s has %d of 396 spokes", h, of[h])
		}
	}
}

// TestMemberConflicts puts a member into two places, created in different orders.
func TestMemberConflicts(t *testing.T) {
	t.Parallel()
	label := &metav1.LabelSelector{MatchLabels: map[string]string{"x": "y"}}
	tests := map[string]struct {
		groups    []v1alpha1.Group
		topology  int64 // when it was created; members at 10
		blamed    Kind
		wantGroup string
	}{
		"named twice":                      {[]v1alpha1.Group{{Name: "a", Clusters: []string{"m000"}}, {Name: "b", Clusters: []string{"m000"}}}, 5, KindTopology, ""},
		"selected twice, the member later": {[]v1alpha1.Group{{Name: "a", Selector: label}, {Name: "b", Selector: &metav1.LabelSelector{}}}, 5, KindMember, "a"},
		"selected twice, at once":          {[]v1alpha1.Group{{Name: "a", Selector: label}, {Name: "b", Selector: &metav1.LabelSelector{}}}, 10, KindTopology, ""},
		"the one that names it":            {[]v1alpha1.Group{{Name: "a", Selector: label}, {Name: "b", Clusters: []string{"m000"}}}, 5, KindMember, "b"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := meshOf(1)
			in.Members[0].Labels = map[string]string{"x": "y"}
			in.Members[0].CreationTimestamp = metav1.Unix(10, 0)
			in.Topologies[0].CreationTimestamp = metav1.Unix(test.topology, 0)
			in.Topologies[0].Spec.Groups = test.groups
			p := Compile(in)
			if len(p.Problems) == 0 || p.Problems[0].Object.Kind != test.blamed || p.Problems[0].Reason != v1alpha1.ReasonMemberConflict {
				t.Fatalf("problems are %+v", p.Problems)
			}
			if test.wantGroup == "" {
				return
			}
			f := p.memo.world.fabrics[0]
			if !f.groups[test.wantGroup].has(0) {
				t.Errorf("it is not in group %s", test.wantGroup)
			}
		})
	}
	t.Run("relabelled", func(t *testing.T) {
		t.Parallel()
		in := meshOf(2)
		in.Topologies[0].Spec.Groups = []v1alpha1.Group{{Name: "a", Clusters: []string{"m001"}}, {Name: "b", Selector: label}}
		p := Compile(in)
		m := in.Members[1].DeepCopy()
		m.Labels = map[string]string{"x": "y"}
		in.Members[1] = m
		q := Recompile(p, in)
		if len(q.Problems) == 0 || q.Problems[0].Object != (ObjectRef{Kind: KindMember, Name: "m001"}) {
			t.Errorf("a running topology is blamed for a member's new label: %+v", q.Problems)
		}
		if q.Members["m001"].Hash != p.Members["m001"].Hash {
			t.Error("the member changes")
		}
	})
}

func TestLimits(t *testing.T) {
	t.Parallel()
	all := v1alpha1.Placement{Group: "all"}
	hub := v1alpha1.LinkRule{Name: "star", Type: v1alpha1.LinkEdges}
	for i := 1; i < 300; i++ {
		hub.Edges = append(hub.Edges, v1alpha1.Edge{A: "m000", B: fmt.Sprintf("m%03d", i)})
	}
	refused := func(t *testing.T, p *Plan, ref ObjectRef) {
		t.Helper()
		for _, x := range p.Problems {
			if x.Object == ref && x.Reason == v1alpha1.ReasonLimitExceeded && !x.Waiting {
				return
			}
		}
		t.Errorf("%v is not refused: %+v", ref, p.Problems)
	}
	t.Run("links", func(t *testing.T) {
		t.Parallel()
		in := meshOf(200, v1alpha1.LinkRule{Name: "mesh", Type: v1alpha1.LinkMesh, Groups: []string{"all"}})
		refused(t, Compile(in), ObjectRef{Kind: KindTopology, Name: "main"})
	})
	t.Run("pairs", func(t *testing.T) {
		t.Parallel()
		in := meshOf(300, hub)
		in.Bridges = []*v1alpha1.Bridge{events("b", all, all, "x")}
		refused(t, Compile(in), ObjectRef{KindBridge, "apps", "b"})
	})
	t.Run("claims", func(t *testing.T) {
		t.Parallel()
		in := meshOf(200, hub)
		in.Topologies[0].Spec.Links[0].Edges = hub.Edges[:199]
		one := v1alpha1.Placement{Clusters: []string{"m000"}}
		long := strings.Repeat("x", 100)
		for i := range 30 {
			in.Bridges = append(in.Bridges, events(fmt.Sprintf("b%02d", i), all, one, fmt.Sprintf("%s.%d.>", long, i)))
			in.Bridges[i].UID, in.Bridges[i].Generation = types.UID(fmt.Sprint(i)), 1
		}
		p := Compile(in)
		n := len(p.Problems)
		if n == 0 || n == 30 {
			t.Fatalf("%d bridges of 30 are refused", n)
		}
		for i, x := range p.Problems { // the latest ones
			if want := fmt.Sprintf("b%02d", 30-n+i); x.Reason != v1alpha1.ReasonLimitExceeded || x.Object.Name != want {
				t.Errorf("problem %+v, want %s refused", x, want)
			}
		}
		for _, part := range p.Members["m000"].Parts {
			if a := part.Part.GetAccount(); a != nil && claimSize(a) > maxClaims {
				t.Errorf("account %s has claims of %d bytes", a.Name, claimSize(a))
			}
		}
		if again := Recompile(p, in); len(again.Problems) != n {
			t.Errorf("%d problems, then %d", n, len(again.Problems))
		}
		copied := in // as after a change of their status
		copied.Bridges = nil
		for _, b := range in.Bridges {
			copied.Bridges = append(copied.Bridges, b.DeepCopy())
		}
		if again := Recompile(p, copied); !slices.Equal(again.Problems, p.Problems) || again.Members["m000"] != p.Members["m000"] {
			t.Errorf("%d problems, then with other copies of the bridges %d", n, len(again.Problems))
		}
		// What others cover takes no room, nor what is refused.
		wide := in
		wide.Bridges = append([]*v1alpha1.Bridge{events("a", all, one, long+".>"), events("z", one, all, "small")}, in.Bridges...)
		for _, x := range Compile(wide).Problems {
			t.Errorf("%+v, although one wildcard covers all", x)
		}
		narrow := in
		narrow.Bridges = append([]*v1alpha1.Bridge{events("z", v1alpha1.Placement{Clusters: []string{"m001"}}, one, "small")}, in.Bridges...)
		if got := Compile(narrow).Problems; !slices.Equal(got, p.Problems) {
			t.Errorf("with a younger bridge that fits: %+v", got)
		}
	})
	t.Run("routes", func(t *testing.T) {
		t.Parallel()
		in := meshOf(12)
		spokes := func(hubs, of string) v1alpha1.LinkRule {
			return v1alpha1.LinkRule{Name: of, Type: v1alpha1.LinkHubAndSpoke, HubAndSpoke: &v1alpha1.HubAndSpoke{Hubs: hubs, Spokes: of, MaxParents: 4}}
		}
		names := func(from, to int) (out []string) {
			for i := from; i < to; i++ {
				out = append(out, in.Members[i].Name)
			}
			return out
		}
		topo := in.Topologies[0]
		topo.Spec.Groups = []v1alpha1.Group{{Name: "top", Clusters: names(0, 4)}, {Name: "mid", Clusters: names(4, 8)}, {Name: "low", Clusters: names(8, 12)}}
		topo.Spec.Links = []v1alpha1.LinkRule{{Name: "mesh", Type: v1alpha1.LinkMesh, Groups: []string{"top"}}, spokes("top", "mid"), spokes("mid", "low")}
		in.Bridges = []*v1alpha1.Bridge{
			events("far", v1alpha1.Placement{Clusters: []string{"m008"}}, v1alpha1.Placement{Clusters: []string{"m009"}}, "x"),
			events("up", v1alpha1.Placement{Clusters: []string{"m008"}}, v1alpha1.Placement{Group: "top"}, "y"),
		}
		p := Compile(in)
		refused(t, p, ObjectRef{KindBridge, "apps", "far"})
		if p.Objects[ObjectRef{KindBridge, "apps", "up"}] == nil {
			t.Errorf("16 combinations are refused: %+v", p.Problems)
		}
	})
}

// TestIncarnation: who dials a member is told which one of its name it is; that another
// has the name now concerns nobody else, and that a certificate was renewed nobody.
func TestIncarnation(t *testing.T) {
	t.Parallel()
	in := threeMembers()
	for _, m := range in.Members {
		for _, o := range in.Members {
			if o != m {
				m.Status.Grants = append(m.Status.Grants, v1alpha1.Grant{Peer: o.Name, Key: m.Status.LinkKey, Out: "out", In: "in"})
			}
		}
		m.Status.Identity = &v1alpha1.MemberIdentity{KeyHash: "k-" + m.Name, Incarnation: "i-" + m.Name}
	}
	p := Compile(in)
	dialers := map[string]bool{} // of a
	for _, l := range p.Links {
		if got, want := p.Members[l.Dialer].Part(federationv1.LinkID(l.Acceptor)).Part.GetLink().GetIncarnation(), "i-"+l.Acceptor; got != want {
			t.Errorf("%s dials %s of incarnation %q, want %q", l.Dialer, l.Acceptor, got, want)
		}
		if got := p.Members[l.Acceptor].Part(federationv1.LinkID(l.Dialer)).Part.GetLink().GetIncarnation(); got != "" {
			t.Errorf("%s awaits %s of incarnation %q", l.Acceptor, l.Dialer, got)
		}
		dialers[l.Dialer] = dialers[l.Dialer] || l.Acceptor == "a"
	}
	again := in
	again.Members = slices.Clone(in.Members)
	change := func(id v1alpha1.MemberIdentity) {
		again.Members[0] = again.Members[0].DeepCopy()
		again.Members[0].Status.Identity = &id
	}
	change(v1alpha1.MemberIdentity{KeyHash: "renewed", Incarnation: "i-a"})
	renewed := Recompile(p, again)
	change(v1alpha1.MemberIdentity{KeyHash: "other", Incarnation: "i-other"})
	other := Recompile(renewed, again)
	for name := range p.Members {
		if renewed.Members[name].Hash != p.Members[name].Hash {
			t.Errorf("a renewal changes %s", name)
		}
		if changed := other.Members[name].Hash != p.Members[name].Hash; changed != dialers[name] {
			t.Errorf("another has the name: that changes %s is %v, and that it dials it %v", name, changed, dialers[name])
		}
	}
}
