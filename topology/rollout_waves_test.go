package topology

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"github.com/sealane/sealane/api/v1alpha1"
)

// wavesSim drives rollouts as the hub does: what is planned follows from the
// written status, members are sent what Next says, and Advance says what is
// written next.
type wavesSim struct {
	*rollout
	now       time.Time
	revisions map[string]Content
	numbers   []string // the names of revisions, the oldest first
	ready     []string // revisions that were Ready everywhere, in this order
	base      *Plan
	course    Course
	live      string
	// fails says which members cannot apply a part.
	fails func(member, part, hash string) bool
	trace []v1alpha1.RolloutStatus
}

func newWavesSim(t *testing.T, in Input, spec *v1alpha1.Rollout) *wavesSim {
	top := in.Topologies[0].DeepCopy()
	top.Spec.Rollout = spec
	in.Topologies = []*v1alpha1.MessagingTopology{top}
	return &wavesSim{
		rollout: newRollout(t, in), now: time.Unix(1_800_000_000, 0), revisions: map[string]Content{},
		fails: func(string, string, string) bool { return false },
	}
}

func (s *wavesSim) topology() *v1alpha1.MessagingTopology { return s.in.Topologies[0] }

// edit changes the topology as a user does.
func (s *wavesSim) edit(do func(*v1alpha1.MessagingTopology)) {
	t := s.topology().DeepCopy()
	do(t)
	t.Generation++
	s.in.Topologies = []*v1alpha1.MessagingTopology{t}
}

func (s *wavesSim) annotate(key, value string) {
	t := s.topology().DeepCopy()
	t.Annotations = map[string]string{key: value}
	s.in.Topologies = []*v1alpha1.MessagingTopology{t}
}

func (s *wavesSim) exists(name string) bool { _, ok := s.revisions[name]; return ok }

// makePlan does what the stager does.
func (s *wavesSim) makePlan() {
	c := ContentOf(s.in, s.topology())
	hash, err := c.Hash()
	if err != nil {
		s.t.Fatal(err)
	}
	s.live = RevisionName(c.Topology.Name, hash)
	s.course = CourseOf(s.topology(), s.live, s.exists)
	if !s.exists(s.live) {
		data, err := c.Encode()
		if err != nil {
			s.t.Fatal(err)
		}
		if s.revisions[s.live], err = DecodeContent(data); err != nil {
			s.t.Fatal(err)
		}
		s.numbers = append(s.numbers, s.live)
	}
	in := s.in
	if s.course.InEffect != "" {
		in = s.revisions[s.course.InEffect].With(in)
	}
	prev := s.plan
	s.plan = Recompile(prev, in)
	if s.course.Base == "" {
		s.base = nil
		return
	}
	if s.base == nil {
		s.base = prev
	}
	s.base = Recompile(s.base, s.revisions[s.course.Base].With(in))
	s.plan = s.plan.WithStaged(s.base, []Stage{{s.topology(), s.course.Through}}, s.in.Members)
}

// advance does what the advancer does; it tells whether something was written.
func (s *wavesSim) advance() (bool, time.Duration) {
	last := ""
	for _, name := range s.ready {
		if name != s.live {
			last = name
		}
	}
	in := RolloutInput{Topology: s.topology(), Members: s.in.Members, Live: s.live, LastReady: last, Exists: s.exists, Plan: s.plan, Progress: s.prog, Now: metav1.NewMicroTime(s.now)}
	if st := s.topology().Status.Rollout; st != nil && s.course.Base == st.Current {
		in.Base = s.base
	}
	next, micros := Advance(in)
	due := time.Duration(micros) * time.Microsecond
	if have := s.topology().Status.Rollout; have != nil && fmt.Sprintf("%+v", rolloutText(*have)) == fmt.Sprintf("%+v", rolloutText(next)) {
		if next.State == v1alpha1.RolloutComplete && len(s.notReady()) == 0 && !slices.Contains(s.ready, s.live) {
			s.ready = append(s.ready, s.live)
		}
		return false, due
	}
	t := s.topology().DeepCopy()
	t.Status.Rollout = &next
	s.in.Topologies = []*v1alpha1.MessagingTopology{t}
	s.trace = append(s.trace, next)
	return true, due
}

