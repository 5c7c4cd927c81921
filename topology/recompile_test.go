package topology

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// planned is what of a plan members and statuses see.
type planned struct {
	Hashes  map[string]string
	After   map[PartRef][]PartRef
	Links   []Link
	Objects map[ObjectRef]*Footprint
}

func plannedOf(p *Plan) planned {
	out := planned{Hashes: map[string]string{}, After: map[PartRef][]PartRef{}, Links: p.Links, Objects: p.Objects}
	for name, m := range p.Members {
		out.Hashes[name] = m.Hash
		for _, part := range m.Parts {
			if len(part.After) > 0 {
				out.After[PartRef{name, part.Part.Id}] = part.After
			}
		}
	}
	return out
}

func refusals(p *Plan) (n int) {
	for _, x := range p.Problems {
		if !x.Waiting {
			n++
		}
	}
	return n
}

// TestOrderDoesNotMatter compiles the same objects in another order.
func TestOrderDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := genInput(t)
		a := Compile(in)
		seed := rapid.Uint64().Draw(t, "seed")
		r := rand.New(rand.NewPCG(seed, seed))
		b := in
		b.Members, b.Streams, b.Bridges = slices.Clone(in.Members), slices.Clone(in.Streams), slices.Clone(in.Bridges)
		r.Shuffle(len(b.Members), func(i, j int) { b.Members[i], b.Members[j] = b.Members[j], b.Members[i] })
		r.Shuffle(len(b.Streams), func(i, j int) { b.Streams[i], b.Streams[j] = b.Streams[j], b.Streams[i] })
		r.Shuffle(len(b.Bridges), func(i, j int) { b.Bridges[i], b.Bridges[j] = b.Bridges[j], b.Bridges[i] })
		c := Compile(b)
		if diff := cmp.Diff(plannedOf(a), plannedOf(c)); diff != "" {
			t.Errorf("the order matters:\n%s", diff)
		}
		if diff := cmp.Diff(a.Problems, c.Problems); diff != "" {
			t.Errorf("the order matters to problems:\n%s", diff)
		}
	})
}

// TestRefusedReachesNobody compiles again without the objects that were refused.
func TestRefusedReachesNobody(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := genInput(t)
		p := Compile(in)
		refused := map[ObjectRef]bool{}
		for _, x := range p.Problems {
			if !x.Waiting && x.Reason != v1alpha1.ReasonNoEndpoint && x.Reason != v1alpha1.ReasonReplicasUnsupported {
				refused[x.Object] = true
				if p.Objects[x.Object] != nil {
					t.Errorf("%v is refused and planned", x.Object)
				}
			}
		}
		if refused[ObjectRef{Kind: KindTopology, Name: "main"}] {
			return
		}
		out := in
		out.Streams = slices.DeleteFunc(slices.Clone(in.Streams), func(s *v1alpha1.Stream) bool { return refused[refOf(KindStream, s)] })
		out.Bridges = slices.DeleteFunc(slices.Clone(in.Bridges), func(b *v1alpha1.Bridge) bool { return refused[refOf(KindBridge, b)] })
		q := Compile(out)
		if diff := cmp.Diff(plannedOf(p), plannedOf(q)); diff != "" {
			t.Errorf("refused objects matter:\n%s", diff)
		}
	})
}

