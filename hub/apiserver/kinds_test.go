package apiserver_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/hub/apiserver/apiservertest"
)

var clusterPlacement = v1alpha1.Placement{Clusters: []string{"a"}}

// kinds holds an object of each kind and a change of its status.
func kinds() map[string]struct {
	object client.Object
	list   client.ObjectList
	status func(client.Object)
} {
	return map[string]struct {
		object client.Object
		list   client.ObjectList
		status func(client.Object)
	}{
		"MessagingTopology": {
			&v1alpha1.MessagingTopology{
				ObjectMeta: metav1.ObjectMeta{Name: "crud"},
				Spec:       v1alpha1.MessagingTopologySpec{Groups: []v1alpha1.Group{{Name: "all", Selector: &metav1.LabelSelector{}}}},
			}, &v1alpha1.MessagingTopologyList{},
			func(o client.Object) { o.(*v1alpha1.MessagingTopology).Status.Members = "1/1" },
		},
		"MemberCluster": {
			&v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: "crud"}}, &v1alpha1.MemberClusterList{},
			func(o client.Object) { o.(*v1alpha1.MemberCluster).Status.Parts = "1/1" },
		},
		"JoinToken": {
			&v1alpha1.JoinToken{
				ObjectMeta: metav1.ObjectMeta{Name: "crud"},
				Spec: v1alpha1.JoinTokenSpec{
					SecretHash: strings.Repeat("0a", 32), Cluster: "edge-*",
					ExpiresAt: metav1.NewTime(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)),
				},
			}, &v1alpha1.JoinTokenList{},
			func(o client.Object) { o.(*v1alpha1.JoinToken).Status.Uses = 1 },
		},
		"Stream": {
			&v1alpha1.Stream{
				ObjectMeta: metav1.ObjectMeta{Name: "crud", Namespace: "never-created"},
				Spec:       v1alpha1.StreamSpec{Account: "orders", Placement: clusterPlacement},
			}, &v1alpha1.StreamList{},
			func(o client.Object) { o.(*v1alpha1.Stream).Status.Members = "1/1" },
		},
		"Bridge": {
			&v1alpha1.Bridge{
				ObjectMeta: metav1.ObjectMeta{Name: "crud", Namespace: "never-created"},
				Spec: v1alpha1.BridgeSpec{
					Account: "orders", Type: v1alpha1.BridgeQueue, From: clusterPlacement, To: v1alpha1.Placement{Group: "edge"},
					Stream: &v1alpha1.BridgeStreams{Name: "ORDERS"},
				},
			}, &v1alpha1.BridgeList{},
			func(o client.Object) { o.(*v1alpha1.Bridge).Status.Lag = 7 },
		},
		"TopologyRevision": {
			&v1alpha1.TopologyRevision{
				ObjectMeta: metav1.ObjectMeta{Name: "crud"},
				Spec:       v1alpha1.TopologyRevisionSpec{Topology: "t", Number: 1, Hash: "0a", Content: []byte{0xfb, 0xff, 0xfe}},
			}, &v1alpha1.TopologyRevisionList{},
			func(o client.Object) { o.(*v1alpha1.TopologyRevision).Status.Note = "at once" },
		},
	}
}

