//go:build e2e

package kind

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
)

// The members: two on Kubernetes, meshed, and an edge that only dials.
var everywhere = []string{"berlin", "tokyo", "edge"}

// plan is what the tests' hub is asked for. Their cases change its topology.
type plan struct {
	world                       *v1alpha1.MessagingTopology
	orders, jobs, far           *v1alpha1.Stream
	news, ask, copied, up, move *v1alpha1.Bridge
}

// newPlan has a bridge of every kind.
func newPlan() plan {
	bridge := func(name string, spec v1alpha1.BridgeSpec) *v1alpha1.Bridge {
		spec.Account = "app"
		return &v1alpha1.Bridge{ObjectMeta: named(name), Spec: spec}
	}
	stream := func(name string, spec v1alpha1.StreamSpec) *v1alpha1.Stream {
		spec.Account = "app"
		return &v1alpha1.Stream{ObjectMeta: named(name), Spec: spec}
	}
	p := plan{
		world:  &v1alpha1.MessagingTopology{},
		orders: stream("orders", v1alpha1.StreamSpec{Placement: at("berlin"), Subjects: []string{"orders.>"}}),
		far:    stream("measures", v1alpha1.StreamSpec{Placement: at("edge"), Subjects: []string{"measures.>"}}),
		jobs: stream("jobs", v1alpha1.StreamSpec{
			Placement: at("tokyo"), Subjects: []string{"jobs.>"}, Retention: v1alpha1.RetentionWorkQueue,
		}),
		news: bridge("news", v1alpha1.BridgeSpec{
			Type: v1alpha1.BridgeEvents, From: at(everywhere...), To: at(everywhere...), Subjects: []string{"news.>"},
		}),
		ask: bridge("ask", v1alpha1.BridgeSpec{
			Type: v1alpha1.BridgeRequests, From: at("berlin", "edge"), To: at("tokyo"), Subjects: []string{"ask.>"},
		}),
		move: bridge("jobs", v1alpha1.BridgeSpec{
			Type: v1alpha1.BridgeQueue, From: at("tokyo"), To: at("berlin"), Stream: &v1alpha1.BridgeStreams{Name: "jobs"},
		}),
	}
	storage := resource.MustParse("256Mi")
	p.world.Name = "world"
	p.world.Spec = v1alpha1.MessagingTopologySpec{
		Groups: []v1alpha1.Group{
			{
				Name: "sites", Clusters: []string{"berlin", "tokyo"}, Broker: v1alpha1.BrokerTemplate{Storage: &storage},
				Overrides: []v1alpha1.BrokerOverride{servers("berlin", 3)},
			},
			{Name: "edges", Clusters: []string{"edge"}},
		},
		Links: []v1alpha1.LinkRule{
			{Name: "core", Type: v1alpha1.LinkMesh, Groups: []string{"sites"}},
			{Name: "edges", Type: v1alpha1.LinkHubAndSpoke, HubAndSpoke: &v1alpha1.HubAndSpoke{
				Hubs: "sites", Spokes: "edges", Parents: v1alpha1.ParentsOrdered, Order: []string{"berlin", "tokyo"},
			}},
		},
		Accounts: []v1alpha1.Account{{Name: "app", Namespaces: []string{applications}}},
	}
	p.copied = bridge("orders", v1alpha1.BridgeSpec{
		Type: v1alpha1.BridgeStream, From: at("berlin"), To: at("tokyo", "edge"), Stream: &v1alpha1.BridgeStreams{Name: "orders"},
	})
	p.up = bridge("measures", v1alpha1.BridgeSpec{
		Type: v1alpha1.BridgeStream, From: at("edge"), To: at("berlin", "tokyo"), Stream: &v1alpha1.BridgeStreams{Name: "measures"},
	})
	return p
}

// servers says how many a member's broker has.
func servers(cluster string, n int32) v1alpha1.BrokerOverride {
	return v1alpha1.BrokerOverride{Cluster: cluster, Broker: v1alpha1.BrokerTemplate{Replicas: &n}}
}

// objects are all of the plan's.
func (p plan) objects() []client.Object {
	return []client.Object{p.world, p.orders, p.far, p.jobs, p.news, p.ask, p.copied, p.up, p.move}
}

// ready waits until everything of the plan is.
func (p plan) ready(t testing.TB, f *federation) {
	t.Helper()
	f.ready(t, p.objects()...)
}

// checkEvents sends news from everywhere and counts it everywhere.
func (f *federation) checkEvents(t testing.TB) {
	t.Helper()
	f.checkEventsAmong(t, everywhere...)
}

