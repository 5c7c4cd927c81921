package e2e

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/e2e/freeport"
)

// federation is a hub with members on this machine.
type federation struct {
	t       testing.TB
	dir     string
	address string // of the hub, for agents
	hub     *process
	kube    client.Client
	members map[string]*member
}

// member is an agent with its broker. Others reach it through its proxy only.
type member struct {
	*process
	name  string
	dir   string
	proxy *proxy // nil: it accepts no links
	links string // where it accepts links, behind the proxy
}

// newFederation starts a hub with an API server of its own.
func newFederation(t testing.TB) *federation {
	t.Helper()
	f := &federation{t: t, dir: t.TempDir(), address: freeport.Addr(t), members: map[string]*member{}}
	f.startHub(f.kubeconfig(), "--embedded", "--api-listen", freeport.Addr(t))
	return f
}

func (f *federation) data() string       { return filepath.Join(f.dir, "hub") }
func (f *federation) kubeconfig() string { return filepath.Join(f.data(), "kubeconfig") }

// startHub starts a hub whose API server the kubeconfig names, once it runs.
func (f *federation) startHub(kubeconfig string, args ...string) {
	f.t.Helper()
	f.hub = start(f.t, f.data(), "sealane-hub", append([]string{"--data", f.data(), "--listen", f.address,
		"--advertise", f.address, "--metrics-listen", ""}, args...)...)
	eventually(f.t, 60*time.Second, "the hub serves its API", func() error {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return err
		}
		config.QPS = -1
		scheme := runtime.NewScheme()
		if err := v1alpha1.AddToScheme(scheme); err != nil {
			return err
		}
		if f.kube, err = client.New(config, client.Options{Scheme: scheme}); err != nil {
			return err
		}
		for _, kind := range []client.ObjectList{
			&v1alpha1.MessagingTopologyList{}, &v1alpha1.MemberClusterList{}, &v1alpha1.JoinTokenList{},
			&v1alpha1.StreamList{}, &v1alpha1.BridgeList{},
		} {
			if err := f.kube.List(f.t.Context(), kind); err != nil {
				return err
			}
		}
		return nil
	})
}

// token makes a join token and returns its text.
func (f *federation) token(spec v1alpha1.JoinTokenSpec) string {
	f.t.Helper()
	text := federationv1.JoinToken{Name: "t-" + random(6), Secret: make([]byte, 32)}
	rand.Read(text.Secret) // never fails
	spec.SecretHash = text.SecretHash()
	if spec.ExpiresAt.IsZero() {
		spec.ExpiresAt = metav1.NewTime(time.Now().Add(10 * time.Minute))
	}
	object := &v1alpha1.JoinToken{ObjectMeta: metav1.ObjectMeta{Name: text.Name}, Spec: spec}
	f.create(object)
	eventually(f.t, 20*time.Second, "the hub completes the token", func() error {
		if err := f.kube.Get(f.t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
			return err
		}
		authority, err := hex.DecodeString(object.Status.Authority)
		if err != nil || len(authority) != len(text.Authority) || object.Status.Hub == "" {
			return fmt.Errorf("status is %+v", object.Status)
		}
		copy(text.Authority[:], authority)
		return nil
	})
	return text.String()
}

// join starts members that accept links.
func (f *federation) join(names ...string) {
	f.t.Helper()
	for _, name := range names {
		m := f.member(name)
		m.links = freeport.Addr(f.t)
		m.proxy = newProxy(f.t, m.links)
		f.launch(m, "--link-listen", m.links, "--advertise", m.proxy.address())
	}
	f.connected(names...)
}

// joinDialing starts members that only dial.
func (f *federation) joinDialing(names ...string) {
	f.t.Helper()
	for _, name := range names {
		f.launch(f.member(name))
	}
	f.connected(names...)
}

func (f *federation) member(name string) *member {
	m := &member{name: name, dir: filepath.Join(f.dir, "members", name)}
	f.members[name] = m
	return m
}

func (f *federation) launch(m *member, args ...string) {
	f.t.Helper()
	m.process = start(f.t, m.dir, "sealane-agent", append([]string{
		"--name", m.name, "--hub", f.address, "--data", m.dir, "--client-listen", freeport.Addr(f.t),
		"--token", f.token(v1alpha1.JoinTokenSpec{Cluster: m.name}),
	}, args...)...)
}

func (f *federation) connected(names ...string) {
	f.t.Helper()
	for _, name := range names {
		f.wait(&v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: name}}, v1alpha1.ConditionConnected, metav1.ConditionTrue)
	}
}

