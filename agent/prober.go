package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

const (
	// eagerInterval is how often a link that is connected is tried until it is up.
	eagerInterval = 200 * time.Millisecond
	eagerTime     = 10 * time.Second
	// maxProbe bounds what is echoed, echoRate how often for one peer.
	maxProbe = 64
	echoRate = 50 * time.Millisecond
	// dialCheck bounds the test of what is wrong with a peer's address.
	dialCheck = 2 * time.Second
)

// prober probes each link from this end, answers the probes of the peers, and
// shows the health of links. The broker carries a message on pq.PEER over the
// link to the peer's agent, which sees it as pi.SELF and answers on po.SELF;
// the answer arrives on pa.PEER.
type prober struct {
	rt     broker.Runtime
	self   string
	holder *holder
	pic    *picture
	proxy  proxyFunc
	log    *slog.Logger
	wakeup chan struct{}
	nonce  string

	mu    sync.Mutex
	links map[string]*probed
	conn  *nats.Conn
	echo  map[string]time.Time // when a peer was last answered
}

// probed is one link.
type probed struct {
	spec    *federationv1.LinkSpec
	standby bool
	*probe
	// out and in tell which of its connections are up; connectedAt is when out
	// was last seen up, outSince since when it is.
	out, in               bool
	connectedAt, outSince time.Time
	kickedAt              time.Time
	kicks                 int
	// trouble is what connecting to the peer's endpoints showed.
	trouble   string
	checking  bool
	lastCheck time.Time
	nextPaced time.Time
	standbyAt time.Time
}

func newProber(m *member) *prober {
	nonce := make([]byte, 8)
	_, _ = rand.Read(nonce) // never fails
	return &prober{
		rt: m.rt, self: m.name, holder: m.holder, pic: m.pic, proxy: m.proxy, log: m.log,
		wakeup: make(chan struct{}, 1), nonce: hex.EncodeToString(nonce),
		links: map[string]*probed{}, echo: map[string]time.Time{},
	}
}

// refresh has the prober look at which links there are.
func (p *prober) refresh() { wake(p.wakeup) }

// run probes until ctx ends.
func (p *prober) run(ctx context.Context) {
	defer p.disconnect()
	t := time.NewTicker(eagerInterval)
	defer t.Stop()
	for {
		p.step(ctx, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-p.wakeup:
		}
	}
}

func (p *prober) disconnect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		p.conn.Close()
	}
}

// announce shows every link as not probed yet.
func (p *prober) announce() {
	now := time.Now()
	p.mu.Lock()
	p.track(now, p.holder.now())
	p.mu.Unlock()
	p.show(now)
}

// step looks at all links once and does what is due.
func (p *prober) step(ctx context.Context, now time.Time) {
	h := p.holder.now()
	p.mu.Lock()
	p.track(now, h)
	n := len(p.links)
	busy := false
	for _, l := range p.links {
		busy = busy || l.due(now) || l.eager(now)
	}
	p.mu.Unlock()
	if n == 0 || !busy {
		p.show(now)
		return
	}
	p.connect()
	conns, err := p.rt.LeafConns()
	p.mu.Lock()
	if err == nil {
		p.connected(now, conns)
	}
	for peer, l := range p.links {
		if l.standby {
			continue
		}
		if l.due(now) {
			l.nextPaced = now.Add(probeInterval)
			l.tick(now)
			p.send(now, peer, l)
		} else if l.eager(now) {
			p.send(now, peer, l)
		}
		if l.state == federationv1.Health_DOWN {
			p.treat(ctx, now, peer, l, conns)
		}
	}
	p.mu.Unlock()
	p.show(now)
}

func (l *probed) due(now time.Time) bool { return !l.standby && !now.Before(l.nextPaced) }

// eager tells whether a link is worth trying at each step: while it may be up at
// any moment.
func (l *probed) eager(now time.Time) bool {
	return !l.standby && l.state != federationv1.Health_UP && (l.out || now.Sub(l.since) < eagerTime)
}

