package statefulset

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
	"github.com/sealane/sealane/broker/pod"
)

// Accounts are on all servers as soon as they are set, and gone from all when they
// are not wanted any more; also from a server that was dead meanwhile.
func TestAccountsOnAllServers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.account("app", "leaving")
	w.start()
	w.settled(3)
	for n := range 3 {
		nc := w.app("app", n)
		sub, err := nc.SubscribeSync("x")
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		other := w.app("app", (n+1)%3)
		eventually(t, "message between servers", func() error {
			if err := other.Publish("x", nil); err != nil {
				return err
			}
			_, err := sub.NextMsg(100 * time.Millisecond)
			return err
		})
	}
	leaving := w.app("leaving", 0, nats.NoReconnect())
	w.stream(w.app("leaving", 1), "KEPT", 3, 5)

	w.place.kill(2)
	w.parts = nil
	w.account("app", "fresh")
	w.setAccounts()
	w.app("fresh", 0)
	w.app("fresh", 1)
	eventually(t, "clients of a removed account go", func() error {
		if !leaving.IsClosed() {
			return errors.New("still there")
		}
		return nil
	})
	w.place.revive(2)
	// It has the new accounts before it listens.
	eventually(t, "the server is back", func() error {
		nc, err := w.tryApp("fresh", 2)
		if err == nil {
			nc.Close()
		}
		if nc, err := w.tryApp("leaving", 2); err == nil {
			nc.Close()
			t.Fatal("a removed account came back")
		}
		return err
	})
	w.settled(3)
	// What was retained is there when the account is.
	w.parts = nil
	w.account("app", "fresh", "leaving")
	w.setAccounts()
	w.wantMessages(w.app("leaving", -1), "KEPT", 5)

	if _, err := w.rt.Connect("nobody"); !errors.Is(err, ErrNoAccount) {
		t.Errorf("connect to an account that does not exist: %v", err)
	}
}

// An agent that comes back finds its servers and goes on; one that comes back with
// an old folder goes on after what its servers know.
func TestAgentComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.account("app")
	w.start()
	w.settled(1)
	nc := w.app("app", -1)
	w.stream(nc, "S", 1, 5)
	old, err := New(Options{DataDir: w.dir, Member: "a", Keyring: w.keyring, Place: w.place})
	if err != nil {
		t.Fatal(err)
	}
	w.account("second")
	w.setAccounts()
	w.close()

	w.rt = old
	w.setAccounts()
	eventually(t, "the agent goes on", func() error {
		_, err := w.rt.Configure(ctxFor(t), w.config)
		return err
	})
	w.account("third")
	eventually(t, "accounts", func() error {
		claims, _ := w.keyring.Accounts("a", w.parts)
		for _, err := range w.rt.SetAccounts(ctxFor(t), claims) {
			return err
		}
		return nil
	})
	w.settled(1)
	w.app("third", -1)
	w.wantMessages(nc, "S", 5)
	if nc.Stats().Reconnects > 0 {
		t.Error("clients were disconnected")
	}
}

// Servers restart one by one, for a change that NATS cannot reload and for another
// template; no acknowledged publish fails and nothing is lost.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.account("app")
	w.start()
	w.settled(3)
	nc := w.app("app", -1)
	w.stream(nc, "S", 3, 0)
	w.settled(3)

	agent, err := w.rt.Connect("app")
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()

	var sent, failed, repeated atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	js := jsOf(t, nc)
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			// As clients do: what is not acknowledged is sent again under the same id.
			id := fmt.Sprint(sent.Load())
			err := errors.New("never sent")
			for try := 0; err != nil && try < 40; try++ {
				pctx, c := context.WithTimeout(context.Background(), 2*time.Second)
				m := nats.NewMsg("S.x")
				m.Header.Set(nats.MsgIdHdr, id)
				if _, err = js.PublishMsg(pctx, m); err != nil {
					repeated.Add(1)
					t.Logf("publish %s is repeated: %v", id, err)
					<-time.After(50 * time.Millisecond)
				}
				c()
			}
			if err != nil {
				failed.Add(1)
				t.Logf("publish: %v", err)
			}
			sent.Add(1)
			<-time.After(time.Millisecond) // or replicas are never current on a small machine
		}
	}()
	w.config.Spec = &federationv1.BrokerSpec{MaxStorage: 32 << 20, MaxMemory: 8 << 20, Replicas: 3}
	w.configure()
	eventually(t, "storage is lowered everywhere", func() error {
		for _, p := range w.rt.pods() {
			if got := p.known().GetUsage().GetStorageLimit(); got != 32<<20 {
				return fmt.Errorf("%s has %d: %s", p.addr.Name, got, w.rt.Status())
			}
		}
		return nil
	})
	w.settled(3)
	w.place.upgrade()
	eventually(t, "all are new", func() error {
		servers, err := w.place.Servers(context.Background())
		for n, s := range servers {
			if s.Outdated {
				return fmt.Errorf("server %d is outdated: %s", n, w.rt.Status())
			}
		}
		return err
	})
	w.settled(3)
	cancel()
	<-done
	if failed.Load() > 0 {
		t.Errorf("%d of %d publishes failed", failed.Load(), sent.Load())
	}
	t.Logf("%d of %d publishes were not answered at once", repeated.Load(), sent.Load())
	w.wantMessages(nc, "S", uint64(sent.Load()))
	eventually(t, "the agent's connection is back", func() error { return agent.FlushTimeout(time.Second) })
}

