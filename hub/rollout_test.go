package hub

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

// edit changes the topology as a user does.
func (s *stage) edit(do func(*v1alpha1.MessagingTopology)) {
	s.t.Helper()
	t := s.topology()
	before := t.DeepCopy()
	do(t)
	if err := s.client.Patch(s.t.Context(), t, client.MergeFrom(before)); err != nil {
		s.t.Fatal(err)
	}
}

// rolled waits until the rollout is in a state, of a revision that the objects say
// other than not, and returns it.
func (s *stage) rolled(state v1alpha1.RolloutState, not string) v1alpha1.RolloutStatus {
	s.t.Helper()
	var st *v1alpha1.RolloutStatus
	if !poll(func() bool {
		st = s.topology().Status.Rollout
		return st != nil && st.State == state && (not == "" || st.Current != not || st.Target != "" && st.Target != not)
	}) {
		s.t.Fatalf("want %s, not of %s; got %+v", state, not, st)
	}
	return *st
}

// counted waits until the metrics count one rollout, in this state; "": none.
func (s *stage) counted(state v1alpha1.RolloutState) {
	s.t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(s.metrics.rollouts)
	eventually(s.t, fmt.Sprintf("one rollout is counted as %q", state), func() bool {
		families, err := registry.Gather()
		if err != nil || len(families) != 1 {
			s.t.Fatal(families, err)
		}
		for _, m := range families[0].Metric {
			if want := state != "" && m.Label[0].GetValue() == string(state); (m.Gauge.GetValue() == 1) != want {
				return false
			}
		}
		return true
	})
}

// obey has members hold and apply what they shall hold for now; broken ones fail
// to apply what is not among these hashes.
func (s *stage) obey(broken string, good map[string]bool) {
	p := s.fleet.plan()
	s.fleet.change(func(o *Observation) {
		for name, old := range o.Progress {
			n := *old
			n.Held, n.Links, n.Unapplied = heldOf(p.Desired(name)), map[string]topology.LinkReport{}, map[string]topology.PartFailure{}
			for id, hash := range n.Held {
				if peer, is := strings.CutPrefix(id, "link/"); is {
					n.Links[peer] = topology.LinkReport{State: "Up", SinceMillis: 1_700_000_000_000}
				}
				if name == broken && !good[hash] {
					n.Unapplied[id] = topology.PartFailure{Code: "BrokerFailed", Message: "no such limit"}
				}
			}
			o.Progress[name] = &n
		}
	})
}

func (s *stage) hashes() map[string]string {
	out := map[string]string{}
	for name := range s.fleet.plan().Members {
		out[name] = s.fleet.plan().Desired(name).Hash
	}
	return out
}

func connections(n int32) func(*v1alpha1.MessagingTopology) {
	return func(t *v1alpha1.MessagingTopology) { t.Spec.Groups[0].Broker.MaxConnections = &n }
}

func (s *stage) revisions() []v1alpha1.TopologyRevision {
	s.t.Helper()
	var list v1alpha1.TopologyRevisionList
	if err := s.client.List(s.t.Context(), &list); err != nil {
		s.t.Fatal(err)
	}
	return list.Items
}

func (s *stage) readyRevision(name string) {
	s.t.Helper()
	eventually(s.t, "revision "+name+" is known as Ready", func() bool {
		for _, r := range s.revisions() {
			if r.Name == name {
				return r.Status.ReadyAt != nil
			}
		}
		return false
	})
}

