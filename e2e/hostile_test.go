package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"sigs.k8s.io/controller-runtime/pkg/client"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/broker"
)

// crime is a federation in which evil's data folder is stolen: evil and tokyo
// are linked with berlin, in two accounts.
type crime struct {
	*federation
	*thief
	dir    string // the stolen folder
	grants v1alpha1.Grant
	// interest is what each side of the link may know of: the bridge to berlin,
	// and the probes of the link.
	interest map[string][]string
}

func newCrime(t *testing.T) *crime {
	t.Helper()
	f := newFederation(t)
	f.join("berlin")
	f.joinDialing("evil", "tokyo")
	world := topology([]v1alpha1.LinkRule{{Name: "edges", Type: v1alpha1.LinkEdges, Edges: []v1alpha1.Edge{{A: "berlin", B: "evil"}, {A: "berlin", B: "tokyo"}}}},
		"berlin", "evil", "tokyo")
	world.Spec.Accounts = append(world.Spec.Accounts, v1alpha1.Account{Name: "bank", Namespaces: []string{"*"}})
	ledger := &v1alpha1.Stream{ObjectMeta: named("ledger"), Spec: v1alpha1.StreamSpec{Account: "bank", Placement: at("berlin"), Subjects: []string{"ledger.>"}}}
	f.create(world, ledger)
	objects := []client.Object{world, ledger}
	for _, b := range []struct{ name, account, from, to, subject string }{
		{"up", "app", "evil", "berlin", "orders.>"},
		{"down", "app", "berlin", "evil", "orders.>"},
		{"secret", "app", "tokyo", "berlin", "secret.>"},
		{"payments", "bank", "tokyo", "berlin", "payments.>"},
		{"receipts", "bank", "berlin", "tokyo", "receipts.>"},
	} {
		bridge := &v1alpha1.Bridge{ObjectMeta: named(b.name), Spec: v1alpha1.BridgeSpec{
			Account: b.account, Type: v1alpha1.BridgeEvents, From: at(b.from), To: at(b.to), Subjects: []string{b.subject},
		}}
		f.create(bridge)
		objects = append(objects, bridge)
	}
	f.ready(objects...)
	f.members["evil"].stop()
	c := &crime{federation: f, dir: copyFolder(t, f.members["evil"].dir), interest: map[string][]string{"out": {"fo.evil.app.orders.>", "pq"}, "in": {"pr"}}}
	c.thief = steal(t, f, c.dir)
	evil := &v1alpha1.MemberCluster{}
	if err := f.kube.Get(t.Context(), client.ObjectKey{Name: "evil"}, evil); err != nil {
		t.Fatal(err)
	}
	if len(evil.Status.Grants) != 1 || evil.Status.Grants[0].Peer != "berlin" || evil.Status.Grants[0].Key != c.keyring.LinkUser().Public {
		t.Fatalf("grants of evil: %+v", evil.Status.Grants)
	}
	c.grants = evil.Status.Grants[0]
	return c
}

