package embedded

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
	"github.com/sealane/sealane/broker/brokertest"
)

const testDomain = "test.local"

func TestMain(m *testing.M) {
	// A stream that waits for its source waits on after its server has ended.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*stream).trySetupSourceConsumer.func3"))
}

// eventually polls until f returns nil.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	poll := time.NewTicker(5 * time.Millisecond)
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

// authority issues certificates like the federation's.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{key: key, cert: cert, pool: pool}
}

// issue makes the TLS configuration of a member.
func (a *authority) issue(t *testing.T, name string, until time.Time, incarnation ...string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, _ := url.Parse(federationv1.MemberID(testDomain, name))
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		URIs: []*url.URL{id}, DNSNames: []string{federationv1.MemberDNSName(testDomain, name)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, i := range incarnation {
		tmpl.DNSNames = append(tmpl.DNSNames, federationv1.IncarnationDNSName(testDomain, name, i))
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      a.pool, ClientCAs: a.pool,
	}
}

// issueLocal makes the TLS configuration of a server of a member.
func (a *authority) issueLocal(t *testing.T, until time.Time) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, RootCAs: a.pool, ClientCAs: a.pool}
}

// member is one broker of a test federation with the parts that it shall hold.
type member struct {
	t       *testing.T
	name    string
	dir     string
	keyring *broker.Keyring
	rt      *Runtime
	config  broker.Config
	parts   map[string]*federationv1.Part
}

// newMember makes a member that accepts links and does not run yet.
func newMember(t *testing.T, ca *authority, name string) *member {
	t.Helper()
	m := &member{t: t, name: name, dir: brokertest.Dir(t), parts: map[string]*federationv1.Part{}}
	var err error
	if m.keyring, err = broker.LoadOrCreateKeyring(m.dir + "/seed"); err != nil {
		t.Fatal(err)
	}
	m.config = broker.Config{
		Cluster: name, TrustDomain: testDomain, TLS: ca.issue(t, name, time.Now().Add(time.Hour)),
		Spec: &federationv1.BrokerSpec{MaxStorage: 64 << 20, MaxMemory: 8 << 20},
	}
	m.newRuntime()
	t.Cleanup(func() { m.shutdown() })
	return m
}

func (m *member) newRuntime() {
	m.t.Helper()
	var err error
	m.rt, err = New(Options{
		DataDir: m.dir, ClientListen: "127.0.0.1:0", LinkListen: "127.0.0.1:0", Keyring: m.keyring,
		Log: testLogger(m.t, m.name),
	})
	if err != nil {
		m.t.Fatal(err)
	}
}

func testLogger(t *testing.T, name string) *slog.Logger {
	level := slog.LevelWarn
	if os.Getenv("DEBUG_BROKER") != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(&testWriter{t: t}, &slog.HandlerOptions{Level: level})).With("member", name)
}

// testWriter shows the log of a failing test only.
type testWriter struct{ t *testing.T }

func (w *testWriter) Write(p []byte) (int, error) {
	w.t.Helper()
	w.t.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

func (m *member) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := m.rt.Shutdown(ctx); err != nil {
		m.t.Error(err)
	}
}