func TestRolloutGoesInWaves(t *testing.T) {
	s := newStage(t)
	s.settled()
	one, none := intstr.FromInt32(1), int32(0)
	s.edit(func(t *v1alpha1.MessagingTopology) {
		t.Spec.Rollout = &v1alpha1.Rollout{Size: &one, Rollback: v1alpha1.DecisionAutomatic, FailureGraceSeconds: &none, History: 5}
	})
	first := s.rolled(v1alpha1.RolloutComplete, "")
	s.readyRevision(first.Current)
	before := s.hashes()
	parts := map[string]bool{}
	for name := range before {
		for _, hash := range heldOf(s.fleet.plan().Desired(name)) {
			parts[hash] = true
		}
	}

	// A good change: one member, then the other.
	s.edit(connections(1000))
	s.rolled(v1alpha1.RolloutProgressing, first.Current)
	eventually(t, "a is planned anew, b is not", func() bool {
		now := s.hashes()
		return now["a"] != before["a"] && now["b"] == before["b"]
	})
	s.counted(v1alpha1.RolloutProgressing)
	if st := s.topology().Status.Rollout; st.Wave != 1 || st.Members != "1/2" {
		t.Errorf("%+v", st)
	}
	s.topologySays("Programmed", "False/Pending")

	// The hub is restarted: nothing is sent to b, and nothing taken back from a.
	during := s.hashes()
	seen := s.fleet.Observe()
	s.stop()
	s.start()
	s.fleet.change(func(o *Observation) { o.Progress, o.Members = seen.Progress, seen.Members })
	eventually(t, "a plan", func() bool { return s.fleet.plan().Members["b"] != nil })
	for _, p := range s.fleet.published {
		if p.Desired("a").Hash != during["a"] || p.Desired("b").Hash != during["b"] {
			t.Errorf("planned after a restart: a %v, b %v", p.Desired("a").Hash == during["a"], p.Desired("b").Hash == during["b"])
		}
	}
	s.obey("", nil)
	eventually(t, "b is reached", func() bool { return s.hashes()["b"] != before["b"] })
	s.obey("", nil)
	good := s.rolled(v1alpha1.RolloutComplete, first.Current)
	s.topologySays("Ready", "True/Ready")
	s.readyRevision(good.Current)
	after := s.hashes()
	for name := range after {
		for _, hash := range heldOf(s.fleet.plan().Desired(name)) {
			parts[hash] = true
		}
	}

	// A bad one: a fails, b never hears of it, a is brought back.
	s.edit(connections(7))
	s.rolled(v1alpha1.RolloutProgressing, good.Current)
	eventually(t, "a is planned anew", func() bool { return s.hashes()["a"] != after["a"] })
	s.obey("a", parts)
	back := s.rolled(v1alpha1.RolloutRolledBack, "")
	s.counted(v1alpha1.RolloutRolledBack)
	eventually(t, "a is brought back", func() bool { return maps.Equal(s.hashes(), after) })
	if back.Current != good.Current || back.Target == good.Current || !strings.Contains(back.Message, "no such limit") {
		t.Errorf("%+v", back)
	}
	s.obey("a", parts)
	s.topologySays("Programmed", "False/HeldBack")
	s.topologySays("Accepted", "True/Accepted")
	for _, p := range s.fleet.published {
		if b := p.Desired("b").Hash; b != before["b"] && b != after["b"] {
			t.Error("the bad change was planned for b")
		}
	}

	// Undo, from what is said to be in effect to the first revision, at once.
	s.edit(func(o *v1alpha1.MessagingTopology) {
		o.Annotations = map[string]string{v1alpha1.RolloutUndoAnnotation: first.Current + "/" + back.Target}
	})
	s.rolled(v1alpha1.RolloutUndone, "")
	eventually(t, "the first revision is in effect", func() bool { return maps.Equal(s.hashes(), before) })

	// Without spec.rollout everything goes to all at once; the revisions stay until
	// the topology goes.
	s.edit(func(o *v1alpha1.MessagingTopology) { o.Spec.Rollout, o.Annotations = nil, nil })
	eventually(t, "all get what the objects say", func() bool {
		now := s.hashes()
		return now["a"] != after["a"] && now["a"] != before["a"] && now["b"] != after["b"] && now["b"] != before["b"]
	})
	eventually(t, "no rollout any more", func() bool { return s.topology().Status.Rollout == nil })
	s.counted("")
	if err := s.client.Delete(t.Context(), s.topology()); err != nil {
		t.Fatal(err)
	}
}

func TestRevisionsAreBounded(t *testing.T) {
	s := newStage(t)
	s.settled()
	s.edit(func(t *v1alpha1.MessagingTopology) { t.Spec.Rollout = &v1alpha1.Rollout{History: 3, MinMembers: 100} })
	st := s.rolled(v1alpha1.RolloutComplete, "")
	for i := range 6 {
		s.edit(connections(int32(100 + i)))
		st = s.rolled(v1alpha1.RolloutComplete, st.Current)
		eventually(t, "planned", func() bool { return len(s.fleet.plan().Staged) == 0 })
		s.obey("", nil)
		s.readyRevision(st.Current)
	}
	eventually(t, "old revisions are removed", func() bool { return len(s.revisions()) == 3 })
	for _, r := range s.revisions() {
		if r.Spec.Number < 5 {
			t.Errorf("revision %d is kept", r.Spec.Number)
		}
		if _, err := topology.DecodeContent(r.Spec.Content); err != nil {
			t.Error(fmt.Errorf("revision %d: %w", r.Spec.Number, err))
		}
	}
}
