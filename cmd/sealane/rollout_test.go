package main

import (
	"context"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

func TestRolloutCommands(t *testing.T) {
	h := hub(t)
	top := &v1alpha1.MessagingTopology{ObjectMeta: metav1.ObjectMeta{Name: "waves"}, Spec: v1alpha1.MessagingTopologySpec{
		Groups: []v1alpha1.Group{{Name: "all", Selector: &metav1.LabelSelector{}}},
	}}
	made := []client.Object{top}
	t.Cleanup(func() {
		for _, o := range made {
			if err := h.Delete(context.Background(), o); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
		}
	})
	if err := h.Create(t.Context(), top); err != nil {
		t.Fatal(err)
	}
	says := func(want int, args, text string) {
		t.Helper()
		code, stdout, stderr := call(t, strings.Fields(args)...)
		if code != want || !strings.Contains(stdout+stderr, text) {
			t.Errorf("sealane %s: status %d, want %d and %q in\n%s%s", args, code, want, text, stdout, stderr)
		}
	}
	says(1, "rollout status waves", "has no spec.rollout")
	says(1, "rollout status nothing", `no topology "nothing"`)

	// write plays the hub's part.
	write := func(st v1alpha1.RolloutStatus) {
		t.Helper()
		if err := h.Get(t.Context(), client.ObjectKeyFromObject(top), top); err != nil {
			t.Fatal(err)
		}
		top.Status.Rollout = &st
		if err := h.Status().Update(t.Context(), top); err != nil {
			t.Fatal(err)
		}
	}
	annotated := func(key, want string) {
		t.Helper()
		if err := h.Get(t.Context(), client.ObjectKeyFromObject(top), top); err != nil {
			t.Fatal(err)
		}
		if got := top.Annotations[key]; got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	top.Spec.Rollout = &v1alpha1.Rollout{Approval: v1alpha1.DecisionManual}
	if err := h.Update(t.Context(), top); err != nil {
		t.Fatal(err)
	}
	says(1, "rollout status waves", "has not looked at the rollout")
	content, err := topology.ContentOf(topology.Input{}, top).Encode()
	if err != nil {
		t.Fatal(err)
	}
	now := metav1.Now()
	for i, name := range []string{"waves-1", "waves-2"} {
		r := &v1alpha1.TopologyRevision{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.TopologyRevisionSpec{
			Topology: "waves", Number: int64(i + 1), Hash: "0a", Content: content,
		}}
		if err := h.Create(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		made = append(made, r)
		if i == 0 {
			r.Status.ReadyAt = &now
			if err := h.Status().Update(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(v1alpha1.RolloutStatus{State: v1alpha1.RolloutAwaitingApproval, Current: "waves-1", Target: "waves-2", Wave: 1, Members: "1/4", Message: "wave 2 waits"})
	says(0, "rollout status waves", "topology waves: AwaitingApproval\n  wave 2 waits\n  in effect: waves-1\n  objects say: waves-2\n  waves begun: 1, members reached: 1/4")
	says(0, "rollout history waves --revision 1", "name: waves")
	says(1, "rollout history waves --revision 7", `no revision "7"`)
	says(0, "rollout status waves -o json", `"current": "waves-1"`)
	says(0, "rollout history waves", "said by the objects")
	says(0, "rollout approve waves", "wave 2 of waves approved")
	annotated(v1alpha1.RolloutApproveAnnotation, "waves-2/2")
	says(1, "rollout resume waves", "does not stand still")
	says(0, "rollout pause waves", "paused")
	if annotated(v1alpha1.RolloutResumeAnnotation, ""); !top.Spec.Rollout.Paused {
		t.Error("not paused")
	}
	says(0, "rollout resume waves", "goes on")
	if annotated(v1alpha1.RolloutResumeAnnotation, ""); top.Spec.Rollout.Paused {
		t.Error("still paused")
	}
	says(0, "rollout undo waves", "revision waves-1 of waves goes into effect")
	annotated(v1alpha1.RolloutUndoAnnotation, "waves-1/waves-2")
	says(1, "rollout undo waves --to 2", "is what the objects say")

	write(v1alpha1.RolloutStatus{State: v1alpha1.RolloutUndone, Current: "waves-1", Target: "waves-2", Attempt: 1})
	says(0, "rollout resume waves", "goes on")
	annotated(v1alpha1.RolloutUndoAnnotation, "")
	write(v1alpha1.RolloutStatus{State: v1alpha1.RolloutRolledBack, Current: "waves-1", Target: "waves-2", Attempt: 3})
	says(0, "rollout resume waves --now", "to all members at once")
	annotated(v1alpha1.RolloutResumeAnnotation, "waves-2/3")
	annotated(v1alpha1.RolloutNowAnnotation, "waves-2")
	says(0, "__complete rollout status wa", "waves")
}
