package topology

import (
	"cmp"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealane/sealane/api/v1alpha1"
)

// Course is what is planned of a topology: it follows from what is written in the
// API alone, so that a restart of the hub changes nothing.
type Course struct {
	// InEffect is the revision to plan instead of what the objects say; empty: none.
	InEffect string
	// Base is the revision that members keep which the rollout has not reached;
	// empty: all members get what is planned.
	Base string
	// Through is the last member, in order, that it has reached.
	Through *v1alpha1.RolloutPosition
}

// CourseOf says what is planned of a topology whose objects say the revision live.
// Exists tells whether a revision can be had.
func CourseOf(t *v1alpha1.MessagingTopology, live string, exists func(string) bool) Course {
	st := t.Status.Rollout
	if t.Spec.Rollout == nil || st == nil || st.Current == "" {
		return Course{}
	}
	if older := undoneTo(t, live); older != "" && exists(older) {
		return Course{InEffect: older}
	}
	switch {
	case live == st.Current || atOnce(t, live) || !exists(st.Current):
		return Course{}
	case st.State == v1alpha1.RolloutRolledBack && st.Target == live && !resumed(t, st):
		return Course{InEffect: st.Current}
	case st.Target == live && st.State != v1alpha1.RolloutUndone && st.State != v1alpha1.RolloutRolledBack:
		return Course{Base: st.Current, Through: st.Through}
	}
	return Course{Base: st.Current}
}

// undoneTo is the revision to which somebody has undone the present one.
func undoneTo(t *v1alpha1.MessagingTopology, live string) string {
	to, from, _ := strings.Cut(t.Annotations[v1alpha1.RolloutUndoAnnotation], "/")
	if from != live || to == live {
		return ""
	}
	return to
}

// atOnce tells whether somebody has said that the revision shall skip waves.
func atOnce(t *v1alpha1.MessagingTopology, live string) bool {
	v := t.Annotations[v1alpha1.RolloutNowAnnotation]
	return v == live || v == v1alpha1.RolloutAlways
}

func resumed(t *v1alpha1.MessagingTopology, st *v1alpha1.RolloutStatus) bool {
	return t.Annotations[v1alpha1.RolloutResumeAnnotation] == fmt.Sprintf("%s/%d", st.Target, st.Attempt)
}

func approved(t *v1alpha1.MessagingTopology, st *v1alpha1.RolloutStatus) bool {
	return t.Annotations[v1alpha1.RolloutApproveAnnotation] == fmt.Sprintf("%s/%d", st.Target, st.Wave+1)
}

// RolloutInput is everything that the next state of a rollout depends on.
type RolloutInput struct {
	// Topology has spec.rollout, and the status as it was last written.
	Topology *v1alpha1.MessagingTopology
	Members  []*v1alpha1.MemberCluster
	// Live is the revision that the objects say.
	Live string
	// LastReady is the newest revision but Live that was Ready everywhere; empty:
	// none is known, and what was in effect before has to do.
	LastReady string
	// Exists tells whether a revision can be had.
	Exists func(string) bool
	// Plan of what the objects say, with members staged, and Base, of the revision
	// status.rollout.current. Base is nil where no member is staged by the course.
	Plan, Base *Plan
	Progress   Progress
	Now        metav1.MicroTime
}

// second in the microseconds of Advance, and how long the objects must have stayed
// as they are before the first wave: who writes several means one change.
const (
	second = 1_000_000
	settle = second
)

// usualGrace is how many seconds the budget must be exceeded where nothing is said.
const usualGrace = 30