// TestKinds takes an object of each kind through its life.
func TestKinds(t *testing.T) {
	c := newClient(t, apiservertest.Start(t))
	for name, kind := range kinds() {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			ns := client.InNamespace(kind.object.GetNamespace())
			w, err := c.Watch(ctx, kind.list, ns)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			expect := func(want watch.EventType) {
				t.Helper()
				for {
					select {
					case e := <-w.ResultChan():
						if o, ok := e.Object.(client.Object); ok && o.GetName() == "crud" {
							if e.Type != want {
								t.Fatalf("event %s, want %s", e.Type, want)
							}
							return
						}
					case <-time.After(20 * time.Second):
						t.Fatalf("no event %s", want)
					}
				}
			}

			o := kind.object.DeepCopyObject().(client.Object)
			if err := c.Create(ctx, o); err != nil {
				t.Fatal(err)
			}
			expect(watch.Added)
			if err := c.Create(ctx, kind.object.DeepCopyObject().(client.Object)); !apierrors.IsAlreadyExists(err) {
				t.Errorf("created twice: %v", err)
			}

			// The status is written apart from the rest, and is no new generation.
			kind.status(o)
			stale := o.DeepCopyObject().(client.Object)
			if err := c.Status().Update(ctx, o); err != nil {
				t.Fatal(err)
			}
			expect(watch.Modified)
			o.SetLabels(map[string]string{"tier": "core"})
			if err := c.Update(ctx, o); err != nil {
				t.Fatal(err)
			}
			expect(watch.Modified)
			if o.GetGeneration() != 1 {
				t.Errorf("generation %d after changes of status and labels", o.GetGeneration())
			}
			if err := c.Status().Update(ctx, stale); !apierrors.IsConflict(err) {
				t.Errorf("an outdated update: %v, want a conflict", err)
			}

			got := kind.object.DeepCopyObject().(client.Object)
			if err := c.Get(ctx, client.ObjectKeyFromObject(o), got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(o, got); diff != "" {
				t.Errorf("read back (-written +read):\n%s", diff)
			}
			if err := c.List(ctx, kind.list, ns, client.MatchingLabels{"tier": "core"}); err != nil {
				t.Fatal(err)
			}
			if n := meta.LenList(kind.list); n != 1 {
				t.Errorf("listed %d", n)
			}

			// There is no garbage collector for this to wait for.
			if err := c.Delete(ctx, o, client.PropagationPolicy(metav1.DeletePropagationForeground)); err != nil {
				t.Fatal(err)
			}
			expect(watch.Deleted)
			if err := c.Get(ctx, client.ObjectKeyFromObject(o), got); !apierrors.IsNotFound(err) {
				t.Errorf("after the deletion: %v", err)
			}
		})
	}
}

// TestDefaults: what a user leaves out is filled in.
func TestDefaults(t *testing.T) {
	c := newClient(t, apiservertest.Start(t))
	maxBytes := resource.MustParse("1.5Gi")
	stream := &v1alpha1.Stream{
		ObjectMeta: metav1.ObjectMeta{Name: "defaults", Namespace: "default"},
		Spec:       v1alpha1.StreamSpec{Account: "orders", Placement: clusterPlacement, MaxBytes: &maxBytes},
	}
	bridge := &v1alpha1.Bridge{
		ObjectMeta: metav1.ObjectMeta{Name: "defaults", Namespace: "default"},
		Spec: v1alpha1.BridgeSpec{
			Account: "orders", Type: v1alpha1.BridgeStream, From: clusterPlacement, To: clusterPlacement,
			Stream: &v1alpha1.BridgeStreams{Name: "ORDERS"},
		},
	}
	token := &v1alpha1.JoinToken{
		ObjectMeta: metav1.ObjectMeta{Name: "defaults"},
		Spec: v1alpha1.JoinTokenSpec{
			SecretHash: strings.Repeat("0a", 32), Cluster: "a",
			ExpiresAt: metav1.NewTime(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)),
		},
	}
	topology := &v1alpha1.MessagingTopology{
		ObjectMeta: metav1.ObjectMeta{Name: "defaults"},
		Spec: v1alpha1.MessagingTopologySpec{
			Groups:   []v1alpha1.Group{{Name: "core", Clusters: []string{"a"}}, {Name: "edge", Selector: &metav1.LabelSelector{}}},
			Links:    []v1alpha1.LinkRule{{Name: "l", Type: v1alpha1.LinkHubAndSpoke, HubAndSpoke: &v1alpha1.HubAndSpoke{Hubs: "core", Spokes: "edge"}}},
			Accounts: []v1alpha1.Account{{Name: "orders", Namespaces: []string{"*"}}},
		},
	}
	for _, o := range []client.Object{stream, bridge, token, topology} {
		if err := c.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Delete(context.Background(), o) })
	}
	wantStream := v1alpha1.StreamSpec{
		Account: "orders", Placement: clusterPlacement, MaxBytes: &maxBytes,
		Retention: v1alpha1.RetentionLimits, Storage: v1alpha1.StorageFile, Discard: v1alpha1.DiscardOld, OnRemoval: v1alpha1.RemovalRetain,
	}
	if diff := cmp.Diff(wantStream, stream.Spec); diff != "" {
		t.Errorf("stream (-want +got):\n%s", diff)
	}
	if got := bridge.Spec.Stream.Flow; got != v1alpha1.FlowRunning {
		t.Errorf("bridge: flow %q", got)
	}
	if got := token.Spec.MaxUses; got != 1 {
		t.Errorf("token: %d uses", got)
	}
	wantHub := &v1alpha1.HubAndSpoke{Hubs: "core", Spokes: "edge", Parents: v1alpha1.ParentsOrdered, MaxParents: 2, Links: v1alpha1.SpokeLinksSeparate}
	if diff := cmp.Diff(wantHub, topology.Spec.Links[0].HubAndSpoke); diff != "" {
		t.Errorf("hubAndSpoke (-want +got):\n%s", diff)
	}
	if got := topology.Spec.Accounts[0].Replies; got != v1alpha1.RepliesShared {
		t.Errorf("account: replies %q", got)
	}
}

