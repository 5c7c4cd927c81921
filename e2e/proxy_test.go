package e2e

import (
	"net"
	"sync"
	"testing"
)

// proxy carries TCP connections to a target until the way is cut.
type proxy struct {
	listener net.Listener

	mu     sync.Mutex
	target string
	mode   cut
	conns  map[net.Conn]bool
}

// cut is how a way is broken.
type cut int

const (
	open      cut = iota
	refused       // connections are closed, new ones too
	blackhole     // connections stay, nothing moves
)

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	p := &proxy{target: target, conns: map[net.Conn]bool{}}
	p.listener = accepting(t, p.carry)
	t.Cleanup(func() { p.set(refused) }) // before the listener waits for what is carried
	return p
}

// accepting listens until the test ends, and has each connection served, which is
// waited for.
func accepting(t testing.TB, serve func(net.Conn)) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close() // stopping
		all.Wait()
	})
	return l
}

func (p *proxy) address() string { return p.listener.Addr().String() }

// set breaks or mends the way. Mending a blackhole closes what was stuck in it.
func (p *proxy) set(mode cut) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = mode
	if mode == blackhole {
		return
	}
	for c := range p.conns {
		c.Close() // cut
	}
}

// lead has new connections led elsewhere.
func (p *proxy) lead(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

func (p *proxy) leads() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.target
}

func (p *proxy) passes() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode == open
}

func (p *proxy) add(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode == refused {
		c.Close() // cut
		return false
	}
	p.conns[c] = true
	return true
}

func (p *proxy) remove(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	c.Close() // done with it
}

func (p *proxy) carry(in net.Conn) {
	if !p.add(in) {
		return
	}
	defer p.remove(in)
	out, err := net.Dial("tcp", p.leads())
	if err != nil || !p.add(out) {
		return
	}
	defer p.remove(out)
	done := make(chan struct{}, 2)
	copyWhileOpen := func(to, from net.Conn) {
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if n > 0 && p.passes() {
				if _, err := to.Write(buf[:n]); err != nil {
					break
				}
			}
			if err != nil {
				break
			}
		}
		done <- struct{}{}
	}
	go copyWhileOpen(in, out)
	go copyWhileOpen(out, in)
	<-done
	in.Close()  // ends the other direction
	out.Close() // ends the other direction
	<-done
}
