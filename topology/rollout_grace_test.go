package topology

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealane/sealane/api/v1alpha1"
)

func seconds(n int32) *int32 { return &n }

// TestWavesOutlastBlips: what fails for less than the grace stops nothing, and what
// fails for longer does.
func TestWavesOutlastBlips(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		grace *int32
		lasts time.Duration
		stops bool
	}{
		"a blip":                         {nil, 29 * time.Second, false},
		"longer than is usual":           {nil, 30 * time.Second, true},
		"a blip of a short grace":        {seconds(5), 4 * time.Second, false},
		"longer than a short grace":      {seconds(5), 5 * time.Second, true},
		"a moment, where nothing may be": {seconds(0), 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newWavesSim(t, threeMembers(), &v1alpha1.Rollout{Size: number(1), BakeSeconds: 3600, FailureGraceSeconds: c.grace})
			s.run(0)
			s.edit(moreConnections)
			if st := s.run(1); st.State != v1alpha1.RolloutBaking || st.Wave != 1 {
				t.Fatalf("%+v", st)
			}
			// The deadline is over, the bake time is not.
			s.now = s.now.Add(700 * time.Second)
			s.fails = func(member, part, _ string) bool { return member == "a" && part == "broker" }
			st := s.run(0)
			if c.lasts > 0 {
				if st.State != v1alpha1.RolloutProgressing || st.FailingSince == nil || st.ReadySince != nil || !strings.Contains(st.Message, "a cannot apply broker") {
					t.Errorf("at once: %+v", st)
				}
				s.now = s.now.Add(c.lasts)
				st = s.run(0)
			}
			if stopped := st.State == v1alpha1.RolloutOverBudget; stopped != c.stops {
				t.Fatalf("after %s: %+v", c.lasts, st)
			}
			s.fails = func(string, string, string) bool { return false }
			if st = s.run(0); c.stops {
				if st.State != v1alpha1.RolloutOverBudget {
					t.Errorf("went on by itself: %+v", st)
				}
				return
			}
			if st.State != v1alpha1.RolloutBaking || st.FailingSince != nil || st.Wave != 1 || st.ReadySince == nil || !st.ReadySince.Time.Equal(s.now) {
				t.Errorf("mended: %+v", st)
			}
			// Each blip has a grace of its own.
			s.fails = func(member, part, _ string) bool { return member == "a" && part == "broker" }
			if st = s.run(0); st.State != v1alpha1.RolloutProgressing {
				t.Errorf("again: %+v", st)
			}
			s.fails = func(string, string, string) bool { return false }
			if st = s.run(20); st.State != v1alpha1.RolloutComplete {
				t.Errorf("at last: %+v", st)
			}
		})
	}
}

// TestMembersAwaitTheirWave: a member that no wave has reached says for which it
// waits.
func TestMembersAwaitTheirWave(t *testing.T) {
	t.Parallel()
	s := newWavesSim(t, threeMembers(), &v1alpha1.Rollout{Size: number(1), BakeSeconds: 5})
	s.run(0)
	s.edit(moreConnections)
	says := func(want map[string]string) {
		t.Helper()
		s.makePlan()
		statuses := Summarize(s.plan, s.in, s.prog)
		for name, message := range want {
			for _, condition := range []string{v1alpha1.ConditionProgrammed, v1alpha1.ConditionReady} {
				c := statuses[ObjectRef{Kind: KindMember, Name: name}].Condition(condition)
				if message == "" {
					if c.Status != metav1.ConditionTrue {
						t.Errorf("%s: %+v", name, c)
					}
				} else if c.Status != metav1.ConditionFalse || c.Reason != v1alpha1.ReasonAwaitingWave || !strings.HasPrefix(c.Message, message+": 1 part to come") {
					t.Errorf("%s: %+v, not %q", name, c, message)
				}
			}
		}
		all := statuses[ObjectRef{Kind: KindTopology, Name: "t"}].Condition(v1alpha1.ConditionProgrammed)
		if all.Reason != v1alpha1.ReasonAwaitingWave || !strings.Contains(all.Message, "no wave of the rollout has reached") {
			t.Errorf("topology: %+v", all)
		}
	}
	s.makePlan()
	says(map[string]string{"a": "waits for wave 1 of the rollout of topology t", "c": "waits for wave 3 of the rollout of topology t"})
	s.run(1)
	says(map[string]string{"a": "", "b": "waits for wave 2 of the rollout of topology t", "c": "waits for wave 3 of the rollout of topology t"})
	s.edit(func(t *v1alpha1.MessagingTopology) { t.Spec.Rollout.Paused = true })
	s.run(1)
	says(map[string]string{"b": "waits for wave 2 of the rollout of topology t, which is Paused"})
}
