package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
)

// TestQueueShared shares a work queue over three members, whose workers must
// do each job exactly once between them, one of them after a cut.
func TestQueueShared(t *testing.T) {
	t.Parallel()
	f := newFederation(t)
	f.join("berlin")
	workers := []string{"cairo", "oslo", "tokyo"}
	f.joinDialing(workers...)
	world := topology([]v1alpha1.LinkRule{{Name: "ways", Type: v1alpha1.LinkEdges, Edges: []v1alpha1.Edge{{A: "berlin", B: "cairo"}, {A: "berlin", B: "oslo"}, {A: "berlin", B: "tokyo"}}}},
		"berlin", "cairo", "oslo", "tokyo")
	jobs := stream("jobs", v1alpha1.StreamSpec{Placement: at("berlin"), Subjects: []string{"jobs.*"}, Retention: v1alpha1.RetentionWorkQueue})
	share := &v1alpha1.Bridge{ObjectMeta: named("jobs"), Spec: v1alpha1.BridgeSpec{
		Account: "app", Type: v1alpha1.BridgeQueue, From: at("berlin"), To: at(workers...), Stream: &v1alpha1.BridgeStreams{Name: "jobs"},
	}}
	f.create(world, jobs, share)
	f.ready(world, jobs, share)

	var mu sync.Mutex
	done, by := map[string]int{}, map[string]int{}
	for _, name := range workers {
		c, err := jetStream(t, f.connect(name, "app")).CreateConsumer(t.Context(), "jobs", jetstream.ConsumerConfig{
			Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute,
		})
		if err != nil {
			t.Fatal(err)
		}
		consuming, err := c.Consume(func(m jetstream.Msg) {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // outlasts a failed test
			defer cancel()
			mu.Lock()
			done[string(m.Data())+" "+m.Subject()]++
			by[name]++
			mu.Unlock()
			if err := m.DoubleAck(ctx); err != nil {
				t.Logf("%s: acknowledge %s: %v", name, m.Data(), err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(consuming.Stop)
	}
	const total = 600
	berlin := f.connect("berlin", "app")
	w := writer{subject: "jobs.one", origin: "berlin"}
	write := func(n int) {
		t.Helper()
		for range n {
			if err := w.write(t.Context(), berlin); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(total / 3)
	f.members["berlin"].proxy.set(blackhole)
	write(total / 3)
	f.members["berlin"].proxy.set(open)
	write(total / 3)
	eventually(t, 60*time.Second, "each job is done once", func() error {
		s, err := jetStream(t, berlin).Stream(t.Context(), "jobs")
		if err != nil {
			return err
		}
		if left := s.CachedInfo().State.Msgs; left > 0 {
			return fmt.Errorf("%d jobs are left at the origin", left)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(done) < total {
			return fmt.Errorf("%d of %d jobs are done", len(done), total)
		}
		return nil
	})
	for _, name := range workers {
		eventually(t, 30*time.Second, "the queue of "+name+" is empty", func() error {
			s, err := jetStream(t, f.connect(name, "app")).Stream(t.Context(), "jobs")
			if err != nil {
				return err
			}
			if left := s.CachedInfo().State.Msgs; left > 0 {
				return fmt.Errorf("%d jobs are left", left)
			}
			return nil
		})
	}
	mu.Lock()
	defer mu.Unlock()
	for i := range total {
		id := fmt.Sprintf("berlin-%d jobs.one", i)
		if done[id] != 1 {
			t.Errorf("%s was done %d times", id, done[id])
		}
	}
	if len(done) != total {
		t.Errorf("%d jobs were done, not %d", len(done), total)
	}
	for _, name := range workers {
		if by[name] < total/10 {
			t.Errorf("%s did %d of %d jobs: %v", name, by[name], total, by)
		}
	}
	t.Logf("jobs done by %v", by)
}

// TestPartition cuts every link of an active-active federation: each member goes
// on with its own, and has all of everyone after the cut.
func TestPartition(t *testing.T) {
	t.Parallel()
	f := newFederation(t)
	names := []string{"berlin", "denver", "tokyo"}
	f.join(names...)
	world := topology(mesh("all"), names...)
	orders := stream("orders", v1alpha1.StreamSpec{Placement: at(names...), Subjects: []string{"orders.>"}})
	bridge := streamBridge("orders", at(names...), at(names...), "orders", "everything")
	f.create(world, orders, bridge)
	f.ready(world, orders, bridge)

	conns, writers, want := map[string]*nats.Conn{}, map[string]*writer{}, map[string]int{}
	for _, m := range names {
		conns[m] = f.connect(m, "app")
		writers[m] = &writer{subject: "orders." + m, origin: m}
	}
	write := func() {
		t.Helper()
		for range 50 {
			for _, m := range names {
				if err := writers[m].write(t.Context(), conns[m]); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	hold := func(what string, counts func(member string) map[string]int) {
		t.Helper()
		for _, m := range names {
			eventually(t, 60*time.Second, what+" at "+m, func() error {
				return holds(t.Context(), conns[m], "everything", counts(m))
			})
		}
	}
	write()
	for _, m := range names {
		want[m] = writers[m].next
	}
	hold("everything before the cut", func(string) map[string]int { return want })

	for _, m := range names {
		f.members[m].proxy.set(blackhole)
	}
	f.wait(bridge, v1alpha1.ConditionReady, metav1.ConditionFalse)
	write()
	hold("only its own during the cut", func(m string) map[string]int {
		own := map[string]int{}
		for o, n := range want {
			own[o] = n
		}
		own[m] = writers[m].next
		return own
	})
	for _, m := range names {
		f.members[m].proxy.set(open)
	}
	for _, m := range names {
		want[m] = writers[m].next
	}
	hold("everything after the cut", func(string) map[string]int { return want })
	f.ready(world, bridge)
}

// bystander is a client that no change of the test concerns.
type bystander struct {
	nc       *nats.Conn
	drops    atomic.Int32
	failures atomic.Int32
	asked    atomic.Int32
}

// bystander connects a client and has it ask itself until the test ends.
func (f *federation) bystander(member, account string) *bystander {
	f.t.Helper()
	b := &bystander{}
	b.nc = f.connect(member, account, nats.DisconnectErrHandler(func(*nats.Conn, error) { b.drops.Add(1) }))
	if _, err := b.nc.Subscribe("bystander."+member, func(m *nats.Msg) { m.Respond(m.Data) }); err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			try, done := context.WithTimeout(ctx, 20*time.Second)
			_, err := b.nc.RequestWithContext(try, "bystander."+member, nil)
			done()
			if ctx.Err() != nil {
				return
			}
			b.asked.Add(1)
			if err != nil {
				b.failures.Add(1)
			}
		}
	}()
	f.t.Cleanup(func() {
		cancel()
		<-ended
	})
	return b
}

func (b *bystander) undisturbed() error {
	if d, r, f, n := b.drops.Load(), b.nc.Stats().Reconnects, b.failures.Load(), b.asked.Load(); d > 0 || r > 0 || f > 0 || n == 0 {
		return fmt.Errorf("%d disconnects, %d reconnects, %d of %d requests failed", d, r, f, n)
	}
	return nil
}

// TestLiveChanges adds, changes and removes bridges, a stream and an account
// while clients work that none of it concerns.
func TestLiveChanges(t *testing.T) {
	t.Parallel()
	f := newFederation(t)
	members := []string{"berlin", "tokyo"}
	f.join("berlin")
	f.joinDialing("tokyo")
	world := topology(mesh("all"), members...)
	world.Spec.Accounts = append(world.Spec.Accounts, v1alpha1.Account{Name: "bank", Namespaces: []string{"*"}})
	steady := &v1alpha1.Bridge{ObjectMeta: named("steady"), Spec: v1alpha1.BridgeSpec{
		Account: "app", Type: v1alpha1.BridgeEvents, From: at("berlin"), To: at("tokyo"), Subjects: []string{"steady.>"},
	}}
	f.create(world, steady)
	f.ready(world, steady)
	bystanders := map[string]*bystander{}
	for _, m := range members {
		for _, a := range []string{"app", "bank"} {
			bystanders[a+"@"+m] = f.bystander(m, a)
		}
	}
	berlin, tokyo := f.connect("berlin", "app"), f.connect("tokyo", "app")
	arrives := func(subject, as string, in *inbox) {
		t.Helper()
		id := subject + "-" + random(8)
		eventually(t, 30*time.Second, subject+" arrives as "+as, func() error {
			if err := berlin.Publish(subject, []byte(id)); err != nil {
				return err
			}
			return in.saw(id)
		})
	}
	patch := func(o client.Object, json string) {
		t.Helper()
		if err := f.kube.Patch(t.Context(), o, client.RawPatch(types.MergePatchType, []byte(json))); err != nil {
			t.Fatal(err)
		}
		f.ready(o)
	}

	// Added.
	events := &v1alpha1.Bridge{ObjectMeta: named("events"), Spec: v1alpha1.BridgeSpec{
		Account: "app", Type: v1alpha1.BridgeEvents, From: at("berlin"), To: at("tokyo"), Subjects: []string{"events.*"},
	}}
	orders := stream("orders", v1alpha1.StreamSpec{Placement: at("berlin"), Subjects: []string{"orders.>"}})
	copied := streamBridge("orders", at("berlin"), at("tokyo"), "orders", "copy")
	copied.Spec.Subjects = []string{"orders.europe.>"}
	copied.Spec.Rename = []v1alpha1.Rename{{From: "orders.europe.>", To: "imported.{{origin}}.>"}}
	f.create(events, orders, copied)
	f.ready(events, orders, copied)
	arrives("events.one", "events.one", listen(t, tokyo, "tokyo", "events.*"))
	js := jetStream(t, berlin)
	for i := range 20 {
		for _, region := range []string{"asia", "europe"} {
			if _, err := js.Publish(t.Context(), "orders."+region+".x", fmt.Appendf(nil, "%s-%d", region, i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, 30*time.Second, "what is selected arrives, renamed", func() error {
		return errors.Join(holds(t.Context(), tokyo, "copy", map[string]int{"europe": 20}), subjectsOf(t, tokyo, "copy", "imported.berlin.x"))
	})

	// Changed.
	patch(events, `{"spec":{"subjects":["events.*"],"rename":[{"from":"events.*","to":"from.{{origin}}.{{wildcard(1)}}"}]}}`)
	arrives("events.two", "from.berlin.two", listen(t, tokyo, "tokyo", "from.berlin.two"))
	patch(copied, `{"spec":{"subjects":["orders.>"],"rename":null}}`)
	if _, err := js.Publish(t.Context(), "orders.asia.late", []byte("late-0")); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the changed bridge brings what it did not before", func() error {
		return subjectsOf(t, tokyo, "copy", "orders.asia.late")
	})
	patch(world, `{"spec":{"accounts":[{"name":"app","namespaces":["*"]},{"name":"bank","namespaces":["*"]},{"name":"cafe","namespaces":["*"]}]}}`)
	f.connect("tokyo", "cafe")

	// Removed.
	gone := listen(t, tokyo, "tokyo", "from.>")
	f.delete(events, copied, orders)
	eventually(t, 30*time.Second, "the removed bridge is gone", func() error {
		id := "gone-" + random(8)
		if err := errors.Join(berlin.Publish("events.x", []byte(id)), berlin.Publish("steady.x", []byte(id))); err != nil {
			return err
		}
		in := listen(t, tokyo, "tokyo", "steady.>")
		arrives("steady.x", "steady.x", in)
		if gone.saw(id) == nil {
			return errors.New("an event still arrives")
		}
		return nil
	})
	for who, b := range bystanders {
		if err := b.undisturbed(); err != nil {
			t.Errorf("%s: %v", who, err)
		}
	}
	for who, nc := range map[string]*nats.Conn{"berlin": berlin, "tokyo": tokyo} {
		if n := nc.Stats().Reconnects; n != 0 {
			t.Errorf("the client at %s reconnected %d times", who, n)
		}
	}
}

// subjectsOf checks that a stream has messages of a subject.
func subjectsOf(t testing.TB, nc *nats.Conn, name, subject string) error {
	t.Helper()
	s, err := jetStream(t, nc).Stream(t.Context(), name)
	if err != nil {
		return err
	}
	info, err := s.Info(t.Context(), jetstream.WithSubjectFilter(">"))
	if err != nil {
		return err
	}
	if info.State.Subjects[subject] == 0 {
		return fmt.Errorf("nothing of %s, only %v", subject, info.State.Subjects)
	}
	return nil
}
