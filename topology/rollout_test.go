package topology

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// rollout drives plan, steps and reports until nothing moves, with agents that
// apply everything at once and grant what they are asked to, and a hub that
// writes down keys and grants.
type rollout struct {
	t    *testing.T
	in   Input
	plan *Plan
	prog Progress
	sent map[string]int // steps by member
}

func newRollout(t *testing.T, in Input) *rollout {
	r := &rollout{t: t, in: in, prog: Progress{}, sent: map[string]int{}}
	for _, m := range in.Members {
		r.prog[m.Name] = &MemberProgress{Connected: true, Features: allFeatures, Held: map[string]string{}, Unapplied: map[string]PartFailure{}}
	}
	return r
}

func (r *rollout) settle() {
	r.t.Helper()
	for range 100 {
		if r.plan = Recompile(r.plan, r.in); !r.wave() && !r.grant() {
			r.report()
			return
		}
	}
	r.t.Fatal("does not settle")
}

// wave sends every member its next step.
func (r *rollout) wave() (moved bool) {
	for _, name := range sortedKeys(r.prog) {
		step := Next(r.plan, r.prog, name)
		if step.Target == "" {
			continue
		}
		moved = true
		r.sent[name]++
		m := *r.prog[name]
		m.Held = maps.Clone(m.Held)
		for _, p := range step.Upserts {
			m.Held[p.Id] = p.Hash
		}
		for _, id := range step.Removals {
			delete(m.Held, id)
		}
		r.prog[name] = &m
	}
	return moved
}

// grant does what acceptors and the hub do.
func (r *rollout) grant() (moved bool) {
	byName := map[string]int{}
	for i, m := range r.in.Members {
		byName[m.Name] = i
	}
	for _, l := range r.plan.Links {
		if !r.prog[l.Acceptor].Applied(federationv1.LinkID(l.Dialer), r.hash(l.Acceptor, federationv1.LinkID(l.Dialer))) {
			continue
		}
		m := r.in.Members[byName[l.Dialer]]
		if grantFor(m, l.Acceptor) != nil {
			continue
		}
		m = m.DeepCopy()
		m.Status.Grants = append(m.Status.Grants, v1alpha1.Grant{Peer: l.Acceptor, Key: m.Status.LinkKey, Out: "out", In: "in"})
		r.in.Members[byName[l.Dialer]] = m
		moved = true
	}
	return moved
}

func (r *rollout) hash(cluster, id string) string {
	if p := r.plan.Members[cluster].Part(id); p != nil {
		return p.Part.Hash
	}
	return "none"
}

// report has every member say that its links and flows are up.
func (r *rollout) report() {
	for name, m := range r.prog {
		m.Links, m.Flows = map[string]LinkReport{}, map[FlowKey]FlowReport{}
		for _, p := range r.plan.Members[name].Parts {
			switch s := p.Part.Spec.(type) {
			case *federationv1.Part_Link:
				m.Links[s.Link.Peer] = LinkReport{State: "Up"}
			case *federationv1.Part_Stream:
				for _, src := range s.Stream.Sources {
					m.Flows[FlowKey{Origin: cmp.Or(src.Origin, name), Account: s.Stream.Account, Stream: s.Stream.Name, Bridge: src.Bridge}] = FlowReport{State: "Up", Lag: 1}
				}
			}
		}
	}
}

func (r *rollout) converged() {
	r.t.Helper()
	for name, m := range r.prog {
		if got, want := federationv1.StateHash(m.Held), r.plan.Members[name].Hash; got != want {
			r.t.Errorf("%s holds %v, shall hold %v", name, sortedKeys(m.Held), ids(r.plan.Members[name]))
		}
	}
}

// notReady lists what is not Ready, and why.
func (r *rollout) notReady() []string {
	var out []string
	for ref, st := range Summarize(r.plan, r.in, r.prog) {
		if c := st.Condition(v1alpha1.ConditionReady); c.Status != metav1.ConditionTrue {
			out = append(out, fmt.Sprintf("%s %s: %s", ref.Kind, ref.path(), say(c)))
		}
	}
	slices.Sort(out)
	return out
}

