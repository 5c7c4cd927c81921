package e2e

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/e2e/freeport"
	"github.com/sealane/sealane/hub/apiserver"
)

// TestExternalAPI runs a hub that keeps its resources in an API server which is
// not its own, and outlives it.
func TestExternalAPI(t *testing.T) {
	t.Parallel()
	api, err := apiserver.Start(context.WithoutCancel(t.Context()), apiserver.Options{DataDir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(api.Close(), api.Wait()); err != nil {
			t.Errorf("the API server: %v", err)
		}
	})
	f := &federation{t: t, dir: t.TempDir(), address: freeport.Addr(t), members: map[string]*member{}}
	f.startHub(api.KubeconfigPath(), "--kubeconfig", api.KubeconfigPath())
	f.join("berlin")
	f.joinDialing("tokyo")
	world := topology(mesh("all"), "berlin", "tokyo")
	orders := stream("orders", v1alpha1.StreamSpec{Placement: at("berlin"), Subjects: []string{"orders.>"}})
	bridge := streamBridge("orders", at("berlin"), at("tokyo"), "orders", "orders")
	f.create(world, orders, bridge)
	f.ready(world, orders, bridge)

	berlin, tokyo := f.connect("berlin", "app"), f.connect("tokyo", "app")
	w := writer{subject: "orders.new", origin: "berlin"}
	write := func() {
		t.Helper()
		if err := w.write(t.Context(), berlin); err != nil {
			t.Fatal(err)
		}
		eventually(t, 30*time.Second, "everything arrives", func() error {
			return holds(t.Context(), tokyo, "orders", map[string]int{"berlin": w.next})
		})
	}
	write()

	// Another start of the hub finds everything where it was, and goes on.
	f.hub.kill()
	write()
	f.hub.restart()
	f.connected("berlin", "tokyo")
	late := streamBridge("late", at("berlin"), at("tokyo"), "orders", "copy")
	f.create(late)
	f.ready(world, orders, bridge, late)
	eventually(t, 30*time.Second, "the new bridge works", func() error {
		return holds(t.Context(), tokyo, "copy", map[string]int{"berlin": w.next})
	})
}
