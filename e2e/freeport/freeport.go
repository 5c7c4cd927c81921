// Package freeport finds ports for tests whose servers must know each other's before
// they start, or keep theirs when they come back. A server to which neither applies
// listens on port 0.
package freeport

import (
	"errors"
	"net"
	"strconv"
	"sync"
	"testing"
)

// The ports of tests lie below those that the system gives to whoever connects (32768
// and up on Linux), and below those of the demo. Each process that tests has a block
// of them to itself, for as long as it listens at the first.
const (
	low    = 10000
	blocks = 10
	size   = 500
)

// pool is what this process may give out: the port that was in use longest ago first.
type pool struct {
	mu   sync.Mutex
	lock net.Listener // nil: no block yet
	free []int
}

var ports pool

// Port is a port of 127.0.0.1 at which nobody listens. No test gets it again until
// this one is over, of whatever process, provided that it asks here.
func Port(t testing.TB) int {
	t.Helper()
	port, err := ports.take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ports.put(port) })
	return port
}

// Addr is "127.0.0.1:PORT", with a port as from [Port].
func Addr(t testing.TB) string {
	t.Helper()
	return addr(Port(t))
}

func addr(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func (p *pool) take() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lock == nil && !p.reserve() {
		return 0, errors.New("every block of ports belongs to another process that tests")
	}
	for range p.free {
		port := p.free[0]
		p.free = p.free[1:]
		if l, err := net.Listen("tcp", addr(port)); err == nil {
			l.Close() // nothing was accepted
			return port, nil
		}
		p.free = append(p.free, port) // of somebody who does not ask here
	}
	return 0, errors.New("no port is free")
}

func (p *pool) put(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, port)
}

// reserve reports whether a block could be had.
func (p *pool) reserve() bool {
	for first := low; first < low+blocks*size; first += size {
		l, err := net.Listen("tcp", addr(first))
		if err != nil {
			continue
		}
		p.lock = l // the system closes it when the process ends
		for port := first + 1; port < first+size; port++ {
			p.free = append(p.free, port)
		}
		return true
	}
	return false
}