// TestRollout takes real plans from nothing to Ready, through a change of the
// shape, and back to nothing.
func TestRollout(t *testing.T) {
	t.Parallel()
	in := threeMembers()
	mesh := in.Topologies[0]
	r := newRollout(t, in)
	r.settle()
	if len(r.plan.Problems) > 0 {
		t.Fatalf("problems: %v", r.plan.Problems)
	}
	r.converged()
	if bad := r.notReady(); len(bad) > 0 {
		t.Errorf("not Ready: %q", bad)
	}
	if lag := Summarize(r.plan, r.in, r.prog)[ObjectRef{KindBridge, "ns", "copy"}].Lag; lag != 2 {
		t.Errorf("lag %d of two flows", lag)
	}

	chain := mesh.DeepCopy()
	chain.Generation++
	chain.Spec.Links[0].Type = v1alpha1.LinkChain
	chain.Spec.Links[0].Order = []string{"a", "b", "c"}
	r.in.Topologies[0] = chain
	r.settle()
	r.converged()
	if bad := r.notReady(); len(bad) > 0 {
		t.Errorf("not Ready as a chain: %q", bad)
	}
	if len(r.plan.Links) != 2 {
		t.Errorf("links: %v", r.plan.Links)
	}

	clear(r.sent)
	r.settle()
	if len(r.sent) > 0 {
		t.Errorf("sent though nothing changed: %v", r.sent)
	}

	r.in.Topologies, r.in.Streams, r.in.Bridges = nil, nil, nil
	r.settle()
	if m := r.prog["b"]; len(m.Held) == 0 {
		t.Error("b lost everything, although nobody said that it is meant")
	}
	if c := Summarize(r.plan, r.in, r.prog)[ObjectRef{Kind: KindMember, Name: "b"}].Condition(v1alpha1.ConditionProgrammed); c.Status == metav1.ConditionTrue {
		t.Errorf("b is %s", say(c))
	}
	for i, m := range r.in.Members {
		m = m.DeepCopy()
		m.Annotations = map[string]string{v1alpha1.AllowRemovalAnnotation: r.plan.Members[m.Name].Hash}
		r.in.Members[i] = m
	}
	r.settle()
	r.converged()
	for name, m := range r.prog {
		if len(m.Held) > 0 {
			t.Errorf("%s still holds %v", name, sortedKeys(m.Held))
		}
	}
}

// threeMembers are joined by a mesh, with a stream, a queue and bridges.
func threeMembers() Input {
	member := func(name string) *v1alpha1.MemberCluster {
		return &v1alpha1.MemberCluster{
			ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 1},
			Status: v1alpha1.MemberClusterStatus{
				LinkKey: "U" + name, Endpoints: []string{name + ":7422"}, Agent: &v1alpha1.AgentInfo{Version: "v1"},
			},
		}
	}
	at := func(names ...string) v1alpha1.Placement { return v1alpha1.Placement{Clusters: names} }
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "ns", Name: name, Generation: 1}
	}
	mesh := &v1alpha1.MessagingTopology{
		ObjectMeta: metav1.ObjectMeta{Name: "t", Generation: 1},
		Spec: v1alpha1.MessagingTopologySpec{
			Groups:   []v1alpha1.Group{{Name: "all", Selector: &metav1.LabelSelector{}}},
			Links:    []v1alpha1.LinkRule{{Name: "mesh", Type: v1alpha1.LinkMesh, Groups: []string{"all"}}},
			Accounts: []v1alpha1.Account{{Name: "orders", Namespaces: []string{"*"}}},
		},
	}
	return Input{
		Topologies: []*v1alpha1.MessagingTopology{mesh},
		Members:    []*v1alpha1.MemberCluster{member("a"), member("b"), member("c")},
		Streams: []*v1alpha1.Stream{
			{ObjectMeta: meta("src"), Spec: v1alpha1.StreamSpec{Account: "orders", Name: "SRC", Subjects: []string{"src.>"}, Placement: at("a", "b")}},
			{ObjectMeta: meta("all"), Spec: v1alpha1.StreamSpec{Account: "orders", Name: "ALL", Placement: at("c")}},
			{ObjectMeta: meta("work"), Spec: v1alpha1.StreamSpec{Account: "orders", Name: "WORK", Subjects: []string{"work.>"}, Retention: v1alpha1.RetentionWorkQueue, Placement: at("a")}},
		},
		Bridges: []*v1alpha1.Bridge{
			{ObjectMeta: meta("events"), Spec: v1alpha1.BridgeSpec{Account: "orders", Type: v1alpha1.BridgeEvents, From: at("a", "b"), To: at("b", "c"), Subjects: []string{"ev.>"}}},
			{ObjectMeta: meta("calls"), Spec: v1alpha1.BridgeSpec{Account: "orders", Type: v1alpha1.BridgeRequests, From: at("a"), To: at("c"), Subjects: []string{"svc.x"}}},
			{ObjectMeta: meta("copy"), Spec: v1alpha1.BridgeSpec{Account: "orders", Type: v1alpha1.BridgeStream, From: at("a", "b"), To: at("c"), Stream: &v1alpha1.BridgeStreams{Name: "SRC", Target: "ALL"}}},
			{ObjectMeta: meta("move"), Spec: v1alpha1.BridgeSpec{Account: "orders", Type: v1alpha1.BridgeQueue, From: at("a"), To: at("b"), Stream: &v1alpha1.BridgeStreams{Name: "WORK"}}},
		},
	}
}