// A dead server's volume can be lost too: another takes its place, and streams have
// all their replicas again.
func TestLostVolume(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.account("app")
	w.start()
	w.settled(3)
	nc := w.app("app", -1)
	w.stream(nc, "S", 3, 10)
	w.settled(3)
	w.place.kill(1)
	w.place.wipe(1)
	w.place.revive(1)
	eventually(t, "three replicas", func() error {
		js := jsOf(t, nc)
		ctx, cancel := context.WithTimeout(ctxFor(t), 5*time.Second)
		defer cancel()
		s, err := js.Stream(ctx, "S")
		if err != nil {
			return err
		}
		c := s.CachedInfo().Cluster
		if len(c.Replicas) != 2 {
			return fmt.Errorf("%d replicas beside the leader: %s", len(c.Replicas), w.rt.Status())
		}
		for _, r := range c.Replicas {
			if !r.Current || r.Offline {
				return fmt.Errorf("%s is not current", r.Name)
			}
		}
		return nil
	})
	w.settled(3)
	w.wantMessages(nc, "S", 10)
}

// Only the agent of this member is obeyed.
func TestControlChannelRefusesOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.account("app")
	w.start()
	foreign, err := loadLocal(t.TempDir(), "a")
	if err != nil {
		t.Fatal(err)
	}
	expired := func() *tls.Config {
		c := w.rt.local.controlTLS()
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			key, der, err := w.rt.local.issue(pod.AgentID("a"), nil, -time.Minute)
			return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
		}
		return c
	}
	as := func(id string) *tls.Config {
		c := w.rt.local.controlTLS()
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			key, der, err := w.rt.local.issue(id, nil, time.Hour)
			return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
		}
		return c
	}
	stranger := foreign.controlTLS()
	stranger.RootCAs = w.rt.local.pool()
	nobody := w.rt.local.controlTLS()
	nobody.GetClientCertificate = nil
	for _, tt := range []struct {
		name string
		tls  *tls.Config
		want codes.Code
	}{
		{"the agent", w.rt.local.controlTLS(), codes.OK},
		{"another member's agent", stranger, codes.Unavailable},
		{"an expired certificate", expired(), codes.Unavailable},
		{"no certificate", nobody, codes.Unavailable},
		{"a server", as(pod.ServerID("a")), codes.PermissionDenied},
		{"the agent of another name", as(pod.AgentID("b")), codes.PermissionDenied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := grpc.NewClient("passthrough:///"+w.place.Address(0).Control, grpc.WithTransportCredentials(credentials.NewTLS(tt.tls)))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			_, err = brokerv1.NewControlClient(conn).Observe(ctx, &brokerv1.ObserveRequest{})
			if got := status.Code(err); got != tt.want {
				t.Errorf("got %v (%v), want %v", got, err, tt.want)
			}
		})
	}
	// And who has no user of an account is no client, nor a route without a certificate.
	if _, err := nats.Connect(w.rt.ClientURL(), nats.Secure(w.rt.local.clientTLS())); err == nil {
		t.Error("a client without credentials was let in")
	}
}

// Links of three servers: from them and to them, seen and kicked as one broker's.
func TestLinksOfThreeServers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.account("app")
	w.start()
	w.settled(3)
	peer, grant := w.acceptor("p")
	w.parts = append(w.parts, &federationv1.Part{Id: federationv1.LinkID("p"), Spec: &federationv1.Part_Link{
		Link: &federationv1.LinkSpec{Peer: "p", Role: federationv1.LinkSpec_DIAL, Grant: grant, Spoke: true},
	}})
	w.setAccounts()
	w.config.Remotes = []broker.Remote{
		{Peer: "p", Out: true, Endpoints: []string{peer}, JWT: grant.Out, Spoke: true},
		{Peer: "p", Out: false, Endpoints: []string{peer}, JWT: grant.In, Spoke: true},
	}
	w.configure()
	var conns []broker.LeafConn
	eventually(t, "each server has both connections", func() error {
		var err error
		if conns, err = w.rt.LeafConns(); err != nil {
			return err
		}
		if len(conns) != 6 {
			return fmt.Errorf("%d: %v", len(conns), conns)
		}
		return nil
	})
	id := conns[0].ID
	if err := w.rt.KickLeaf(id); err != nil {
		t.Fatal(err)
	}
	eventually(t, "kicked, and back", func() error {
		now, err := w.rt.LeafConns()
		if err != nil {
			return err
		}
		for _, c := range now {
			if c.ID == id {
				return errors.New("still there")
			}
		}
		if len(now) != 6 {
			return fmt.Errorf("%d", len(now))
		}
		return nil
	})
	// A peer that cannot be configured does not keep the rest from being.
	w.config.Remotes = append(w.config.Remotes, broker.Remote{Peer: "q", Out: true, Endpoints: []string{"nowhere"}, JWT: grant.Out})
	_, err := w.rt.Configure(ctxFor(t), w.config)
	var re *broker.RemoteError
	if !errors.As(err, &re) || re.Peer != "q" || strings.Contains(err.Error(), `"p"`) {
		t.Errorf("a bad remote: %v", err)
	}
	w.config.Remotes = nil
	w.configure()
	eventually(t, "links go", func() error {
		now, err := w.rt.LeafConns()
		if err == nil && len(now) > 0 {
			err = fmt.Errorf("%d left", len(now))
		}
		return err
	})
}
