package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
)

// TestDeadLink cuts one of two links: both its members, the bridge over it and
// the topology name it and tell since when, and nothing else is called broken.
// The promise is 15 s; the test logs the time, and is patient on a busy machine.
func TestDeadLink(t *testing.T) {
	t.Parallel()
	f := newFederation(t)
	f.join("berlin", "oslo")
	f.joinDialing("tokyo")
	world := topology([]v1alpha1.LinkRule{{Name: "edges", Type: v1alpha1.LinkEdges, Edges: []v1alpha1.Edge{{A: "berlin", B: "tokyo"}, {A: "oslo", B: "tokyo"}}}},
		"berlin", "oslo", "tokyo")
	broken := events("broken", "berlin", "tokyo")
	sound := events("sound", "oslo", "tokyo")
	f.create(world, broken, sound)
	berlin, oslo, tokyo := memberCluster("berlin"), memberCluster("oslo"), memberCluster("tokyo")
	f.ready(world, broken, sound, berlin, oslo, tokyo) // whose statuses are written one by one

	for name, mode := range map[string]cut{"refused": refused, "blackhole": blackhole} {
		began := time.Now()
		f.members["berlin"].proxy.set(mode)
		for _, o := range []client.Object{berlin, tokyo, broken, world} {
			took := f.shows(o, metav1.ConditionFalse, began, "berlin", "tokyo")
			t.Logf("%s: %T %s shows the dead link after %v", name, o, o.GetName(), took)
		}
		f.linkSince("berlin", "tokyo", v1alpha1.LinkDown, began)
		f.linkSince("tokyo", "berlin", v1alpha1.LinkDown, began)
		f.linkState("oslo", "tokyo", v1alpha1.LinkUp)
		f.ready(sound, oslo)

		began = time.Now()
		f.members["berlin"].proxy.set(open)
		for _, o := range []client.Object{berlin, tokyo, broken, world} {
			took := f.shows(o, metav1.ConditionTrue, began)
			t.Logf("%s: %T %s shows the healed link after %v", name, o, o.GetName(), took)
		}
		f.linkSince("berlin", "tokyo", v1alpha1.LinkUp, began)
		f.linkSince("tokyo", "berlin", v1alpha1.LinkUp, began)
	}
}

func memberCluster(name string) *v1alpha1.MemberCluster {
	return &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func events(name, from, to string) *v1alpha1.Bridge {
	return &v1alpha1.Bridge{ObjectMeta: named(name), Spec: v1alpha1.BridgeSpec{
		Account: "app", Type: v1alpha1.BridgeEvents, From: at(from), To: at(to), Subjects: []string{name + ".>"},
	}}
}

// shows waits until an object's Ready has that status, since not before a time,
// with a message that has all the words; it returns how long that took.
func (f *federation) shows(o client.Object, status metav1.ConditionStatus, since time.Time, words ...string) time.Duration {
	f.t.Helper()
	f.wait(o, v1alpha1.ConditionReady, status)
	took := time.Since(since).Round(time.Millisecond)
	c := meta.FindStatusCondition(conditionsOf(o), v1alpha1.ConditionReady)
	for _, w := range words {
		if !strings.Contains(c.Message, w) && o.GetName() != w {
			f.t.Errorf("%T %s does not name %s: %s: %s", o, o.GetName(), w, c.Reason, c.Message)
		}
	}
	if status == metav1.ConditionFalse && c.Reason != v1alpha1.ReasonLinksDown {
		f.t.Errorf("%T %s: reason %s, want %s", o, o.GetName(), c.Reason, v1alpha1.ReasonLinksDown)
	}
	if at := c.LastTransitionTime.Time; at.Before(since.Truncate(time.Second)) || at.After(time.Now()) {
		f.t.Errorf("%T %s: since %v, but it was done at %v", o, o.GetName(), at, since)
	}
	return took
}

// linkSince waits until a member reports its link in a state that began not
// before a time.
func (f *federation) linkSince(name, peer string, state v1alpha1.LinkState, since time.Time) {
	f.t.Helper()
	m := memberCluster(name)
	eventually(f.t, 30*time.Second, fmt.Sprintf("the link of %s to %s is %s since then", name, peer, state), func() error {
		if err := f.kube.Get(f.t.Context(), client.ObjectKeyFromObject(m), m); err != nil {
			return err
		}
		for _, l := range m.Status.Links {
			if l.Peer == peer && l.State == state && !l.Since.Time.Before(since.Truncate(time.Second)) {
				return nil
			}
		}
		return fmt.Errorf("links are %+v", m.Status.Links)
	})
}
