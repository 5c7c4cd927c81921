package topology

import (
	"slices"
	"strings"
	"testing"

	"github.com/sealane/sealane/api/v1alpha1"
)

// effective compares what EffectiveOf says is in effect with what the hub plans, and
// returns it.
func (s *wavesSim) effective() *Effective {
	s.t.Helper()
	var revisions []v1alpha1.TopologyRevision
	for name, c := range s.revisions {
		data, err := c.Encode()
		if err != nil {
			s.t.Fatal(err)
		}
		r := v1alpha1.TopologyRevision{Spec: v1alpha1.TopologyRevisionSpec{Topology: "t", Content: data}}
		r.Name = name
		revisions = append(revisions, r)
	}
	s.makePlan()
	e, err := EffectiveOf(s.in, revisions)
	if err != nil {
		s.t.Fatal(err)
	}
	for name := range s.plan.Members {
		if got, want := e.Plan.Desired(name).Hash, s.plan.Desired(name).Hash; got != want {
			s.t.Errorf("%s has %s in effect, the hub plans %s: %+v", name, got, want, s.topology().Status.Rollout)
		}
	}
	again, err := e.Once(s.in)
	if err != nil {
		s.t.Fatal(err)
	}
	if c := Preview(e.Plan, again.Plan); c.Changing() {
		s.t.Errorf("no edit changes %d members and %d links: %+v", len(c.Members), len(c.Links), s.topology().Status.Rollout)
	}
	return e
}

// edited compares what an edit leads to with what the objects then say.
func (s *wavesSim) edited(e *Effective, do func(*v1alpha1.MessagingTopology)) *Changes {
	s.t.Helper()
	in := s.in
	t := s.topology().DeepCopy()
	do(t)
	t.Generation++
	in.Topologies = []*v1alpha1.MessagingTopology{t}
	now, err := e.Once(in)
	if err != nil {
		s.t.Fatal(err)
	}
	for name, want := range Compile(in).Members {
		if got := now.Plan.Desired(name); got.Hash != want.Hash {
			s.t.Errorf("once it is rolled out %s has not what the objects say: %+v", name, s.topology().Status.Rollout)
		}
	}
	return Preview(e.Plan, now.Plan)
}

func TestEffective(t *testing.T) {
	t.Parallel()
	chain := func(t *v1alpha1.MessagingTopology) {
		t.Spec.Links[0].Type, t.Spec.Links[0].Order = v1alpha1.LinkChain, []string{"a", "b", "c"}
	}
	for _, rollback := range []v1alpha1.Decision{v1alpha1.DecisionAutomatic, v1alpha1.DecisionManual} {
		s := newWavesSim(t, threeMembers(), &v1alpha1.Rollout{Size: number(1), Rollback: rollback})
		s.run(0)
		if e := s.effective(); len(e.Kept)+len(e.Lost) > 0 || e.Says["t"] != s.live {
			t.Errorf("complete: %+v", e)
		}
		good := s.live
		was := s.prog["a"].Held["broker"]
		s.fails = func(_, part, hash string) bool { return part == "broker" && hash != was }
		s.edit(func(t *v1alpha1.MessagingTopology) { moreConnections(t); chain(t) })
		st := s.run(10)
		e := s.effective()
		if len(e.Kept) != 1 {
			t.Fatalf("%s: %+v", st.State, e.Kept)
		}
		k := e.Kept[0]
		members := []string{"a", "b", "c"}
		if rollback == v1alpha1.DecisionManual {
			members = members[1:]
		}
		if k.State != st.State || k.InEffect != good || k.Says != s.live || k.All != (rollback == v1alpha1.DecisionAutomatic) || !slices.Equal(k.Members, members) || k.Message == "" {
			t.Errorf("%s: %+v", st.State, k)
		}
		if n := len(e.Plan.Links); n != 3 {
			t.Errorf("%s: %d links, of a mesh that was to become a chain", st.State, n)
		}
		// The objects go back to what is in effect: nothing changes where it is kept. A
		// further change shows from there.
		back := s.edited(e, func(t *v1alpha1.MessagingTopology) {
			t.Spec = *s.revisions[good].Topology.Spec.DeepCopy()
			t.Spec.Rollout = s.topology().Spec.Rollout
		})
		for _, name := range members {
			if back.Member(name) != nil {
				t.Errorf("%s: to go back changes %s", st.State, name)
			}
		}
		if on := s.edited(e, moreConnections); on.Member("b") == nil || on.Member("c") == nil {
			t.Errorf("%s: another change shows on %d members", st.State, len(on.Members))
		}
		if missing, err := EffectiveOf(s.in, nil); err != nil || len(missing.Kept) > 0 || len(missing.Lost) != 1 || missing.Lost[0].InEffect != good {
			t.Errorf("%s: without the revisions %+v, %v", st.State, missing, err)
		}
	}
}

