package embedded

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

// pair makes two linked members; b dials a.
func pair(t *testing.T) (a, b *member) {
	t.Helper()
	ms := startAll(t, "a", "b")
	a, b = ms["a"], ms["b"]
	link(t, b, a)
	a.waitLinks(2)
	return a, b
}

func both(a, b *member, f func(p path)) {
	f(path{a, b})
	f(path{b, a})
	a.setAccounts()
	b.setAccounts()
}

// proxy stands between two members and can be cut.
type proxy struct {
	ln     net.Listener
	target string
	wg     sync.WaitGroup

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
	// stalled connections go on when their channel is closed.
	stalled map[net.Conn]chan struct{}
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{ln: ln, target: target, conns: map[net.Conn]bool{}, stalled: map[net.Conn]chan struct{}{}}
	p.wg.Go(p.serve)
	t.Cleanup(func() {
		ln.Close()
		p.setCut(true)
		p.wg.Wait()
	})
	return p
}

func (p *proxy) serve() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("tcp", p.target)
		if err != nil || !p.add(c, up) {
			c.Close()
			if up != nil {
				up.Close()
			}
			continue
		}
		for _, d := range [][2]net.Conn{{c, up}, {up, c}} {
			p.wg.Go(func() {
				_, _ = io.Copy(d[0], &stallable{r: d[1], p: p})
				d[0].Close()
				d[1].Close()
			})
		}
	}
}

func (p *proxy) add(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.conns[c] = true
	}
	return !p.cut
}

// stall stops what is connected, silently, until release is called; new
// connections work.
func (p *proxy) stall() (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	stop := make(chan struct{})
	for c := range p.conns {
		p.stalled[c] = stop
	}
	return sync.OnceFunc(func() { close(stop) })
}

func (p *proxy) stalledBy(c net.Conn) chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stalled[c]
}

// stallable holds back what it read while its connection is stalled.
type stallable struct {
	r net.Conn
	p *proxy
}

func (s *stallable) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if stop := s.p.stalledBy(s.r); stop != nil {
		<-stop
	}
	return n, err
}

func (p *proxy) setCut(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
	if cut {
		for c := range p.conns {
			c.Close()
		}
		clear(p.conns)
	}
}

func TestEventsOnceBothWays(t *testing.T) {
	a, b := pair(t)
	both(a, b, func(p path) { p.forward("app", "orders.>") })
	ca, cb := a.app("app"), b.app("app")
	boxes := map[string]*inbox{"a": listen(t, ca, "orders.>"), "b": listen(t, cb, "orders.>")}
	exactlyOnce(t, "from a", ca, "orders.1", boxes)
	exactlyOnce(t, "from b", cb, "orders.1", boxes)
	if leaked := listen(t, ca, "private.>"); cb.Publish("private.1", []byte("x")) != nil || cb.Flush() != nil || leaked.count("x") != 0 {
		t.Error("what is not bridged crosses")
	}
}

// Each agent probes through both connections of the link and hears its echo.
func TestProbe(t *testing.T) {
	a, b := pair(t)
	for _, tc := range []struct{ self, peer *member }{{a, b}, {b, a}} {
		self, peer := tc.self.agent(broker.AgentAccount), tc.peer.agent(broker.AgentAccount)
		if _, err := peer.Subscribe("pi."+tc.self.name, func(m *nats.Msg) { _ = peer.Publish("po."+tc.self.name, m.Data) }); err != nil {
			t.Fatal(err)
		}
		_ = peer.Flush()
		echoes, err := self.SubscribeSync("pa." + tc.peer.name)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "probe from "+tc.self.name, func() error {
			if err := self.Publish("pq."+tc.peer.name, []byte("probe")); err != nil {
				return err
			}
			_, err := echoes.NextMsg(100 * time.Millisecond)
			return err
		})
		for {
			if _, err := echoes.NextMsg(200 * time.Millisecond); err != nil {
				break
			}
		}
		_ = self.Publish("pq."+tc.peer.name, []byte("once"))
		if _, err := echoes.NextMsg(5 * time.Second); err != nil {
			t.Fatal(err)
		}
		if m, err := echoes.NextMsg(100 * time.Millisecond); err == nil {
			t.Errorf("a probe has a second echo: %s", m.Data)
		}
	}
}

