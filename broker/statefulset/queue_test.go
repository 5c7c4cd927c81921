package statefulset

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// roundsVariable has queues go from three servers to one so many times.
const roundsVariable = "SEALANE_TEST_SCALE_ROUNDS"

// relayResets serves the resets of streams as the destination's agent does: not while
// the account rests.
func (w *world) relayResets() {
	w.t.Helper()
	nc := w.app("app", -1)
	if _, err := nc.Subscribe("_fedjs.*.CONSUMER.RESET.*.*", func(m *nats.Msg) {
		go func() {
			if over := w.rt.Resting("app"); over != nil {
				select {
				case <-over:
				case <-time.After(4 * time.Second):
					return // the stream asks again
				}
			}
			reset(nc, m, strings.TrimPrefix(m.Subject, "_fedjs."+w.name+"."))
		}()
	}); err != nil {
		w.t.Fatal(err)
	}
}

// queue is a queue as a bridge makes it: jobs wait in a stream of interest, and move from
// there to a queue through a consumer of which the agent passes on the resets.
type queue struct {
	w              *world
	js             jetstream.JetStream
	jobs, name     string
	sent, repeated int

	mu sync.Mutex
	// taken are the sequences in the queue under which each job was handed out.
	taken map[int]uint64
	again int
	twice []int
}

func (q *queue) try(what string, f func(context.Context) error) {
	q.w.t.Helper()
	eventually(q.w.t, what, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return f(ctx)
	})
}

// make creates the streams, or gives them so many replicas.
func (q *queue) make(jobs, queue int) {
	q.w.t.Helper()
	q.try("streams of a queue", func(ctx context.Context) error {
		if _, err := q.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
			Name: q.jobs, Subjects: []string{q.jobs}, Replicas: jobs, Retention: jetstream.InterestPolicy,
		}); err != nil {
			return err
		}
		if _, err := q.js.CreateOrUpdatePushConsumer(ctx, q.jobs, jetstream.ConsumerConfig{
			Durable: "moves", DeliverSubject: "moves." + q.jobs, AckPolicy: jetstream.AckFlowControlPolicy,
			FlowControl: true, IdleHeartbeat: time.Second, MaxAckPending: 4096,
		}); err != nil {
			return err
		}
		if _, err := q.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
			Name: q.name, Replicas: queue, Retention: jetstream.WorkQueuePolicy, Sources: []*jetstream.StreamSource{{
				Name: q.jobs, External: &jetstream.ExternalStream{APIPrefix: "_fedjs." + q.w.name},
				Consumer: &jetstream.StreamConsumerSource{Name: "moves", DeliverSubject: "moves." + q.jobs},
			}},
		}); err != nil {
			return err
		}
		_, err := q.js.CreateOrUpdateConsumer(ctx, q.name, jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 5 * time.Second})
		return err
	})
}

// away has both streams, of one replica and empty, be on other servers than the first.
func (q *queue) away() {
	q.w.t.Helper()
	first := q.w.rt.pods()[0].known().GetServer()
	q.try("a queue elsewhere", func(ctx context.Context) error {
		for _, name := range []string{q.jobs, q.name} {
			s, err := q.js.Stream(ctx, name)
			if err != nil {
				return err
			}
			if c := s.CachedInfo().Cluster; c != nil && c.Leader != "" && c.Leader != first {
				continue
			}
			if err := q.js.DeleteStream(ctx, name); err != nil {
				return err
			}
			q.make(1, 1)
			return fmt.Errorf("%s is on %s", name, first)
		}
		return nil
	})
}

// work takes jobs until it is stopped.
func (q *queue) work() (stop func()) {
	q.w.t.Helper()
	c, err := q.js.Consumer(ctxFor(q.w.t), q.name, "worker")
	if err != nil {
		q.w.t.Fatal(err)
	}
	cc, err := c.Consume(q.take)
	if err != nil {
		q.w.t.Fatal(err)
	}
	return cc.Stop
}

func (q *queue) take(m jetstream.Msg) {
	n, _ := strconv.Atoi(string(m.Data()))
	meta, err := m.Metadata()
	if err != nil {
		q.w.t.Error(err)
		return
	}
	q.mu.Lock()
	switch seq := q.taken[n]; seq {
	case meta.Sequence.Stream:
		q.again++
	case 0:
		q.taken[n] = meta.Sequence.Stream
	default:
		q.twice = append(q.twice, n)
	}
	q.mu.Unlock()
	_ = m.Ack()
}

// moves waits until the queue takes, again: a stream may forget its sources while it gets
// more replicas, which the agent notices (ADR 20), and here who tests does.
func (q *queue) moves() {
	q.w.t.Helper()
	for deadline := time.Now().Add(90 * time.Second); ; {
		before := q.count()
		for end := time.Now().Add(8 * time.Second); time.Now().Before(end); <-time.After(50 * time.Millisecond) {
			if q.count() > before+100 {
				return
			}
		}
		if time.Now().After(deadline) {
			q.w.t.Fatal("the queue takes nothing")
		}
		q.w.t.Log("the queue takes nothing, another leads it")
		_, _ = q.js.Conn().Request("$JS.API.STREAM.LEADER.STEPDOWN."+q.name, nil, time.Second)
	}
}

