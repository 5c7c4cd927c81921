package hub

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

// TestRestartWithRefused: a bridge that runs is broken by an edit, and the hub
// restarts: nothing is taken away. Then it restarts without what it kept.
func TestRestartWithRefused(t *testing.T) {
	s := newStage(t)
	s.members("a", "b")
	s.create(meshOf(everyone))
	s.fleet.connect("a")
	s.fleet.connect("b")
	s.granted()
	b := &v1alpha1.Bridge{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "news"}, Spec: v1alpha1.BridgeSpec{
		Account: "orders", Type: v1alpha1.BridgeEvents, Subjects: []string{"news.>"},
		From: v1alpha1.Placement{Clusters: []string{"a"}}, To: v1alpha1.Placement{Clusters: []string{"b"}},
	}}
	s.create(b)
	imports := func() int {
		m := s.fleet.plan().Members["b"]
		if m == nil || m.Part("account/orders") == nil {
			return -1
		}
		return len(m.Part("account/orders").Part.GetAccount().Imports)
	}
	eventually(t, "the bridge is planned", func() bool { return imports() == 1 })
	planned := s.fleet.plan().Members["b"].Hash
	before := b.DeepCopy()
	b.Spec.Subjects = []string{"$SYS.x"}
	if err := s.client.Patch(t.Context(), b, client.MergeFrom(before)); err != nil { // its status may be written meanwhile
		t.Fatal(err)
	}
	refused := func() bool {
		return slices.ContainsFunc(s.fleet.plan().Problems, func(p topology.Problem) bool { return p.Object.Name == "news" && !p.Waiting })
	}
	eventually(t, "the bridge is refused", refused)

	s.stop()
	s.start()
	eventually(t, "the bridge is refused after a restart", refused)
	if p := s.fleet.plan(); imports() != 1 || p.Members["b"].Hash != planned || len(p.Frozen) > 0 {
		t.Errorf("after a restart %d imports are planned on b, frozen are %v", imports(), p.Frozen)
	}

	s.stop()
	if err := os.WriteFile(s.kept, []byte("sealane in-effect 1 0000\n{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	eventually(t, "the bridge is refused by a hub that lost what it kept", refused)
	p := s.fleet.plan()
	if p.Frozen["b"] == "" || !p.Withheld[topology.PartRef{Cluster: "b", ID: federationv1.AccountID("orders")}] {
		t.Errorf("frozen %v, withheld %v", p.Frozen, p.Withheld)
	}
	if err := s.client.Delete(t.Context(), b, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the bridge is gone", func() bool { return imports() == 0 && len(s.fleet.plan().Frozen) == 0 })
}

func TestKeeper(t *testing.T) {
	path := filepath.Join(t.TempDir(), "in-effect")
	k := newKeeper(keepFile(path), slog.New(slog.DiscardHandler))
	if objects, _ := k.read(t.Context()); objects != nil {
		t.Errorf("read %v where there is no file", objects)
	}
	top := meshOf(everyone)
	top.UID, top.Generation, top.Status.Members = "u", 3, "1/2"
	k.latest.Store(topology.Compile(topology.Input{}))
	if err := k.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	if objects, _ := k.read(t.Context()); objects == nil || len(objects) > 0 {
		t.Errorf("read %v, want no objects, which is known", objects)
	}
	k.latest.Store(topology.Compile(topology.Input{Topologies: []*v1alpha1.MessagingTopology{top}}))
	if err := k.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	objects, _ := k.read(t.Context())
	want := top.DeepCopy()
	want.Status = v1alpha1.MessagingTopologyStatus{}
	if len(objects) != 1 {
		t.Fatalf("read %v", objects)
	}
	equal(t, "what was kept", objects[0].(*v1alpha1.MessagingTopology), want)

	// Written only when something changed.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := k.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("written although nothing changed")
	}
	for name, data := range map[string]string{"empty": "", "cut": keptHeader, "nonsense": "x\n{}"} {
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if objects, _ := k.read(t.Context()); objects != nil {
			t.Errorf("%s: read %v", name, objects)
		}
	}
}

// fakeMaps holds ConfigMaps as an API server would.
type fakeMaps map[string]*corev1.ConfigMap

func (f fakeMaps) Get(_ context.Context, name string, _ metav1.GetOptions) (*corev1.ConfigMap, error) {
	if f[name] == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
	}
	return f[name].DeepCopy(), nil
}

func (f fakeMaps) Create(_ context.Context, m *corev1.ConfigMap, _ metav1.CreateOptions) (*corev1.ConfigMap, error) {
	f[m.Name] = m
	return m, nil
}

func (f fakeMaps) Update(_ context.Context, m *corev1.ConfigMap, _ metav1.UpdateOptions) (*corev1.ConfigMap, error) {
	f[m.Name] = m
	return m, nil
}

func TestKeepInConfigMap(t *testing.T) {
	maps := fakeMaps{}
	place := &keepConfigMap{maps, "state"}
	k := newKeeper(place, slog.New(slog.DiscardHandler))
	if objects, _ := k.read(t.Context()); objects != nil {
		t.Errorf("read %v where nothing is", objects)
	}
	top := meshOf(everyone)
	top.UID, top.Generation = "u", 3
	for range 2 { // made, then updated
		k.written = nil
		k.latest.Store(topology.Compile(topology.Input{Topologies: []*v1alpha1.MessagingTopology{top}}))
		if err := k.write(t.Context()); err != nil {
			t.Fatal(err)
		}
		if objects, _ := k.read(t.Context()); len(objects) != 1 || objects[0].GetUID() != "u" {
			t.Errorf("read %v", objects)
		}
	}
	maps["state"].BinaryData[keptKey] = []byte("nonsense")
	if objects, _ := k.read(t.Context()); objects != nil {
		t.Errorf("read %v of nonsense", objects)
	}
	// What does not fit is not kept, and neither is what was there before.
	noise := make([]byte, 2*maxShared)
	_, _ = rand.Read(noise)
	if err := place.write(t.Context(), noise); !errors.Is(err, errTooLarge) {
		t.Errorf("got %v, want errTooLarge", err)
	}
	if err := place.write(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if data, err := place.read(t.Context()); data != nil || err != nil {
		t.Errorf("read %d bytes, %v", len(data), err)
	}
}

// FuzzKept: whatever is in the file, reading it ends well.
func FuzzKept(f *testing.F) {
	data, err := encodeKept([]metav1.Object{meshOf(everyone)}, []topology.ObjectRef{{Kind: topology.KindBridge, Namespace: "a", Name: "b"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	nulls := []byte(`{"topologies":[null],"streams":[null],"bridges":[null]}`)
	sum := sha256.Sum256(nulls)
	f.Add(slices.Concat([]byte(keptHeader+hex.EncodeToString(sum[:])+"\n"), nulls))
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, _, err := decodeKept(data)
		if err == nil && objects == nil {
			t.Error("nothing known, and no error")
		}
		topology.Compile(topology.Input{InEffect: objects})
	})
}
