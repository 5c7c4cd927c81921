package demo

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// mode is what a proxy does with connections.
type mode int

const (
	// pass forwards.
	pass mode = iota
	// refuse resets connections, those that are open and those to come.
	refuse
	// blackhole keeps connections open and lets nothing through. What was sent
	// meanwhile arrives afterwards, as TCP would see to after a real outage.
	blackhole
)

// proxy forwards TCP connections to a target, and can be cut.
type proxy struct {
	listener net.Listener
	target   string

	stop context.CancelFunc
	done context.Context
	wg   sync.WaitGroup

	mu      sync.Mutex
	mode    mode
	changed chan struct{} // closed when mode changes
	open    map[net.Conn]struct{}
}

// newProxy listens on a free port of the loopback interface.
func newProxy(target string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, target: target, changed: make(chan struct{}), open: map[net.Conn]struct{}{}}
	p.done, p.stop = context.WithCancel(context.Background())
	p.wg.Go(p.accept)
	return p, nil
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

// set changes the mode, also for connections that are open.
func (p *proxy) set(m mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode == m {
		return
	}
	p.mode = m
	close(p.changed)
	p.changed = make(chan struct{})
	if m == refuse {
		p.resetLocked()
	}
}

// close stops everything and waits for it.
func (p *proxy) close() {
	p.stop()
	p.listener.Close()
	p.mu.Lock()
	p.resetLocked()
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *proxy) resetLocked() {
	for c := range p.open {
		reset(c)
	}
	clear(p.open)
}

func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // closing sends a reset rather than an orderly end
	}
	c.Close()
}

// adopt registers a connection, or resets it and returns false if the proxy
// refuses connections or is closed.
func (p *proxy) adopt(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode == refuse || p.done.Err() != nil {
		reset(c)
		return false
	}
	p.open[c] = struct{}{}
	return true
}

func (p *proxy) drop(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		delete(p.open, c)
		c.Close()
	}
}

func (p *proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors, say: let go of the processor
			select {
			case <-p.done.Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		if p.adopt(c) {
			p.wg.Go(func() { p.serve(c) })
		}
	}
}

// gate waits while the proxy is a blackhole. It returns false if it is closed.
func (p *proxy) gate() bool {
	for {
		p.mu.Lock()
		m, changed := p.mode, p.changed
		p.mu.Unlock()
		if m != blackhole {
			return p.done.Err() == nil
		}
		select {
		case <-changed:
		case <-p.done.Done():
			return false
		}
	}
}

func (p *proxy) serve(in net.Conn) {
	defer p.drop(in)
	if !p.gate() {
		return
	}
	out, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(p.done, "tcp", p.target)
	if err != nil {
		reset(in)
		return
	}
	if !p.adopt(out) {
		return
	}
	defer p.drop(out)
	var both sync.WaitGroup
	both.Go(func() { p.pump(out, in) })
	both.Go(func() { p.pump(in, out) })
	both.Wait()
}

// pump copies one direction. When it ends it closes both connections, so that
// the other direction ends as well: half-closed connections mean nothing to NATS.
func (p *proxy) pump(to, from net.Conn) {
	defer p.drop(to, from)
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if !p.gate() {
			return
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