// TestEffectiveInEveryState takes rollouts through all states.
func TestEffectiveInEveryState(t *testing.T) {
	t.Parallel()
	s := newWavesSim(t, threeMembers(), &v1alpha1.Rollout{Size: number(1), BakeSeconds: 5, Approval: v1alpha1.DecisionManual})
	s.run(0)
	first := s.live
	s.edit(func(t *v1alpha1.MessagingTopology) { moreConnections(t); t.Spec.Rollout.Paused = true })
	seen := map[v1alpha1.RolloutState]bool{}
	for range 3 {
		s.run(1)
		s.effective()
		seen[s.topology().Status.Rollout.State] = true
	}
	s.edit(func(t *v1alpha1.MessagingTopology) { t.Spec.Rollout.Paused = false })
	for i := range 4 {
		st := s.run(i % 2)
		s.effective()
		seen[st.State] = true
		if st.State == v1alpha1.RolloutAwaitingApproval {
			s.annotate(v1alpha1.RolloutApproveAnnotation, s.live+"/2")
		}
	}
	s.annotate(v1alpha1.RolloutUndoAnnotation, first+"/"+s.live)
	seen[s.run(3).State] = true
	if e := s.effective(); len(e.Kept) != 1 || !e.Kept[0].All || e.Kept[0].InEffect != first {
		t.Errorf("undone: %+v", e.Kept)
	}
	for _, state := range []v1alpha1.RolloutState{v1alpha1.RolloutPaused, v1alpha1.RolloutBaking, v1alpha1.RolloutAwaitingApproval, v1alpha1.RolloutUndone} {
		if !seen[state] {
			t.Errorf("was not %s", state)
		}
	}
}

// TestPreviewOfAMassRemoval: what the guard will hold back is foretold, unless it is
// permitted.
func TestPreviewOfAMassRemoval(t *testing.T) {
	t.Parallel()
	r := newRollout(t, threeMembers())
	r.settle()
	before := r.plan
	r.in.Topologies, r.in.Streams, r.in.Bridges = nil, nil, nil
	after := Recompile(before, r.in)
	b := Preview(before, after).Member("b")
	if b == nil || !strings.Contains(b.Guarded, "allow-removal b") {
		t.Fatalf("%+v", b)
	}
	if c := Preview(after, before).Member("b"); c.Guarded != "" {
		t.Errorf("nothing is taken away: %s", c.Guarded)
	}
	for i, m := range r.in.Members {
		m = m.DeepCopy()
		m.Annotations = map[string]string{v1alpha1.AllowRemovalAnnotation: "100"}
		r.in.Members[i] = m
	}
	if b = Preview(before, Recompile(before, r.in)).Member("b"); b.Guarded != "" {
		t.Errorf("it is permitted: %s", b.Guarded)
	}
	// It is as the hub then decides.
	for name := range r.prog {
		blocked, _, gone, _ := (order{plan: after, prog: r.prog}).heldBack(name)
		if c := Preview(before, after).Member(name); blocked != (c.Guarded != "") || !blocked && gone > 10 {
			t.Errorf("%s: %q, and the hub holds it back: %v", name, c.Guarded, blocked)
		}
	}
}
