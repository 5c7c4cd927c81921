package e2e

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
)

// TestShapes makes one federation a ring, a chain and a tree, and checks in each
// that messages take exactly the ways that its links open.
func TestShapes(t *testing.T) {
	t.Parallel()
	f := newFederation(t)
	all := []string{"berlin", "cairo", "denver", "oslo", "tokyo"}
	f.join(all...)
	in := func(t *testing.T) *federation {
		round := *f
		round.t = t
		return &round
	}
	t.Run("ring", func(t *testing.T) {
		f := in(t)
		world := topology([]v1alpha1.LinkRule{{Name: "ring", Type: v1alpha1.LinkRing, Groups: []string{"all"}, Order: []string{"tokyo", "berlin", "oslo"}}}, all...)
		f.play(world, all,
			flow{name: "everywhere", kind: v1alpha1.BridgeEvents, from: all, to: all},
			flow{name: "asked", kind: v1alpha1.BridgeRequests, from: []string{"tokyo", "oslo"}, to: []string{"cairo", "berlin"}},
			flow{name: "gathered", kind: v1alpha1.BridgeStream, from: []string{"tokyo", "berlin", "oslo"}, to: []string{"cairo", "denver"}},
		)
	})
	t.Run("chain", func(t *testing.T) {
		f := in(t)
		world := topology([]v1alpha1.LinkRule{{Name: "chain", Type: v1alpha1.LinkChain, Groups: []string{"all"}, Order: []string{"oslo", "denver", "tokyo", "berlin", "cairo"}}}, all...)
		oslo, cairo := []string{"oslo"}, []string{"cairo"}
		f.play(world, all, // between the ends, through three members that see nothing of it
			flow{name: "far", kind: v1alpha1.BridgeEvents, from: oslo, to: cairo},
			flow{name: "changed", kind: v1alpha1.BridgeEvents, from: []string{"oslo", "denver"}, to: cairo, renamed: true},
			flow{name: "asked", kind: v1alpha1.BridgeRequests, from: cairo, to: oslo},
			flow{name: "copied", kind: v1alpha1.BridgeStream, from: oslo, to: cairo},
		)
	})
	t.Run("nearest", func(t *testing.T) {
		f := in(t)
		for member, region := range map[string]string{"berlin": "europe", "oslo": "europe", "cairo": "europe", "tokyo": "asia", "denver": "asia"} {
			m := &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: member}}
			patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"topology.kubernetes.io/region":"`+region+`"}}}`))
			if err := f.kube.Patch(t.Context(), m, patch); err != nil {
				t.Fatal(err)
			}
		}
		tree := func(maxParents int32) *v1alpha1.MessagingTopology {
			world := topology([]v1alpha1.LinkRule{
				{Name: "core", Type: v1alpha1.LinkMesh, Groups: []string{"all"}},
				{Name: "sites", Type: v1alpha1.LinkHubAndSpoke, HubAndSpoke: &v1alpha1.HubAndSpoke{
					Hubs: "all", Spokes: "sites", Parents: v1alpha1.ParentsNearest, MaxParents: maxParents,
				}},
			}, "berlin", "tokyo")
			world.Spec.Groups = append(world.Spec.Groups, v1alpha1.Group{Name: "sites", Clusters: []string{"cairo", "denver", "oslo"}})
			return world
		}
		// With one parent each, because with two a busy machine may make it change.
		world := tree(1)
		f.create(world)
		f.ready(world)
		for site, parent := range map[string]string{"oslo": "berlin", "cairo": "berlin", "denver": "tokyo"} {
			f.linkState(site, parent, v1alpha1.LinkUp)
			f.linkState(parent, site, v1alpha1.LinkUp)
		}
		if world.Status.Links != "4/4" {
			t.Errorf("%s links, want 4/4", world.Status.Links)
		}
		f.clear(all, world)
		world = tree(2)
		f.play(world, all,
			flow{name: "everywhere", kind: v1alpha1.BridgeEvents, from: all, to: all},
			flow{name: "across", kind: v1alpha1.BridgeStream, from: []string{"oslo", "denver"}, to: []string{"cairo", "denver"}},
		)
	})
}

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
