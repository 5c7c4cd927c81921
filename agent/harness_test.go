package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker/brokertest"
	"github.com/sealane/sealane/e2e/child"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		os.Exit(childMain(dir))
	}
	// A stream that waits for its source waits on after its server has ended, and who
	// starts children for the next.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*stream).trySetupSourceConsumer.func3"), goleak.IgnoreTopFunction(child.Thread))
}

// testAgent is an agent that runs in the test's process.
type testAgent struct {
	t      testing.TB
	opts   Options
	cancel context.CancelFunc
	done   chan error
}

// newAgent returns an agent of its own folder; start starts it.
func newAgent(t testing.TB, hub *testHub, name string) *testAgent {
	t.Helper()
	return &testAgent{t: t, opts: Options{
		Name: name, Hub: hub.addr, Token: hub.token.String(), DataDir: brokertest.Dir(t),
		ClientListen: "127.0.0.1:0", LinkListen: "127.0.0.1:0", Version: "test",
		Log: testLog(t).With("agent", name),
	}}
}

func startAgent(t testing.TB, hub *testHub, name string) *testAgent {
	t.Helper()
	a := newAgent(t, hub, name)
	a.start()
	return a
}

func (a *testAgent) start() {
	a.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel, a.done = cancel, make(chan error, 1)
	done := a.done
	go func() { done <- Run(ctx, a.opts) }()
	a.t.Cleanup(a.stop)
}

// stop shuts the agent down and waits for it.
func (a *testAgent) stop() {
	a.t.Helper()
	if a.cancel == nil {
		return
	}
	a.cancel()
	a.cancel = nil
	select {
	case err := <-a.done:
		if err != nil {
			a.t.Errorf("agent: %v", err)
		}
	case <-time.After(30 * time.Second):
		a.t.Error("the agent does not stop")
	}
}

// url waits until the broker listens.
func (a *testAgent) url() string {
	a.t.Helper()
	return readURL(a.t, a.opts.DataDir)
}

func readURL(t testing.TB, dir string) string {
	t.Helper()
	url := ""
	eventually(t, "the broker listens", func() error {
		b, err := os.ReadFile(urlFile(dir))
		url = strings.TrimSpace(string(b))
		return err
	})
	return url
}

// connect opens an application's connection, with the credentials from the
// data folder.
func (a *testAgent) connect(account string) *nats.Conn {
	a.t.Helper()
	return connectApp(a.t, a.opts.DataDir, account)
}

func connectApp(t testing.TB, dir, account string) *nats.Conn {
	t.Helper()
	creds := filepath.Join(credsDir(dir), account+credsSuffix)
	var nc *nats.Conn
	eventually(t, "an application connects", func() (err error) {
		if _, err := os.Stat(creds); err != nil {
			return err
		}
		nc, err = nats.Connect(readURL(t, dir), nats.UserCredentials(creds), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
		return err
	})
	t.Cleanup(nc.Close)
	return nc
}

func (a *testAgent) js(account string) jetstream.JetStream {
	a.t.Helper()
	return mustJS(a.t, a.connect(account))
}

func mustJS(t testing.TB, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	check(t, err)
	return js
}

// The parts that tests use.

func part(id string, set func(*federationv1.Part)) *federationv1.Part {
	p := &federationv1.Part{Id: id}
	set(p)
	return federationv1.Seal(p)
}

func accountPart(name string, imports ...*federationv1.Import) *federationv1.Part {
	return part(federationv1.AccountID(name), func(p *federationv1.Part) {
		p.Spec = &federationv1.Part_Account{Account: &federationv1.AccountSpec{
			Name: name, Application: !strings.Contains(name, "_"), Imports: imports,
		}}
	})
}

func streamPart(s *federationv1.StreamSpec) *federationv1.Part {
	return part(federationv1.StreamID(s.Account, s.Name), func(p *federationv1.Part) {
		p.Spec = &federationv1.Part_Stream{Stream: s}
	})
}

func outletPart(o *federationv1.OutletSpec) *federationv1.Part {
	return part(federationv1.OutletID(o.Destination, o.Account, o.Stream, o.Consumer), func(p *federationv1.Part) {
		p.Spec = &federationv1.Part_Outlet{Outlet: o}
	})
}

func linkPart(l *federationv1.LinkSpec) *federationv1.Part {
	return part(federationv1.LinkID(l.Peer), func(p *federationv1.Part) {
		p.Spec = &federationv1.Part_Link{Link: l}
	})
}

func acceptPart(peer, key string) *federationv1.Part {
	return linkPart(&federationv1.LinkSpec{Peer: peer, Role: federationv1.LinkSpec_ACCEPT, PeerKey: key})
}

func dialPart(peer string, grant *federationv1.Grant, endpoint string) *federationv1.Part {
	return linkPart(&federationv1.LinkSpec{Peer: peer, Role: federationv1.LinkSpec_DIAL, Grant: grant, Endpoints: []string{endpoint}})
}

func imp(account, subject, to string) *federationv1.Import {
	return &federationv1.Import{Account: account, Subject: subject, To: to}
}

func svc(account, subject, to string) *federationv1.Import {
	return &federationv1.Import{Account: account, Subject: subject, To: to, Service: true}
}

// linkAddr is where an agent accepts links.
func (a *testAgent) linkAddr() string {
	a.t.Helper()
	a.url()
	b, err := os.ReadFile(filepath.Join(a.opts.DataDir, "nats", "ports.json"))
	check(a.t, err)
	var port int
	_, rest, _ := strings.Cut(string(b), `"link":`)
	if _, err := fmt.Sscan(strings.TrimLeft(rest, " "), &port); err != nil {
		a.t.Fatalf("%s: %v", b, err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// proxy passes TCP connections on, until it is cut.
type proxy struct {
	l      net.Listener
	target string

	mu      sync.Mutex
	cut     bool
	stalled chan struct{} // closed when what is open now passes nothing on any more
	conns   map[net.Conn]bool
	wg      sync.WaitGroup
}

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	p := &proxy{l: l, target: target, stalled: make(chan struct{}), conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.setCut(true)
		p.wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.l.Addr().String() }

func (p *proxy) accept() {
	for {
		c, err := p.l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		p.wg.Go(func() { p.pass(c) })
	}
}

func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		c.Close()
		return false
	}
	p.conns[c] = true
	return true
}

func (p *proxy) pass(in net.Conn) {
	if !p.keep(in) {
		return
	}
	out, err := net.Dial("tcp", p.target)
	if err != nil {
		in.Close()
		return
	}
	if !p.keep(out) {
		in.Close()
		return
	}
	p.mu.Lock()
	stalled := p.stalled
	p.mu.Unlock()
	var wg sync.WaitGroup
	copyTo := func(dst, src net.Conn) {
		_, _ = io.Copy(writerFunc(func(b []byte) (int, error) {
			select {
			case <-stalled:
				return len(b), nil // swallowed
			default:
				return dst.Write(b)
			}
		}), src)
		dst.Close()
		src.Close()
	}
	wg.Go(func() { copyTo(out, in) })
	wg.Go(func() { copyTo(in, out) })
	wg.Wait()
}

// stall makes the connections that are open swallow everything, and stay open.
func (p *proxy) stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.stalled)
	p.stalled = make(chan struct{})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// setCut cuts all connections and lets no other through, or heals the cut.
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