// track follows which links are held, and which are in use.
func (p *prober) track(now time.Time, h *held) {
	idle := standby(h)
	seen := map[string]bool{}
	for _, part := range h.parts {
		spec := part.GetLink()
		if spec == nil || spec.Peer == p.self {
			continue
		}
		seen[spec.Peer] = true
		l := p.links[spec.Peer]
		if l == nil {
			l = &probed{probe: newProbe(now)}
			p.links[spec.Peer] = l
			l.standby = idle[spec.Peer]
			l.standbyAt = now
		}
		l.spec = spec
		if l.standby != idle[spec.Peer] {
			l.standby, l.standbyAt = idle[spec.Peer], now
			l.probe = newProbe(now)
			l.trouble, l.out, l.in, l.connectedAt, l.nextPaced = "", false, false, time.Time{}, time.Time{}
		}
	}
	for peer := range p.links {
		if !seen[peer] {
			delete(p.links, peer)
			delete(p.echo, peer)
		}
	}
}

// connect opens the connection in the agents' account.
func (p *prober) connect() {
	p.mu.Lock()
	open := p.conn != nil && !p.conn.IsClosed()
	p.mu.Unlock()
	if open {
		return
	}
	nc, err := p.rt.Connect(broker.AgentAccount, nats.Timeout(apiTimeout), nats.ReconnectBufSize(-1), logErrors(p.log, broker.AgentAccount))
	if err != nil {
		p.log.Debug("no connection for probes", "error", err)
		return
	}
	for subject, handle := range map[string]nats.MsgHandler{"pi.*": p.answer, "pa.*": p.returned} {
		if _, err := nc.Subscribe(subject, handle); err != nil {
			p.log.Debug("no subscription for probes", "error", err)
			nc.Close()
			return
		}
	}
	p.mu.Lock()
	p.conn = nc
	p.mu.Unlock()
}

// connected notes which connections are up.
func (p *prober) connected(now time.Time, conns []broker.LeafConn) {
	up := map[string]bool{}
	for _, c := range conns {
		up[c.Account] = true
		up[c.Account+" "+c.Server] = true
	}
	for _, l := range p.links {
		was := l.out
		l.out, l.in = up[federationv1.OutAccount(l.spec.PeerAt())+l.others()], up[federationv1.InAccount(l.spec.PeerAt())+l.others()]
		if l.out && !was {
			l.outSince = now
		}
		if l.out {
			l.connectedAt = now
			l.trouble = ""
		}
	}
}

// others tells its connections from others in the same accounts, as far as these are
// honest about their names: the probes are what counts.
func (l *probed) others() string {
	if l.spec.PeerAt() == l.spec.Peer {
		return ""
	}
	return " " + l.spec.Peer
}

// send sends one probe over a link.
func (p *prober) send(now time.Time, peer string, l *probed) {
	seq := l.send(now)
	if p.conn != nil {
		// One that cannot be sent is missing like one that gets lost.
		_ = p.conn.Publish("pq."+peer, []byte(p.nonce+"."+strconv.FormatUint(seq, 10)))
	}
}

// answer echoes a peer's probe.
func (p *prober) answer(m *nats.Msg) {
	peer := strings.TrimPrefix(m.Subject, "pi.")
	now := time.Now()
	p.mu.Lock()
	ok := p.links[peer] != nil && len(m.Data) <= maxProbe && now.Sub(p.echo[peer]) >= echoRate
	if ok {
		p.echo[peer] = now
	}
	conn := p.conn
	p.mu.Unlock()
	if ok && conn != nil {
		_ = conn.Publish("po."+peer, m.Data) // the peer will ask again
	}
}

// returned takes a probe that came back.
func (p *prober) returned(m *nats.Msg) {
	nonce, num, _ := strings.Cut(string(m.Data), ".")
	seq, err := strconv.ParseUint(num, 10, 64)
	if nonce != p.nonce || err != nil {
		return
	}
	peer := strings.TrimPrefix(m.Subject, "pa.")
	now := time.Now()
	p.mu.Lock()
	l := p.links[peer]
	if l == nil || l.standby {
		p.mu.Unlock()
		return
	}
	was := l.state
	ok := l.back(now, seq)
	if ok {
		l.kicks, l.trouble = 0, ""
	}
	p.mu.Unlock()
	if ok && was != federationv1.Health_UP {
		p.log.Info("link is up", "peer", peer)
		p.show(now)
	}
}