func rolloutText(st v1alpha1.RolloutStatus) string {
	through, started, ready := "", "", ""
	if st.Through != nil {
		through = fmt.Sprint(*st.Through)
	}
	if st.WaveStarted != nil {
		started = st.WaveStarted.String()
	}
	if st.ReadySince != nil {
		ready = st.ReadySince.String()
	}
	return strings.Join([]string{string(st.State), st.Message, st.Current, st.Target, through, started, ready, fmt.Sprint(st.Wave, st.Attempt), st.Members}, "|")
}

// turn plans, sends, reports and advances once.
func (s *wavesSim) turn() (moved bool, due time.Duration) {
	s.makePlan()
	moved = s.send()
	moved = s.grant() || moved
	for name, m := range s.prog {
		n := *m
		n.Links, n.Flows = map[string]LinkReport{}, map[FlowKey]FlowReport{}
		for _, part := range s.plan.Desired(name).Parts {
			for _, src := range part.Part.GetStream().GetSources() {
				n.Flows[FlowKey{Origin: cmp.Or(src.Origin, name), Account: part.Part.GetStream().Account, Stream: part.Part.GetStream().Name, Bridge: src.Bridge}] = FlowReport{State: "Up"}
			}
		}
		for id := range m.Held {
			if peer, is := strings.CutPrefix(id, "link/"); is {
				n.Links[peer] = LinkReport{State: "Up"}
			}
		}
		n.Unapplied = map[string]PartFailure{}
		for id, hash := range m.Held {
			if s.fails(name, id, hash) {
				n.Unapplied[id] = PartFailure{Code: "Failed", Message: "cannot"}
			}
		}
		s.prog[name] = &n
	}
	wrote, due := s.advance()
	return moved || wrote, due
}

// send sends every member that is connected its next step.
func (s *wavesSim) send() (moved bool) {
	for _, name := range sortedKeys(s.prog) {
		step := Next(s.plan, s.prog, name)
		if step.Target == "" || !s.prog[name].Connected {
			continue
		}
		if len(step.Removals) > 0 && s.plan.Staged[name] != nil {
			s.t.Errorf("%s is staged and loses %v", name, step.Removals)
		}
		moved = true
		m := *s.prog[name]
		m.Held = maps.Clone(m.Held)
		for _, p := range step.Upserts {
			m.Held[p.Id] = p.Hash
		}
		for _, id := range step.Removals {
			delete(m.Held, id)
		}
		s.prog[name] = &m
	}
	return moved
}

// run goes on until nothing moves, passing the time that is asked for; it ends in
// a state that lasts.
func (s *wavesSim) run(waits int) v1alpha1.RolloutStatus {
	s.t.Helper()
	for range 1000 {
		moved, due := s.turn()
		switch {
		case moved:
		case due > 0 && waits > 0:
			waits--
			s.now = s.now.Add(due)
		default:
			return *s.topology().Status.Rollout
		}
	}
	s.t.Fatalf("the rollout does not end: %+v", s.trace[max(0, len(s.trace)-5):])
	return v1alpha1.RolloutStatus{}
}

func (s *wavesSim) hashes() map[string]string {
	out := map[string]string{}
	for name, m := range s.plan.Members {
		out[name] = m.Hash
	}
	return out
}

func moreConnections(t *v1alpha1.MessagingTopology) {
	n := int32(1000)
	if old := t.Spec.Groups[0].Broker.MaxConnections; old != nil {
		n = *old + 1
	}
	t.Spec.Groups[0].Broker.MaxConnections = &n
}

