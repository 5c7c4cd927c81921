package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/e2e/freeport"
)

// backup copies the data folder of the hub, which must not run.
func (f *federation) backup() string {
	f.t.Helper()
	to := filepath.Join(f.t.TempDir(), "backup")
	if err := os.CopyFS(to, os.DirFS(f.data())); err != nil {
		f.t.Fatal(err)
	}
	return to
}

// replace has the hub's folder hold what a backup does, or nothing but what is
// named of it.
func (f *federation) replace(backup string, only ...string) {
	f.t.Helper()
	for _, name := range []string{"etcd", "in-effect", "epoch", "pki"} {
		keep := len(only) > 0
		for _, o := range only {
			keep = keep && o != name
		}
		if keep {
			continue
		}
		if err := os.RemoveAll(filepath.Join(f.data(), name)); err != nil {
			f.t.Fatal(err)
		}
		from := filepath.Join(backup, name)
		info, err := os.Stat(from)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			f.t.Fatal(err)
		case info.IsDir():
			err = os.CopyFS(filepath.Join(f.data(), name), os.DirFS(from))
		default:
			var b []byte
			if b, err = os.ReadFile(from); err == nil {
				err = os.WriteFile(filepath.Join(f.data(), name), b, 0o600)
			}
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			f.t.Fatal(err)
		}
	}
}

func (f *federation) raiseEpoch(n int) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.data(), "epoch"), []byte(fmt.Sprintf("%d\n", n)), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// says waits until a process has logged something.
func (f *federation) says(p *process, what string) {
	f.t.Helper()
	eventually(f.t, 60*time.Second, p.name+" says "+what, func() error {
		if !strings.Contains(p.logged(), what) {
			return fmt.Errorf("it does not")
		}
		return nil
	})
}

// creds are the accounts for which a member has credentials.
func (f *federation) creds(name string) string {
	f.t.Helper()
	files, err := filepath.Glob(filepath.Join(f.members[name].dir, "creds", "*.creds"))
	if err != nil {
		f.t.Fatal(err)
	}
	var out []string
	for _, file := range files {
		out = append(out, strings.TrimSuffix(filepath.Base(file), ".creds"))
	}
	return strings.Join(out, " ")
}

// accounts is a topology of one member with so many accounts.
func accounts(n int) *v1alpha1.MessagingTopology {
	world := topology(nil, "berlin")
	for i := range n {
		world.Spec.Accounts = append(world.Spec.Accounts, v1alpha1.Account{Name: fmt.Sprintf("new-%d", i), Namespaces: []string{"*"}})
	}
	return world
}

