package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
)

// edit changes a member as an administrator would.
func (f *federation) edit(name string, change func(*v1alpha1.MemberCluster)) {
	f.t.Helper()
	eventually(f.t, 30*time.Second, "member "+name+" is changed", func() error {
		m := &v1alpha1.MemberCluster{}
		if err := f.kube.Get(f.t.Context(), client.ObjectKey{Name: name}, m); err != nil {
			return err
		}
		before := m.DeepCopy()
		change(m)
		return f.kube.Patch(f.t.Context(), m, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	})
}

// allow has the guard against mass removal let everything through.
func (f *federation) allow(names ...string) {
	f.t.Helper()
	for _, name := range names {
		f.edit(name, func(m *v1alpha1.MemberCluster) {
			m.Annotations = map[string]string{v1alpha1.AllowRemovalAnnotation: "1000"}
		})
	}
}

// reason waits until a condition of a member has a reason, and returns it.
func (f *federation) reason(name, condition, reason string) metav1.Condition {
	f.t.Helper()
	var got metav1.Condition
	eventually(f.t, 60*time.Second, name+" is "+reason, func() error {
		m := &v1alpha1.MemberCluster{}
		if err := f.kube.Get(f.t.Context(), client.ObjectKey{Name: name}, m); err != nil {
			return err
		}
		c := meta.FindStatusCondition(m.Status.Conditions, condition)
		if c == nil || c.Reason != reason {
			return fmt.Errorf("conditions are %+v", m.Status.Conditions)
		}
		got = *c
		return nil
	})
	return got
}

// gone waits until a member's object is.
func (f *federation) gone(name string) {
	f.t.Helper()
	eventually(f.t, 60*time.Second, name+" is gone", func() error {
		m := &v1alpha1.MemberCluster{}
		err := f.kube.Get(f.t.Context(), client.ObjectKey{Name: name}, m)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("%w: %+v", err, m.Status.Conditions)
	})
}

// linksOf are the peers to which a member reports links.
func (f *federation) linksOf(name string) (peers []string) {
	f.t.Helper()
	m := &v1alpha1.MemberCluster{}
	if err := f.kube.Get(f.t.Context(), client.ObjectKey{Name: name}, m); err != nil {
		f.t.Fatal(err)
	}
	for _, l := range m.Status.Links {
		peers = append(peers, l.Peer)
	}
	return peers
}

// TestDrain removes a member while messages wait there for a destination that is
// cut off, and while more are stored: all of them arrive before it goes, its own
// streams stay, and nothing of it is left on others.
func TestDrain(t *testing.T) {
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
	write := func(n int) {
		t.Helper()
		for range n {
			if err := w.write(t.Context(), berlin); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(50)
	for _, m := range f.members {
		m.proxy.set(refused)
	}
	f.wait(bridge, v1alpha1.ConditionReady, metav1.ConditionFalse)
	f.delete(&v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: "berlin"}})
	if c := f.reason("berlin", v1alpha1.ConditionLeaving, v1alpha1.ReasonDraining); !strings.Contains(c.Message, "bridge default/orders to tokyo") {
		t.Errorf("it says %+v", c)
	}
	write(50) // whoever publishes there may go on
	for _, m := range f.members {
		m.proxy.set(open)
	}
	f.gone("berlin")
	if err := holds(t.Context(), tokyo, "orders", map[string]int{"berlin": w.next}); err != nil {
		t.Errorf("when berlin was gone, tokyo did not have all: %v", err)
	}
	eventually(t, 60*time.Second, "tokyo has no link to it", func() error {
		if peers := f.linksOf("tokyo"); len(peers) > 0 {
			return fmt.Errorf("links to %v", peers)
		}
		return nil
	})
	eventually(t, 60*time.Second, "berlin is told", func() error {
		if !strings.Contains(f.members["berlin"].logged(), "it was removed") {
			return fmt.Errorf("it does not log it")
		}
		return nil
	})
	// What is its own goes on, over a restart, too.
	write(10)
	f.members["berlin"].stop()
	f.members["berlin"].restart()
	berlin = f.connect("berlin", "app")
	if err := holds(t.Context(), berlin, "orders", map[string]int{"berlin": w.next}); err != nil {
		t.Error(err)
	}
	if left := outlets(t.Context(), berlin, "orders"); strings.Contains(left, "fed-") {
		t.Errorf("consumers of the bridge are left: %s", left)
	}
}

// TestDeadMember removes a member that is gone for good, with messages that never
// arrive: Drain waits and says so, Forget ends it, and a member of that name can
// join again.
func TestDeadMember(t *testing.T) {
	t.Parallel()
	f := newFederation(t)
	f.join("berlin", "tokyo")
	world := topology(mesh("all"), "berlin", "tokyo")
	orders := stream("orders", v1alpha1.StreamSpec{Placement: at("berlin"), Subjects: []string{"orders.>"}})
	bridge := streamBridge("orders", at("berlin"), at("tokyo"), "orders", "orders")
	f.create(world, orders, bridge)
	f.ready(world, orders, bridge)
	f.members["berlin"].kill()
	m := &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: "berlin"}}
	f.wait(m, v1alpha1.ConditionConnected, metav1.ConditionFalse)
	f.wait(bridge, v1alpha1.ConditionReady, metav1.ConditionFalse)
	f.delete(m)
	f.reason("berlin", v1alpha1.ConditionLeaving, v1alpha1.ReasonDraining)
	f.edit("berlin", func(m *v1alpha1.MemberCluster) { m.Spec.Removal = v1alpha1.LeaveForget })
	f.gone("berlin")
	eventually(t, 60*time.Second, "tokyo has no link to it", func() error {
		if peers := f.linksOf("tokyo"); len(peers) > 0 {
			return fmt.Errorf("links to %v", peers)
		}
		return nil
	})
	if err := os.RemoveAll(f.members["berlin"].dir); err != nil {
		t.Fatal(err)
	}
	f.join("berlin")
	f.ready(world, orders, bridge)
}