func (q *queue) count() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.taken)
}

// verify waits until every job was taken, stored once.
func (q *queue) verify() {
	t := q.w.t
	t.Helper()
	eventually(t, "every job is taken from "+q.name, func() error {
		n := q.count()
		if n >= q.sent {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s, err := q.js.Stream(ctx, q.name)
		if err != nil {
			return err
		}
		for _, src := range s.CachedInfo().Sources {
			err = fmt.Errorf("active %v lag %d %v", src.Active, src.Lag, src.Error)
		}
		return fmt.Errorf("%d of %d, %+v %w", n, q.sent, s.CachedInfo().State, err)
	})
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.twice) > 0 {
		t.Errorf("%d jobs are in %s twice: %v", len(q.twice), q.name, q.twice)
	}
	t.Logf("%s: %d jobs, %d tries were repeated, %d were handed out again", q.name, q.sent, q.repeated, q.again)
}

func (w *world) scale(n int32) {
	w.t.Helper()
	w.config.Spec = &federationv1.BrokerSpec{MaxStorage: 64 << 20, MaxMemory: 8 << 20, Replicas: n}
	w.configure()
	// Moves of streams take long under load.
	for end := time.Now().Add(4 * time.Minute); len(w.rt.pods()) != int(n) && time.Now().Before(end); {
		<-time.After(100 * time.Millisecond)
	}
	w.settled(int(n))
}

// copied is a log of which there is a copy at the same member.
type copied struct {
	w    *world
	js   jetstream.JetStream
	sent int
}

func (c *copied) make(replicas int) {
	c.w.t.Helper()
	for _, s := range []jetstream.StreamConfig{
		{Name: "LOG", Subjects: []string{"log"}},
		{Name: "COPY", Subjects: []string{"copy"}, Sources: []*jetstream.StreamSource{{Name: "LOG"}}},
	} {
		s.Replicas = replicas
		eventually(c.w.t, "create "+s.Name, func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_, err := c.js.CreateOrUpdateStream(ctx, s)
			return err
		})
	}
}

// verify waits until everything was copied, once, and the copy can be written to.
func (c *copied) verify() {
	t := c.w.t
	t.Helper()
	c.w.wantMessages(c.js.Conn(), "COPY", uint64(c.sent))
	if _, err := c.js.Publish(ctxFor(t), "copy", []byte("more than a byte")); err != nil {
		t.Error(err)
	}
}

// publish publishes messages with consecutive numbers until it is stopped.
func publish(js jetstream.JetStream, subject string, pace time.Duration, sent, repeated *int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			pctx, end := context.WithTimeout(context.Background(), 2*time.Second)
			_, err := js.PublishMsg(pctx, &nats.Msg{Subject: subject, Data: []byte(strconv.Itoa(*sent))}, jetstream.WithMsgID(strconv.Itoa(*sent)))
			end()
			if err != nil {
				*repeated++
				continue
			}
			*sent++
			<-time.After(pace) // or writing is all that the machine does
		}
	}()
	return func() { cancel(); <-done }
}

// TestQueueScaledUnderLoad takes a queue and a copy from three servers to one, while
// messages are written and taken: each is taken, and stored once. With roundsVariable
// also a queue of which all is on servers that leave, under more load, and so many times.
func TestQueueScaledUnderLoad(t *testing.T) {
	t.Parallel()
	rounds, _ := strconv.Atoi(os.Getenv(roundsVariable))
	w := newWorld(t, 3)
	w.account("app")
	w.start()
	w.settled(3)
	w.relayResets()
	js := jsOf(t, w.app("app", -1))
	wide := &queue{w: w, js: js, jobs: "JOBS", name: "QUEUE", taken: map[int]uint64{}}
	wide.make(3, 3)
	queues, pace := []*queue{wide}, 10*time.Millisecond
	if rounds > 0 {
		away := &queue{w: w, js: js, jobs: "TASKS", name: "AWAY", taken: map[int]uint64{}}
		away.make(1, 1)
		away.away()
		queues, pace = append(queues, away), 3*time.Millisecond
	}
	within := &copied{w: w, js: js}
	within.make(3)
	w.settled(3)
	var stop []func()
	for _, q := range queues {
		defer q.work()()
		stop = append(stop, publish(js, q.jobs, pace, &q.sent, &q.repeated))
	}
	stop = append(stop, publish(js, "log", pace, &within.sent, new(int)))
	all := func(f func(*queue)) {
		for _, q := range queues {
			f(q)
		}
	}
	all((*queue).moves)
	w.scale(1)
	for range rounds - 1 {
		all((*queue).moves)
		w.scale(3)
		all(func(q *queue) { q.make(3, 3) })
		within.make(3)
		w.settled(3)
		w.scale(1)
	}
	all((*queue).moves)
	for _, f := range stop {
		f()
	}
	all((*queue).verify)
	within.verify()
}
