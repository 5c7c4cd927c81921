package embedded

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// sourcing is a durable bridge along a way of islands.
type sourcing struct {
	t        *testing.T
	way      isles
	consumer string
	deliver  string
	from, to jetstream.JetStream
}

func newSourcing(t *testing.T, way isles) *sourcing {
	t.Helper()
	o, d := way[0], way[len(way)-1]
	s := &sourcing{t: t, way: way, consumer: "fed-" + d.name + "-00000000", deliver: "fedjd." + d.name + "." + o.name + ".S.00000000"}
	way.forward(s.deliver)
	way.reply("$JS.FC.S." + s.consumer + ".>")
	way.reset("S", s.consumer)
	return s
}

func (s *sourcing) create() {
	s.t.Helper()
	o, d := s.way[0], s.way[len(s.way)-1]
	for _, x := range []struct {
		at *island
		js *jetstream.JetStream
	}{{o, &s.from}, {d, &s.to}} {
		var err error
		if *x.js, err = jetstream.New(x.at.anywhere()); err != nil {
			s.t.Fatal(err)
		}
	}
	s.retry("create", func(ctx context.Context) error {
		if _, err := s.from.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Replicas: o.size}); err != nil {
			return err
		}
		if _, err := s.from.CreateOrUpdatePushConsumer(ctx, "S", jetstream.ConsumerConfig{
			Durable: s.consumer, DeliverSubject: s.deliver, AckPolicy: jetstream.AckFlowControlPolicy,
			FlowControl: true, IdleHeartbeat: time.Second, MaxAckPending: 4096,
		}); err != nil {
			return err
		}
		_, err := s.to.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "COPY", Replicas: d.size, Sources: []*jetstream.StreamSource{{
			Name: "S", External: &jetstream.ExternalStream{APIPrefix: "fedjs." + o.name},
			Consumer: &jetstream.StreamConsumerSource{Name: s.consumer, DeliverSubject: s.deliver},
		}}})
		return err
	})
}

// retry repeats f while servers come and go.
func (s *sourcing) retry(what string, f func(context.Context) error) {
	s.t.Helper()
	end := time.Now().Add(60 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := f(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s: %v", what, err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// publish stores the messages from to to-1; their ids make it safe to repeat.
func (s *sourcing) publish(from, to int) {
	s.t.Helper()
	for i := from; i < to; i++ {
		s.retry("publish", func(ctx context.Context) error {
			_, err := s.from.PublishMsg(ctx, &nats.Msg{Subject: "s.x", Data: []byte(strconv.Itoa(i))}, jetstream.WithMsgID(strconv.Itoa(i)))
			return err
		})
	}
}

func (s *sourcing) verify(n int) {
	s.t.Helper()
	s.retry("copied", func(ctx context.Context) error {
		c, err := s.to.Stream(ctx, "COPY")
		if err != nil {
			return err
		}
		if got := c.CachedInfo().State.Msgs; got < uint64(n) {
			return fmt.Errorf("%d messages, want %d", got, n)
		}
		return nil
	})
	s.retry("compare", func(ctx context.Context) error {
		c, err := s.to.Stream(ctx, "COPY")
		if err != nil {
			return err
		}
		if got := c.CachedInfo().State; got.Msgs != uint64(n) || got.LastSeq != uint64(n) {
			s.t.Fatalf("%d messages, the last is %d, want %d", got.Msgs, got.LastSeq, n)
		}
		for i := range n {
			m, err := c.GetMsg(ctx, uint64(i+1))
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				s.t.Fatalf("message %d is not there", i)
			}
			if err != nil {
				return err
			}
			if string(m.Data) != strconv.Itoa(i) {
				s.t.Fatalf("message %d is %s", i, m.Data)
			}
		}
		return nil
	})
}

// leader is the server that leads a stream of an island.
func (i *island) leader(stream string) int {
	i.t.Helper()
	at := -1
	eventually(i.t, i.name+": a leader of "+stream, func() error {
		at = slices.IndexFunc(i.servers, func(s *server.Server) bool { return s != nil && s.JetStreamIsStreamLeader("app", stream) })
		if at < 0 {
			return errors.New("none")
		}
		return nil
	})
	return at
}

// Streams of three copies on members of three servers, the way through a third
// one: servers of each are lost and come back, and every message arrives once, in
// order. The way on goes once by a link that the member in the middle accepts and
// once by one that it dials.
func TestClusterDurableThroughLosses(t *testing.T) {
	for _, dials := range []bool{false, true} {
		t.Run(fmt.Sprintf("dials on %t", dials), func(t *testing.T) {
			t.Parallel()
			a, b, c := newIsland(t, "a", 3, true), newIsland(t, "b", 3, true), newIsland(t, "c", 3, true)
			s := newSourcing(t, isles{a, b, c})
			isles{a, b, c}.everything()
			a.dial(b, false)
			if dials {
				b.dial(c, false)
			} else {
				c.dial(b, false)
			}
			startIslands(t, a, b, c)
			s.create()
			s.publish(0, 100)
			s.verify(100)
			n := 100
			for round, lose := range []func() (*island, int){
				func() (*island, int) { return b, 0 },
				func() (*island, int) { return c, c.leader("COPY") },
				func() (*island, int) { return a, a.leader("S") },
			} {
				who, at := lose()
				who.kill(at)
				s.publish(n, n+50)
				start := time.Now()
				s.verify(n + 50)
				t.Logf("round %d: without server %d of %s: all there after %v", round, at, who.name, time.Since(start).Round(10*time.Millisecond))
				// Others do without it as well.
				if err := crossing(t, a, c, opens); err != nil {
					t.Errorf("without server %d of %s: %v", at, who.name, err)
				}
				if err := asking(t, c, a, opens); err != nil {
					t.Errorf("without server %d of %s: %v", at, who.name, err)
				}
				who.run(at)
				who.waitRoutes()
				who.waitRemotes()
				s.publish(n+50, n+100)
				n += 100
				s.verify(n)
			}
			if err := crossing(t, c, a, opens); err != nil {
				t.Error(err)
			}
		})
	}
}
