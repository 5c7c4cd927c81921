package hub

import (
	"context"
	"fmt"
	"net"
	"testing"

	"google.golang.org/grpc/peer"
)

func TestLimits(t *testing.T) {
	l := newLimits(0.001, 3)
	for i := range 5 {
		if got := l.allow("a"); got != (i < 3) {
			t.Errorf("call %d: %v", i, got)
		}
	}
	if !l.allow("b") {
		t.Error("one key's calls count for another")
	}
	// As many keys as an attacker has addresses: bounded, and it lets nobody in
	// who was shut out.
	for i := range maxLimiters + 10 {
		l.allow(fmt.Sprint(i))
	}
	if len(l.byKey) > maxLimiters || l.allow("a") {
		t.Errorf("%d limiters, a allowed again", len(l.byKey))
	}
}

func TestNetworkOfPeer(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
	} {
		ctx := peer.NewContext(context.Background(), &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(addr), Port: 1}})
		if got := network(ctx); got != want {
			t.Errorf("network(%s) = %q, want %q", addr, got, want)
		}
	}
}