// Advance is the next state of a rollout, and in how many microseconds to ask again
// although nothing changed; 0: never. The caller writes the status before it acts on it.
//
// A wave begins when every member of the waves before is ready (see readiness),
// but for so many that failed as the budget allows, and was for the bake time. A
// member that is not ready after the deadline has failed. Over the budget, once the
// grace has passed, no further wave begins, for good: somebody has to say so, or
// change the objects.
func Advance(in RolloutInput) (v1alpha1.RolloutStatus, int64) {
	t, spec := in.Topology, in.Topology.Spec.Rollout
	st := t.Status.Rollout
	complete := v1alpha1.RolloutStatus{State: v1alpha1.RolloutComplete, Current: in.Live}
	if st == nil || st.Current == "" {
		return complete, 0
	}
	if older := undoneTo(t, in.Live); older != "" {
		if in.Exists(older) {
			return v1alpha1.RolloutStatus{
				State: v1alpha1.RolloutUndone, Current: older, Target: in.Live, Attempt: 1,
				Message: fmt.Sprintf("%s is in effect instead of %s, until the objects are changed, or it is resumed", older, in.Live),
			}, 0
		}
	}
	switch {
	case in.Live == st.Current:
		return keepMessage(complete, st), 0
	case atOnce(t, in.Live):
		complete.Message = "to all members at once, by annotation " + v1alpha1.RolloutNowAnnotation
		return complete, 0
	case !in.Exists(st.Current):
		complete.Message = "to all members at once: revision " + st.Current + " before it is lost"
		return complete, 0
	}
	next := *st.DeepCopy()
	switch {
	case next.Target != in.Live || next.State == v1alpha1.RolloutUndone || next.State == v1alpha1.RolloutRolledBack && resumed(t, st):
		attempt := int32(1)
		if next.Target == in.Live {
			attempt = next.Attempt + 1
		}
		next = v1alpha1.RolloutStatus{State: v1alpha1.RolloutProgressing, Current: st.Current, Target: in.Live, Attempt: attempt, WaveStarted: &in.Now}
	case next.State == v1alpha1.RolloutRolledBack:
		return next, 0
	case next.State == v1alpha1.RolloutOverBudget:
		if !resumed(t, st) {
			return next, 0
		}
		next.State, next.Attempt, next.WaveStarted, next.ReadySince, next.FailingSince = v1alpha1.RolloutProgressing, next.Attempt+1, &in.Now, nil, nil
	}
	if in.Base == nil {
		return next, 0 // not planned yet
	}
	return in.step(spec, next)
}

// keepMessage keeps what was said of a revision that is complete.
func keepMessage(complete v1alpha1.RolloutStatus, st *v1alpha1.RolloutStatus) v1alpha1.RolloutStatus {
	if st.State == v1alpha1.RolloutComplete {
		complete.Message = st.Message
	}
	return complete
}

// step looks at the members of the waves, and begins the next one if it may.
func (in RolloutInput) step(spec *v1alpha1.Rollout, next v1alpha1.RolloutStatus) (v1alpha1.RolloutStatus, int64) {
	all := concerned(in.Topology, in.Plan, in.Base, in.Members)
	complete := v1alpha1.RolloutStatus{State: v1alpha1.RolloutComplete, Current: in.Live}
	if next.Wave == 0 && len(all) < int(max(1, spec.MinMembers)) {
		return complete, 0
	}
	now := in.Now.UnixMicro()
	deadline := int64(cmp.Or(spec.DeadlineSeconds, 600)) * second
	if next.WaveStarted != nil {
		deadline += next.WaveStarted.UnixMicro()
	}
	late := now >= deadline
	ready := newReadiness(in.Plan, in.Progress)
	var failed, pending []string
	n := 0
	for _, at := range all {
		if !reached(at, next.Through) {
			continue
		}
		n++
		v := ready.member(at.Member)
		switch {
		case in.Plan.Staged[at.Member] != nil:
			pending = append(pending, at.Member+" has not been sent it") // the plan is older than the status
		case v.failed != "":
			failed = append(failed, at.Member+" "+v.failed)
		case v.pending != "" && late:
			failed = append(failed, at.Member+" "+v.pending)
		case v.pending != "":
			pending = append(pending, at.Member+" "+v.pending)
		}
	}
	next.Members = fmt.Sprintf("%d/%d", n, len(all))
	budget := portion(spec.Budget, "0", len(all), false)
	failing := next.FailingSince
	next.FailingSince = nil
	switch {
	case len(failed) > budget:
		if failing == nil {
			failing = &in.Now
		}
		grace := int64(usualGrace)
		if spec.FailureGraceSeconds != nil {
			grace = int64(*spec.FailureGraceSeconds)
		}
		why := fmt.Sprintf("%s failed, where %d may: %s", count(len(failed), "member"), budget, first(failed, "; "))
		if left := failing.UnixMicro() + grace*second - now; left > 0 {
			next.State, next.ReadySince, next.FailingSince = v1alpha1.RolloutProgressing, nil, failing
			next.Message = fmt.Sprintf("wave %d stops the rollout if that lasts for %d s: %s", next.Wave, grace, why)
			return next, left
		}
		return in.over(spec, next, why), 0
	case len(pending) > 0:
		next.State, next.ReadySince = v1alpha1.RolloutProgressing, nil
		next.Message = fmt.Sprintf("wave %d waits for %s: %s", next.Wave, count(len(pending), "member"), first(pending, "; "))
		return next, max(deadline-now, 1)
	}
	if next.ReadySince == nil && next.Wave > 0 {
		next.ReadySince = &in.Now
	}
	if next.Wave > 0 {
		if left := next.ReadySince.UnixMicro() + int64(spec.BakeSeconds)*second - now; left > 0 {
			next.State, next.Message = v1alpha1.RolloutBaking, fmt.Sprintf("wave %d works, and has to for %d s", next.Wave, spec.BakeSeconds)
			return next, left
		}
	}
	through := nextWave(spec, all, next.Through)
	if through == nil {
		if len(failed) > 0 {
			complete.Message = fmt.Sprintf("%s failed within the budget: %s", count(len(failed), "member"), first(failed, "; "))
		}
		return complete, 0
	}
	switch {
	case next.Wave == 0 && next.WaveStarted != nil && now < next.WaveStarted.UnixMicro()+settle:
		next.State, next.Message = v1alpha1.RolloutProgressing, "wave 1 waits for the objects to stay as they are"
		return next, next.WaveStarted.UnixMicro() + settle - now
	case spec.Paused:
		next.State, next.Message = v1alpha1.RolloutPaused, fmt.Sprintf("spec.rollout.paused holds wave %d back", next.Wave+1)
		return next, 0
	case spec.Approval == v1alpha1.DecisionManual && next.Wave > 0 && !approved(in.Topology, &next):
		next.State, next.Message = v1alpha1.RolloutAwaitingApproval, fmt.Sprintf("wave %d waits for approval: sealane rollout approve %s", next.Wave+1, in.Topology.Name)
		return next, 0
	}
	next.State, next.Wave, next.Through = v1alpha1.RolloutProgressing, next.Wave+1, through
	next.WaveStarted, next.ReadySince = &in.Now, nil
	n = 0
	for _, at := range all {
		if reached(at, through) {
			n++
		}
	}
	next.Members = fmt.Sprintf("%d/%d", n, len(all))
	next.Message = fmt.Sprintf("wave %d has begun", next.Wave)
	return next, 0
}

