package statefulset

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// TestQueueScaledUnderLoad takes a queue that moves from one stream to another from
// three servers to one, while jobs are written and taken: each is taken. Before, the
// stream that they come from gets more replicas.
//
// It shows that nats-server 2.15.2 may lose messages of a replicated stream that is
// moved between servers while messages arrive (ADR 20): one run of a few fails, so it
// runs only when it is asked for.
func TestQueueScaledUnderLoad(t *testing.T) {
	if os.Getenv("SEALANE_TEST_SCALE_UNDER_LOAD") == "" {
		t.Skip("SEALANE_TEST_SCALE_UNDER_LOAD is not set: known to fail now and then (ADR 20)")
	}
	w := newWorld(t, 3)
	w.account("app")
	w.start()
	w.settled(3)
	nc := w.app("app", -1)
	js := jsOf(t, nc)
	queue := func(r int) jetstream.StreamConfig {
		return jetstream.StreamConfig{Name: "QUEUE", Replicas: r, Retention: jetstream.WorkQueuePolicy, Sources: []*jetstream.StreamSource{{
			Name: "JOBS", Consumer: &jetstream.StreamConsumerSource{Name: "moves", DeliverSubject: "moves"},
		}}}
	}
	jobs := func(r int) jetstream.StreamConfig {
		return jetstream.StreamConfig{Name: "JOBS", Subjects: []string{"jobs"}, Replicas: r, Retention: jetstream.InterestPolicy}
	}
	try := func(what string, f func(context.Context) error) {
		t.Helper()
		eventually(t, what, func() error {
			ctx, cancel := context.WithTimeout(ctxFor(t), 5*time.Second)
			defer cancel()
			return f(ctx)
		})
	}
	try("create", func(ctx context.Context) error {
		if _, err := js.CreateOrUpdateStream(ctx, jobs(1)); err != nil {
			return err
		}
		if _, err := js.CreateOrUpdatePushConsumer(ctx, "JOBS", jetstream.ConsumerConfig{
			Durable: "moves", DeliverSubject: "moves", AckPolicy: jetstream.AckFlowControlPolicy,
			FlowControl: true, IdleHeartbeat: time.Second, MaxAckPending: 4096,
		}); err != nil {
			return err
		}
		if _, err := js.CreateOrUpdateStream(ctx, queue(3)); err != nil {
			return err
		}
		_, err := js.CreateOrUpdateConsumer(ctx, "QUEUE", jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 5 * time.Second})
		return err
	})
	w.settled(3)

	var mu sync.Mutex
	taken := map[int]int{}
	c, err := js.Consumer(ctxFor(t), "QUEUE", "worker")
	if err != nil {
		t.Fatal(err)
	}
	cc, err := c.Consume(func(m jetstream.Msg) {
		n, _ := strconv.Atoi(string(m.Data()))
		mu.Lock()
		taken[n]++
		mu.Unlock()
		_ = m.Ack()
	})
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Stop()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	sent, repeated := 0, 0
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			pctx, end := context.WithTimeout(context.Background(), 2*time.Second)
			_, err := js.PublishMsg(pctx, &nats.Msg{Subject: "jobs", Data: []byte(strconv.Itoa(sent))}, jetstream.WithMsgID(strconv.Itoa(sent)))
			end()
			if err != nil {
				repeated++
				continue
			}
			sent++
			<-time.After(time.Millisecond) // or writing is all that the machine does
		}
	}()
	eventually(t, "jobs are taken", func() error {
		mu.Lock()
		defer mu.Unlock()
		if len(taken) < 100 {
			return fmt.Errorf("%d", len(taken))
		}
		return nil
	})
	try("the origin has three replicas", func(ctx context.Context) error {
		_, err := js.UpdateStream(ctx, jobs(3))
		return err
	})
	w.settled(3)
	w.config.Spec = &federationv1.BrokerSpec{MaxStorage: 64 << 20, MaxMemory: 8 << 20, Replicas: 1}
	w.configure()
	// Moves of streams take long under load.
	for end := time.Now().Add(4 * time.Minute); len(w.rt.pods()) > 1 && time.Now().Before(end); {
		<-time.After(100 * time.Millisecond)
	}
	w.settled(1)
	cancel()
	<-done
	eventually(t, "every job is taken", func() error {
		mu.Lock()
		defer mu.Unlock()
		if len(taken) < sent {
			ctx, cancel := context.WithTimeout(ctxFor(t), time.Second)
			defer cancel()
			s, err := js.Stream(ctx, "QUEUE")
			if err != nil {
				return err
			}
			for _, src := range s.CachedInfo().Sources {
				err = fmt.Errorf("active %v lag %d %v", src.Active, src.Lag, src.Error)
			}
			return fmt.Errorf("%d of %d, %+v %w", len(taken), sent, s.CachedInfo().State, err)
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	again := 0
	for _, n := range taken {
		if n > 1 {
			again++
		}
	}
	t.Logf("%d jobs, %d tries were repeated, %d were handed out again", sent, repeated, again)
}