// checkEventsAmong sends news from each of the members and counts it at each.
func (f *federation) checkEventsAmong(t testing.TB, members ...string) {
	t.Helper()
	subject := "news." + random()
	conns, inboxes := map[string]*nats.Conn{}, map[string]*inbox{}
	for _, name := range members {
		conns[name] = f.connect(t, name)
		inboxes[name] = listen(t, conns[name], name, subject)
	}
	const count = 200
	var want []string
	for _, from := range members {
		eventually(t, 2*time.Minute, "news of "+from+" reach everybody", func() error {
			if err := conns[from].Publish(subject, []byte(warmUp+from)); err != nil {
				return err
			}
			for _, name := range members {
				if !inboxes[name].saw(warmUp + from) {
					return errors.New("not yet at " + name)
				}
			}
			return nil
		})
		for n := range count {
			payload := fmt.Sprintf("%s-%d", from, n)
			want = append(want, payload)
			if err := conns[from].Publish(subject, []byte(payload)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range members {
		eventually(t, time.Minute, "each event once at "+name, func() error { return inboxes[name].differs(want) })
	}
	t.Logf("%d events, each once at each of %d members", len(want), len(members))
}

// checkRequests asks from berlin and from the edge what tokyo answers.
func (f *federation) checkRequests(t testing.TB) {
	t.Helper()
	subject := "ask." + random()
	answering := f.connect(t, "tokyo")
	if _, err := answering.Subscribe(subject, func(m *nats.Msg) {
		// A lost connection shows as a missing answer.
		_ = m.Respond(append([]byte("answer to "), m.Data...))
	}); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"berlin", "edge"} {
		asking := f.connect(t, from)
		ask := func(what string) error {
			reply, err := asking.Request(subject, []byte(what), 5*time.Second)
			if err == nil && string(reply.Data) != "answer to "+what {
				err = fmt.Errorf("asked %q, got %q", what, reply.Data)
			}
			return err
		}
		eventually(t, 2*time.Minute, "a request of "+from+" is answered", func() error { return ask("first") })
		for n := range 100 {
			if err := ask(fmt.Sprintf("%s-%d", from, n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Log("200 requests, each answered")
}

// checkMoves stores jobs at one end of the queue, while something happens, and
// takes them at the other.
func (f *federation) checkMoves(t testing.TB, happens func()) {
	t.Helper()
	origin := "tokyo" + random()
	w := write(t, f.connect(t, "tokyo"), origin, "jobs.x", 0)
	taken := map[string]int{}
	nc := f.connect(t, "berlin")
	consumer, err := jetStream(t, nc).CreateOrUpdateConsumer(t.Context(), "jobs", workerConfig)
	if err != nil {
		t.Fatal(err)
	}
	for len(taken) < 200 {
		take(t, consumer, taken)
	}
	happens()
	stored := w.end(t)
	origins := f.connect(t, "tokyo")
	eventually(t, 5*time.Minute, "every job is taken", func() error {
		take(t, consumer, taken)
		if len(taken) != stored {
			return fmt.Errorf("%d of %d; %s; %s", len(taken), stored,
				standing(t.Context(), origins, "tokyo", "jobs"), standing(t.Context(), nc, "berlin", "jobs"))
		}
		return nil
	})
	for job, n := range taken {
		if n != 1 {
			t.Errorf("%s was taken %d times", job, n)
		}
	}
	eventually(t, time.Minute, "nothing is left at the origin", func() error {
		return holds(t.Context(), origins, "jobs", nil)
	})
	t.Logf("%d jobs, each taken once at berlin", stored)
}

// checkTaken takes at berlin what was stored at tokyo, which may be gone.
func (f *federation) checkTaken(t testing.TB, origin string, stored int) {
	t.Helper()
	taken := map[string]int{}
	nc := f.connect(t, "berlin")
	consumer, err := jetStream(t, nc).CreateOrUpdateConsumer(t.Context(), "jobs", workerConfig)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 2*time.Minute, "every job is taken", func() error {
		take(t, consumer, taken)
		if len(taken) != stored {
			return fmt.Errorf("%d of %d; %s", len(taken), stored, standing(t.Context(), nc, "berlin", "jobs"))
		}
		return nil
	})
	for n := range stored {
		if job := fmt.Sprintf("%s-%d", origin, n); taken[job] != 1 {
			t.Errorf("%s was taken %d times", job, taken[job])
		}
	}
	t.Logf("%d jobs, each taken once at berlin", stored)
}

// counts are the messages that a stream must hold, by origin.
type counts map[string]int

// checkCopies waits until the stream is complete at members.
func (f *federation) checkCopies(t testing.TB, stream string, want counts, members ...string) {
	t.Helper()
	for _, name := range members {
		nc := f.connect(t, name)
		eventually(t, 5*time.Minute, stream+" is complete at "+name, func() error { return holds(t.Context(), nc, stream, want) })
	}
	t.Logf("%s is complete and in order at %v: %v", stream, members, slices.Sorted(maps.Keys(want)))
}