// edit changes the input in one of many ways.
func edit(t *rapid.T, in Input, n int) Input {
	names := make([]string, len(in.Members))
	for i, m := range in.Members {
		names[i] = m.Name
	}
	groups := []string{"core", "mid", "leaf"}
	out := Input{
		Topologies: slices.Clone(in.Topologies), Members: slices.Clone(in.Members),
		Streams: slices.Clone(in.Streams), Bridges: slices.Clone(in.Bridges),
	}
	pick := func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "which") }
	switch k := rapid.IntRange(0, 14).Draw(t, "edit"); {
	case k <= 1: // a new bridge
		b := genBridge(t, fmt.Sprintf("new%d", n), names, groups)
		out.Bridges = append(out.Bridges, b)
	case k <= 3 && len(out.Bridges) > 0: // a bridge is edited
		i := pick(len(out.Bridges))
		b := genBridge(t, out.Bridges[i].Name, names, groups)
		b.Generation = out.Bridges[i].Generation + 1
		out.Bridges[i] = b
	case k == 4 && len(out.Bridges) > 0:
		i := pick(len(out.Bridges))
		out.Bridges = slices.Delete(out.Bridges, i, i+1)
	case k == 5:
		out.Streams = append(out.Streams, genStream(t, fmt.Sprintf("new%d", n), names, groups))
	case k == 6 && len(out.Streams) > 0:
		i := pick(len(out.Streams))
		s := genStream(t, out.Streams[i].Name, names, groups)
		s.Generation = out.Streams[i].Generation + 1
		out.Streams[i] = s
	case k == 7 && len(out.Streams) > 0:
		i := pick(len(out.Streams))
		out.Streams = slices.Delete(out.Streams, i, i+1)
	case k == 8: // a member's key changes, and with it its grants are void
		i := pick(len(out.Members))
		m := out.Members[i].DeepCopy()
		m.Status.LinkKey = fmt.Sprintf("U%d", n)
		out.Members[i] = m
	case k == 9: // its address changes, or goes, and perhaps it is another of its name
		i := pick(len(out.Members))
		m := out.Members[i].DeepCopy()
		m.Status.Endpoints = rapid.SampledFrom([][]string{nil, {m.Name + ":1"}, {m.Name + ":2", "x:3"}}).Draw(t, "endpoints")
		m.Status.Identity = &v1alpha1.MemberIdentity{Incarnation: rapid.SampledFrom([]string{"", "i1", "i2"}).Draw(t, "incarnation")}
		out.Members[i] = m
	case k == 10: // something that does not matter
		i := pick(len(out.Members))
		m := out.Members[i].DeepCopy()
		m.ResourceVersion, m.Status.HeldHash = fmt.Sprint(n), fmt.Sprint(n)
		out.Members[i] = m
	case k == 11 && len(out.Members) > 1:
		i := pick(len(out.Members))
		out.Members = slices.Delete(out.Members, i, i+1)
	case k == 12: // it is selected by other objects, and other parents are nearest
		i := pick(len(out.Members))
		m := out.Members[i].DeepCopy()
		m.Labels = map[string]string{"zone": rapid.SampledFrom([]string{"z1", "z2", "z3"}).Draw(t, "zone")}
		out.Members[i] = m
	case k == 13: // its key is revoked, or is not any more
		i := pick(len(out.Members))
		m := out.Members[i].DeepCopy()
		m.Generation++
		m.Spec.RevokedKeys = nil
		if StandingOf(out.Members[i]) == (Standing{}) {
			m.Spec.RevokedKeys = []string{m.Status.LinkKey}
		}
		out.Members[i] = m
	default: // the topology changes
		topo := out.Topologies[0].DeepCopy()
		topo.Generation++
		for i := range topo.Spec.Links {
			if h := topo.Spec.Links[i].HubAndSpoke; h != nil {
				h.MaxParents = rapid.Int32Range(1, 3).Draw(t, "parents")
				h.Links = rapid.SampledFrom([]v1alpha1.SpokeLinks{v1alpha1.SpokeLinksSeparate, v1alpha1.SpokeLinksShared}).Draw(t, "links")
			}
		}
		storage := v1alpha1.DurabilityAlways
		topo.Spec.Groups[0].Broker.Durability = storage
		out.Topologies[0] = topo
	}
	return out
}

// TestRecompile edits random inputs and compares each plan made from the one
// before with a plan made from nothing but the versions that are in effect.
func TestRecompile(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := genInput(t)
		p := Compile(in)
		for n := range rapid.IntRange(1, 6).Draw(t, "edits") {
			in = edit(t, in, n)
			q := Recompile(p, in)
			checkPlan(t, in, q)
			compareWithFresh(t, in, q)
			again := Recompile(q, in)
			if diff := cmp.Diff(plannedOf(q), plannedOf(again)); diff != "" {
				t.Fatalf("a second look differs:\n%s", diff)
			}
			if diff := cmp.Diff(q.Problems, again.Problems); diff != "" {
				t.Fatalf("a second look finds other problems:\n%s", diff)
			}
			p = q
		}
	})
}

