package hub

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// What is read passes when the gate is opened, or gateTime after it was shut.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		near, far := net.Pipe()
		conn := gatedConn{near, &g}
		read := make(chan time.Duration)
		begin := time.Now()
		go func() {
			for {
				if _, err := conn.Read(make([]byte, 1)); err != nil {
					close(read)
					return
				}
				read <- time.Since(begin)
			}
		}()
		hear := func(what string, want time.Duration) {
			t.Helper()
			if got := <-read; got != want {
				t.Errorf("%s: read after %v, not after %v", what, got, want)
			}
		}
		say := func() {
			if _, err := far.Write([]byte{0}); err != nil {
				t.Error(err)
			}
		}
		say()
		hear("open", 0)
		g.close()
		say()
		hear("never opened", gateTime)
		g.open() // already open
		g.close()
		g.close()
		say()
		pause(t.Context(), gateTime/2)
		g.open()
		hear("opened", gateTime*3/2)
		g.close()
		pause(t.Context(), gateTime*2/3) // longer than what was left of the time before
		say()
		hear("shut anew", gateTime*5/2)
		if err := far.Close(); err != nil {
			t.Error(err)
		}
		if _, is := <-read; is {
			t.Error("read from a closed connection")
		}
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			t.Error(err)
		}
	})
}

// While what is in the queue at a wave is sent, nothing is heard; then everything is.
func TestOutboxFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox()
		ctx, cancel := context.WithCancel(t.Context())
		pushed, goOn := 0, make(chan struct{})
		ran := make(chan struct{})
		go func() {
			defer close(ran)
			o.run(ctx, func(*session) { <-goOn; pushed++ })
		}()
		synctest.Wait()
		if o.first(); o.gate.shut.Load() != nil {
			t.Fatal("shut for nothing")
		}
		const sessions = 3
		for range sessions {
			o.add(&session{turn: turnIdle})
		}
		o.first()
		for range sessions {
			if synctest.Wait(); o.gate.shut.Load() == nil {
				t.Fatalf("open after %d", pushed)
			}
			goOn <- struct{}{}
		}
		if synctest.Wait(); o.gate.shut.Load() != nil {
			t.Error("shut when all is sent")
		}
		cancel()
		<-ran
	})
}