// A dialer's server does not answer for its own interfaces to the acceptor.
func TestServerInterfacesStayHome(t *testing.T) {
	a, b := pair(t)
	// An acceptor of bad will denies itself nothing.
	for i, r := range b.config.Remotes {
		if r.Out {
			continue
		}
		token, err := broker.Sign(jwt.NewUserClaims(b.keyring.LinkUser().Public), a.keyring.Account("tx_b"), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		b.config.Remotes[i].JWT = token
	}
	before := leafIDs(t, a)
	b.configure()
	eventually(t, "the link uses the new token", func() error {
		after := leafIDs(t, a)
		if len(after) != 2 || after["tx_b"] == before["tx_b"] {
			return fmt.Errorf("%v", after)
		}
		return nil
	})
	nc := a.agent("tx_b")
	for _, subject := range []string{"$SYS.REQ.ACCOUNT.PING.CONNZ", "$SYS.REQ.USER.INFO", "$JS.b.API.INFO"} {
		answers, err := ask(t, nc, subject, 150*time.Millisecond)
		if err != nil && !errors.Is(err, nats.ErrNoResponders) {
			t.Fatal(err)
		}
		for _, text := range answers {
			if !strings.Contains(text, `"name":"a"`) {
				t.Errorf("%s is answered from outside: %s", subject, text)
			}
		}
	}
	a.waitLinks(2)
}

// A long cut of a durable bridge loses, doubles and reorders nothing.
func TestDurableBridgeThroughCut(t *testing.T) {
	ms := startAll(t, "a", "b")
	a, b := ms["a"], ms["b"]
	p := newProxy(t, a.linkAddr())
	link(t, b, a, p.ln.Addr().String())
	a.waitLinks(2)
	br := &bridge{way: path{a, b}, stream: "ORDERS", subject: "orders.>", hash: "0a0b0c0d"}
	br.plan()
	a.setAccounts()
	b.setAccounts()
	br.create(t)
	br.publish(t, 0, 300)
	br.verify(t, 300)
	p.setCut(true)
	a.waitLinks(0)
	br.publish(t, 300, 1000)
	p.setCut(false)
	start := time.Now()
	a.waitLinks(2)
	br.verify(t, 1000)
	t.Logf("caught up after %v", time.Since(start).Round(time.Millisecond))
}

// Imports come and go while clients and links stay connected.
func TestLiveChanges(t *testing.T) {
	a, b := pair(t)
	dropped := make(chan error, 10)
	watch := nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { dropped <- err })
	ca, cb := a.app("app", watch), b.app("app", watch)
	before := leafIDs(t, a)
	box := listen(t, cb, ">")

	both(a, b, func(p path) { p.forward("app", "orders.>") })
	exactlyOnce(t, "one subject", ca, "orders.1", map[string]*inbox{"b": box})
	both(a, b, func(p path) { p.forward("app", "alerts.>") })
	exactlyOnce(t, "a second one", ca, "alerts.1", map[string]*inbox{"b": box})
	exactlyOnce(t, "and still the first", ca, "orders.1", map[string]*inbox{"b": box})

	for _, m := range []*member{a, b} {
		for _, p := range m.parts {
			if s := p.GetAccount(); s != nil {
				var keep []*federationv1.Import
				for _, i := range s.Imports {
					if !strings.Contains(i.Subject, "orders") {
						keep = append(keep, i)
					}
				}
				s.Imports = keep
			}
		}
		m.setAccounts()
	}
	_ = ca.Publish("orders.1", []byte("too late"))
	exactlyOnce(t, "the second stays", ca, "alerts.1", map[string]*inbox{"b": box})
	if box.count("too late") != 0 {
		t.Error("a removed import still carries")
	}
	if after := leafIDs(t, a); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("links were dropped: %v, now %v", before, after)
	}
	select {
	case err := <-dropped:
		t.Errorf("a client was dropped: %v", err)
	default:
	}
}

func leafIDs(t *testing.T, m *member) map[string]uint64 {
	t.Helper()
	conns, err := m.rt.LeafConns()
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]uint64{}
	for _, c := range conns {
		ids[c.Account] = c.ID
	}
	return ids
}
