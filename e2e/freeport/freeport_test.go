package freeport

import (
	"net"
	"testing"
)

// TestBlocks: two processes have no port in common.
func TestBlocks(t *testing.T) {
	var a, b pool
	mine := map[int]bool{}
	for range 100 {
		for _, p := range []*pool{&a, &b} {
			port, err := p.take()
			if err != nil {
				t.Fatal(err)
			}
			if mine[port] {
				t.Fatalf("port %d was given out twice", port)
			}
			mine[port] = true
		}
	}
	a.lock.Close()
	b.lock.Close()
}

// TestTaken: a port at which somebody listens is not given out, and comes back when
// it is free; a process that has given out all says so.
func TestTaken(t *testing.T) {
	var p pool
	if !p.reserve() {
		t.Fatal("no block")
	}
	defer p.lock.Close()
	p.free = p.free[:2]
	l, err := net.Listen("tcp", addr(p.free[0]))
	if err != nil {
		t.Fatal(err)
	}
	port, err := p.take()
	if err != nil || addr(port) == l.Addr().String() {
		t.Fatalf("port %d, %v", port, err)
	}
	if port, err := p.take(); err == nil {
		t.Fatalf("port %d, of none", port)
	}
	l.Close()
	if port, err := p.take(); err != nil || addr(port) != l.Addr().String() {
		t.Errorf("port %d, %v", port, err)
	}
	p.put(port)
	if again, err := p.take(); err != nil || again != port {
		t.Errorf("port %d, %v, want %d back", again, err, port)
	}
}
