package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// member is a simulated member: it speaks the protocol of an agent over mutual
// TLS, with a certificate that the hub issued, but has no broker. What it is sent it
// checks, holds at once and reports as applied; links are up as soon as they are
// there.
type member struct {
	name      string
	endpoints []string
	linkKey   string
	cert      tls.Certificate
	roots     *x509.CertPool
	fleet     *fleet

	// mu guards what follows, and sending.
	mu      sync.Mutex
	held    map[string]string
	hash    string
	links   map[string]bool
	grants  map[string]*federationv1.Grant
	stream  grpc.ClientStream
	cancel  context.CancelFunc
	done    chan struct{}
	welcome bool
	// updates counts those of this session, bytes what came in them.
	updates, bytes int
}

// fleet is all members, and what happens to them.
type fleet struct {
	hub     string
	members []*member
	byName  map[string]*member
	// got is told of every welcome and update, at the moment at which the member has
	// it.
	got atomic.Pointer[func(m *member, at time.Time)]
	// wire counts the bytes that connections carry, below TLS.
	sent, received atomic.Int64
	// failed is the first thing that went wrong in a session that should be open.
	failed atomic.Pointer[error]
}

func (f *fleet) fail(m *member, err error) {
	err = fmt.Errorf("member %s: %w", m.name, err)
	f.failed.CompareAndSwap(nil, &err)
}

func (f *fleet) err() error {
	if e := f.failed.Load(); e != nil {
		return *e
	}
	return nil
}

func (f *fleet) tell(m *member, at time.Time) {
	if fn := f.got.Load(); fn != nil {
		(*fn)(m, at)
	}
}

// watch has fn told, until the returned function is called.
func (f *fleet) watch(fn func(m *member, at time.Time)) (stop func()) {
	f.got.Store(&fn)
	return func() { f.got.Store(nil) }
}

type countedConn struct {
	net.Conn
	f *fleet
}

func (c countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.f.received.Add(int64(n))
	return n, err
}

func (c countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.f.sent.Add(int64(n))
	return n, err
}

func (m *member) dial() (*grpc.ClientConn, error) {
	host, _, err := net.SplitHostPort(m.fleet.hub)
	if err != nil {
		return nil, err
	}
	return grpc.NewClient("passthrough:///"+m.fleet.hub,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			MinVersion: tls.VersionTLS13, RootCAs: m.roots, ServerName: host, Certificates: []tls.Certificate{m.cert},
			NextProtos: []string{"h2", federationv1.EnrolledProtocol},
		})),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			if err != nil {
				return nil, err
			}
			return countedConn{c, m.fleet}, nil
		}),
		grpc.WithReadBufferSize(0), grpc.WithWriteBufferSize(4<<10),
		grpc.WithStaticStreamWindowSize(256<<10), grpc.WithStaticConnWindowSize(256<<10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20), grpc.ForceCodecV2(codec{})),
		grpc.WithDisableServiceConfig(),
	)
}

// connect opens a session and returns once Hello is sent.
func (m *member) connect(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	conn, err := m.dial()
	if err != nil {
		cancel()
		return err
	}
	stream, err := conn.NewStream(ctx, &federationv1.Federation_ServiceDesc.Streams[0], federationv1.Federation_Sync_FullMethodName)
	if err != nil {
		cancel()
		conn.Close() //nolint:errcheck // it has failed already
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stream, m.cancel, m.done, m.welcome, m.updates, m.bytes = stream, cancel, make(chan struct{}), false, 0, 0
	err = stream.SendMsg(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Hello{Hello: &federationv1.Hello{
		Protocol: federationv1.ProtocolVersion,
		Agent:    &federationv1.AgentInfo{Version: "bench", BrokerVersion: "2.15.2", Runtime: "embedded"},
		Features: []string{"broker", "account", "link", "stream", "outlet"},
		HeldHash: m.hash, Epoch: 1, Facts: m.facts(),
	}}})
	go m.receive(ctx, conn, stream, m.done)
	return err
}

func (m *member) facts() *federationv1.Facts {
	return &federationv1.Facts{LinkKey: m.linkKey, Endpoints: m.endpoints, Storage: 100 << 30, Memory: 8 << 30}
}

// disconnect ends the session and waits for that.
func (m *member) disconnect() {
	m.mu.Lock()
	cancel, done := m.cancel, m.done
	m.mu.Unlock()
	if cancel != nil {
		cancel()
		<-done
	}
}

