package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

// A certificate is renewed under a running link; the old one is not needed any
// more at the next connection.
func TestCertificateRenewal(t *testing.T) {
	ca := newAuthority(t)
	a, b := newMember(t, ca, "a"), newMember(t, ca, "b")
	a.account("app")
	b.account("app")
	a.start()
	b.start()
	soon := time.Now().Add(3 * time.Second)
	for _, m := range []*member{a, b} {
		m.config.TLS = ca.issue(t, m.name, soon)
		m.configure()
	}
	link(t, b, a)
	a.waitLinks(2)
	before := leafIDs(t, a)
	for _, m := range []*member{a, b} {
		m.config.TLS = ca.issue(t, m.name, time.Now().Add(time.Hour))
		if m.configure() {
			t.Error("a renewal restarted the broker")
		}
	}
	<-time.After(time.Until(soon) + 1100*time.Millisecond) // the old certificates expire
	if after := leafIDs(t, a); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the renewal dropped links: %v, now %v", before, after)
	}
	for _, id := range before {
		if err := a.rt.KickLeaf(id); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "links come back with the new certificates", func() error {
		after := leafIDs(t, a)
		if len(after) != 2 {
			return fmt.Errorf("%d links", len(after))
		}
		for account, id := range after {
			if id == before[account] {
				return errors.New("the old link is still there")
			}
		}
		return nil
	})
}

// Whoever answers at a peer's address must be that peer.
func TestWrongPeerIsRefused(t *testing.T) {
	ca := newAuthority(t)
	a, b, c := newMember(t, ca, "a"), newMember(t, ca, "b"), newMember(t, ca, "c")
	for _, m := range []*member{a, b, c} {
		m.start()
	}
	foreign := newMember(t, newAuthority(t), "a")
	foreign.start()
	link(t, b, a, c.linkAddr(), foreign.linkAddr())
	refused := make(chan struct{})
	time.AfterFunc(1500*time.Millisecond, func() { close(refused) })
	for {
		for _, m := range []*member{a, b, c, foreign} {
			if conns, err := m.rt.LeafConns(); err != nil || len(conns) > 0 {
				t.Fatalf("%s has links: %v, %v", m.name, conns, err)
			}
		}
		select {
		case <-refused:
		case <-time.After(10 * time.Millisecond):
			continue
		}
		break
	}
	// At the right address the same link comes up.
	for i := range b.config.Remotes {
		b.config.Remotes[i].Endpoints = []string{a.linkAddr()}
	}
	if b.configure() {
		t.Error("another endpoint restarted the broker")
	}
	b.waitLinks(2)
}

// A remote that cannot be configured is named, and the others work.
func TestBadRemote(t *testing.T) {
	a, b := pair(t)
	for _, bad := range []broker.Remote{
		{Peer: "c", Out: true, Endpoints: nil, JWT: b.config.Remotes[0].JWT},
		{Peer: "c", Out: true, Endpoints: []string{"nowhere"}, JWT: b.config.Remotes[0].JWT},
		{Peer: "c", Out: true, Endpoints: []string{"user@nowhere:7422"}, JWT: b.config.Remotes[0].JWT},
		{Peer: "c", Out: true, Endpoints: []string{"nowhere:7422"}, JWT: "x"},
	} {
		good := b.config.Remotes
		b.config.Remotes = append([]broker.Remote{bad}, good...)
		for range 2 {
			_, err := b.rt.Configure(ctxFor(t), b.config)
			var re *broker.RemoteError
			if !errors.As(err, &re) || re.Peer != "c" {
				t.Errorf("%v: %v", bad, err)
			}
		}
		b.config.Remotes = good
	}
	b.configure()
	a.waitLinks(2)
}

// Removing a link removes its connections, credentials and accounts, and the
// account's claims are enough for the acceptor to cut off a peer that goes on.
func TestRemoveLink(t *testing.T) {
	a, b := pair(t)
	files := func() int {
		fs, _ := filepath.Glob(filepath.Join(b.dir, "nats", "links", "*.creds"))
		for _, f := range fs {
			if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v %v", f, info.Mode(), err)
			}
		}
		return len(fs)
	}
	if n := files(); n != 2 {
		t.Errorf("%d credentials files", n)
	}
	delete(a.parts, federationv1.LinkID("b"))
	a.setAccounts()
	eventually(t, "the peer is cut off", func() error {
		conns, err := a.rt.LeafConns()
		if err == nil && len(conns) > 0 {
			err = fmt.Errorf("%v", conns)
		}
		return err
	})
	remotes := b.config.Remotes
	b.config.Remotes = nil
	b.configure()
	delete(b.parts, federationv1.LinkID("a"))
	b.setAccounts()
	if n := files(); n != 0 {
		t.Errorf("%d credentials files remain", n)
	}

	// The same link again, with the grant as it was.
	addLinkPart(a, &federationv1.LinkSpec{Peer: "b", Role: federationv1.LinkSpec_ACCEPT})
	a.setAccounts()
	addLinkPart(b, &federationv1.LinkSpec{Peer: "a", Role: federationv1.LinkSpec_DIAL})
	b.setAccounts()
	b.config.Remotes = remotes
	b.configure()
	a.waitLinks(2)
	both(a, b, func(p path) { p.forward("app", "orders.>") })
	exactlyOnce(t, "again", a.app("app"), "orders.1", map[string]*inbox{"b": listen(t, b.app("app"), "orders.>")})
}