// over is what happens over the budget.
func (in RolloutInput) over(spec *v1alpha1.Rollout, next v1alpha1.RolloutStatus, why string) v1alpha1.RolloutStatus {
	next.ReadySince = nil
	next.State, next.Message = v1alpha1.RolloutOverBudget, why
	if spec.Rollback != v1alpha1.DecisionAutomatic {
		return next
	}
	next.State, next.Current, next.Through = v1alpha1.RolloutRolledBack, cmp.Or(in.LastReady, next.Current), nil
	next.Message = fmt.Sprintf("%s is in effect again: of %s, wave %d: %s", next.Current, in.Live, next.Wave, why)
	return next
}

// HoldBack says, in the statuses of the objects of which c is in effect instead of
// what they say, that it is.
func HoldBack(statuses map[ObjectRef]Status, in Input, c Content, revision string) {
	t := c.Topology
	hold := func(ref ObjectRef, live metav1.Object) {
		st, ok := statuses[ref]
		old := c.Find(ref)
		if !ok || ref.Kind != KindTopology && old != nil && old.GetUID() == live.GetUID() && old.GetGeneration() == live.GetGeneration() {
			return
		}
		for i := range st.Conditions {
			if x := &st.Conditions[i]; x.Type == v1alpha1.ConditionProgrammed || x.Type == v1alpha1.ConditionReady {
				x.Status, x.Reason = metav1.ConditionFalse, v1alpha1.ReasonHeldBack
				x.Message = fmt.Sprintf("revision %s is in effect instead; see status.rollout of topology %s", revision, t.Name)
			}
		}
	}
	for _, x := range in.Topologies {
		if x.Name == t.Name {
			hold(refOf(KindTopology, x), x)
		}
	}
	for _, s := range in.Streams {
		if belongs(in, t, s.Spec.Topology) {
			hold(refOf(KindStream, s), s)
		}
	}
	for _, b := range in.Bridges {
		if belongs(in, t, b.Spec.Topology) {
			hold(refOf(KindBridge, b), b)
		}
	}
}
