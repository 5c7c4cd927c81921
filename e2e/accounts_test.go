package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
)

// TestAccounts runs the same bridges, of the same names and subjects, in two
// accounts over one link, beside an account without bridges: nothing of one is
// seen in another.
func TestAccounts(t *testing.T) {
	t.Parallel()
	f := newFederation(t)
	members := []string{"berlin", "tokyo"}
	f.join("berlin")
	f.joinDialing("tokyo")
	world := topology(mesh("all"), members...)
	objects := []client.Object{world}
	accounts := []string{"app", "bank", "cafe"}
	for _, a := range accounts[1:] {
		world.Spec.Accounts = append(world.Spec.Accounts, v1alpha1.Account{Name: a, Namespaces: []string{a}})
	}
	world.Spec.Accounts[0].Namespaces = []string{"app"}
	for _, a := range accounts[:2] {
		object := named("orders")
		object.Namespace = a
		events := object
		events.Name = "events"
		objects = append(objects,
			&v1alpha1.Stream{ObjectMeta: object, Spec: v1alpha1.StreamSpec{Account: a, Placement: at("berlin"), Subjects: []string{"orders.>"}}},
			&v1alpha1.Bridge{ObjectMeta: object, Spec: v1alpha1.BridgeSpec{
				Account: a, Type: v1alpha1.BridgeStream, From: at("berlin"), To: at("tokyo"), Stream: &v1alpha1.BridgeStreams{Name: "orders"},
			}},
			&v1alpha1.Bridge{ObjectMeta: events, Spec: v1alpha1.BridgeSpec{
				Account: a, Type: v1alpha1.BridgeEvents, From: at(members...), To: at(members...), Subjects: []string{"news.>"},
			}},
		)
	}
	f.create(objects...)
	f.ready(objects...)

	conns, inboxes := map[string]*nats.Conn{}, map[string]*inbox{}
	for _, a := range accounts {
		for _, m := range members {
			conns[a+"@"+m] = f.connect(m, a)
			inboxes[a+"@"+m] = listen(t, conns[a+"@"+m], a+"@"+m, "news.>")
		}
	}
	for _, a := range accounts[:2] {
		eventually(t, 30*time.Second, "news spread in "+a, func() error {
			if err := conns[a+"@berlin"].Publish("news.x", []byte(warmUp+a)); err != nil {
				return err
			}
			if err := conns[a+"@tokyo"].Publish("news.x", []byte(warmUp+a+"-back")); err != nil {
				return err
			}
			return errors.Join(inboxes[a+"@tokyo"].saw(warmUp+a), inboxes[a+"@berlin"].saw(warmUp+a+"-back"))
		})
	}
	want := map[string]map[string]bool{}
	for place := range inboxes {
		want[place] = map[string]bool{}
	}
	for i := range 100 {
		for _, a := range accounts {
			for _, m := range members {
				id := fmt.Sprintf("%s-%s-%d", a, m, i)
				if err := conns[a+"@"+m].Publish("news.x", []byte(id)); err != nil {
					t.Fatal(err)
				}
				want[a+"@"+m][id] = true
				if a != "cafe" {
					want[a+"@berlin"][id], want[a+"@tokyo"][id] = true, true
				}
			}
		}
	}
	for place, in := range inboxes {
		eventually(t, 30*time.Second, "each of its own news once at "+place, func() error { return in.differs(want[place]) })
	}

	for n, a := range accounts[:2] {
		w := writer{subject: "orders.x", origin: a}
		for range 20 * (n + 1) {
			if err := w.write(t.Context(), conns[a+"@berlin"]); err != nil {
				t.Fatal(err)
			}
		}
	}
	for n, a := range accounts[:2] {
		eventually(t, 30*time.Second, "the orders of "+a+" arrive", func() error {
			return holds(t.Context(), conns[a+"@tokyo"], "orders", map[string]int{a: 20 * (n + 1)})
		})
	}
	if _, err := jetStream(t, conns["cafe@tokyo"]).Stream(t.Context(), "orders"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("a stream of others in cafe: %v", err)
	}
	for place, in := range inboxes {
		if err := in.differs(want[place]); err != nil {
			t.Error(err)
		}
	}
}