// TestSuspend: nothing is sent to a suspended member, what it has goes on, and it
// gets what it missed.
func TestSuspend(t *testing.T) {
	t.Parallel()
	f := newFederation(t)
	f.join("berlin", "tokyo")
	world := topology(mesh("all"), "berlin", "tokyo")
	events := &v1alpha1.Bridge{ObjectMeta: named("events"), Spec: v1alpha1.BridgeSpec{
		Account: "app", Type: v1alpha1.BridgeEvents, From: at("berlin"), To: at("tokyo"), Subjects: []string{"news.>"},
	}}
	f.create(world, events)
	f.ready(world, events)
	f.edit("tokyo", func(m *v1alpha1.MemberCluster) { m.Spec.Suspended = true })
	world.Spec.Accounts = append(world.Spec.Accounts, v1alpha1.Account{Name: "more", Namespaces: []string{"*"}})
	if err := f.kube.Update(t.Context(), world); err != nil {
		t.Fatal(err)
	}
	f.connect("berlin", "more")
	f.reason("tokyo", v1alpha1.ConditionProgrammed, v1alpha1.ReasonSuspended)
	if _, err := os.Stat(filepath.Join(f.members["tokyo"].dir, "creds", "more.creds")); err == nil {
		t.Error("the suspended member got the account")
	}
	berlin := f.connect("berlin", "app")
	in := listen(t, f.connect("tokyo", "app"), "tokyo", "news.>")
	eventually(t, 30*time.Second, "its bridges go on", func() error {
		if err := berlin.Publish("news.1", []byte("hello")); err != nil {
			return err
		}
		return in.saw("hello")
	})
	f.edit("tokyo", func(m *v1alpha1.MemberCluster) { m.Spec.Suspended = false })
	f.connect("tokyo", "more")
	f.ready(world, events)
}
