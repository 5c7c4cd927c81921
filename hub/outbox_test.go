package hub

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// Every nudge is followed by a look that begins after it, and never are two at one
// session.
func TestOutbox(t *testing.T) {
	const sessions, nudges = 50, 400
	o := newOutbox()
	all := make([]*session, sessions)
	wanted, seen, at := make([]atomic.Int64, sessions), make([]atomic.Int64, sessions), make([]atomic.Int32, sessions)
	index := map[*session]int{}
	for i := range all {
		all[i] = &session{}
		index[all[i]] = i
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		o.run(ctx, func(s *session) {
			i := index[s]
			if at[i].Add(1) != 1 {
				t.Error("two look at one session")
			}
			seen[i].Store(wanted[i].Load())
			at[i].Add(-1)
		})
	}()
	var all2 sync.WaitGroup
	for i, s := range all {
		all2.Go(func() {
			for n := range nudges {
				wanted[i].Add(1)
				o.add(s)
				if n == nudges/2 {
					o.done(s) // its Welcome is out
				}
			}
		})
	}
	all2.Wait()
	eventually(t, "all nudges are heeded", func() bool {
		for i := range all {
			if seen[i].Load() != nudges {
				return false
			}
		}
		return true
	})
	o.mu.Lock()
	left := len(o.queue)
	o.mu.Unlock()
	if left != 0 {
		t.Errorf("%d are in the queue", left)
	}
	cancel()
	<-ran
}

// sink is a stream that takes messages, and gives their buffers back when told.
type sink struct {
	grpc.BidiStreamingServer[federationv1.AgentMessage, federationv1.HubMessage]
	sent []*parcel
}

func (s *sink) SendMsg(m any) error { s.sent = append(s.sent, m.(*parcel)); return nil }

// A second update goes out only when the first is written, whatever the agent says,
// and then without anybody's help.
func TestLine(t *testing.T) {
	f := quietFleet()
	s := &server{fleet: f, log: f.log}
	first, second := state("m", account("a")), state("m", account("a", "x.>"))
	f.Publish(plan(first))
	x := connect(t, f, "m", federationv1.EmptyHash)
	out := &sink{}
	x.line.open(out)
	s.push(x)
	f.Publish(plan(second))
	// It claims to hold what it cannot have read.
	tell(t, f, x, &federationv1.Report{HeldHash: first.Hash})
	awake(x)
	s.push(x)
	if len(out.sent) != 1 || x.inflight != nil {
		t.Fatalf("%d messages were sent, and %v is in flight", len(out.sent), x.inflight)
	}
	if woken(x) {
		t.Error("nothing has changed yet")
	}
	out.sent[0].written()
	if !awake(x) {
		t.Fatal("it is not looked at again")
	}
	s.push(x)
	if len(out.sent) != 2 || out.sent[1].update.TargetHash != second.Hash {
		t.Fatalf("%d messages were sent", len(out.sent))
	}
	out.sent[1].written()
	if woken(x) {
		t.Error("it is looked at again without need")
	}
	x.line.close()
	if x.line.send(&parcel{}) == nil {
		t.Error("sent on a line that is closed")
	}
}
