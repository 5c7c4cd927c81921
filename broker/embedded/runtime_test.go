package embedded

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

func single(t *testing.T) *member {
	t.Helper()
	m := newMember(t, newAuthority(t), "a")
	m.account("app")
	m.start()
	return m
}

func jsOf(t *testing.T, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// fill makes a stream with n messages.
func fill(t *testing.T, nc *nats.Conn, name string, n int) {
	t.Helper()
	js := jsOf(t, nc)
	if _, err := js.CreateStream(ctxFor(t), jetstream.StreamConfig{Name: name, Subjects: []string{name + ".>"}, MaxBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if _, err := js.Publish(ctxFor(t), name+".x", fmt.Appendf(nil, "%d", i)); err != nil {
			t.Fatal(err)
		}
	}
}

func messages(t *testing.T, nc *nats.Conn, name string) (n uint64, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctxFor(t), 2*time.Second)
	defer cancel()
	s, err := jsOf(t, nc).Stream(ctx, name)
	if err != nil {
		return 0, err
	}
	return s.CachedInfo().State.Msgs, nil
}

func wantMessages(t *testing.T, nc *nats.Conn, name string, n uint64) {
	t.Helper()
	eventually(t, "stream "+name, func() error {
		got, err := messages(t, nc, name)
		if err == nil && got != n {
			err = fmt.Errorf("%d messages, want %d", got, n)
		}
		return err
	})
}

// A new process on the same folder has the same keys, accounts, credentials,
// streams and addresses.
func TestRestartKeepsEverything(t *testing.T) {
	m := single(t)
	creds, err := broker.UserCreds(m.keyring, "app")
	if err != nil {
		t.Fatal(err)
	}
	nc := m.app("app")
	fill(t, nc, "S", 10)
	url, port := m.rt.ClientURL(), m.rt.LinkPort()
	tokens := map[string]string{}
	files, _ := filepath.Glob(filepath.Join(m.dir, "nats", "jwt", "*.jwt"))
	for _, f := range files {
		b, _ := os.ReadFile(f)
		tokens[f] = string(b)
	}
	m.shutdown()
	if err := m.rt.Shutdown(context.Background()); err != nil {
		t.Errorf("second Shutdown: %v", err)
	}
	if _, err := m.rt.Configure(ctxFor(t), m.config); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Configure after Shutdown: %v", err)
	}
	if _, err := m.rt.LeafConns(); !errors.Is(err, ErrNotRunning) {
		t.Errorf("LeafConns after Shutdown: %v", err)
	}

	if m.keyring, err = broker.LoadOrCreateKeyring(m.dir + "/seed"); err != nil {
		t.Fatal(err)
	}
	m.newRuntime()
	// Even before anyone says which accounts there shall be.
	m.configure()
	if m.rt.ClientURL() != url || m.rt.LinkPort() != port {
		t.Errorf("now at %s and %d, was at %s and %d", m.rt.ClientURL(), m.rt.LinkPort(), url, port)
	}
	wantMessages(t, nc, "S", 10)
	if again, _ := broker.UserCreds(m.keyring, "app"); string(again) != string(creds) {
		t.Error("the credentials changed")
	}
	m.setAccounts()
	for f, token := range tokens {
		if b, _ := os.ReadFile(f); string(b) != token {
			t.Errorf("%s was signed anew without a change", f)
		}
	}
}

