package embedded

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// A reload waits for a client that is connecting, but not for ever.
func TestReloadAwaitsConnecting(t *testing.T) {
	m := newMember(t, newAuthority(t), "a")
	m.account("app")
	m.start()
	srv := m.rt.server()
	awaitConnecting(t.Context(), srv, time.Hour) // nobody is connecting, not even the agent

	conn, err := net.Dial("tcp", strings.TrimPrefix(m.rt.ClientURL(), "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil { // INFO: it is counted from now on
		t.Fatal(err)
	}
	awaitConnecting(t.Context(), srv, 10*time.Millisecond)

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		awaitConnecting(ctx, srv, time.Hour)
	}()
	select {
	case <-waited:
		t.Error("a reload does not wait for a client that is connecting")
	case <-time.After(50 * time.Millisecond):
	}
	fmt.Fprint(conn, "CONNECT {}\r\n") // it is refused, which is an end too
	<-waited
	if ctx.Err() != nil {
		t.Error("a reload waits on although nobody is connecting")
	}
}