// wipe forgets what the member holds.
func (m *member) wipe() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held, m.hash = map[string]string{}, federationv1.EmptyHash
	m.links = map[string]bool{}
}

func (m *member) receive(ctx context.Context, conn *grpc.ClientConn, stream grpc.ClientStream, done chan struct{}) {
	defer close(done)
	defer conn.Close() //nolint:errcheck // nothing is left to say
	for {
		var f frame
		err := stream.RecvMsg(&f)
		at := time.Now()
		if err == nil {
			err = m.take(&f, at)
		}
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, io.EOF) {
				m.fleet.fail(m, err)
			}
			return
		}
	}
}

// take does what an agent does with a message of the hub.
func (m *member) take(f *frame, at time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case f.welcome != nil:
		m.welcome = true
		if f.welcome.WantInventory {
			if err := m.inventory(); err != nil {
				return err
			}
		}
		m.fleet.tell(m, at)
		return m.report(&federationv1.Report{HeldHash: m.hash, Grants: values(m.grants), Links: m.health(m.links)})
	case f.update != nil:
		m.updates++
		m.bytes += f.size
		return m.update(f.update, at)
	}
	return nil
}

func (m *member) update(u *update, at time.Time) error {
	if u.base != m.hash {
		return fmt.Errorf("an update from %s came, but %s is held", u.base, m.hash)
	}
	r := &federationv1.Report{HeldHash: u.target}
	up := map[string]bool{}
	for _, p := range u.parts {
		m.held[p.id] = p.hash
		r.Parts = append(r.Parts, &federationv1.PartStatus{Id: p.id, Hash: p.hash, State: federationv1.PartStatus_APPLIED})
		if l := p.link; l != nil {
			m.links[l.Peer], up[l.Peer] = true, true
			if l.Role == federationv1.LinkSpec_ACCEPT && l.PeerKey != "" {
				g := &federationv1.Grant{Peer: l.Peer, Key: l.PeerKey, Out: jwt(m.name, l.Peer, "out"), In: jwt(m.name, l.Peer, "in")}
				m.grants[l.Peer] = g
				r.Grants = append(r.Grants, g)
			}
		}
	}
	for _, id := range u.removals {
		delete(m.held, id)
	}
	if sum := federationv1.StateHash(m.held); sum != u.target {
		return fmt.Errorf("the update leads to %s, not to %s", sum, u.target)
	}
	m.hash = u.target
	m.fleet.tell(m, at)
	r.Links = m.health(up)
	return m.report(r)
}

func (m *member) report(r *federationv1.Report) error {
	return m.stream.SendMsg(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Report{Report: r}})
}

func (m *member) inventory() error {
	inv := &federationv1.Inventory{HeldHash: m.hash}
	for id, hash := range m.held {
		inv.Parts = append(inv.Parts, &federationv1.HeldPart{Id: id, Hash: hash})
	}
	return m.stream.SendMsg(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Inventory{Inventory: inv}})
}

func (m *member) health(peers map[string]bool) []*federationv1.LinkHealth {
	var out []*federationv1.LinkHealth
	for p := range peers {
		out = append(out, &federationv1.LinkHealth{Peer: p, State: federationv1.Health_UP, Since: started.UnixMilli(), RttMicros: 20_000})
	}
	return out
}

var started = time.Now()

// heartbeats sends those of all members, spread over the interval, until ctx ends.
func (f *fleet) heartbeats(ctx context.Context, interval time.Duration) {
	t := time.NewTicker(interval / 100)
	defer t.Stop()
	for i := 0; ; i = (i + 1) % 100 {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		for k := i; k < len(f.members); k += 100 {
			f.members[k].heartbeat()
		}
	}
}

func (m *member) heartbeat() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stream != nil && m.welcome {
		// Of a stream that is gone its receiver tells.
		_ = m.stream.SendMsg(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Heartbeat{Heartbeat: &federationv1.Heartbeat{HeldHash: m.hash}}})
	}
}

// holding is what the member holds.
func (m *member) holding() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hash
}

// jwt is as long as the user JWTs of a link are.
func jwt(parts ...string) string {
	body := strings.Join(parts, "-")
	return "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ." + body + strings.Repeat("x", 500-len(body)) + "." + strings.Repeat("s", 86)
}

func values(g map[string]*federationv1.Grant) []*federationv1.Grant {
	var out []*federationv1.Grant
	for _, v := range maps.All(g) {
		out = append(out, v)
	}
	return out
}