// A link of which no side hears that it is broken is made anew when it is kicked,
// and nothing is then delivered twice.
func TestKickHalfOpenLink(t *testing.T) {
	ms := startAll(t, "a", "b")
	a, b := ms["a"], ms["b"]
	p := newProxy(t, a.linkAddr())
	link(t, b, a, p.ln.Addr().String())
	both(a, b, func(p path) { p.forward("app", "orders.>") })
	a.waitLinks(2)
	b.waitLinks(2)
	ca, cb := a.app("app"), b.app("app")
	boxes := map[string]*inbox{"a": listen(t, ca, "orders.>"), "b": listen(t, cb, "orders.>")}
	exactlyOnce(t, "before", ca, "orders.1", boxes)

	release := p.stall()
	_ = ca.Publish("orders.1", []byte("lost"))
	_ = ca.Flush()
	before := leafIDs(t, b)
	for _, id := range before {
		if err := b.rt.KickLeaf(id); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the dialer connects again", func() error {
		after := leafIDs(t, b)
		if len(after) != 2 || after["tx_a"] == before["tx_a"] || after["rx_a"] == before["rx_a"] {
			return fmt.Errorf("%v", after)
		}
		return nil
	})
	a.waitLinks(2) // the stale ones were replaced
	exactlyOnce(t, "after", ca, "orders.1", boxes)
	exactlyOnce(t, "after, back", cb, "orders.1", boxes)
	release()
	exactlyOnce(t, "released", ca, "orders.1", boxes)
	if n := boxes["b"].count("lost"); n > 1 {
		t.Errorf("a message arrived %d times", n)
	}
	if err := b.rt.KickLeaf(1 << 40); err == nil {
		t.Error("kicked a link that does not exist")
	}
}

// Whichever side's broker stops, cleanly or not, or restarts for a change of its
// limits: the link comes back by itself, with nothing lost of what is durable.
func TestLinkSurvivesRestarts(t *testing.T) {
	a, b := pair(t)
	br := &bridge{way: path{a, b}, stream: "ORDERS", subject: "orders.>", hash: "0a0b0c0d"}
	br.plan()
	both(a, b, func(p path) { p.forward("app", "events.>") })
	br.create(t)
	br.publish(t, 0, 100)
	n := 100
	for i, m := range []*member{a, b, a, b} {
		if i < 2 {
			done, cancel := context.WithCancel(context.Background())
			cancel() // no time for farewells
			if err := m.rt.Shutdown(done); err != nil {
				t.Fatal(err)
			}
			m.newRuntime()
			m.start()
			if m == a {
				a.passResets("app")
			}
		} else {
			m.config.Spec = &federationv1.BrokerSpec{MaxStorage: m.config.Spec.MaxStorage / 2, MaxMemory: 8 << 20}
			if !m.configure() {
				t.Error("no restart")
			}
		}
		br.publish(t, n, n+100)
		n += 100
		a.waitLinks(2)
		b.waitLinks(2)
		start := time.Now()
		br.verify(t, n)
		label := fmt.Sprintf("restart %d of %s", i, m.name)
		t.Logf("%s: bridge caught up %v after the links", label, time.Since(start).Round(time.Millisecond))
		exactlyOnce(t, label, a.app("app"), "events.1", map[string]*inbox{"b": listen(t, b.app("app"), "events.>")})
		exactlyOnce(t, label+" back", b.app("app"), "events.1", map[string]*inbox{"a": listen(t, a.app("app"), "events.>")})
	}
}

// A remote may come before the account that it is for.
func TestRemoteBeforeAccount(t *testing.T) {
	ms := startAll(t, "a", "b")
	a, b := ms["a"], ms["b"]
	grant, err := broker.IssueGrant(a.keyring, "b", b.keyring.LinkUser().Public, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []bool{true, false} {
		b.config.Remotes = append(b.config.Remotes, broker.Remote{
			Peer: "a", Out: out, Endpoints: []string{a.linkAddr()}, JWT: map[bool]string{true: grant.Out, false: grant.In}[out],
		})
	}
	b.configure()
	addLinkPart(b, &federationv1.LinkSpec{Peer: "a", Role: federationv1.LinkSpec_DIAL})
	b.setAccounts()
	addLinkPart(a, &federationv1.LinkSpec{Peer: "b", Role: federationv1.LinkSpec_ACCEPT})
	a.setAccounts()
	a.waitLinks(2)
}

func TestCancelledContext(t *testing.T) {
	a := newMember(t, newAuthority(t), "a")
	a.start()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	a.rt.turn <- struct{}{} // somebody else is at it
	if _, err := a.rt.Configure(ctx, a.config); !errors.Is(err, context.Canceled) {
		t.Errorf("Configure: %v", err)
	}
	if errs := a.rt.SetAccounts(ctx, nil); len(errs) != 0 {
		t.Errorf("SetAccounts: %v", errs)
	}
	<-a.rt.turn
}