func (f *federation) create(objects ...client.Object) {
	f.t.Helper()
	for _, o := range objects {
		if err := f.kube.Create(f.t.Context(), o); err != nil {
			f.t.Fatalf("creating %T %s: %v", o, o.GetName(), err)
		}
	}
}

func (f *federation) delete(objects ...client.Object) {
	f.t.Helper()
	for _, o := range objects {
		if err := f.kube.Delete(f.t.Context(), o); err != nil {
			f.t.Fatalf("deleting %T %s: %v", o, o.GetName(), err)
		}
	}
}

// ready waits until the hub calls each object Ready in its present generation.
func (f *federation) ready(objects ...client.Object) {
	f.t.Helper()
	for _, o := range objects {
		f.wait(o, v1alpha1.ConditionReady, metav1.ConditionTrue)
	}
}

// wait waits for a condition of the object's present generation and returns it.
func (f *federation) wait(o client.Object, condition string, status metav1.ConditionStatus) metav1.Condition {
	f.t.Helper()
	var got metav1.Condition
	eventually(f.t, 60*time.Second, fmt.Sprintf("%T %s is %s=%s", o, o.GetName(), condition, status), func() error {
		if err := f.kube.Get(f.t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		conditions := conditionsOf(o)
		c := meta.FindStatusCondition(conditions, condition)
		if c == nil || c.Status != status || c.ObservedGeneration != o.GetGeneration() {
			return fmt.Errorf("generation %d has conditions %+v", o.GetGeneration(), conditions)
		}
		got = *c
		return nil
	})
	return got
}

// linkState waits until member reports its link to peer in that state.
func (f *federation) linkState(member, peer string, state v1alpha1.LinkState) {
	f.t.Helper()
	object := &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: member}}
	eventually(f.t, 30*time.Second, fmt.Sprintf("the link of %s to %s is %s", member, peer, state), func() error {
		if err := f.kube.Get(f.t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
			return err
		}
		for _, l := range object.Status.Links {
			if l.Peer == peer && l.State == state {
				return nil
			}
		}
		return fmt.Errorf("links are %+v", object.Status.Links)
	})
}

func conditionsOf(o client.Object) []metav1.Condition {
	switch o := o.(type) {
	case *v1alpha1.MessagingTopology:
		return o.Status.Conditions
	case *v1alpha1.MemberCluster:
		return o.Status.Conditions
	case *v1alpha1.Stream:
		return o.Status.Conditions
	case *v1alpha1.Bridge:
		return o.Status.Conditions
	}
	return nil
}

// connect opens a client connection with the credentials that the member's
// agent made for the account.
func (f *federation) connect(name, account string, opts ...nats.Option) *nats.Conn {
	f.t.Helper()
	m := f.members[name]
	var nc *nats.Conn
	eventually(f.t, 30*time.Second, "a client of "+account+" connects to "+name, func() (err error) {
		url, err := os.ReadFile(filepath.Join(m.dir, "url"))
		if err != nil {
			return err
		}
		nc, err = nats.Connect(strings.TrimSpace(string(url)), append([]nats.Option{
			nats.UserCredentials(filepath.Join(m.dir, "creds", account+".creds")),
			nats.MaxReconnects(-1), nats.ReconnectWait(100 * time.Millisecond), nats.Name("e2e"),
		}, opts...)...)
		return err
	})
	f.t.Cleanup(nc.Close)
	return nc
}

// topology is a topology over the named members with account "app" open to all
// namespaces.
func topology(links []v1alpha1.LinkRule, members ...string) *v1alpha1.MessagingTopology {
	return &v1alpha1.MessagingTopology{
		ObjectMeta: metav1.ObjectMeta{Name: "world"},
		Spec: v1alpha1.MessagingTopologySpec{
			Groups:   []v1alpha1.Group{{Name: "all", Clusters: members}},
			Links:    links,
			Accounts: []v1alpha1.Account{{Name: "app", Namespaces: []string{"*"}}},
		},
	}
}

func mesh(groups ...string) []v1alpha1.LinkRule {
	return []v1alpha1.LinkRule{{Name: "mesh", Type: v1alpha1.LinkMesh, Groups: groups}}
}

func named(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "default", Name: name}
}

func at(clusters ...string) v1alpha1.Placement { return v1alpha1.Placement{Clusters: clusters} }

// eventually polls until try succeeds; it fails the test with try's last error.
func eventually(t testing.TB, within time.Duration, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not within %v: %s: %v", within, what, err)
		}
	}
}

func random(n int) string {
	b := make([]byte, n/2)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