// TestStolenLink attacks a broker with a stolen link: it must read and write
// what its bridges carry, and nothing beyond.
func TestStolenLink(t *testing.T) {
	t.Parallel()
	c := newCrime(t)
	app, bank, tokyo := c.connect("berlin", "app"), c.connect("berlin", "bank"), c.connect("tokyo", "app")
	tokyoBank := c.connect("tokyo", "bank")
	inboxes := map[string]*inbox{}
	for name, nc := range map[string]*nats.Conn{"berlin/app": app, "berlin/bank": bank, "tokyo/app": tokyo, "tokyo/bank": tokyoBank} {
		inboxes[name] = listen(t, nc, name, ">")
	}
	dial := func(side, token, domain string) *rawLeaf {
		t.Helper()
		r, err := dialLeaf(c.members["berlin"].links, c.config, c.keyring.LinkUser(), token, domain)
		if err != nil {
			t.Fatalf("%s side as domain %q: %v", side, domain, err)
		}
		t.Cleanup(func() { r.conn.Close() })
		r.send("LS+ >")
		return r
	}
	round := 0
	for side, token := range map[string]string{"out": c.grants.Out, "in": c.grants.In} {
		for _, domain := range []string{"", "evil", "berlin", "tokyo"} {
			round++
			label := fmt.Sprintf("%s side as domain %q", side, domain)
			r := dial(side, token, domain)
			for _, subject := range []string{
				"orders.1", "secret.1", "payments.1", "ledger.1", // as if they were here
				"fo.evil.app.secret.1", "fo.evil.bank.payments.1", "fo.evil.bank.orders.1", "fo.evil.bank.ledger.1", // what no bridge brings
				"fo.tokyo.app.secret.1", "fo.tokyo.bank.payments.1", "fo.berlin.app.orders.1", "fo.berlin.bank.receipts.1", // for others
				"re.evil.app._INBOX.x", "re.tokyo.app._INBOX.x", "pi.tokyo", "pa.tokyo", "po.tokyo", // replies and probes
			} {
				r.publish(subject, "", "injected")
			}
			for _, api := range []string{"fedjs.berlin.bank.CONSUMER.RESET.ledger.x", "fedjs.evil.app.CONSUMER.RESET.ledger.x"} {
				r.publish(api, "evil.answer", "{}")
			}
			allowed := fmt.Sprintf("allowed-%d", round)
			eventually(t, 30*time.Second, label+": what is allowed works", func() error {
				for _, p := range []struct {
					nc      *nats.Conn
					subject string
				}{{app, "orders.mine"}, {app, "secret.berlin"}, {tokyo, "secret.tokyo"}, {bank, "receipts.berlin"}, {tokyoBank, "payments.tokyo"}} {
					if err := p.nc.Publish(p.subject, []byte("local")); err != nil {
						return err
					}
				}
				if side == "in" {
					if _, msgs, _ := r.learnt(); len(msgs) == 0 {
						return errors.New("nothing is read")
					}
					return nil
				}
				r.publish("fo.evil.app.orders.1", "", allowed)
				return inboxes["berlin/app"].saw(allowed)
			})
			subs, msgs, err := r.learnt()
			if err != nil {
				t.Errorf("%s: %v", label, err)
			}
			for _, s := range subs {
				if !slices.Contains(c.interest[side], s) && !strings.HasPrefix(s, "$") {
					t.Errorf("%s: it is told of the interest in %s", label, s)
				}
			}
			for _, m := range msgs {
				if !c.readable(side, m) {
					t.Errorf("%s: it reads %q", label, m)
				}
			}
			r.conn.Close()
		}
		for _, api := range []string{"$JS.API.INFO", "$JS.berlin.API.STREAM.NAMES", "$SYS.REQ.SERVER.PING", "$SYS.REQ.CLAIMS.LIST"} {
			r := dial(side, token, "evil")
			r.publish(api, "evil.answer", "")
			eventually(t, 30*time.Second, side+" side: cut off after "+api, func() error {
				if _, _, err := r.learnt(); err == nil {
					return errors.New("still connected")
				}
				return nil
			})
			for _, m := range second(r.learnt()) {
				if !c.readable(side, m) {
					t.Errorf("%s side: %s is answered: %s", side, api, m)
				}
			}
		}
	}
	for name, in := range inboxes {
		if err := in.saw("injected"); err == nil {
			t.Errorf("something was injected at %s", name)
		}
		if name != "berlin/app" && in.saw("allowed-1") == nil {
			t.Errorf("what is for berlin's app is at %s", name)
		}
	}
	s, err := jetStream(t, bank).Stream(t.Context(), "ledger")
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.Msgs; n != 0 {
		t.Errorf("%d messages were written to the ledger", n)
	}

	// Revoked, it is cut off, and let in no more.
	r := dial("out", c.grants.Out, "evil")
	c.delete(&v1alpha1.MemberCluster{ObjectMeta: named("evil")})
	eventually(t, 30*time.Second, "the revoked member is cut off", func() error {
		if _, _, err := r.learnt(); err == nil {
			return errors.New("still connected")
		}
		return nil
	})
	eventually(t, 30*time.Second, "the revoked member is refused", func() error {
		r, err := dialLeaf(c.members["berlin"].links, c.config, c.keyring.LinkUser(), c.grants.Out, "evil")
		if err == nil {
			r.conn.Close()
			return errors.New("let in")
		}
		return nil
	})
}