func number(n int) *intstr.IntOrString { v := intstr.FromInt32(int32(n)); return &v }

func TestWavesOfAGoodChange(t *testing.T) {
	t.Parallel()
	s := newWavesSim(t, threeMembers(), &v1alpha1.Rollout{Size: number(1), BakeSeconds: 30})
	if st := s.run(0); st.State != v1alpha1.RolloutComplete || len(s.ready) != 1 {
		t.Fatalf("at first: %+v, ready %v, not ready: %q", st, s.ready, s.notReady())
	}
	first := map[string]string{}
	for name, m := range s.prog {
		first[name] = m.Held["broker"]
	}
	s.edit(moreConnections)
	began := s.now
	s.trace = nil
	st := s.run(1)
	if st.State != v1alpha1.RolloutBaking || st.Members != "1/3" {
		t.Errorf("after the first wave: %+v", st)
	}
	for name, want := range map[string]bool{"a": true, "b": false, "c": false} {
		if got := s.prog[name].Held["broker"] != first[name]; got != want {
			t.Errorf("%s was reached: %v", name, got)
		}
	}
	st = s.run(10)
	if st.State != v1alpha1.RolloutComplete || st.Current != s.live || s.now.Sub(began) < 90*time.Second {
		t.Errorf("at last, after %s: %+v", s.now.Sub(began), st)
	}
	s.converged()
	if !slices.Contains(s.ready, s.live) {
		t.Errorf("the new revision is not known as Ready: %v; %q", s.ready, s.notReady())
	}
	wave := int32(0)
	for _, st := range s.trace {
		if st.State != v1alpha1.RolloutComplete && st.Wave < wave {
			t.Errorf("went back from wave %d: %+v", wave, st)
		}
		wave = max(wave, st.Wave)
	}
}

func TestWavesOfABadChange(t *testing.T) {
	t.Parallel()
	for _, rollback := range []v1alpha1.Decision{v1alpha1.DecisionAutomatic, v1alpha1.DecisionManual} {
		t.Run(string(rollback), func(t *testing.T) {
			t.Parallel()
			s := newWavesSim(t, threeMembers(), &v1alpha1.Rollout{Size: number(1), Rollback: rollback})
			s.run(0)
			before, good := s.hashes(), s.live
			held := map[string]map[string]string{}
			for name, m := range s.prog {
				held[name] = maps.Clone(m.Held)
			}
			s.fails = func(member, part, hash string) bool { return part == "broker" && hash != held[member][part] }
			s.edit(moreConnections)
			st := s.run(10)
			bad := s.live
			for _, name := range []string{"b", "c"} {
				if !maps.Equal(s.prog[name].Held, held[name]) {
					t.Errorf("the change reached %s: %v", name, s.prog[name].Held)
				}
			}
			if rollback == v1alpha1.DecisionManual {
				if st.State != v1alpha1.RolloutOverBudget || !strings.Contains(st.Message, "a cannot apply broker: cannot") || st.Wave != 1 {
					t.Errorf("%+v", st)
				}
				s.fails = func(string, string, string) bool { return false }
				if st := s.run(10); st.State != v1alpha1.RolloutOverBudget {
					t.Errorf("went on by itself: %+v", st)
				}
				s.annotate(v1alpha1.RolloutResumeAnnotation, fmt.Sprintf("%s/%d", bad, st.Attempt))
				if st := s.run(10); st.State != v1alpha1.RolloutComplete || st.Current != bad {
					t.Errorf("after it was resumed: %+v", st)
				}
				s.converged()
				return
			}
			if st.State != v1alpha1.RolloutRolledBack || st.Current != good || st.Target != bad {
				t.Errorf("%+v", st)
			}
			if got := s.hashes(); !maps.Equal(got, before) {
				t.Errorf("not what was: %v, want %v", got, before)
			}
			s.converged()
			statuses := Summarize(s.plan, s.in, s.prog)
			HoldBack(statuses, s.in, s.revisions[s.course.InEffect], s.course.InEffect)
			if c := statuses[ObjectRef{Kind: KindTopology, Name: "t"}].Condition(v1alpha1.ConditionProgrammed); c.Status != metav1.ConditionFalse || c.Reason != v1alpha1.ReasonHeldBack {
				t.Errorf("topology: %+v", c)
			}
			s.fails = func(string, string, string) bool { return false }
			s.edit(moreConnections) // another change
			if st := s.run(10); st.State != v1alpha1.RolloutComplete || st.Current != s.live || s.live == bad {
				t.Errorf("after another change: %+v", st)
			}
			s.converged()
		})
	}
}