func compareWithFresh(t *rapid.T, in Input, q *Plan) {
	fresh := Compile(in)
	if refusals(q) == 0 || refusals(fresh) == 0 {
		if diff := cmp.Diff(plannedOf(fresh), plannedOf(q)); diff != "" {
			t.Fatalf("recompiled is not as compiled (-compiled +recompiled):\n%s", diff)
		}
	}
	if diff := cmp.Diff(fresh.Problems, q.Problems); diff != "" && refusals(fresh) == 0 {
		t.Fatalf("recompiled finds other problems than compiled:\n%s", diff)
	}
	// What is in effect must come out the same from nothing.
	effective := Input{Members: in.Members}
	for _, o := range q.memo.effective {
		switch o := o.(type) {
		case *v1alpha1.MessagingTopology:
			effective.Topologies = append(effective.Topologies, o)
		case *v1alpha1.Stream:
			effective.Streams = append(effective.Streams, o)
		case *v1alpha1.Bridge:
			effective.Bridges = append(effective.Bridges, o)
		}
	}
	for _, b := range q.memo.bridges.accepted {
		if b.lenient {
			return // may be in effect in part
		}
	}
	clean := Compile(effective)
	for _, x := range clean.Problems {
		if !x.Waiting && x.Reason != v1alpha1.ReasonNoEndpoint && x.Reason != v1alpha1.ReasonReplicasUnsupported {
			t.Fatalf("what is in effect is refused: %+v", x)
		}
	}
	if diff := cmp.Diff(plannedOf(clean), plannedOf(q)); diff != "" {
		t.Fatalf("recompiled is not what is in effect (-compiled +recompiled):\n%s", diff)
	}
}

// TestRemovedMember removes a member of a mesh and checks that only those change
// that were linked to it, or carry what it sent or received.
func TestRemovedMember(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := genInput(t)
		before := Compile(in)
		i := rapid.IntRange(0, len(in.Members)-1).Draw(t, "removed")
		gone := in.Members[i].Name
		out := in
		out.Members = slices.Delete(slices.Clone(in.Members), i, i+1)
		after := Compile(out)
		if len(before.memo.world.fabrics) == 0 || len(after.memo.world.fabrics) == 0 || !slices.EqualFunc(before.memo.bridges.accepted, after.memo.bridges.accepted, func(a, b *bridge) bool { return a.ref == b.ref }) {
			return // another decision about some object may change anything
		}
		if !slices.EqualFunc(before.memo.streams.accepted, after.memo.streams.accepted, func(a, b *placed) bool { return a.ref == b.ref }) {
			return
		}
		mayChange := touched(before, after)
		for name, m := range after.Members {
			if m.Hash != before.Members[name].Hash && !mayChange[name] {
				t.Errorf("%s changes though %s is gone", name, gone)
			}
		}
	})
}

// touched are the members at which links or routes of bridges differ.
func touched(a, b *Plan) map[string]bool {
	out := map[string]bool{}
	links := map[string]int{}
	// Of a site that gets another parent the other parents know it by another group,
	// or by none if that one cannot share.
	known := func(p *Plan, l Link) string {
		shared := p.Members[l.Acceptor].Part(federationv1.LinkID(l.Dialer))
		if shared == nil {
			return fmt.Sprint(l)
		}
		return fmt.Sprint(l, shared.Part.GetLink().GetGroup())
	}
	for n, p := range []*Plan{a, b} {
		for _, l := range p.Links {
			links[known(p, l)] |= 1 << n
		}
	}
	for n, p := range []*Plan{a, b} {
		for _, l := range p.Links {
			if links[known(p, l)] == 1<<n {
				out[l.Dialer], out[l.Acceptor] = true, true
			}
		}
	}
	// A route is known by the bridge and the names on it.
	routes := map[string]int{}
	nodes := map[string][]string{}
	for n, p := range []*Plan{a, b} {
		for i, x := range p.memo.bridges.accepted {
			x.eachPair(func(o, d int32) {
				ways := x.fabric.routes
				if x.live != nil {
					ways = x.fabric.liveRoutes
				}
				for _, r := range ways(o, d) {
					var names []string
					for _, m := range r.nodes {
						names = append(names, x.fabric.names[m])
					}
					key := fmt.Sprint(i, names, r.origin, r.responder, r.forward, r.reply)
					routes[key] |= 1 << n
					nodes[key] = names
				}
			})
		}
	}
	for key, where := range routes {
		if where != 3 {
			for _, n := range nodes[key] {
				out[n] = true
			}
		}
	}
	return out
}