// readable says whether a message, subject and text, is for evil to read: what
// a bridge brings to it, and probes of its link.
func (c *crime) readable(side, message string) bool {
	return side == "in" && (message == "fo.berlin.app.orders.mine local" || strings.HasPrefix(message, "pq "))
}

func second(_, msgs []string, _ error) []string { return msgs }

// TestStolenKeys tries everything in a stolen folder at doors that it is not for.
func TestStolenKeys(t *testing.T) {
	t.Parallel()
	c := newCrime(t)
	url, err := os.ReadFile(filepath.Join(c.members["berlin"].dir, "url"))
	if err != nil {
		t.Fatal(err)
	}
	berlin, links := strings.TrimSpace(string(url)), c.members["berlin"].links
	withJWT := func(token string, user broker.KeyPair) nats.Option {
		return nats.UserJWT(func() (string, error) { return token, nil }, user.Sign)
	}
	agent, err := broker.AgentJWT(c.keyring, broker.AgentAccount)
	if err != nil {
		t.Fatal(err)
	}
	system, err := broker.AgentJWT(c.keyring, broker.SystemAccount)
	if err != nil {
		t.Fatal(err)
	}
	for what, option := range map[string]nats.Option{
		"the out side of its link":        withJWT(c.grants.Out, c.keyring.LinkUser()),
		"the in side of its link":         withJWT(c.grants.In, c.keyring.LinkUser()),
		"its applications' credentials":   nats.UserCredentials(filepath.Join(c.dir, "creds", "app.creds")),
		"its agent's user":                withJWT(agent, c.keyring.AgentUser(broker.AgentAccount)),
		"its agent's user of the system":  withJWT(system, c.keyring.AgentUser(broker.SystemAccount)),
		"its certificate and nothing":     nats.Secure(c.config),
		"a user named like the link's":    nats.UserInfo("evil", ""),
		"the public key of its link user": nats.Nkey(c.keyring.LinkUser().Public, c.keyring.LinkUser().Sign),
	} {
		for door, options := range map[string][]nats.Option{berlin: nil, "tls://" + links: {nats.Secure(c.config), nats.TLSHandshakeFirst()}} {
			nc, err := nats.Connect(door, append(options, option, nats.Timeout(5*time.Second))...)
			if err == nil {
				t.Errorf("with %s a client is let in at %s", what, door)
				nc.Close()
			}
		}
	}

	// Credentials of others are public statements, and of no use without their keys.
	tokyo := &v1alpha1.MemberCluster{}
	if err := c.kube.Get(t.Context(), client.ObjectKey{Name: "tokyo"}, tokyo); err != nil {
		t.Fatal(err)
	}
	forged := c.forge(t, "tokyo")
	for what, try := range map[string]struct {
		cert  tls.Certificate
		token string
		user  broker.KeyPair
	}{
		"tokyo's grant":                       {c.cert, tokyo.Status.Grants[0].Out, c.keyring.LinkUser()},
		"its own grant with another key":      {c.cert, c.grants.Out, c.keyring.AppUser("app")},
		"a user that it signed itself":        {c.cert, agent, c.keyring.AgentUser(broker.AgentAccount)},
		"a certificate that it signed itself": {forged, c.grants.Out, c.keyring.LinkUser()},
		"no certificate":                      {tls.Certificate{}, c.grants.Out, c.keyring.LinkUser()},
	} {
		config := c.config.Clone()
		config.Certificates = nil
		if try.cert.Certificate != nil {
			config.Certificates = []tls.Certificate{try.cert}
		}
		r, err := dialLeaf(links, config, try.user, try.token, "evil")
		if err == nil {
			r.conn.Close()
			t.Errorf("a link was opened with %s", what)
		}
	}
	c.linkState("berlin", "tokyo", v1alpha1.LinkUp)
}

// forge makes a certificate of another member, signed with the stolen one.
func (c *crime) forge(t testing.TB, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := url.Parse(federationv1.MemberID("sealane.local", name))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(7), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{id}, DNSNames: []string{federationv1.MemberDNSName("sealane.local", name)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, c.cert.Leaf, key.Public(), c.cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der, c.cert.Certificate[0]}, PrivateKey: key}
}

