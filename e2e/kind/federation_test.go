//go:build e2e

package kind

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/e2e/kind/lab"
)

const (
	// system is where the charts are installed, applications where the account's
	// credentials go.
	system, applications = "sealane", "shop"
	// Ports of the nodes: what agents dial, what peers dial, what applications dial.
	hubPort, linkPort, clientPort = 30743, 30722, 30422
)

// member is a broker that applications can connect to.
type member interface {
	// dial opens a connection of an application of an account.
	dial(ctx context.Context, account string, opts ...nats.Option) (*nats.Conn, error)
}

// onKubernetes is a member that the agent chart made.
type onKubernetes struct {
	cluster *lab.Cluster
	kube    client.Client
}

// dial uses what an application in the cluster gets, the Secret of the account,
// through a node port.
func (m *onKubernetes) dial(ctx context.Context, account string, opts ...nats.Option) (*nats.Conn, error) {
	var secret corev1.Secret
	if err := m.kube.Get(ctx, client.ObjectKey{Namespace: applications, Name: "sealane-" + account}, &secret); err != nil {
		return nil, err
	}
	inside, err := url.Parse(strings.TrimSpace(string(secret.Data["url"])))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(secret.Data["ca.crt"]) {
		return nil, fmt.Errorf("no authority in the Secret of %s", m.cluster.Name)
	}
	return nats.Connect(fmt.Sprintf("tls://%s:%d", m.cluster.IP, clientPort), append(options(m.cluster.Name),
		append(opts, nats.UserCredentialBytes(secret.Data["user.creds"]), nats.IgnoreDiscoveredServers(), // they are inside
			nats.Secure(&tls.Config{RootCAs: roots, ServerName: inside.Hostname(), MinVersion: tls.VersionTLS12}))...)...)
}

// options are common to all connections of tests.
func options(where string) []nats.Option {
	return []nats.Option{
		nats.MaxReconnects(-1), nats.ReconnectWait(100 * time.Millisecond), nats.PingInterval(2 * time.Second), nats.MaxPingsOutstanding(2),
		nats.Timeout(5 * time.Second), nats.Name("e2e at " + where),
	}
}

// onMachine is a member outside Kubernetes.
type onMachine struct {
	*process
	name, dir string
}

func (m *onMachine) dial(_ context.Context, account string, opts ...nats.Option) (*nats.Conn, error) {
	address, err := os.ReadFile(filepath.Join(m.dir, "url"))
	if err != nil {
		return nil, err
	}
	return nats.Connect(strings.TrimSpace(string(address)),
		append(options(m.name), append(opts, nats.UserCredentials(filepath.Join(m.dir, "creds", account+".creds")))...)...)
}

// federation is a hub with its members.
type federation struct {
	runs    version       // what is installed
	settled time.Time     // since when all of it is
	apart   []span        // when releases were uninstalled
	kube    client.Client // of the hub's cluster
	members map[string]member
	written int // orders that were stored at berlin, by all cases
}

// span is a stretch of time.
type span struct{ from, to time.Time }

// connect opens a connection that is closed at the end of the test.
func (f *federation) connect(t testing.TB, name string) *nats.Conn {
	t.Helper()
	var nc *nats.Conn
	eventually(t, 2*time.Minute, "an application connects to "+name, func() (err error) {
		nc, err = f.members[name].dial(t.Context(), "app")
		return err
	})
	t.Cleanup(nc.Close)
	return nc
}

// clientOf is a typed client of a cluster.
func clientOf(t testing.TB, c *lab.Cluster) client.Client {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	s := runtime.NewScheme()
	if err := scheme.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	if err := v1alpha1.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	kube, err := client.New(config, client.Options{Scheme: s})
	if err != nil {
		t.Fatal(err)
	}
	return kube
}

// token makes a join token for one member and returns its text.
func (f *federation) token(t testing.TB, member string) string {
	t.Helper()
	text := federationv1.JoinToken{Name: "t-" + random(), Secret: make([]byte, 32)}
	rand.Read(text.Secret) // never fails
	object := &v1alpha1.JoinToken{ObjectMeta: metav1.ObjectMeta{Name: text.Name}, Spec: v1alpha1.JoinTokenSpec{
		Cluster: member, SecretHash: text.SecretHash(), ExpiresAt: metav1.NewTime(time.Now().Add(15 * time.Minute)),
	}}
	if err := f.kube.Create(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the hub completes the token", func() error {
		if err := f.kube.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
			return err
		}
		authority, err := hex.DecodeString(object.Status.Authority)
		if err != nil || len(authority) != len(text.Authority) || object.Status.Hub == "" {
			return fmt.Errorf("its status is %+v", object.Status)
		}
		copy(text.Authority[:], authority)
		return nil
	})
	return text.String()
}

func (f *federation) create(t testing.TB, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := f.kube.Create(t.Context(), o); err != nil {
			t.Fatalf("creating %T %s: %v", o, o.GetName(), err)
		}
	}
}

// ready waits until the hub calls each object Ready in its present generation.
func (f *federation) ready(t testing.TB, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		f.wait(t, o, v1alpha1.ConditionReady, metav1.ConditionTrue)
	}
}

// wait waits for a condition of the object's present generation.
func (f *federation) wait(t testing.TB, o client.Object, condition string, status metav1.ConditionStatus) {
	t.Helper()
	eventually(t, 5*time.Minute, fmt.Sprintf("%T %s is %s=%s", o, o.GetName(), condition, status), func() error {
		if err := f.kube.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		c := meta.FindStatusCondition(conditionsOf(o), condition)
		if c == nil || c.Status != status || c.ObservedGeneration != o.GetGeneration() {
			return fmt.Errorf("generation %d has conditions %+v", o.GetGeneration(), conditionsOf(o))
		}
		return nil
	})
}

// update changes an object, again when somebody else has changed it meanwhile.
func update[T client.Object](t testing.TB, f *federation, o T, change func(T)) {
	t.Helper()
	eventually(t, time.Minute, "updating "+o.GetName(), func() error {
		if err := f.kube.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		change(o)
		return f.kube.Update(t.Context(), o)
	})
}

// gone waits until a member's object is.
func (f *federation) gone(t testing.TB, name string) {
	t.Helper()
	eventually(t, 5*time.Minute, name+" is gone", func() error {
		m := memberCluster(name)
		err := f.kube.Get(t.Context(), client.ObjectKeyFromObject(m), m)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("%w: %+v", err, m.Status.Conditions)
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

func memberCluster(name string) *v1alpha1.MemberCluster {
	return &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func named(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: applications, Name: name}
}

func at(clusters ...string) v1alpha1.Placement { return v1alpha1.Placement{Clusters: clusters} }

func random() string {
	b := make([]byte, 4)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
