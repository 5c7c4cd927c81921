package demo

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers every connection with what it sends.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	return l.Addr().String()
}

func start(t *testing.T, target string) *proxy {
	t.Helper()
	p, err := newProxy(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

func dial(t *testing.T, p *proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func deadline(t *testing.T, c net.Conn, d time.Duration) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(d)); err != nil {
		t.Fatal(err)
	}
}

// roundTrip sends a text and expects it back.
func roundTrip(t *testing.T, c net.Conn, text string) {
	t.Helper()
	deadline(t, c, 10*time.Second)
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("got %q, %v; want %q", got, err, text)
	}
}

func TestProxyPasses(t *testing.T) {
	p := start(t, echo(t))
	c := dial(t, p)
	roundTrip(t, c, "hello")
	big := bytes.Repeat([]byte("x"), 1<<20)
	deadline(t, c, 20*time.Second)
	go func() { _, _ = c.Write(big) }()
	got := make([]byte, len(big))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, big) {
		t.Fatalf("1 MiB did not come back whole: %v", err)
	}
}

func TestProxyRefuses(t *testing.T) {
	p := start(t, echo(t))
	old := dial(t, p)
	roundTrip(t, old, "hello")

	p.set(refuse)
	deadline(t, old, 10*time.Second)
	if n, err := old.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an open connection outlives the cut: %d, %v", n, err)
	}
	if c, err := net.Dial("tcp", p.addr()); err == nil {
		deadline(t, c, 10*time.Second)
		if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a new connection is served during the cut: %d, %v", n, err)
		}
		c.Close()
	}

	p.set(pass)
	roundTrip(t, dial(t, p), "hello again")
}

func TestProxyBlackhole(t *testing.T) {
	p := start(t, echo(t))
	old := dial(t, p)
	roundTrip(t, old, "hello")

	p.set(blackhole)
	fresh := dial(t, p)
	for _, c := range []net.Conn{old, fresh} {
		if _, err := io.WriteString(c, "lost?"); err != nil {
			t.Fatal(err)
		}
		deadline(t, c, 100*time.Millisecond)
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("something came through: %d, %v", n, err)
		}
	}

	p.set(pass)
	for _, c := range []net.Conn{old, fresh} {
		deadline(t, c, 10*time.Second)
		got := make([]byte, 5)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "lost?" {
			t.Errorf("after the outage: %q, %v", got, err)
		}
	}
}

func TestProxyClosesInEveryMode(t *testing.T) {
	for _, m := range []mode{pass, refuse, blackhole} {
		p := start(t, echo(t))
		c := dial(t, p)
		roundTrip(t, c, "hello")
		p.set(m)
		if m == blackhole {
			dial(t, p)
		}
		p.close()
		deadline(t, c, 10*time.Second)
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("mode %d: the connection outlives the proxy: %v", m, err)
		}
	}
}

func TestProxyWithoutTarget(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, l.Addr().String())
	l.Close()
	c, err := net.Dial("tcp", p.addr())
	if err != nil {
		return // the reset was faster
	}
	defer c.Close()
	deadline(t, c, 10*time.Second)
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection to nobody: %v", err)
	}
}