// TestStolenIdentity speaks to the hub with a stolen certificate: it is evil
// and nobody else, whatever it says, until it is removed.
func TestStolenIdentity(t *testing.T) {
	t.Parallel()
	c := newCrime(t)
	hub := federationv1.NewFederationClient(c.dialHub(&c.cert))
	of := func(name string) *v1alpha1.MemberCluster {
		t.Helper()
		m := &v1alpha1.MemberCluster{}
		if err := c.kube.Get(t.Context(), client.ObjectKey{Name: name}, m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	forged := c.forge(t, "tokyo")
	if _, err := c.hello(t, federationv1.NewFederationClient(c.dialHub(&forged)), nil); status.Code(err) != codes.Unavailable {
		t.Errorf("a session with a certificate that evil signed: %v, want a failed handshake", err)
	}

	// A certificate for another name is a certificate for its own.
	before := of("tokyo")
	renewed, err := hub.Renew(t.Context(), &federationv1.RenewRequest{Csr: requestFor(t, "tokyo")})
	if err != nil {
		t.Fatal(err)
	}
	onlyNames(t, renewed.Certificates[0], "sealane.local", "evil")

	// What it says of others is not believed.
	session, err := c.hello(t, hub, &federationv1.Facts{LinkKey: before.Status.LinkKey, Endpoints: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UnixMilli()
	if err := session.Send(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Report{Report: &federationv1.Report{
		HeldHash: nothing,
		Grants:   []*federationv1.Grant{{Peer: "tokyo", Key: before.Status.LinkKey, Out: c.grants.Out, In: c.grants.In}},
		Links:    []*federationv1.LinkHealth{{Peer: "berlin", State: federationv1.Health_UP, Since: now}, {Peer: "tokyo", State: federationv1.Health_UP, Since: now}},
	}}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the hub takes what evil says, as evil's", func() error {
		for _, l := range of("evil").Status.Links {
			if l.Peer == "berlin" && l.State == v1alpha1.LinkUp {
				return nil
			}
		}
		return fmt.Errorf("links of evil: %+v", of("evil").Status.Links)
	})
	after := of("tokyo")
	if a, b := fmt.Sprintf("%+v %+v %s", after.Status.Identity, after.Status.Grants, after.Status.LinkKey),
		fmt.Sprintf("%+v %+v %s", before.Status.Identity, before.Status.Grants, before.Status.LinkKey); a != b {
		t.Errorf("tokyo is changed:\n%s\nbefore:\n%s", a, b)
	}
	c.linkState("tokyo", "berlin", v1alpha1.LinkUp)
	c.linkState("berlin", "tokyo", v1alpha1.LinkUp)

	// Removed, it is nobody.
	c.delete(of("evil"))
	if _, err := receive(session); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the session of a removed member ended with: %v", err)
	}
	if _, err := c.hello(t, hub, nil); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a session of a removed member: %v", err)
	}
	if _, err := hub.Renew(t.Context(), &federationv1.RenewRequest{Csr: requestFor(t, "evil")}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a renewal of a removed member: %v", err)
	}
}

// nothing is a hash of no state that the hub has planned.
var nothing = strings.Repeat("0", 32)

type syncClient = federationv1.Federation_SyncClient

// hello opens a session and waits for the hub's welcome.
func (c *crime) hello(t testing.TB, hub federationv1.FederationClient, facts *federationv1.Facts) (syncClient, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	session, err := hub.Sync(ctx)
	if err != nil {
		return nil, err
	}
	if err := session.Send(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Hello{Hello: &federationv1.Hello{
		Protocol: federationv1.ProtocolVersion, Agent: &federationv1.AgentInfo{Version: "evil", Runtime: "embedded"},
		Features: []string{"broker", "account", "link", "stream", "outlet"}, Facts: facts, HeldHash: nothing,
	}}}); err != nil && !errors.Is(err, os.ErrClosed) {
		_, err = session.Recv()
		return nil, err
	}
	_, err = session.Recv()
	return session, err
}

// receive takes what the hub says until the session ends.
func receive(session syncClient) (n int, err error) {
	for {
		if _, err := session.Recv(); err != nil {
			return n, err
		}
		n++
	}
}