func meta(name string, generation int64) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "apps", Name: name, UID: types.UID("uid-" + name), Generation: generation}
}

// pairInput is two members, joined, with an account, a stream and a bridge.
func pairInput() Input {
	in := Input{}
	for _, n := range []string{"a", "b", "c"} {
		m := &v1alpha1.MemberCluster{ObjectMeta: meta(n, 1)}
		m.Namespace = ""
		m.Status.LinkKey, m.Status.Endpoints, m.Status.Agent = "U"+n, []string{n + ":1"}, &v1alpha1.AgentInfo{Version: "1", LinkRoles: true}
		in.Members = append(in.Members, m)
	}
	topo := &v1alpha1.MessagingTopology{ObjectMeta: meta("main", 1)}
	topo.Namespace = ""
	topo.Spec.Groups = []v1alpha1.Group{{Name: "all", Clusters: []string{"a", "b"}}}
	topo.Spec.Links = []v1alpha1.LinkRule{{Name: "mesh", Type: v1alpha1.LinkMesh, Groups: []string{"all"}}}
	topo.Spec.Accounts = []v1alpha1.Account{{Name: "orders", Namespaces: []string{"*"}}}
	in.Topologies = []*v1alpha1.MessagingTopology{topo}
	s := &v1alpha1.Stream{ObjectMeta: meta("s", 1)}
	s.Spec.Account, s.Spec.Subjects, s.Spec.Placement.Clusters = "orders", []string{"s.>"}, []string{"a"}
	in.Streams = []*v1alpha1.Stream{s}
	b := &v1alpha1.Bridge{ObjectMeta: meta("b", 1)}
	b.Spec.Account, b.Spec.Type, b.Spec.Subjects = "orders", v1alpha1.BridgeEvents, []string{"x.>"}
	b.Spec.From.Clusters, b.Spec.To.Clusters = []string{"a"}, []string{"b"}
	in.Bridges = []*v1alpha1.Bridge{b}
	return in
}

// TestLastGoodVersion breaks running objects by wrong edits: the versions that
// were right go on, and the problems are reported.
func TestLastGoodVersion(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		object ObjectRef
		reason string
		change func(in *Input)
	}{
		"bridge": {ObjectRef{KindBridge, "apps", "b"}, v1alpha1.ReasonInvalidSubject, func(in *Input) {
			b := in.Bridges[0].DeepCopy()
			b.Generation, b.Spec.Subjects = 2, []string{">"}
			in.Bridges[0] = b
		}},
		"stream": {ObjectRef{KindStream, "apps", "s"}, v1alpha1.ReasonInvalidSubject, func(in *Input) {
			s := in.Streams[0].DeepCopy()
			s.Generation, s.Spec.Subjects = 2, []string{">"}
			in.Streams[0] = s
		}},
		"topology": {ObjectRef{KindTopology, "", "main"}, v1alpha1.ReasonUnknownGroup, func(in *Input) {
			x := in.Topologies[0].DeepCopy()
			x.Generation, x.Spec.Links[0].Groups = 2, []string{"gone"}
			in.Topologies[0] = x
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := pairInput()
			p := Compile(in)
			if len(p.Problems) > 0 {
				t.Fatal(p.Problems)
			}
			test.change(&in)
			q := Recompile(p, in)
			if len(q.Problems) != 1 || q.Problems[0].Object != test.object || q.Problems[0].Reason != test.reason {
				t.Errorf("problems are %+v", q.Problems)
			}
			if diff := cmp.Diff(plannedOf(p), plannedOf(q)); diff != "" {
				t.Errorf("a refused object changes the plan:\n%s", diff)
			}
			if len(q.Frozen) > 0 {
				t.Errorf("frozen though the last good version is known: %v", q.Frozen)
			}
			if got := q.Objects[test.object]; got == nil || got.Generation != 1 {
				t.Errorf("footprint is %+v, want that of generation 1", got)
			}
			// It still goes on in the next plan, and a hub that starts now freezes.
			r := Recompile(q, in)
			if diff := cmp.Diff(plannedOf(p), plannedOf(r)); diff != "" {
				t.Errorf("it does not go on:\n%s", diff)
			}
			kept := in
			kept.InEffect = q.InEffect()
			warm := Compile(kept)
			if diff := cmp.Diff(plannedOf(p), plannedOf(warm)); diff != "" || len(warm.Frozen) > 0 {
				t.Errorf("a hub that kept what was in effect plans something else (frozen %v):\n%s", warm.Frozen, diff)
			}
			cold := Compile(in)
			if cold.Objects[test.object] != nil || cold.Frozen["a"] == "" {
				t.Errorf("a cold hub plans %+v and freezes %v", cold.Objects[test.object], cold.Frozen)
			}
			if again := Recompile(cold, in); !cmp.Equal(again.Frozen, cold.Frozen) {
				t.Errorf("frozen %v, then %v", cold.Frozen, again.Frozen)
			}
		})
	}
}