// The port of a process that is gone may be taken: then there is another one.
func TestPortTaken(t *testing.T) {
	m := single(t)
	port := m.rt.LinkPort()
	m.shutdown()
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	m.newRuntime()
	m.start()
	if m.rt.LinkPort() == port || m.rt.LinkPort() == 0 {
		t.Errorf("link port %d", m.rt.LinkPort())
	}

	// A port that was asked for is not replaced, and the error says which it is.
	m.shutdown()
	m.rt, err = New(Options{DataDir: m.dir, ClientListen: ln.Addr().String(), Keyring: m.keyring, Log: testLogger(t, "a")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.rt.Configure(ctxFor(t), m.config); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("Configure on a taken port: %v", err)
	}
}

// What NATS cannot reload restarts it, in place: clients and the agent's own
// connections come back by themselves.
func TestLimits(t *testing.T) {
	m := single(t)
	agent, app := m.agent("app"), m.app("app")
	fill(t, app, "S", 10)
	url := m.rt.ClientURL()
	for _, tc := range []struct {
		name      string
		change    func(*federationv1.BrokerSpec)
		restarted bool
	}{
		{"nothing", func(*federationv1.BrokerSpec) {}, false},
		{"raise storage", func(s *federationv1.BrokerSpec) { s.MaxStorage *= 2 }, false},
		{"raise memory", func(s *federationv1.BrokerSpec) { s.MaxMemory *= 2 }, false},
		{"payload", func(s *federationv1.BrokerSpec) { s.MaxPayload = 2 << 20 }, false},
		{"connections", func(s *federationv1.BrokerSpec) { s.MaxConnections = 100 }, false},
		{"lower storage", func(s *federationv1.BrokerSpec) { s.MaxStorage /= 2 }, true},
		{"lower memory", func(s *federationv1.BrokerSpec) { s.MaxMemory /= 2 }, true},
		{"sync always", func(s *federationv1.BrokerSpec) { s.SyncAlways = true }, true},
		{"not always", func(s *federationv1.BrokerSpec) { s.SyncAlways = false }, true},
	} {
		spec := proto.Clone(m.config.Spec).(*federationv1.BrokerSpec)
		tc.change(spec)
		m.config.Spec = spec
		if restarted := m.configure(); restarted != tc.restarted {
			t.Errorf("%s: restarted %v", tc.name, restarted)
		}
		wantMessages(t, agent, "S", 10)
		wantMessages(t, app, "S", 10)
	}
	if m.rt.ClientURL() != url {
		t.Errorf("the address changed from %s to %s", url, m.rt.ClientURL())
	}

	// Less than what streams use is refused, and nothing changes.
	good := m.config.Spec
	m.config.Spec = &federationv1.BrokerSpec{MaxStorage: 1 << 10}
	if restarted, err := m.rt.Configure(ctxFor(t), m.config); err == nil || restarted {
		t.Errorf("too little storage: restarted %v, %v", restarted, err)
	}
	m.config.Spec = good
	if m.configure() {
		t.Error("the refused configuration was kept")
	}
	wantMessages(t, app, "S", 10)
}

// A removed account is gone at once for its clients; made again, it has its
// streams back.
func TestRemoveAccountAndBack(t *testing.T) {
	m := single(t)
	m.account("other")
	m.setAccounts()
	other := m.app("other")
	fill(t, m.app("app"), "S", 10)

	removed := m.parts[federationv1.AccountID("app")]
	for range 2 {
		lost := make(chan struct{})
		app := m.app("app", nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(lost) }))
		delete(m.parts, federationv1.AccountID("app"))
		m.setAccounts()
		select {
		case <-lost:
		case <-time.After(10 * time.Second):
			t.Fatal("a client of a removed account stays connected")
		}
		app.Close()
		if _, err := m.rt.Connect("app"); !errors.Is(err, ErrNoAccount) {
			t.Errorf("the agent in a removed account: %v", err)
		}
		m.parts[removed.Id] = removed
		m.setAccounts()
		wantMessages(t, m.app("app"), "S", 10)
	}

	// Also across a restart without the account.
	delete(m.parts, federationv1.AccountID("app"))
	m.setAccounts()
	m.shutdown()
	m.newRuntime()
	start := time.Now()
	m.start()
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("a start with a removed account's data took %v", d)
	}
	m.parts[removed.Id] = removed
	m.setAccounts()
	wantMessages(t, m.app("app"), "S", 10)
	if other.Status() != nats.CONNECTED {
		eventually(t, "other client", func() error {
			if other.Status() != nats.CONNECTED {
				return errors.New(other.Status().String())
			}
			return nil
		})
	}
}

