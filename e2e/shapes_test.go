package e2e

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealane/sealane/api/v1alpha1"
)

// TestFailover cuts a spoke from the parent it uses: it must go on through the
// other, and a durable bridge must lose and double nothing over the change.
func TestFailover(t *testing.T) {
	t.Parallel()
	f := newFederation(t)
	f.join("berlin", "tokyo")
	f.joinDialing("edge")
	world := topology([]v1alpha1.LinkRule{
		{Name: "core", Type: v1alpha1.LinkMesh, Groups: []string{"all"}},
		{Name: "edges", Type: v1alpha1.LinkHubAndSpoke, HubAndSpoke: &v1alpha1.HubAndSpoke{
			Hubs: "all", Spokes: "edges", Parents: v1alpha1.ParentsOrdered, Order: []string{"tokyo", "berlin"},
		}},
	}, "berlin", "tokyo")
	world.Spec.Groups = append(world.Spec.Groups, v1alpha1.Group{Name: "edges", Clusters: []string{"edge"}})
	orders := stream("orders", v1alpha1.StreamSpec{Placement: at("edge"), Subjects: []string{"orders.>"}})
	up := streamBridge("up", at("edge"), at("berlin", "tokyo"), "orders", "orders")
	config := stream("config", v1alpha1.StreamSpec{Placement: at("tokyo"), Subjects: []string{"config.>"}})
	down := streamBridge("down", at("tokyo"), at("edge"), "config", "config")
	events := &v1alpha1.Bridge{ObjectMeta: named("events"), Spec: v1alpha1.BridgeSpec{
		Account: "app", Type: v1alpha1.BridgeEvents, From: v1alpha1.Placement{Selector: &metav1.LabelSelector{}},
		To: v1alpha1.Placement{Selector: &metav1.LabelSelector{}}, Subjects: []string{"news.>"},
	}}
	f.create(world, orders, up, config, down, events)
	f.ready(world, orders, up, config, down, events)

	all := []string{"berlin", "tokyo", "edge"}
	news := func(state string) {
		t.Helper()
		inboxes := map[string]*inbox{}
		for _, m := range all {
			inboxes[m] = listen(t, f.connect(m, "app"), m, "news."+state)
		}
		want := map[string]bool{}
		for _, o := range all {
			nc := f.connect(o, "app")
			eventually(t, 20*time.Second, "news of "+o+" spread "+state, func() error {
				if err := nc.Publish("news."+state, []byte(warmUp+o)); err != nil {
					return err
				}
				for _, m := range all {
					if err := inboxes[m].saw(warmUp + o); err != nil {
						return err
					}
				}
				return nil
			})
			want[o] = true
			if err := nc.Publish("news."+state, []byte(o)); err != nil {
				t.Fatal(err)
			}
		}
		for _, m := range all {
			eventually(t, 10*time.Second, "each news once at "+m, func() error { return inboxes[m].differs(want) })
		}
	}
	news("before")

	edge, tokyo := f.connect("edge", "app"), f.connect("tokyo", "app")
	o, c := writer{subject: "orders.x", origin: "edge"}, writer{subject: "config.x", origin: "tokyo"}
	stop, stopped := make(chan struct{}), make(chan error, 2)
	go func() { stopped <- o.writeUntil(t.Context(), edge, stop) }()
	go func() { stopped <- c.writeUntil(t.Context(), tokyo, stop) }()

	// Only the edge dials tokyo, so only the edge loses a link.
	f.members["tokyo"].proxy.set(blackhole)
	f.linkState("edge", "berlin", v1alpha1.LinkUp)
	f.ready(world, up, down, events)
	news("through-berlin")
	f.members["tokyo"].proxy.set(open)

	// Without berlin everybody else goes on.
	f.members["berlin"].proxy.set(refused)
	f.linkState("edge", "tokyo", v1alpha1.LinkUp)
	f.wait(world, v1alpha1.ConditionReady, metav1.ConditionFalse)
	f.members["berlin"].proxy.set(open)
	f.ready(world, up, down, events)
	news("after")

	close(stop)
	for range 2 {
		if err := <-stopped; err != nil {
			t.Fatal(err)
		}
	}
	for _, end := range []struct {
		member, stream string
		want           map[string]int
	}{
		{"berlin", "orders", map[string]int{"edge": o.next}},
		{"tokyo", "orders", map[string]int{"edge": o.next}},
		{"edge", "config", map[string]int{"tokyo": c.next}},
	} {
		nc := f.connect(end.member, "app")
		eventually(t, 60*time.Second, "everything arrives in "+end.stream+" at "+end.member, func() error {
			return holds(t.Context(), nc, end.stream, end.want)
		})
	}
}