// TestNewAndWrong adds objects that are wrong from the start to a plan: nothing
// can run of them, so that nothing is frozen.
func TestNewAndWrong(t *testing.T) {
	t.Parallel()
	in := pairInput()
	bridges := in.Bridges
	in.Bridges = nil
	p := Compile(in)
	wrong := bridges[0].DeepCopy()
	wrong.Spec.Account = "none"
	in.Bridges = []*v1alpha1.Bridge{wrong}
	q := Recompile(p, in)
	if len(q.Problems) != 1 || len(q.Frozen) > 0 {
		t.Errorf("problems %v, frozen %v", q.Problems, q.Frozen)
	}
	right := bridges[0].DeepCopy()
	right.Generation = 2
	in.Bridges = []*v1alpha1.Bridge{right}
	r := Recompile(q, in)
	if diff := cmp.Diff(plannedOf(Compile(in)), plannedOf(r), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

// TestContextBreaksBridge takes away what a running bridge stands on.
func TestContextBreaksBridge(t *testing.T) {
	t.Parallel()
	in := pairInput()
	p := Compile(in)
	topo := in.Topologies[0].DeepCopy()
	topo.Generation, topo.Spec.Links = 2, nil
	in.Topologies = []*v1alpha1.MessagingTopology{topo}
	q := Recompile(p, in)
	if len(q.Problems) != 1 || q.Problems[0].Reason != v1alpha1.ReasonUnroutable {
		t.Fatalf("problems are %v", q.Problems)
	}
	if q.Frozen["a"] == "" || q.Frozen["b"] == "" {
		t.Errorf("frozen are %v, want a and b: they may lose what the bridge put there", q.Frozen)
	}
}

// TestTopologyGone deletes a topology on which a Stream and a Bridge stand: what
// they put on members stays until they go too.
func TestTopologyGone(t *testing.T) {
	t.Parallel()
	in := pairInput()
	p := Compile(in)
	in.Topologies = nil
	q := Recompile(p, in)
	if refusals(q) != 2 || q.Frozen["a"] == "" || q.Frozen["b"] == "" {
		t.Errorf("problems %+v, frozen %v", q.Problems, q.Frozen)
	}
	in.Streams, in.Bridges = nil, nil
	if r := Recompile(q, in); len(r.Problems) > 0 || len(r.Frozen) > 0 || len(r.Members["a"].Parts) > 0 {
		t.Errorf("problems %+v, frozen %v", r.Problems, r.Frozen)
	}
}

// chainInput is a chain of members a, b and c, with a bridge from a to c.
func chainInput() Input {
	in := pairInput()
	topo := in.Topologies[0]
	topo.Spec.Groups[0].Clusters = []string{"a", "b", "c"}
	topo.Spec.Links = []v1alpha1.LinkRule{{Name: "chain", Type: v1alpha1.LinkChain, Groups: []string{"all"}, Order: []string{"a", "b", "c"}}}
	topo.Spec.Accounts = append(topo.Spec.Accounts, v1alpha1.Account{Name: "other", Namespaces: []string{"*"}})
	in.Bridges[0].Spec.To.Clusters = []string{"c"}
	return in
}

// settledOn is the progress of members that have applied a plan.
func settledOn(p *Plan) Progress {
	prog := Progress{}
	for name, m := range p.Members {
		held := map[string]string{}
		for _, part := range m.Parts {
			held[part.Part.Id] = part.Part.Hash
		}
		prog[name] = &MemberProgress{
			Connected: true, Features: []string{"broker", "account", "link", "stream", "outlet"}, Held: held,
			Unapplied: map[string]PartFailure{}, Flows: map[FlowKey]FlowReport{},
		}
	}
	return prog
}