// SetAccounts tells which accounts are not in effect and why; the others are.
func TestAccountErrors(t *testing.T) {
	m := single(t)
	ghost := m.keyring.Account("ghost").Public
	claims, errs := m.keyring.Accounts("a", []*federationv1.Part{m.parts[federationv1.AccountID("app")]})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	add := func(name string, imports ...*jwt.Import) {
		c := jwt.NewAccountClaims(m.keyring.Account(name).Public)
		c.Exports.Add(&jwt.Export{Subject: "x.>", Type: jwt.Stream})
		c.Imports.Add(imports...)
		claims[name] = c
	}
	from := func(name, subject string) *jwt.Import {
		return &jwt.Import{Account: m.keyring.Account(name).Public, Subject: jwt.Subject(subject), Type: jwt.Stream}
	}
	add("fine", from("app", "orders.>"))
	add("unexported", from("fine", "y.>"))
	add("missing", &jwt.Import{Account: ghost, Subject: "x.>", Type: jwt.Stream})
	add("ring1", from("ring2", "x.>"))
	add("ring2", from("ring1", "x.>"))
	invalid := jwt.NewAccountClaims(m.keyring.Account("fine").Public)
	invalid.Exports.Add(&jwt.Export{Subject: "a..b", Type: jwt.Stream})
	claims["invalid"] = invalid
	claims[broker.SystemAccount] = claims["fine"]

	for range 2 { // the second time nothing changed, and it is still not right
		start := time.Now()
		got := m.rt.SetAccounts(ctxFor(t), claims)
		t.Logf("after %v: %v", time.Since(start).Round(time.Millisecond), got)
		if got["app"] != nil || got["fine"] != nil {
			t.Errorf("good accounts have errors: %v", got)
		}
		for _, name := range []string{"unexported", "missing", "invalid", broker.SystemAccount} {
			if got[name] == nil {
				t.Errorf("account %s has no error", name)
			}
		}
		if got["ring1"] == nil && got["ring2"] == nil {
			t.Error("an import cycle has no error")
		}
	}
	m.app("fine")

	// Of an account whose new claims are refused, the old ones stay, also across a
	// restart.
	good := claims["app"]
	bad := *good
	bad.Exports = append(jwt.Exports{{Subject: "a..b", Type: jwt.Stream}}, good.Exports...)
	claims["app"] = &bad
	if got := m.rt.SetAccounts(ctxFor(t), claims); got["app"] == nil {
		t.Error("invalid claims are accepted")
	}
	app := m.app("app")
	m.config.Spec = &federationv1.BrokerSpec{MaxStorage: 1 << 20, MaxMemory: 1 << 20}
	if !m.configure() {
		t.Error("no restart")
	}
	if _, err := messages(t, app, "none"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("the account after a restart: %v", err)
	}
	claims["app"] = good

	// What was missing appears: the importer heals.
	add("ghost")
	delete(claims, broker.SystemAccount)
	if got := m.rt.SetAccounts(ctxFor(t), claims); got["missing"] != nil || got["ghost"] != nil {
		t.Errorf("after the missing account was made: %v", got)
	}
}

// Limits of accounts are promises: what does not fit into the broker is named,
// the other accounts work, and it heals when it fits.
func TestAccountLimitsMustFit(t *testing.T) {
	m := single(t)
	limit := func(name string, storage int64) {
		m.account(name).Limits = &federationv1.AccountLimits{Connections: -1, Subscriptions: -1, Storage: storage, Memory: -1, Streams: -1, Consumers: -1}
	}
	set := func() map[string]error {
		var parts []*federationv1.Part
		for _, p := range m.parts {
			parts = append(parts, p)
		}
		claims, errs := m.keyring.Accounts("a", parts)
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		return m.rt.SetAccounts(ctxFor(t), claims)
	}
	limit("big", 40<<20)
	if errs := set(); len(errs) > 0 {
		t.Fatal(errs)
	}
	fill(t, m.app("big"), "S", 3)
	limit("bigger", 40<<20)
	errs := set()
	if len(errs) != 1 || errs["bigger"] == nil || !strings.Contains(errs["bigger"].Error(), "insufficient storage") {
		t.Errorf("80 MB promised of 64: %v", errs)
	}
	wantMessages(t, m.app("big"), "S", 3)

	m.config.Spec = &federationv1.BrokerSpec{MaxStorage: 100 << 20, MaxMemory: 8 << 20}
	m.configure()
	if errs := set(); len(errs) > 0 {
		t.Errorf("80 MB promised of 100: %v", errs)
	}
	fill(t, m.app("bigger"), "T", 3)
	m.config.Spec = &federationv1.BrokerSpec{MaxStorage: 64 << 20, MaxMemory: 8 << 20}
	if _, err := m.rt.Configure(ctxFor(t), m.config); err == nil || !strings.Contains(err.Error(), "promised") {
		t.Errorf("lowered below what is promised: %v", err)
	}
	wantMessages(t, m.app("bigger"), "T", 3)
}