// TestRestoredHub is the story of a hub that is restored from an old backup: it
// does not rule members that have seen more, it says how to go on, and then takes
// away what is newer only if somebody says that this is meant. A copy of the old
// data that wakes up later rules nobody.
func TestRestoredHub(t *testing.T) {
	t.Parallel()
	f := newFederation(t)
	f.join("berlin")
	world := accounts(0)
	f.create(world)
	f.ready(world)
	f.hub.stop()
	old := f.backup()
	f.hub.restart()

	// Things change after the backup.
	berlin := &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: "berlin"}}
	eventually(t, 60*time.Second, "the hub is back", func() error {
		return f.kube.Get(t.Context(), client.ObjectKeyFromObject(world), world)
	})
	world.Spec.Accounts = accounts(12).Spec.Accounts
	if err := f.kube.Update(t.Context(), world); err != nil {
		t.Fatal(err)
	}
	f.ready(world)
	have := f.creds("berlin")

	// The backup comes back: nobody follows it, and log and status say why.
	f.hub.stop()
	newest := f.backup()
	f.replace(old)
	f.hub.restart()
	f.says(f.hub, "this hub has older data than a member has seen")
	f.says(f.members["berlin"].process, "raise its epoch above 1")
	if c := f.reason("berlin", v1alpha1.ConditionConnected, v1alpha1.ReasonHubOutdated); !strings.Contains(c.Message, "raise its epoch above 1") {
		t.Errorf("berlin is %+v", c)
	}
	if now := f.creds("berlin"); now != have {
		t.Errorf("the restored hub left %q of %q", now, have)
	}

	// It shall rule: the guard still holds back what would be taken away.
	f.hub.stop()
	f.raiseEpoch(2)
	f.hub.restart()
	f.connected("berlin")
	f.reason("berlin", v1alpha1.ConditionProgrammed, v1alpha1.ReasonRemovalHeld)
	if now := f.creds("berlin"); now != have {
		t.Errorf("the restored hub left %q of %q", now, have)
	}
	f.edit("berlin", func(m *v1alpha1.MemberCluster) {
		m.Annotations = map[string]string{v1alpha1.AllowRemovalAnnotation: m.Status.DesiredHash}
	})
	f.wait(berlin, v1alpha1.ConditionProgrammed, metav1.ConditionTrue)
	eventually(t, 30*time.Second, "what was newer is gone", func() error {
		if now := f.creds("berlin"); now != "app" {
			return fmt.Errorf("it has %s", now)
		}
		return nil
	})

	// A copy of the newest data, of the epoch before, comes up in its place.
	f.hub.stop()
	f.replace(newest)
	f.hub.restart()
	f.says(f.members["berlin"].process, "raise its epoch above 2")
	if now := f.creds("berlin"); now != "app" {
		t.Errorf("a hub of an old epoch gave it %q", now)
	}
}

// TestEmptyHub: a hub that has lost its database, and nothing else, erases no
// member.
func TestEmptyHub(t *testing.T) {
	t.Parallel()
	f := newFederation(t)
	f.join("berlin")
	world := accounts(3)
	orders := stream("orders", v1alpha1.StreamSpec{Placement: at("berlin"), Subjects: []string{"orders.>"}, OnRemoval: v1alpha1.RemovalDelete})
	f.create(world, orders)
	f.ready(world, orders)
	nc := f.connect("berlin", "app")
	w := writer{subject: "orders.new", origin: "berlin"}
	if err := w.write(t.Context(), nc); err != nil {
		t.Fatal(err)
	}
	have := f.creds("berlin")
	f.hub.stop()
	f.replace(t.TempDir(), "etcd", "in-effect")
	f.hub.restart()
	f.says(f.members["berlin"].process, "is not in this federation")
	f.members["berlin"].stop()
	f.members["berlin"].restart()
	if err := holds(t.Context(), f.connect("berlin", "app"), "orders", map[string]int{"berlin": 1}); err != nil {
		t.Error(err)
	}
	if now := f.creds("berlin"); now != have {
		t.Errorf("the empty hub left %q of %q", now, have)
	}
}

// TestTwoHubs: of two hubs with one set of data, members follow the one of the
// higher epoch, and that one only.
func TestTwoHubs(t *testing.T) {
	t.Parallel()
	f := newFederation(t)
	f.join("berlin")
	f.create(accounts(0))
	f.ready(accounts(0))
	f.hub.stop()
	twin := &federation{t: t, dir: t.TempDir(), address: f.address, members: f.members}
	if err := os.CopyFS(twin.data(), os.DirFS(f.data())); err != nil {
		t.Fatal(err)
	}
	twin.raiseEpoch(2)
	twin.startHub(twin.kubeconfig(), "--embedded", "--api-listen", freeport.Addr(t))
	f.says(f.members["berlin"].process, "epoch=2")
	twin.hub.stop()
	f.hub.restart()
	f.says(f.hub, "this hub has older data than a member has seen")
	f.says(f.members["berlin"].process, "has seen epoch 2")
	f.hub.stop()
	twin.hub.restart()
	eventually(t, 60*time.Second, "berlin follows the other one again", func() error {
		if n := strings.Count(f.members["berlin"].logged(), "epoch=2"); n < 2 {
			return fmt.Errorf("%d sessions", n)
		}
		return nil
	})
}
