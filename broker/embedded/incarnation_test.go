package embedded

import (
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// former answers as a member that had the name before: of those who dial it, it counts
// who believes it and who does not.
type former struct {
	listener          net.Listener
	believed, refused atomic.Int64
}

func newFormer(t *testing.T, c *tls.Config) *former {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &former{listener: l}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer raw.Close()
				conn := tls.Server(raw, acceptTLS(c))
				if conn.SetDeadline(time.Now().Add(10*time.Second)) != nil || conn.Handshake() != nil {
					f.refused.Add(1)
					return
				}
				f.believed.Add(1)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return f
}

// Who had the name of a peer before is not taken for it, although its certificate is
// good for the name. Renewed certificates, reloads and a new peer of that name are let
// through, and none of that restarts a broker.
func TestFormerPeerIsRefused(t *testing.T) {
	const was, is, willBe = "0123456789abcdef0123456789abcdef", "00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100"
	ca := newAuthority(t)
	until := time.Now().Add(time.Hour)
	a, b := newMember(t, ca, "a"), newMember(t, ca, "b")
	a.config.TLS = ca.issue(t, "a", until, is)
	a.start()
	fake := newFormer(t, ca.issue(t, "a", until, was))
	link(t, b, a, fake.listener.Addr().String(), a.linkAddr())
	insist := func(incarnation string) {
		for i := range b.config.Remotes {
			b.config.Remotes[i].Incarnation = incarnation
		}
	}
	change := func(m *member, what string) {
		t.Helper()
		if m.configure() {
			t.Errorf("%s: the broker restarted", what)
		}
	}
	dropped := func(at *member) {
		t.Helper()
		for _, id := range leafIDs(t, at) {
			if err := at.rt.KickLeaf(id); err != nil {
				t.Fatal(err)
			}
		}
	}
	insist(is)
	b.start()
	a.waitLinks(2)
	if fake.refused.Load() == 0 {
		t.Fatal("the former peer was never asked")
	}

	before := leafIDs(t, a)
	b.config.TLS = ca.issue(t, "b", until)
	change(b, "a renewal of the dialer")
	b.config.Spec.MaxConnections = 77
	change(b, "another limit")
	a.config.TLS = ca.issue(t, "a", until, is)
	change(a, "a renewal of the acceptor")
	if after := leafIDs(t, a); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("links were dropped: %v, now %v", before, after)
	}
	dropped(a)
	eventually(t, "links come back by the renewed certificates", func() error {
		after := leafIDs(t, a)
		for account, id := range before {
			if now, is := after[account]; !is || now == id {
				return fmt.Errorf("%v were %v", after, before)
			}
		}
		return nil
	})

	a.config.TLS = ca.issue(t, "a", until, willBe)
	change(a, "another has the name")
	dropped(a)
	refused := fake.refused.Load()
	eventually(t, "the dialer knows neither of the two", func() error {
		if n := fake.refused.Load() - refused; n < 6 {
			return fmt.Errorf("it tried the former peer %d times", n)
		}
		return nil
	})
	if conns, err := a.rt.LeafConns(); err != nil || len(conns) > 0 {
		t.Errorf("links to one that is not known yet: %v (%v)", conns, err)
	}
	insist(willBe)
	change(b, "the other becomes known")
	a.waitLinks(2)
	insist("")
	change(b, "the name is enough")
	if n := fake.believed.Load(); n > 0 {
		t.Errorf("the former peer was believed %d times", n)
	}
	dropped(a)
	eventually(t, "without an incarnation the name is enough", func() error {
		if fake.believed.Load() == 0 {
			return fmt.Errorf("refused %d times", fake.refused.Load())
		}
		return nil
	})
}