// Files that are no accounts of this member do not keep it from starting.
func TestDamagedAccountFiles(t *testing.T) {
	m := single(t)
	fill(t, m.app("app"), "S", 3)
	m.shutdown()
	dir := filepath.Join(m.dir, "nats", "jwt")
	app := filepath.Join(dir, m.keyring.Account("app").Public+".jwt")
	whole, err := os.ReadFile(app)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(app, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	other, err := broker.NewKeyring(make([]byte, broker.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	c := jwt.NewAccountClaims(other.Account("app").Public)
	token, err := broker.Sign(c, other.Operator(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, c.Subject+".jwt"), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	m.newRuntime()
	m.start()
	wantMessages(t, m.app("app"), "S", 3)
	if _, err := os.Stat(filepath.Join(dir, c.Subject+".jwt")); !os.IsNotExist(err) {
		t.Error("a foreign account is still there")
	}
}

// The agent reaches every account, its own and the system's included.
func TestAgentConnections(t *testing.T) {
	m := single(t)
	for _, account := range []string{"app", broker.AgentAccount, broker.SystemAccount} {
		nc := m.agent(account)
		if err := nc.Flush(); err != nil {
			t.Errorf("%s: %v", account, err)
		}
	}
	if _, err := m.agent(broker.SystemAccount).Request("$SYS.REQ.SERVER.PING", nil, 5*time.Second); err != nil {
		t.Errorf("the system account does not answer: %v", err)
	}
	if _, err := m.rt.Connect("nobody"); !errors.Is(err, ErrNoAccount) {
		t.Errorf("in an account that does not exist: %v", err)
	}
	// The connection limit of an account leaves room for the agent.
	m.account("app").Limits = &federationv1.AccountLimits{Connections: 1, Subscriptions: -1, Storage: -1, Memory: -1, Streams: -1, Consumers: -1}
	m.setAccounts()
	m.app("app")
	m.agent("app")
}

// The application's listener can have TLS of its own; the agent needs none.
func TestClientTLS(t *testing.T) {
	ca := newAuthority(t)
	m := newMember(t, ca, "a")
	server := ca.issue(t, "a", time.Now().Add(time.Hour))
	var err error
	if m.rt, err = New(Options{DataDir: m.dir, ClientListen: "127.0.0.1:0", ClientTLS: server, Keyring: m.keyring, Log: testLogger(t, "a")}); err != nil {
		t.Fatal(err)
	}
	m.account("app")
	m.start()
	if m.rt.LinkPort() != 0 {
		t.Errorf("link port %d", m.rt.LinkPort())
	}
	if !strings.HasPrefix(m.rt.ClientURL(), "tls://") {
		t.Errorf("client URL %s", m.rt.ClientURL())
	}
	m.agent("app")
	m.app("app", nats.Secure(&tls.Config{RootCAs: ca.pool, ServerName: federationv1.MemberDNSName(testDomain, "a")}))
	m.config.Spec = &federationv1.BrokerSpec{MaxStorage: 128 << 20, MaxMemory: 8 << 20}
	if m.configure() {
		t.Error("a reload restarted the broker")
	}
}

func TestConfigureRefuses(t *testing.T) {
	m := newMember(t, newAuthority(t), "a")
	for name, c := range map[string]broker.Config{
		"no name":      {TLS: m.config.TLS},
		"no TLS":       {Cluster: "a"},
		"no authority": {Cluster: "a", TLS: &tls.Config{}},
		"no checks":    {Cluster: "a", TLS: &tls.Config{RootCAs: m.config.TLS.RootCAs, InsecureSkipVerify: true}},
	} {
		if _, err := m.rt.Configure(ctxFor(t), c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	m.setAccounts()
	if _, err := m.rt.Connect(broker.AgentAccount); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Connect before Configure: %v", err)
	}
	for name, o := range map[string]Options{
		"nothing":        {},
		"no listener":    {DataDir: m.dir, Keyring: m.keyring},
		"bad listener":   {DataDir: m.dir, Keyring: m.keyring, ClientListen: "here"},
		"bad port":       {DataDir: m.dir, Keyring: m.keyring, ClientListen: "127.0.0.1:http"},
		"bad link":       {DataDir: m.dir, Keyring: m.keyring, ClientListen: "127.0.0.1:0", LinkListen: "x"},
		"port too large": {DataDir: m.dir, Keyring: m.keyring, ClientListen: "127.0.0.1:70000"},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("New with %s: accepted", name)
		}
	}
}
