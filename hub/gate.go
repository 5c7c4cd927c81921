package hub

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// gateTime bounds how long the gate is shut at a time.
const gateTime = 100 * time.Millisecond

// gate keeps what agents say waiting while a change is being sent to many: their
// answers to it take as much of the processor as the change, and the last member would
// wait for the answers of the first.
type gate struct {
	shut  atomic.Pointer[chan struct{}] // nil: open
	mu    sync.Mutex                    // of who shuts and opens
	timer *time.Timer
}

// close shuts the gate until it is opened, or for gateTime.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut.Load() != nil {
		return
	}
	over := make(chan struct{})
	g.shut.Store(&over)
	g.timer = time.AfterFunc(gateTime, func() { g.end(&over) })
}

func (g *gate) open() { g.end(g.shut.Load()) }

// end opens the gate if it is the same closing yet.
func (g *gate) end(over *chan struct{}) {
	if over == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut.CompareAndSwap(over, nil) {
		g.timer.Stop()
		close(*over)
	}
}

func (g *gate) pass() {
	if over := g.shut.Load(); over != nil {
		<-*over
	}
}

// gatedListener has all that its connections read pass a gate.
type gatedListener struct {
	net.Listener
	gate *gate
}

// Accept implements net.Listener.
func (l gatedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return gatedConn{c, l.gate}, err
}

type gatedConn struct {
	net.Conn
	gate *gate
}

func (c gatedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.gate.pass()
	return n, err
}
