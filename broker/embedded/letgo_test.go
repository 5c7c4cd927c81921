package embedded

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

func TestWaiting(t *testing.T) {
	// ahead is by how many messages more a client has sent than received, at each look.
	for _, tc := range []struct {
		name  string
		ahead []int64
		waits []bool
	}{
		{"watched while it waits", []int64{4, 4, 3, 4, 3}, []bool{true, true, false, true, false}},
		{"watched before it asks", []int64{3, 4, 3}, []bool{true, true, false}},
		{"several at once", []int64{2, 1, 0, 2, 1, 0}, []bool{true, false, false, true, true, false}},
		{"only receives", []int64{0, -1, -2, -2}, []bool{true, false, false, false}},
		{"sends what is not answered", []int64{0, 1, 2, 3}, []bool{true, true, true, true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := waiting{}
			for n, ahead := range tc.ahead {
				if waits := w.look(1, ahead); waits != tc.waits[n] {
					t.Errorf("look %d: waits %v", n, waits)
				}
			}
		})
	}
	w := waiting{}
	for n := range letGoStill {
		if waits := w.look(1, 7); waits != (n < letGoStill-1) {
			t.Fatalf("silent for %d looks: waits %v", n+1, waits)
		}
	}
	if !w.look(1, 8) {
		t.Error("does not wait for its first answer")
	}
}

// Requesters that wait for an answer nine tenths of the time get it before their
// server lets them go: else nine in ten would lose one.
func TestLetGo(t *testing.T) {
	const requesters = 20
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
		LameDuckDuration: 3100 * time.Millisecond, LameDuckGracePeriod: 3 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(srv.Shutdown)
	connect := func(opts ...nats.Option) *nats.Conn {
		t.Helper()
		nc, err := nats.Connect(srv.ClientURL(), append(opts, nats.NoReconnect())...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	if _, err := connect(nats.InProcessServer(srv)).Subscribe("ask", func(r *nats.Msg) {
		time.AfterFunc(45*time.Millisecond, func() { _ = r.Respond(nil) })
	}); err != nil {
		t.Fatal(err)
	}
	var lost atomic.Int64
	var all, begun sync.WaitGroup
	for range requesters {
		nc := connect()
		begun.Add(1)
		once := sync.OnceFunc(begun.Done)
		all.Go(func() {
			defer once()
			for n := 0; nc.IsConnected(); n++ {
				if n == 3 {
					once()
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				_, err := nc.RequestWithContext(ctx, "ask", nil)
				cancel()
				if err != nil {
					lost.Add(1)
					return
				}
				<-time.After(5 * time.Millisecond)
			}
		})
	}
	begun.Wait()
	if n := lost.Load(); n > 0 {
		t.Fatalf("%d requests failed before anything stopped", n)
	}
	stop(ctxFor(t), srv)
	all.Wait()
	if lost.Load() > requesters/2 {
		t.Errorf("%d of %d lost an answer", lost.Load(), requesters)
	}
	t.Logf("%d of %d lost an answer", lost.Load(), requesters)
}