func ctxFor(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// configure applies config and then the parts, as an agent does after its start.
func (m *member) start() {
	m.t.Helper()
	m.setAccounts()
	m.configure()
	m.setAccounts()
}

func (m *member) configure() bool {
	m.t.Helper()
	restarted, err := m.rt.Configure(ctxFor(m.t), m.config)
	if err != nil {
		m.t.Fatalf("%s: %v", m.name, err)
	}
	return restarted
}

func (m *member) setAccounts() {
	m.t.Helper()
	var parts []*federationv1.Part
	for _, p := range m.parts {
		parts = append(parts, p)
	}
	claims, errs := m.keyring.Accounts(m.name, parts)
	if len(errs) > 0 {
		m.t.Fatalf("%s: %v", m.name, errs)
	}
	if errs := m.rt.SetAccounts(ctxFor(m.t), claims); len(errs) > 0 {
		m.t.Fatalf("%s: %v", m.name, errs)
	}
}

func (m *member) account(name string) *federationv1.AccountSpec {
	id := federationv1.AccountID(name)
	if m.parts[id] == nil {
		app := !strings.HasPrefix(name, "tx_") && !strings.HasPrefix(name, "rx_")
		m.parts[id] = &federationv1.Part{Id: id, Spec: &federationv1.Part_Account{Account: &federationv1.AccountSpec{Name: name, Application: app}}}
	}
	return m.parts[id].GetAccount()
}

func (m *member) imports(into, from, subject, to string) {
	m.importPart(into, &federationv1.Import{Account: from, Subject: subject, To: to})
}

func (m *member) importsService(into, from, subject, to string) {
	m.importPart(into, &federationv1.Import{Account: from, Subject: subject, To: to, Service: true})
}

func (m *member) importPart(into string, i *federationv1.Import) {
	a := m.account(into)
	for _, o := range a.Imports {
		if o.String() == i.String() {
			return
		}
	}
	a.Imports = append(a.Imports, i)
}

// link joins two members: dialer dials acceptor, through via if it is not empty.
// The acceptor must run already.
func link(t *testing.T, dialer, acceptor *member, via ...string) {
	t.Helper()
	grant, err := broker.IssueGrant(acceptor.keyring, dialer.name, dialer.keyring.LinkUser().Public, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := broker.VerifyGrant(grant, dialer.keyring.LinkUser().Public); err != nil {
		t.Fatal(err)
	}
	addLinkPart(acceptor, &federationv1.LinkSpec{Peer: dialer.name, Role: federationv1.LinkSpec_ACCEPT, PeerKey: grant.Key})
	acceptor.setAccounts()
	addLinkPart(dialer, &federationv1.LinkSpec{Peer: acceptor.name, Role: federationv1.LinkSpec_DIAL, Grant: grant})
	endpoints := via
	if len(endpoints) == 0 {
		endpoints = []string{acceptor.linkAddr()}
	}
	dialer.setAccounts()
	dialer.config.Remotes = append(dialer.config.Remotes,
		broker.Remote{Peer: acceptor.name, Out: true, Endpoints: endpoints, JWT: grant.Out},
		broker.Remote{Peer: acceptor.name, Out: false, Endpoints: endpoints, JWT: grant.In})
	if dialer.rt.server() != nil {
		dialer.configure()
	}
}

func addLinkPart(m *member, s *federationv1.LinkSpec) {
	id := federationv1.LinkID(s.Peer)
	m.parts[id] = &federationv1.Part{Id: id, Spec: &federationv1.Part_Link{Link: s}}
}

func (m *member) linkAddr() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(m.rt.LinkPort()))
}

// waitLinks waits until the member has n leaf connections.
func (m *member) waitLinks(n int) {
	m.t.Helper()
	eventually(m.t, m.name+": links", func() error {
		conns, err := m.rt.LeafConns()
		if err != nil {
			return err
		}
		if len(conns) != n {
			return fmt.Errorf("%d leaf connections, want %d: %v", len(conns), n, conns)
		}
		return nil
	})
}

// app connects to an account as an application does: over TCP, with its
// credentials file.
func (m *member) app(account string, opts ...nats.Option) *nats.Conn {
	m.t.Helper()
	creds, err := broker.UserCreds(m.keyring, account)
	if err != nil {
		m.t.Fatal(err)
	}
	all := append([]nats.Option{
		nats.UserCredentialBytes(creds), nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond),
		nats.ReconnectJitter(0, 0), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), nats.CustomInboxPrefix("_INBOX." + m.name),
	}, opts...)
	nc, err := nats.Connect(m.rt.ClientURL(), all...)
	if err != nil {
		m.t.Fatalf("%s: %v", m.name, err)
	}
	m.t.Cleanup(nc.Close)
	return nc
}

// agent connects in process.
func (m *member) agent(account string) *nats.Conn {
	m.t.Helper()
	nc, err := m.rt.Connect(account)
	if err != nil {
		m.t.Fatalf("%s: %v", m.name, err)
	}
	m.t.Cleanup(nc.Close)
	return nc
}

