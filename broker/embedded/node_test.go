package embedded

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
	"github.com/sealane/sealane/broker/brokertest"
	"github.com/sealane/sealane/e2e/freeport"
)

// nodeWorld is a member whose servers are nodes of this process.
type nodeWorld struct {
	t       *testing.T
	ca      *authority
	keyring *broker.Keyring
	issued  int64
	state   *brokerv1.State
	nodes   []*Node
	clients []string
}

func newNodeWorld(t *testing.T) *nodeWorld {
	t.Helper()
	w := &nodeWorld{t: t, ca: newAuthority(t), issued: time.Now().Unix()}
	var err error
	if w.keyring, err = broker.LoadOrCreateKeyring(t.TempDir() + "/seed"); err != nil {
		t.Fatal(err)
	}
	id := w.identity(w.ca.issueLocal(t, time.Now().Add(time.Hour)))
	w.state = &brokerv1.State{
		Generation: 1, Member: "a", TrustDomain: testDomain, Operator: w.keyring.Operator().Public,
		SystemAccount: w.keyring.Account(broker.SystemAccount).Public,
		Spec:          &federationv1.BrokerSpec{MaxStorage: 64 << 20, MaxMemory: 8 << 20},
		Local:         id,
	}
	return w
}

func (w *nodeWorld) identity(c *tls.Config) *brokerv1.Identity {
	w.t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.Certificates[0].PrivateKey)
	if err != nil {
		w.t.Fatal(err)
	}
	return &brokerv1.Identity{Chain: c.Certificates[0].Certificate, Key: key, Authorities: [][]byte{w.ca.cert.Raw}}
}

// accounts makes the state's accounts from parts.
func (w *nodeWorld) accounts(parts ...*federationv1.Part) {
	w.t.Helper()
	claims, errs := w.keyring.Accounts("a", parts)
	if len(errs) > 0 {
		w.t.Fatal(errs)
	}
	claims[broker.SystemAccount] = jwt.NewAccountClaims(w.keyring.Account(broker.SystemAccount).Public)
	w.issued++
	w.state = proto.Clone(w.state).(*brokerv1.State)
	w.state.Accounts = nil
	for name, c := range claims {
		c.Name = name
		token, err := broker.Sign(c, w.keyring.Operator(), time.Unix(w.issued, 0))
		if err != nil {
			w.t.Fatal(err)
		}
		w.state.Accounts = append(w.state.Accounts, &brokerv1.Account{Name: name, Key: c.Subject, Token: token})
	}
}

// add makes one more node, which runs nothing yet.
func (w *nodeWorld) add() *Node {
	w.t.Helper()
	route := freeport.Addr(w.t)
	name := fmt.Sprintf("p%d", len(w.nodes))
	client := freeport.Addr(w.t)
	n, err := NewNode(NodeOptions{
		DataDir: brokertest.Dir(w.t), Name: name, ClientListen: client, RouteListen: route, LameDuck: time.Second,
		Log: testLogger(w.t, name),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		_ = n.Stop(ctx)
	})
	w.nodes, w.clients = append(w.nodes, n), append(w.clients, "tls://"+client)
	w.state = proto.Clone(w.state).(*brokerv1.State)
	w.state.Servers = append(w.state.Servers, &brokerv1.Server{Name: name, Route: route})
	return n
}

// push gives all nodes the state.
func (w *nodeWorld) push() {
	w.t.Helper()
	w.state = proto.Clone(w.state).(*brokerv1.State)
	w.state.Generation++
	for _, n := range w.nodes {
		a, err := n.Apply(ctxFor(w.t), w.state)
		if err != nil {
			w.t.Fatal(err)
		}
		if len(a.Accounts) > 0 || len(a.Peers) > 0 || a.Problem != "" {
			w.t.Fatalf("%s: not in effect: %v", n.opts.Name, a)
		}
	}
}

func (w *nodeWorld) grow() *Node {
	w.t.Helper()
	n := w.add()
	w.push()
	if err := n.Begin(ctxFor(w.t), len(w.nodes) == 1); err != nil {
		w.t.Fatal(err)
	}
	w.waitHealthy(len(w.nodes))
	return n
}

// waitHealthy waits until a group of that size has a leader and all is current.
func (w *nodeWorld) waitHealthy(size int) {
	w.t.Helper()
	eventually(w.t, "healthy cluster", func() error {
		for _, n := range w.nodes {
			o := n.Observe(true)
			switch {
			case o.Phase != brokerv1.Observation_RUNNING:
				continue
			case !o.Healthy:
				return fmt.Errorf("%s: %s", o.Name, o.Health)
			case o.Meta.Leader == "" || int(o.Meta.Size) != size:
				return fmt.Errorf("%s: leader %q, size %d", o.Name, o.Meta.Leader, o.Meta.Size)
			}
			for _, s := range o.Streams {
				for _, p := range s.Peers {
					if s.Leader && !p.Current {
						return fmt.Errorf("%s: %s is not current", s.Name, p.Name)
					}
				}
			}
		}
		return nil
	})
}

func (w *nodeWorld) connect(account string) *nats.Conn {
	w.t.Helper()
	return w.connectTo(account, w.clients...)
}

func (w *nodeWorld) connectTo(account string, servers ...string) *nats.Conn {
	w.t.Helper()
	creds, err := broker.UserCreds(w.keyring, account)
	if err != nil {
		w.t.Fatal(err)
	}
	nc, err := nats.Connect(strings.Join(servers, ","), nats.UserCredentialBytes(creds), nats.MaxReconnects(-1),
		nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0), nats.IgnoreDiscoveredServers(),
		nats.Secure(&tls.Config{RootCAs: w.ca.pool, MinVersion: tls.VersionTLS12}))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(nc.Close)
	return nc
}

func appPart(name string) *federationv1.Part {
	return &federationv1.Part{Id: federationv1.AccountID(name), Spec: &federationv1.Part_Account{Account: &federationv1.AccountSpec{Name: name, Application: true}}}
}

// A cluster begins with one server, has a leader, and grows to three: what was
// stored by one gets replicas on all.
func TestNodesFoundAndGrow(t *testing.T) {
	w := newNodeWorld(t)
	w.accounts(appPart("app"))
	w.grow()
	nc := w.connect("app")
	fill(t, nc, "S", 10)
	w.grow()
	w.grow()
	js := jsOf(t, nc)
	if _, err := js.UpdateStream(ctxFor(t), jetstream.StreamConfig{Name: "S", Subjects: []string{"S.>"}, MaxBytes: 1 << 20, Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	w.waitHealthy(3)
	wantMessages(t, nc, "S", 10)
}

// A server that stands alone again after a restart leads itself.
func TestNodeAloneRestarts(t *testing.T) {
	w := newNodeWorld(t)
	w.accounts(appPart("app"))
	n := w.grow()
	nc := w.connect("app")
	fill(t, nc, "S", 10)
	if err := n.Restart(ctxFor(t)); err != nil {
		t.Fatal(err)
	}
	w.waitHealthy(1)
	wantMessages(t, nc, "S", 10)
	if err := n.Begin(ctxFor(t), true); err == nil {
		t.Error("a node with data founded a cluster")
	}
}