func TestWavesByWord(t *testing.T) {
	t.Parallel()
	s := newWavesSim(t, threeMembers(), &v1alpha1.Rollout{Size: number(2), Approval: v1alpha1.DecisionManual})
	s.run(0)
	first, before := s.live, s.hashes()
	s.edit(moreConnections)
	st := s.run(10)
	if st.State != v1alpha1.RolloutAwaitingApproval || st.Members != "2/3" {
		t.Fatalf("%+v", st)
	}
	s.annotate(v1alpha1.RolloutApproveAnnotation, s.live+"/2")
	if st = s.run(10); st.State != v1alpha1.RolloutComplete {
		t.Fatalf("approved: %+v", st)
	}
	second := s.live
	s.annotate(v1alpha1.RolloutUndoAnnotation, first+"/"+second)
	if st = s.run(10); st.State != v1alpha1.RolloutUndone || st.Current != first || !maps.Equal(s.hashes(), before) {
		t.Errorf("undone: %+v", st)
	}
	s.converged()
	s.annotate("other", "")
	if st = s.run(10); st.State != v1alpha1.RolloutAwaitingApproval || st.Target != second || st.Current != first {
		t.Errorf("no longer undone: %+v", st)
	}
	s.annotate(v1alpha1.RolloutNowAnnotation, second)
	if st = s.run(10); st.State != v1alpha1.RolloutComplete || !strings.Contains(st.Message, "at once") {
		t.Errorf("at once: %+v", st)
	}
	s.converged()
	s.edit(func(t *v1alpha1.MessagingTopology) { moreConnections(t); t.Spec.Rollout.Paused = true })
	if st = s.run(10); st.State != v1alpha1.RolloutPaused || st.Wave != 0 {
		t.Errorf("paused: %+v", st)
	}
	s.edit(func(t *v1alpha1.MessagingTopology) { t.Spec.Rollout = nil })
	s.makePlan()
	for s.send() {
		s.makePlan()
	}
	if len(s.plan.Staged) > 0 {
		t.Error("staged without spec.rollout")
	}
	s.converged()
}

// TestWavesOfAnotherShape changes links, routes and bridges in waves.
func TestWavesOfAnotherShape(t *testing.T) {
	t.Parallel()
	s := newWavesSim(t, threeMembers(), &v1alpha1.Rollout{Size: number(1)})
	s.run(0)
	s.edit(func(t *v1alpha1.MessagingTopology) {
		t.Spec.Links[0].Type, t.Spec.Links[0].Order = v1alpha1.LinkChain, []string{"a", "b", "c"}
	})
	s.in.Streams = s.in.Streams[:2]
	s.in.Bridges = s.in.Bridges[:3]
	st := s.run(20)
	if st.State != v1alpha1.RolloutComplete {
		t.Fatalf("%+v", st)
	}
	s.converged()
	if bad := s.notReady(); len(bad) > 0 {
		t.Errorf("not Ready: %q", bad)
	}
	s.edit(func(t *v1alpha1.MessagingTopology) {
		t.Spec.Links[0].Type, t.Spec.Links[0].Order = v1alpha1.LinkMesh, nil
	})
	if st := s.run(20); st.State != v1alpha1.RolloutComplete {
		t.Fatalf("back to a mesh: %+v", st)
	}
	s.converged()
}

