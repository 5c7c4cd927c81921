//go:build e2e

package kind

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/e2e/kind/lab"
)

// brokers is the object of a member's servers, brokerPods their label.
const (
	brokers    = "statefulset/sealane-broker"
	brokerPods = "app.kubernetes.io/name=sealane-broker"
)

// TestFederation takes one federation through what happens to it in production.
// It begins with what the commit before this one was. Each case leaves it whole,
// with messages that the next counts as well; the last two take it apart.
func TestFederation(t *testing.T) {
	from, ok := previous(t)
	if !ok {
		from = present(t)
	}
	f := install(t, from)
	p := newPlan()
	f.create(t, p.objects()...)
	p.ready(t, f)
	for _, c := range []struct {
		name string
		run  func(*testing.T, *federation, plan)
	}{
		{"upgraded", upgraded},
		{"bridges", bridges},
		{"proxied", proxied},
		{"rest", rest},
		{"changed", changed},
		{"access", access},
		{"full", full},
		{"pod-lost", podLost},
		{"scaled", scaled},
		{"cut-off", cutOff},
		{"hub-away", hubAway},
		{"node-lost", nodeLost},
		{"hub-removed", hubRemoved},
		{"drained", drained},
		{"forgotten", forgotten},
		{"rights", rights},
	} {
		start := time.Now()
		if !t.Run(c.name, func(t *testing.T) { c.run(t, f, p) }) {
			return // what follows would fail for the same reason
		}
		t.Logf("%s: %v", c.name, time.Since(start).Round(time.Second))
	}
}

// bridges counts what flows over a bridge of every kind, between members of which
// one was told the address at which it is reached and the other found it.
func bridges(t *testing.T, f *federation, _ plan) {
	for _, c := range []*lab.Cluster{berlin, tokyo} {
		eventually(t, time.Minute, "the hub knows where to reach "+c.Name, func() error {
			m := memberCluster(c.Name)
			if err := f.kube.Get(t.Context(), client.ObjectKeyFromObject(m), m); err != nil {
				return err
			}
			if want := fmt.Sprintf("%s:%d", c.IP, linkPort); !slices.Equal(m.Status.Endpoints, []string{want}) {
				return fmt.Errorf("at %v, not %s", m.Status.Endpoints, want)
			}
			return nil
		})
	}
	end := f.load(t)
	up := write(t, f.connect(t, "edge"), "edge", "measures.x", 0)
	f.checkEvents(t)
	f.checkRequests(t)
	f.checkMoves(t, func() {})
	f.checkCopies(t, "orders", end(), everywhere...)
	f.checkCopies(t, "measures", counts{"edge": up.end(t)}, everywhere...)
}

// changed takes the time from an edit of a bridge until what the edge sends because
// of it arrives at all members, and prints how it is spread.
func changed(t *testing.T, f *federation, p plan) {
	const rounds = 50
	conns := map[string]*nats.Conn{}
	for _, name := range everywhere {
		conns[name] = f.connect(t, name)
	}
	var took []time.Duration
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n := range rounds {
		subject := fmt.Sprintf("flash.%d", n)
		var inboxes []*inbox
		for _, name := range everywhere {
			inboxes = append(inboxes, listen(t, conns[name], name, subject))
		}
		start := time.Now()
		update(t, f, p.news, func(b *v1alpha1.Bridge) { b.Spec.Subjects = []string{"news.>", subject} })
		for slices.ContainsFunc(inboxes, func(in *inbox) bool { return !in.saw(subject) }) {
			if time.Since(start) > time.Minute {
				t.Fatalf("%s does not flow a minute after the bridge was changed", subject)
			}
			if err := conns["edge"].Publish(subject, []byte(subject)); err != nil {
				t.Fatal(err)
			}
			<-tick.C
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	t.Logf("from a changed bridge to its effect at %d members: median %v, the slowest of %d %v", len(everywhere),
		took[rounds/2].Round(time.Millisecond), rounds, took[rounds-1].Round(time.Millisecond))
	update(t, f, p.news, func(b *v1alpha1.Bridge) { b.Spec.Subjects = []string{"news.>"} })
	p.ready(t, f)
}

// access gives an application of another account access and takes it away again:
// its Secret comes and goes, and its connection ends.
func access(t *testing.T, f *federation, p plan) {
	accounts := p.world.Spec.Accounts
	give := func(a []v1alpha1.Account) {
		t.Helper()
		update(t, f, p.world, func(w *v1alpha1.MessagingTopology) { w.Spec.Accounts = a })
		f.ready(t, p.world)
	}
	give(append(slices.Clone(accounts), v1alpha1.Account{Name: "guest", Namespaces: []string{applications}}))
	guests := map[string]*nats.Conn{}
	for _, name := range []string{"berlin", "tokyo"} {
		m := f.members[name].(*onKubernetes)
		var nc *nats.Conn
		eventually(t, time.Minute, "a guest connects to "+name, func() (err error) {
			nc, err = m.dial(t.Context(), "guest")
			return err
		})
		t.Cleanup(nc.Close)
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		guests[name] = nc
	}
	give(accounts)
	for _, name := range []string{"berlin", "tokyo"} {
		m := f.members[name].(*onKubernetes)
		eventually(t, time.Minute, "the guest's Secret goes in "+name, func() error {
			err := m.kube.Get(t.Context(), client.ObjectKey{Namespace: applications, Name: "sealane-guest"}, &corev1.Secret{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("it is there: %w", err)
		})
		eventually(t, time.Minute, "the guest at "+name+" is sent away", func() error {
			if guests[name].IsConnected() {
				return errors.New("it is connected")
			}
			return nil
		})
	}
}

// podLost kills each of three servers in turn without notice, while messages
// flow.
func podLost(t *testing.T, f *federation, p plan) {
	end := f.load(t)
	for n := range 3 {
		kubectl(t, berlin, "-n", system, "delete", "pod", fmt.Sprintf("sealane-broker-%d", n), "--grace-period=0", "--force")
		rolledOut(t, berlin)
		p.ready(t, f)
	}
	f.checkCopies(t, "orders", end(), everywhere...)
	f.checkEvents(t)
}

// scaled takes tokyo from one server to three and back while orders are copied to
// it and jobs are taken from it (ADR 22).
func scaled(t *testing.T, f *federation, p plan) {
	end := f.load(t)
	f.checkMoves(t, func() {
		for _, n := range []int32{3, 1} {
			f.scale(t, p, n)
			p.ready(t, f)
			f.checkEvents(t)
		}
	})
	f.checkCopies(t, "orders", end(), everywhere...)
}

// scale gives tokyo a number of servers.
func (f *federation) scale(t *testing.T, p plan, n int32) {
	t.Helper()
	start := time.Now()
	update(t, f, p.world, func(w *v1alpha1.MessagingTopology) {
		w.Spec.Groups[0].Overrides = []v1alpha1.BrokerOverride{servers("berlin", 3), servers("tokyo", n)}
	})
	eventually(t, 10*time.Minute, fmt.Sprintf("tokyo has %d servers", n), func() error {
		got := kubectl(t, tokyo, "-n", system, "get", brokers, "-o", "jsonpath={.spec.replicas} {.status.readyReplicas}")
		if got != fmt.Sprintf("%d %d", n, n) {
			return fmt.Errorf("wanted and ready are %s", got)
		}
		return nil
	})
	t.Logf("tokyo has %d servers after %v", n, time.Since(start).Round(time.Second))
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
