package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
)

// rolled waits until the rollout of the topology is in a state, with a target or
// current revision other than not, and returns it.
func (f *federation) rolled(world *v1alpha1.MessagingTopology, state v1alpha1.RolloutState, not string) v1alpha1.RolloutStatus {
	f.t.Helper()
	var st v1alpha1.RolloutStatus
	eventually(f.t, 90*time.Second, "the rollout is "+string(state), func() error {
		if err := f.kube.Get(f.t.Context(), client.ObjectKeyFromObject(world), world); err != nil {
			return err
		}
		if world.Status.Rollout == nil {
			return fmt.Errorf("no rollout")
		}
		st = *world.Status.Rollout
		if st.State != state || st.Current == not && (st.Target == "" || st.Target == not) {
			return fmt.Errorf("rollout is %+v", st)
		}
		return nil
	})
	return st
}

// TestRollout takes a good change through waves, and has a bad one stop at the
// first and go back.
func TestRollout(t *testing.T) {
	f := newFederation(t)
	f.join("a", "b", "c")
	world := topology(mesh("all"), "a", "b", "c")
	one, grace := intstr.FromInt32(1), int32(3)
	world.Spec.Rollout = &v1alpha1.Rollout{Size: &one, BakeSeconds: 1, FailureGraceSeconds: &grace, Rollback: v1alpha1.DecisionAutomatic}
	orders := &v1alpha1.Stream{ObjectMeta: named("orders"), Spec: v1alpha1.StreamSpec{
		Account: "app", Name: "ORDERS", Subjects: []string{"orders.>"}, Placement: at("a"),
	}}
	events := &v1alpha1.Bridge{ObjectMeta: named("events"), Spec: v1alpha1.BridgeSpec{
		Account: "app", Type: v1alpha1.BridgeEvents, From: at("a"), To: at("b", "c"), Subjects: []string{"events.>"},
	}}
	f.create(orders, events, world)
	f.ready(world, orders, events)
	first := f.rolled(world, v1alpha1.RolloutComplete, "")
	f.readyRevision(first.Current)

	// A good change goes to one member after the other, and completes.
	before := world.DeepCopy()
	limit := int32(5000)
	world.Spec.Groups[0].Broker.MaxConnections = &limit
	if err := f.kube.Patch(t.Context(), world, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	waves := map[int32]bool{}
	eventually(t, 120*time.Second, "the good change completes", func() error {
		if err := f.kube.Get(t.Context(), client.ObjectKeyFromObject(world), world); err != nil {
			return err
		}
		st := world.Status.Rollout
		waves[st.Wave] = true
		if st.State != v1alpha1.RolloutComplete || st.Current == first.Current {
			return fmt.Errorf("rollout is %+v", st)
		}
		return nil
	})
	if !waves[1] || !waves[2] || !waves[3] {
		t.Errorf("waves seen: %v", waves)
	}
	good := *world.Status.Rollout
	f.ready(world, orders, events)
	f.readyRevision(good.Current)
	hashes := f.heldHashes("a", "b", "c")

	// On a an application has a stream that takes the subjects of one that is to be
	// on all members: a cannot make it. The others are never asked to.
	js, err := jetstream.New(f.connect("a", "app"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "MINE", Subjects: []string{"late.x"}}); err != nil {
		t.Fatal(err)
	}
	late := &v1alpha1.Stream{ObjectMeta: named("late"), Spec: v1alpha1.StreamSpec{
		Account: "app", Name: "LATE", Subjects: []string{"late.>"}, Placement: at("a", "b", "c"),
	}}
	f.create(late)
	back := f.rolled(world, v1alpha1.RolloutRolledBack, good.Current)
	if back.Current != good.Current || back.Wave != 1 || !strings.Contains(back.Message, "a cannot apply stream/app/LATE") {
		t.Errorf("rolled back: %+v", back)
	}
	eventually(t, 60*time.Second, "the stream is held back", func() error {
		if c := f.wait(late, v1alpha1.ConditionReady, metav1.ConditionFalse); c.Reason != v1alpha1.ReasonHeldBack {
			return fmt.Errorf("it is %+v", c)
		}
		return nil
	})
	eventually(t, 60*time.Second, "all members hold what they held", func() error {
		for name, hash := range f.heldHashes("a", "b", "c") {
			if hash != hashes[name] {
				return fmt.Errorf("%s holds %s, not %s", name, hash, hashes[name])
			}
		}
		return nil
	})
	for _, name := range []string{"b", "c"} {
		js, err := jetstream.New(f.connect(name, "app"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.Stream(t.Context(), "LATE"); err == nil {
			t.Errorf("%s has the stream", name)
		}
	}
	if _, err := js.Stream(t.Context(), "MINE"); err != nil {
		t.Errorf("the application's stream: %v", err)
	}

	// The command line tells what is in effect: members have it, and a plan begins there.
	eventually(t, 60*time.Second, "no member differs from what is in effect", func() error {
		if code, out := f.sealane("diff"); code != 0 || out != "" {
			return fmt.Errorf("sealane diff: status %d\n%s", code, out)
		}
		return nil
	})
	code, out := f.sealane("plan", "-o", "json", "--delete", "stream/default/late")
	var plan struct {
		Rollouts []struct {
			State, InEffect, ObjectsSay string
			All                         bool
		}
		Members []struct{ Name string }
	}
	if err := json.Unmarshal([]byte(out), &plan); err != nil {
		t.Fatalf("sealane plan: status %d, %v\n%s", code, err, out)
	}
	if len(plan.Rollouts) != 1 || len(plan.Members) != 0 {
		t.Errorf("without the stream all is as it is now: status %d\n%s", code, out)
	} else if r := plan.Rollouts[0]; r.State != "RolledBack" || r.InEffect != good.Current || r.ObjectsSay != back.Target || !r.All {
		t.Errorf("in effect is %+v, and the rollout %+v", r, back)
	}

	// The cause is gone: it goes on by word.
	if err := js.DeleteStream(t.Context(), "MINE"); err != nil {
		t.Fatal(err)
	}
	before = world.DeepCopy()
	world.Annotations = map[string]string{v1alpha1.RolloutResumeAnnotation: fmt.Sprintf("%s/%d", back.Target, back.Attempt)}
	if err := f.kube.Patch(t.Context(), world, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	f.rolled(world, v1alpha1.RolloutComplete, good.Current)
	f.ready(world, late)
}

// sealane runs the command line, and returns its exit status and all it printed.
func (f *federation) sealane(args ...string) (int, string) {
	f.t.Helper()
	build := exec.CommandContext(f.t.Context(), "go", "build", "-race", "-o", binaries, "./cmd/sealane")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		f.t.Fatalf("building the command line: %v\n%s", err, out)
	}
	cmd := exec.CommandContext(f.t.Context(), filepath.Join(binaries, "sealane"), append([]string{"--kubeconfig", f.kubeconfig()}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		f.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func (f *federation) readyRevision(name string) {
	f.t.Helper()
	eventually(f.t, 60*time.Second, "revision "+name+" is known as Ready", func() error {
		r := &v1alpha1.TopologyRevision{}
		if err := f.kube.Get(f.t.Context(), client.ObjectKey{Name: name}, r); err != nil {
			return err
		}
		if r.Status.ReadyAt == nil {
			return fmt.Errorf("status is %+v", r.Status)
		}
		return nil
	})
}

// heldHashes are what members were last known to hold.
func (f *federation) heldHashes(names ...string) map[string]string {
	f.t.Helper()
	out := map[string]string{}
	for _, name := range names {
		m := &v1alpha1.MemberCluster{}
		if err := f.kube.Get(f.t.Context(), client.ObjectKey{Name: name}, m); err != nil {
			f.t.Fatal(err)
		}
		out[name] = m.Status.HeldHash
	}
	return out
}