// treat does what may help a link that is down: a connection that is there but
// does not work is closed, so that another one is opened. First only the one
// that carries the probes, then both.
func (p *prober) treat(ctx context.Context, now time.Time, peer string, l *probed, conns []broker.LeafConn) {
	if !l.out {
		p.check(ctx, now, peer, l)
		return
	}
	if now.Sub(l.outSince) < probeMisses*probeInterval || now.Sub(l.kickedAt) < kickInterval {
		return
	}
	l.kickedAt = now
	l.kicks++
	out, in := federationv1.OutAccount(l.spec.PeerAt()), federationv1.InAccount(l.spec.PeerAt())
	for _, c := range conns {
		if out != federationv1.OutAccount(peer) && c.Server != peer {
			continue
		}
		if c.Account == out || l.kicks > 1 && c.Account == in {
			p.log.Warn("link is connected but does not work, connecting anew", "peer", peer, "account", c.Account)
			if err := p.rt.KickLeaf(c.ID); err != nil {
				p.log.Debug("kick", "peer", peer, "error", err)
			}
		}
	}
}

// check finds out, in the background, why a peer cannot be reached.
func (p *prober) check(ctx context.Context, now time.Time, peer string, l *probed) {
	if l.checking || l.spec.Role != federationv1.LinkSpec_DIAL || now.Sub(l.lastCheck) < kickInterval && l.trouble != "" {
		return
	}
	l.checking, l.lastCheck = true, now
	endpoints := l.spec.Endpoints
	go func() {
		trouble := p.dialTrouble(ctx, endpoints)
		p.mu.Lock()
		defer p.mu.Unlock()
		l.checking = false
		if p.links[peer] == l && !l.out {
			l.trouble = trouble
		}
	}()
}

// dialTrouble says why the first of the endpoints cannot be reached.
func (p *prober) dialTrouble(ctx context.Context, endpoints []string) string {
	addr, what, answers := endpoints[0], endpoints[0], "the port answers"
	if proxy, _ := p.proxy.of(endpoints); proxy != nil { // a wrong one is told of with the link
		what, answers = what+" through proxy "+proxy.Redacted(), "the proxy answers"
		addr = proxy.Host
		if proxy.Port() == "" {
			addr = net.JoinHostPort(proxy.Hostname(), proxy.Scheme)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, dialCheck)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err == nil {
		c.Close()
		return what + ": " + answers + ", but no link comes about (see the log of this member's agent and of the peer's)"
	}
	var errno syscall.Errno
	var dns *net.DNSError
	switch {
	case errors.As(err, &errno):
		return what + ": " + errno.Error()
	case errors.As(err, &dns):
		return what + ": " + dns.Err
	case errors.Is(err, context.DeadlineExceeded):
		return what + ": no answer"
	default:
		return what + ": " + err.Error()
	}
}

// message says what is wrong with a link that is not up. It holds no time, so
// that it stays the same as long as the trouble does.
func (l *probed) message() string {
	peer := l.spec.Peer
	if l.state == federationv1.Health_UP || l.standby {
		return ""
	}
	switch {
	case l.out && l.state == federationv1.Health_PENDING:
		return ""
	case l.out:
		return "connected to " + peer + ", but probes do not come back"
	case l.spec.Role == federationv1.LinkSpec_ACCEPT && l.in:
		return peer + " has opened only one of its two connections"
	case l.spec.Role == federationv1.LinkSpec_ACCEPT:
		return "no leaf connection from " + peer
	case l.trouble != "":
		return "no leaf connection to " + peer + " (" + l.trouble + ")"
	default:
		return "no leaf connection to " + peer + " (" + l.spec.Endpoints[0] + ")"
	}
}

// show puts the health of all links into the picture.
func (p *prober) show(now time.Time) {
	p.mu.Lock()
	links := make(map[string]*federationv1.LinkHealth, len(p.links))
	for peer, l := range p.links {
		if l.standby {
			links[peer] = &federationv1.LinkHealth{Peer: peer, State: federationv1.Health_STANDBY, Since: l.standbyAt.UnixMilli()}
			continue
		}
		links[peer] = &federationv1.LinkHealth{
			Peer: peer, State: l.state, Since: l.since.UnixMilli(),
			RttMicros: l.rtt.Microseconds(), Message: l.message(),
		}
	}
	p.mu.Unlock()
	p.pic.setLinks(now, links)
}

// watch is what failover needs to know of a link.
func (p *prober) watch(peer string) watch {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.links[peer]
	if l == nil || l.standby {
		return watch{}
	}
	return watch{connected: l.out, connectedAt: l.connectedAt, worked: l.worked}
}
