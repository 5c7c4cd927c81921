package topology

import (
	"testing"

	"github.com/sealane/sealane/api/v1alpha1"
)

// TestFrozenLosesNoImports: a hub that starts without what it kept, and finds a
// bridge refused, takes its imports away from nobody, also not from the member
// that it passes through.
func TestFrozenLosesNoImports(t *testing.T) {
	t.Parallel()
	in := chainInput()
	prog := settledOn(Compile(in))
	wrong := in.Bridges[0].DeepCopy()
	wrong.Generation, wrong.Spec.Subjects = 2, []string{">"}
	in.Bridges = []*v1alpha1.Bridge{wrong}
	cold := Compile(in)
	for _, name := range []string{"a", "b", "c"} {
		if step := Next(cold, prog, name); len(step.Upserts)+len(step.Removals) > 0 {
			t.Errorf("%s is sent %v and loses %v", name, step.Upserts, step.Removals)
		}
	}
	// What is new comes all the same, but not into accounts that it changes.
	extra := in.Bridges[0].DeepCopy()
	extra.Name, extra.UID, extra.Spec.Subjects, extra.Spec.Account = "extra", "extra", []string{"y"}, "other"
	in.Bridges = append(in.Bridges, extra)
	s := &v1alpha1.Stream{ObjectMeta: meta("new", 1)}
	s.Spec.Account, s.Spec.Subjects, s.Spec.Placement.Clusters = "orders", []string{"new.>"}, []string{"b"}
	in.Streams = append(in.Streams, s)
	if step := Next(Recompile(cold, in), prog, "b"); len(step.Upserts) != 1 || step.Upserts[0].Id != "stream/orders/new" {
		t.Errorf("b is sent %v, want the new stream alone", step.Upserts)
	}
	// Deleted, it is gone, and nothing is frozen.
	in.Bridges = in.Bridges[1:]
	gone := Recompile(cold, in)
	if step := Next(gone, prog, "b"); len(gone.Frozen)+len(gone.Withheld) > 0 || len(step.Upserts) < 2 {
		t.Errorf("frozen %v, b is sent %v", gone.Frozen, step.Upserts)
	}
}

// TestFrozenGetsAdditions: a hub that runs knows what accounts of frozen members
// would lose, and withholds no others.
func TestFrozenGetsAdditions(t *testing.T) {
	t.Parallel()
	in := chainInput()
	in.Bridges[0].Spec = v1alpha1.BridgeSpec{
		Account: "orders", Type: v1alpha1.BridgeStream, Stream: &v1alpha1.BridgeStreams{Name: "s", Target: "copy"},
		From: v1alpha1.Placement{Clusters: []string{"a"}}, To: v1alpha1.Placement{Clusters: []string{"c"}},
	}
	p := Compile(in)
	if len(p.Problems) > 0 {
		t.Fatal(p.Problems)
	}
	prog := settledOn(p)
	in.Streams = nil // on which the bridge stands
	q := Recompile(p, in)
	if q.Frozen["a"] == "" || q.Frozen["b"] == "" || q.Frozen["c"] == "" {
		t.Fatalf("frozen are %v, want all: the bridge passes through b", q.Frozen)
	}
	b := &v1alpha1.Bridge{ObjectMeta: meta("extra", 1)}
	b.Spec.Account, b.Spec.Type, b.Spec.Subjects = "other", v1alpha1.BridgeEvents, []string{"y"}
	b.Spec.From.Clusters, b.Spec.To.Clusters = []string{"a"}, []string{"c"}
	in.Bridges = append(in.Bridges, b)
	r := Recompile(Recompile(q, in), in)
	sent := map[string]bool{}
	for _, part := range Next(r, prog, "c").Upserts {
		sent[part.Id] = true
	}
	if !sent["account/other"] || sent["account/orders"] || sent["account/rx_b"] {
		t.Errorf("c is sent %v, want account other and not those in which the bridge's imports are", sent)
	}
	if step := Next(r, prog, "c"); len(step.Removals) > 0 {
		t.Errorf("c loses %v", step.Removals)
	}
}

// TestKeptAndNowhere: what a hub keeps tells objects that are nowhere from those
// that are newer than what it kept.
func TestKeptAndNowhere(t *testing.T) {
	t.Parallel()
	in := pairInput()
	wrong := in.Bridges[0].DeepCopy()
	wrong.Name, wrong.UID, wrong.Spec.Account = "wrong", "wrong", "none"
	in.Bridges = append(in.Bridges, wrong)
	p := Recompile(Compile(Input{}), in)
	if got := p.Nowhere(); len(got) != 1 || got[0] != (ObjectRef{KindBridge, "apps", "wrong"}) {
		t.Fatalf("nowhere are %v", got)
	}
	in.InEffect, in.Nowhere = p.InEffect(), p.Nowhere()
	if warm := Compile(in); len(warm.Frozen) > 0 || len(warm.Nowhere()) != 1 {
		t.Errorf("a warm start freezes %v", warm.Frozen)
	}
	late := wrong.DeepCopy()
	late.Name, late.UID = "late", "late"
	in.Bridges = append(in.Bridges, late)
	if warm := Compile(in); warm.Frozen["a"] == "" {
		t.Error("a refused bridge that is newer than what was kept freezes nothing")
	}
}
