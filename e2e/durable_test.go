package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealane/sealane/api/v1alpha1"
)

func stream(name string, spec v1alpha1.StreamSpec) *v1alpha1.Stream {
	spec.Account = "app"
	return &v1alpha1.Stream{ObjectMeta: named(name), Spec: spec}
}

func streamBridge(name string, from, to v1alpha1.Placement, source, target string) *v1alpha1.Bridge {
	return &v1alpha1.Bridge{ObjectMeta: named(name), Spec: v1alpha1.BridgeSpec{
		Account: "app", Type: v1alpha1.BridgeStream, From: from, To: to,
		Stream: &v1alpha1.BridgeStreams{Name: source, Target: target},
	}}
}

// TestLongCut cuts the only link of a durable bridge for longer than any
// request of JetStream waits, in both ways a link can break.
func TestLongCut(t *testing.T) {
	for name, mode := range map[string]cut{"refused": refused, "blackhole": blackhole} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFederation(t)
			f.join("berlin", "tokyo")
			world := topology(mesh("all"), "berlin", "tokyo")
			orders := stream("orders", v1alpha1.StreamSpec{Placement: at("berlin"), Subjects: []string{"orders.>"}})
			bridge := streamBridge("orders", at("berlin"), at("tokyo"), "orders", "orders")
			f.create(world, orders, bridge)
			f.ready(world, orders, bridge)

			berlin, tokyo := f.connect("berlin", "app"), f.connect("tokyo", "app")
			w := writer{subject: "orders.new", origin: "berlin"}
			for range 100 {
				if err := w.write(t.Context(), berlin); err != nil {
					t.Fatal(err)
				}
			}
			f.members["berlin"].proxy.set(mode)
			f.members["tokyo"].proxy.set(mode)
			began := time.Now()
			down := f.wait(bridge, v1alpha1.ConditionReady, metav1.ConditionFalse)
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("the status showed the cut after %v, not within 15 s", took)
			}
			t.Logf("cut seen after %v: %s: %s", time.Since(began).Round(time.Millisecond), down.Reason, down.Message)
			stop := make(chan struct{})
			time.AfterFunc(40*time.Second-time.Since(began), func() { close(stop) })
			if err := w.writeUntil(t.Context(), berlin, stop); err != nil {
				t.Fatal(err)
			}
			f.members["berlin"].proxy.set(open)
			f.members["tokyo"].proxy.set(open)
			healed := time.Now()
			eventually(t, 60*time.Second, "everything arrives", func() error {
				return holds(t.Context(), tokyo, "orders", map[string]int{"berlin": w.next})
			})
			t.Logf("%d messages complete %v after the link was back", w.next, time.Since(healed).Round(time.Millisecond))
			f.ready(bridge, world)
		})
	}
}

// TestKill kills every process in turn while messages are stored at every
// member and copied to every other.
func TestKill(t *testing.T) {
	t.Parallel()
	f := newFederation(t)
	names := []string{"berlin", "denver", "tokyo"}
	f.join(names...)
	world := topology(mesh("all"), names...)
	orders := stream("orders", v1alpha1.StreamSpec{Placement: at(names...), Subjects: []string{"orders.>"}})
	all := stream("everything", v1alpha1.StreamSpec{Placement: at(names...)})
	bridge := streamBridge("orders", at(names...), at(names...), "orders", "everything")
	f.create(world, orders, all, bridge)
	f.ready(world, orders, all, bridge)

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	stop := make(chan struct{})
	counts := make(chan writer, len(names))
	failed := make(chan error, len(names))
	conns := map[string]*nats.Conn{}
	for _, name := range names {
		nc := f.connect(name, "app")
		conns[name] = nc
		go func() {
			w := writer{subject: "orders." + name, origin: name}
			if err := w.writeUntil(ctx, nc, stop); err != nil {
				failed <- err
			}
			counts <- w
		}()
	}
	for _, name := range names {
		m := f.members[name]
		m.kill()
		m.restart()
		f.hub.kill() // the member must come back without it
		eventually(t, 30*time.Second, name+" is back without the hub", func() error {
			js, err := jetstream.New(f.connect(name, "app"))
			if err != nil {
				return err
			}
			_, err = js.Stream(ctx, "orders")
			return err
		})
		f.hub.restart()
	}
	close(stop)
	want := map[string]int{}
	for range names {
		w := <-counts
		want[w.origin] = w.next
	}
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}
	for name, nc := range conns {
		eventually(t, 60*time.Second, "everything arrives at "+name, func() error {
			err := holds(ctx, nc, "everything", want)
			if err != nil {
				for _, origin := range names {
					err = fmt.Errorf("%w\nat %s: %s", err, origin, outlets(ctx, conns[origin], "orders"))
				}
			}
			return err
		})
	}
	t.Logf("complete everywhere: %v", want)
	f.ready(world, bridge)
}

// TestQueueMoves checks that each job is at one place only, and ends at the far one.
func TestQueueMoves(t *testing.T) {
	t.Parallel()
	f := newFederation(t)
	f.join("berlin", "tokyo")
	world := topology(mesh("all"), "berlin", "tokyo")
	jobs := stream("jobs", v1alpha1.StreamSpec{Placement: at("berlin"), Subjects: []string{"jobs.*"}, Retention: v1alpha1.RetentionWorkQueue})
	move := &v1alpha1.Bridge{ObjectMeta: named("jobs"), Spec: v1alpha1.BridgeSpec{
		Account: "app", Type: v1alpha1.BridgeQueue, From: at("berlin"), To: at("tokyo"), Stream: &v1alpha1.BridgeStreams{Name: "jobs"},
	}}
	f.create(world, jobs, move)
	f.ready(world, jobs, move)
	berlin, tokyo := f.connect("berlin", "app"), f.connect("tokyo", "app")
	w := writer{subject: "jobs.one", origin: "berlin"}
	for range 500 {
		if err := w.write(t.Context(), berlin); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 30*time.Second, "the queue has moved", func() error {
		s, err := jetStream(t, berlin).Stream(t.Context(), "jobs")
		if err != nil {
			return err
		}
		if left := s.CachedInfo().State.Msgs; left > 0 {
			return fmt.Errorf("%d jobs are left at the origin", left)
		}
		return nil
	})
	js := jetStream(t, tokyo)
	s, err := js.Stream(t.Context(), "jobs")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.CachedInfo().State.Msgs; got != 500 {
		t.Errorf("%d of 500 jobs at the destination", got)
	}
}