// TestCache: the hub's way of reading works, and follows.
func TestCache(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	cl, err := cluster.New(apiservertest.Start(t), func(o *cluster.Options) { o.Scheme = scheme })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- cl.Start(ctx) }()
	for _, kind := range kinds() {
		if _, err := cl.GetCache().GetInformer(ctx, kind.object); err != nil {
			t.Fatal(err)
		}
	}
	if !cl.GetCache().WaitForCacheSync(ctx) {
		t.Fatal("no sync")
	}
	m := &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: "cached"}}
	if err := cl.GetClient().Create(ctx, m); err != nil {
		t.Fatal(err)
	}
	await(t, func() error { return cl.GetClient().Get(ctx, client.ObjectKey{Name: "cached"}, m) })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestBookmarks: a watch that has nothing to tell still tells how far it is, so
// that it can be resumed.
func TestBookmarks(t *testing.T) {
	s := start(t, t.TempDir())
	install(t, s.RESTConfig())
	c := newClient(t, s.RESTConfig())
	// One interval for all servers of the process, each of which sets it.
	v3rpc.SetProgressReportInterval(100 * time.Millisecond)
	w, err := c.Watch(t.Context(), &v1alpha1.BridgeList{}, &client.ListOptions{Raw: &metav1.ListOptions{AllowWatchBookmarks: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	m := &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: "other-kind"}}
	if err := c.Create(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(20 * time.Second)
	for {
		select {
		case e := <-w.ResultChan():
			if e.Type != watch.Bookmark {
				t.Fatalf("event %s", e.Type)
			}
			if e.Object.(client.Object).GetResourceVersion() >= m.ResourceVersion {
				return
			}
		case <-deadline:
			t.Fatal("no bookmark")
		}
	}
}

// TestDiscovery: what clients ask before they do anything, in the forms of new and
// of old ones.
func TestDiscovery(t *testing.T) {
	cfg := apiservertest.Start(t)
	d, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, lists, err := d.ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, list := range lists {
		for _, r := range list.APIResources {
			found[list.GroupVersion+" "+r.Name+" "+strings.Join(r.Categories, ",")] = true
		}
	}
	for _, plural := range []string{"messagingtopologies", "memberclusters", "jointokens", "streams", "bridges"} {
		if !found[v1alpha1.GroupVersion.String()+" "+plural+" sealane"] || !found[v1alpha1.GroupVersion.String()+" "+plural+"/status "] {
			t.Errorf("%s not found in %v", plural, found)
		}
	}

	var groups metav1.APIGroupList
	body(t, cfg, "/apis", &groups)
	var names []string
	for _, g := range groups.Groups {
		names = append(names, g.PreferredVersion.GroupVersion)
	}
	if diff := cmp.Diff([]string{"apiextensions.k8s.io/v1", "messaging.sealane.dev/v1alpha1"}, names); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}
	var ns metav1.PartialObjectMetadata
	body(t, cfg, "/api/v1/namespaces/any", &ns)
	if ns.Kind != "Namespace" || ns.Name != "any" {
		t.Errorf("namespace %+v", ns)
	}
	version, err := d.ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	if version.Major != "1" || !strings.HasPrefix(version.GitVersion, "v1.") {
		t.Errorf("version %+v", version)
	}
	if docs, err := d.OpenAPISchema(); err != nil || !strings.Contains(docs.String(), "dev.sealane.messaging.v1alpha1.Bridge") {
		t.Errorf("OpenAPI v2: %v", err)
	}
	paths, err := d.OpenAPIV3().Paths()
	if err != nil {
		t.Fatal(err)
	}
	if paths["apis/messaging.sealane.dev/v1alpha1"] == nil {
		t.Errorf("OpenAPI v3: %v", paths)
	}
	if got := get(t, cfg, "/api/v1/secrets"); got != http.StatusNotFound {
		t.Errorf("secrets: status %d", got)
	}
}

func body(t *testing.T, cfg *rest.Config, path string, into any) {
	t.Helper()
	c, err := rest.HTTPClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer utilnet.CloseIdleConnectionsFor(c.Transport)
	resp, err := c.Get(cfg.Host + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v: %s", path, err, b)
	}
}