// TestWavesProperties: whatever members do, a wave begins only while not more than
// the budget fail, waves only go forward, and every rollout ends, or says why not.
func TestWavesProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		in := threeMembers()
		n := rapid.IntRange(3, 9).Draw(rt, "members")
		for i := 3; i < n; i++ {
			m := in.Members[0].DeepCopy()
			m.Name = fmt.Sprintf("m%d", i)
			m.Status.LinkKey, m.Status.Endpoints = "U"+m.Name, []string{m.Name + ":7422"}
			in.Members = append(in.Members, m)
		}
		for i, m := range in.Members {
			m.Labels = map[string]string{"tier": []string{"canary", "rest"}[min(i, 1)]}
		}
		spec := &v1alpha1.Rollout{
			Size: number(rapid.IntRange(1, 4).Draw(rt, "size")), Budget: number(rapid.IntRange(0, 2).Draw(rt, "budget")),
			BakeSeconds: int32(rapid.IntRange(0, 5).Draw(rt, "bake")), DeadlineSeconds: 60,
			Order: []v1alpha1.RolloutStep{{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "canary"}}}},
		}
		if rapid.Bool().Draw(rt, "rollback") {
			spec.Rollback = v1alpha1.DecisionAutomatic
		}
		s := newWavesSim(t, in, spec)
		if st := s.run(0); st.State != v1alpha1.RolloutComplete || len(s.ready) != 1 {
			rt.Fatalf("at first: %+v", st)
		}
		before := s.hashes()
		good := map[string]string{}
		for name, m := range s.prog {
			good[name] = m.Held["broker"]
		}
		broken, away := map[string]bool{}, map[string]bool{}
		for _, m := range in.Members {
			switch rapid.IntRange(0, 5).Draw(rt, m.Name) {
			case 0:
				broken[m.Name] = true
			case 1:
				away[m.Name] = true
			}
		}
		s.fails = func(member, part, hash string) bool {
			return broken[member] && part == "broker" && hash != good[member]
		}
		for name := range away {
			p := *s.prog[name]
			p.Connected = false
			s.prog[name] = &p
		}
		s.trace = nil
		s.edit(moreConnections)
		st := s.run(100)
		budget := int(spec.Budget.IntVal)
		bad := len(broken) + len(away)
		wave := int32(0)
		for _, x := range s.trace {
			if x.State == v1alpha1.RolloutProgressing && x.Wave < wave {
				rt.Fatalf("wave %d after %d", x.Wave, wave)
			}
			wave = max(wave, x.Wave)
		}
		// At most a wave more than the budget has what does not work.
		hit := 0
		for name := range broken {
			if s.prog[name].Held["broker"] != good[name] {
				hit++
			}
		}
		if hit > budget+int(spec.Size.IntVal) {
			rt.Fatalf("%d members broken, of a budget of %d and waves of %d", hit, budget, spec.Size.IntVal)
		}
		switch {
		case bad <= budget:
			if st.State != v1alpha1.RolloutComplete {
				rt.Fatalf("%d bad of %d: %+v", bad, budget, st)
			}
		case spec.Rollback == v1alpha1.DecisionAutomatic:
			if st.State != v1alpha1.RolloutRolledBack || !maps.Equal(s.hashes(), before) {
				rt.Fatalf("%d bad of %d: %+v", bad, budget, st)
			}
			for name, m := range s.prog {
				if !away[name] && m.Held["broker"] != good[name] {
					rt.Fatalf("%s was not brought back", name)
				}
			}
		default:
			if st.State != v1alpha1.RolloutOverBudget || st.Message == "" {
				rt.Fatalf("%d bad of %d: %+v", bad, budget, st)
			}
		}
	})
}