// passResets has resets of other members passed on, as the agent does.
func (m *member) passResets(account string) {
	m.t.Helper()
	nc := m.agent(account)
	if _, err := nc.Subscribe(federationv1.ResetPrefix+"CONSUMER.RESET.*.*", func(r *nats.Msg) {
		request := &nats.Msg{Subject: "$JS.API." + strings.TrimPrefix(r.Subject, federationv1.ResetPrefix), Header: r.Header}
		if answer, err := nc.RequestMsg(request, 5*time.Second); err == nil {
			_ = r.RespondMsg(answer)
		}
	}); err != nil {
		m.t.Fatal(err)
	}
}

// path is a way from the first member to the last, over links.
type path []*member

// forward lets subject flow along the path in an account.
func (p path) forward(account, subject string) {
	o, d := p[0], p[len(p)-1]
	tagged := "fo." + o.name + "." + account + "." + subject
	o.imports("tx_"+p[1].name, account, subject, tagged)
	for i := 1; i < len(p)-1; i++ {
		p[i].imports("tx_"+p[i+1].name, "rx_"+p[i-1].name, tagged, "")
	}
	d.imports(account, "rx_"+p[len(p)-2].name, tagged, subject)
}

// reply lets the replies of the last member's responders return along the path.
func (p path) reply(account, subject string) {
	o, d := p[0], p[len(p)-1]
	tagged := "re." + d.name + "." + account + "." + subject
	d.imports("rx_"+p[len(p)-2].name, account, subject, tagged)
	for i := 1; i < len(p)-1; i++ {
		p[i].imports("rx_"+p[i-1].name, "tx_"+p[i+1].name, tagged, "")
	}
	o.imports(account, "tx_"+p[1].name, tagged, subject)
}

// reset lets the last member reset a consumer of the first.
func (p path) reset(account, stream, consumer string) {
	o, d := p[0], p[len(p)-1]
	op := "CONSUMER.RESET." + stream + "." + consumer
	tagged := "fedjs." + o.name + "." + account + "." + op
	o.importsService("tx_"+p[1].name, account, federationv1.ResetPrefix+op, tagged)
	for i := 1; i < len(p)-1; i++ {
		p[i].importsService("tx_"+p[i+1].name, "rx_"+p[i-1].name, tagged, "")
	}
	d.importsService(account, "rx_"+p[len(p)-2].name, tagged, "fedjs."+o.name+"."+op)
}

func (p path) reversed() path {
	var r path
	for i := len(p) - 1; i >= 0; i-- {
		r = append(r, p[i])
	}
	return r
}

// inbox counts messages by payload.
type inbox struct {
	mu  sync.Mutex
	got map[string]int
}

func listen(t *testing.T, nc *nats.Conn, subject string) *inbox {
	t.Helper()
	b := &inbox{got: map[string]int{}}
	if _, err := nc.Subscribe(subject, func(m *nats.Msg) {
		b.mu.Lock()
		b.got[string(m.Data)]++
		b.mu.Unlock()
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *inbox) count(payload string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.got[payload]
}

// exactlyOnce checks that messages published at one place arrive at every box
// once. It first waits until the way is open.
func exactlyOnce(t *testing.T, label string, from *nats.Conn, subject string, boxes map[string]*inbox) {
	t.Helper()
	publish := func(payload string) {
		if err := from.Publish(subject, []byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	arrived := func(payload string) error {
		for name, b := range boxes {
			if b.count(payload) == 0 {
				return fmt.Errorf("nothing at %s", name)
			}
		}
		return nil
	}
	eventually(t, label+": the way opens", func() error {
		publish(label + "/open")
		return arrived(label + "/open")
	})
	const n = 100
	for i := range n {
		publish(label + "/" + strconv.Itoa(i))
	}
	publish(label + "/end")
	eventually(t, label+": all arrive", func() error { return arrived(label + "/end") })
	for name, b := range boxes {
		for i := range n {
			if c := b.count(label + "/" + strconv.Itoa(i)); c != 1 {
				t.Fatalf("%s: message %d arrived %d times at %s", label, i, c, name)
			}
		}
	}
}
