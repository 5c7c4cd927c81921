package statefulset

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
	"github.com/sealane/sealane/broker/brokertest"
	"github.com/sealane/sealane/broker/embedded"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

const testDomain = "test.local"

// world is one member whose servers run on this machine.
type world struct {
	t       *testing.T
	name    string
	place   *machine
	keyring *broker.Keyring
	dir     string
	rt      *Runtime
	config  broker.Config
	parts   []*federationv1.Part
	ca      *federation
}

// federation issues certificates to members.
type federation struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func ctxFor(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.After(90 * time.Second)
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

func newWorld(t *testing.T, replicas int) *world {
	t.Helper()
	return newMember(t, newFederation(t), "a", replicas)
}

func newMember(t *testing.T, ca *federation, name string, replicas int) *world {
	t.Helper()
	w := &world{t: t, name: name, place: newMachine(t), dir: t.TempDir(), ca: ca}
	var err error
	if w.keyring, err = broker.LoadOrCreateKeyring(w.dir + "/seed"); err != nil {
		t.Fatal(err)
	}
	w.config = broker.Config{
		Cluster: name, TrustDomain: testDomain, TLS: w.ca.issue(t, name), Authorities: [][]byte{w.ca.cert.Raw},
		Spec: &federationv1.BrokerSpec{MaxStorage: 64 << 20, MaxMemory: 8 << 20, Replicas: int32(replicas)},
	}
	w.open()
	t.Cleanup(w.close)
	return w
}

func (w *world) open() {
	w.t.Helper()
	var err error
	log := slog.New(slog.NewTextHandler(&agentWriter{w.t}, nil))
	if w.rt, err = New(Options{DataDir: w.dir, Member: w.name, Keyring: w.keyring, Place: w.place, Log: log}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) close() {
	if err := w.rt.Shutdown(context.Background()); err != nil {
		w.t.Error(err)
	}
}

type agentWriter struct{ t *testing.T }

func (w *agentWriter) Write(p []byte) (int, error) {
	w.t.Helper()
	w.t.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

func newFederation(t *testing.T) *federation {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "federation"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &federation{key: key, cert: cert}
}

func (f *federation) issue(t *testing.T, name string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, _ := url.Parse(federationv1.MemberID(testDomain, name))
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{id}, DNSNames: []string{federationv1.MemberDNSName(testDomain, name)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, f.cert, key.Public(), f.key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(f.cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, RootCAs: pool, ClientCAs: pool}
}

// acceptor is a peer in this process that accepts the link of the member. It
// returns its address and its permission.
func (w *world) acceptor(name string) (string, *federationv1.Grant) {
	w.t.Helper()
	k, err := broker.LoadOrCreateKeyring(w.t.TempDir() + "/seed")
	if err != nil {
		w.t.Fatal(err)
	}
	rt, err := embedded.New(embedded.Options{
		DataDir: brokertest.Dir(w.t), ClientListen: "127.0.0.1:0", LinkListen: "127.0.0.1:0", Keyring: k,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		_ = rt.Shutdown(ctx)
	})
	grant, err := broker.IssueGrant(k, "a", w.keyring.LinkUser().Public, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	claims, errs := k.Accounts(name, []*federationv1.Part{{Id: federationv1.LinkID("a"), Spec: &federationv1.Part_Link{
		Link: &federationv1.LinkSpec{Peer: "a", Role: federationv1.LinkSpec_ACCEPT, PeerKey: grant.Key},
	}}})
	if len(errs) > 0 {
		w.t.Fatal(errs)
	}
	rt.SetAccounts(ctxFor(w.t), claims)
	if _, err := rt.Configure(ctxFor(w.t), broker.Config{
		Cluster: name, TrustDomain: testDomain, TLS: w.ca.issue(w.t, name),
		Spec: &federationv1.BrokerSpec{MaxStorage: 64 << 20, MaxMemory: 8 << 20},
	}); err != nil {
		w.t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", rt.LinkPort()), grant
}

func (w *world) account(names ...string) {
	for _, name := range names {
		w.parts = append(w.parts, &federationv1.Part{
			Id:   federationv1.AccountID(name),
			Spec: &federationv1.Part_Account{Account: &federationv1.AccountSpec{Name: name, Application: true}},
		})
	}
}

func (w *world) setAccounts() {
	w.t.Helper()
	claims, errs := w.keyring.Accounts(w.name, w.parts)
	if len(errs) > 0 {
		w.t.Fatal(errs)
	}
	if errs := w.rt.SetAccounts(ctxFor(w.t), claims); len(errs) > 0 {
		w.t.Fatal(errs)
	}
}

func (w *world) start() {
	w.t.Helper()
	w.setAccounts()
	w.configure()
	w.setAccounts()
}

func (w *world) configure() {
	w.t.Helper()
	if _, err := w.rt.Configure(ctxFor(w.t), w.config); err != nil {
		w.t.Fatal(err)
	}
}

// settled waits until n servers run and nothing is to be done.
func (w *world) settled(n int) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d servers", n), func() error {
		if got := len(w.rt.pods()); got != n {
			return fmt.Errorf("%d servers: %s", got, w.rt.Status())
		}
		if s := w.rt.Status(); s != (action{kind: rest}).String() {
			return errors.New(s)
		}
		return nil
	})
}

// app connects as an application does; server < 0: to any.
func (w *world) app(account string, server int, opts ...nats.Option) *nats.Conn {
	w.t.Helper()
	nc, err := w.tryApp(account, server, opts...)
	if err != nil {
		w.t.Fatal(err)
	}
	return nc
}

func (w *world) tryApp(account string, server int, opts ...nats.Option) (*nats.Conn, error) {
	creds, err := broker.UserCreds(w.keyring, account)
	if err != nil {
		w.t.Fatal(err)
	}
	urls := w.rt.ClientURL()
	if server >= 0 {
		urls = "tls://" + w.place.Address(server).Client
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.rt.ClientCA())
	nc, err := nats.Connect(urls, append([]nats.Option{
		nats.UserCredentialBytes(creds), nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.Secure(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}), nats.IgnoreDiscoveredServers(),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}, opts...)...)
	if err == nil {
		w.t.Cleanup(nc.Close)
	}
	return nc, err
}

func jsOf(t *testing.T, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func (w *world) stream(nc *nats.Conn, name string, replicas, messages int) {
	w.t.Helper()
	js := jsOf(w.t, nc)
	eventually(w.t, "create stream "+name, func() error {
		ctx, cancel := context.WithTimeout(ctxFor(w.t), 5*time.Second)
		defer cancel()
		_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name + ".>"}, Replicas: replicas})
		return err
	})
	for i := range messages {
		if _, err := js.Publish(ctxFor(w.t), name+".x", fmt.Appendf(nil, "%d", i)); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) wantMessages(nc *nats.Conn, name string, n uint64) {
	w.t.Helper()
	js := jsOf(w.t, nc)
	eventually(w.t, "messages of "+name, func() error {
		ctx, cancel := context.WithTimeout(ctxFor(w.t), 5*time.Second)
		defer cancel()
		s, err := js.Stream(ctx, name)
		if err != nil {
			return err
		}
		if got := s.CachedInfo().State.Msgs; got != n {
			return fmt.Errorf("%d messages, want %d", got, n)
		}
		return nil
	})
}

// One server becomes three and one again; what was stored stays, wherever it was.
func TestScale(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.account("app", "other")
	w.start()
	w.settled(1)
	nc := w.app("app", -1)
	w.stream(nc, "ONE", 1, 20)

	w.config.Spec = &federationv1.BrokerSpec{MaxStorage: 64 << 20, MaxMemory: 8 << 20, Replicas: 3}
	w.configure()
	w.settled(3)
	w.stream(nc, "ONE", 3, 0)
	w.stream(nc, "THREE", 3, 20)
	for i := range 6 { // wherever they come to be
		w.stream(nc, fmt.Sprintf("S%d", i), 1, 5)
	}
	w.settled(3)

	w.config.Spec = &federationv1.BrokerSpec{MaxStorage: 64 << 20, MaxMemory: 8 << 20, Replicas: 1}
	w.configure()
	w.settled(1)
	w.wantMessages(nc, "ONE", 20)
	w.wantMessages(nc, "THREE", 20)
	for i := range 6 {
		w.wantMessages(nc, fmt.Sprintf("S%d", i), 5)
	}

	// And back at once: who left comes as someone else.
	w.config.Spec = &federationv1.BrokerSpec{MaxStorage: 64 << 20, MaxMemory: 8 << 20, Replicas: 3}
	w.configure()
	w.settled(3)
	w.wantMessages(nc, "THREE", 20)
}
