//go:build e2e

package kind

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/e2e/kind/lab"
)

// brokers is the object that holds the pods of a member.
const brokers = "statefulset/sealane-agent"

// TestFederation takes one federation through what happens to it in production.
// Each case leaves it whole, with messages that the next counts as well.
func TestFederation(t *testing.T) {
	f := install(t)
	p := newPlan()
	f.create(t, p.objects()...)
	p.ready(t, f)
	for _, c := range []struct {
		name string
		run  func(*testing.T, *federation, plan)
	}{
		{"bridges", bridges},
		{"pod-lost", podLost},
		{"image-changed", imageChanged},
		{"cut-off", cutOff},
		{"hub-away", hubAway},
		{"node-lost", nodeLost},
	} {
		start := time.Now()
		if !t.Run(c.name, func(t *testing.T) { c.run(t, f, p) }) {
			return // what follows would fail for the same reason
		}
		t.Logf("%s: %v", c.name, time.Since(start).Round(time.Second))
	}
}

// bridges counts what flows over a bridge of every kind.
func bridges(t *testing.T, f *federation, _ plan) {
	end := f.load(t)
	up := write(t, f.connect(t, "edge"), "edge", "measures.x", 0)
	f.checkEvents(t)
	f.checkRequests(t)
	f.checkMoves(t)
	f.checkCopies(t, "orders", end(), everywhere...)
	f.checkCopies(t, "measures", counts{"edge": up.end(t)}, everywhere...)
}

// podLost kills a member's pod without notice, while messages flow.
func podLost(t *testing.T, f *federation, p plan) {
	end := f.load(t)
	kubectl(t, berlin, "-n", system, "delete", "pods", "--all", "--grace-period=0", "--force")
	rolledOut(t, berlin)
	p.ready(t, f)
	f.checkCopies(t, "orders", end(), everywhere...)
	f.checkEvents(t)
}

// imageChanged gives a member another image, which is the same under another
// name.
func imageChanged(t *testing.T, f *federation, p plan) {
	end := f.load(t)
	ref := "docker.io/" + builtImages(t)["sealane-agent"].ref
	if err := berlin.Tag(t.Context(), ref, ref+"-next"); err != nil {
		t.Fatal(err)
	}
	kubectl(t, berlin, "-n", system, "set", "image", brokers, "agent="+ref+"-next")
	kubectl(t, berlin, "-n", system, "rollout", "status", brokers, "--timeout=300s")
	p.ready(t, f)
	f.checkCopies(t, "orders", end(), everywhere...)
}

// cutOff takes tokyo off the network for a minute.
func cutOff(t *testing.T, f *federation, p plan) {
	end := f.load(t)
	if err := tokyo.Cut(t.Context(), hub.IP, berlin.IP); err != nil {
		t.Fatal(err)
	}
	healed := time.After(time.Minute) // the length of the cut is the case
	f.wait(t, memberCluster("tokyo"), v1alpha1.ConditionConnected, metav1.ConditionFalse)
	select {
	case <-healed:
	case <-t.Context().Done():
	}
	if err := tokyo.Heal(t.Context(), hub.IP, berlin.IP); err != nil {
		t.Fatal(err)
	}
	p.ready(t, f)
	f.checkCopies(t, "orders", end(), everywhere...)
	f.checkEvents(t)
}

// hubAway stops the hub's whole cluster while a member's pods are made anew: they
// start from what they hold.
func hubAway(t *testing.T, f *federation, p plan) {
	end := f.load(t)
	if err := hub.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	resume := sync.OnceValue(func() error { return hub.Resume(context.WithoutCancel(t.Context())) })
	t.Cleanup(func() { // a paused cluster tells nothing about a failure
		if err := resume(); err != nil {
			t.Error(err)
		}
	})
	kubectl(t, tokyo, "-n", system, "delete", "pods", "--all")
	rolledOut(t, tokyo)
	f.checkEvents(t)
	f.checkRequests(t)
	if err := resume(); err != nil {
		t.Fatal(err)
	}
	p.ready(t, f)
	f.checkCopies(t, "orders", end(), everywhere...)
}

// nodeLost kills a member's only node and starts it again.
func nodeLost(t *testing.T, f *federation, p plan) {
	end := f.load(t)
	if err := tokyo.RestartNode(t.Context()); err != nil {
		t.Fatal(err)
	}
	rolledOut(t, tokyo)
	p.ready(t, f)
	f.checkCopies(t, "orders", end(), everywhere...)
	f.checkEvents(t)
}

// load writes orders at berlin until the returned function is called, which
// returns how many there must be.
func (f *federation) load(t *testing.T) (end func() counts) {
	t.Helper()
	w := write(t, f.connect(t, "berlin"), "berlin", "orders.x", f.written)
	return func() counts {
		t.Helper()
		f.written = w.end(t)
		return counts{"berlin": f.written}
	}
}

// rolledOut waits until the member's pods are those that are wanted, and ready.
func rolledOut(t *testing.T, c *lab.Cluster) {
	t.Helper()
	eventually(t, 5*time.Minute, "all pods of "+c.Name+" are ready", func() error {
		got, err := c.Kubectl(t.Context(), nil, "-n", system, "get", "pods", "-o",
			`jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status}{.metadata.deletionTimestamp} {end}`)
		if err != nil {
			return err
		}
		if got == "" {
			return fmt.Errorf("there are none")
		}
		for pod := range strings.FieldsSeq(got) {
			if !strings.HasSuffix(pod, "=True") {
				return fmt.Errorf("pods are %s", got)
			}
		}
		return nil
	})
}
