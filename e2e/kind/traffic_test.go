//go:build e2e

package kind

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// warmUp begins messages that are sent until interest has spread, which nobody
// counts.
const warmUp = "warm-up-"

// inbox counts what arrives on a subject, by payload.
type inbox struct {
	where string
	mu    sync.Mutex
	got   map[string]int
}

func listen(t testing.TB, nc *nats.Conn, where, subject string) *inbox {
	t.Helper()
	in := &inbox{where: where, got: map[string]int{}}
	if _, err := nc.Subscribe(subject, func(m *nats.Msg) {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.got[string(m.Data)]++
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return in
}

func (in *inbox) saw(payload string) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.got[payload] > 0
}

// differs says how what arrived differs from exactly one of each wanted.
func (in *inbox) differs(want []string) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	var wrong []string
	for _, p := range want {
		if n := in.got[p]; n != 1 {
			wrong = append(wrong, fmt.Sprintf("%s arrived %d times", p, n))
		}
	}
	for p, n := range in.got {
		if !slices.Contains(want, p) && !strings.HasPrefix(p, warmUp) {
			wrong = append(wrong, fmt.Sprintf("%s arrived %d times and was not meant to", p, n))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	slices.Sort(wrong)
	return fmt.Errorf("at %s %d are wrong: %s", in.where, len(wrong), strings.Join(wrong[:min(4, len(wrong))], "; "))
}

// writer stores numbered messages one after the other, each tried until it is
// acknowledged and, by its id, stored once.
type writer struct {
	origin, subject string
	nc              *nats.Conn

	stop    chan struct{}
	stopped chan error
	next    int           // the number of messages, when it has stopped
	tries   int           // those that were repeated
	slowest time.Duration // to an acknowledgement, repetitions included
}

// write starts a writer of a message each 5 ms, whose first has the number first.
func write(t testing.TB, nc *nats.Conn, origin, subject string, first int) *writer {
	t.Helper()
	w := &writer{origin: origin, subject: subject, nc: nc, next: first, stop: make(chan struct{}), stopped: make(chan error, 1)}
	go func() { w.stopped <- w.run(t.Context()) }()
	return w
}

// end stops the writer and returns how many messages it has stored.
func (w *writer) end(t testing.TB) int {
	t.Helper()
	close(w.stop)
	if err := <-w.stopped; err != nil {
		t.Fatal(err)
	}
	t.Logf("%s has written %d messages to %s; %d tries were repeated; the slowest took %v", w.origin, w.next, w.subject, w.tries, w.slowest.Round(time.Millisecond))
	return w.next
}

func (w *writer) run(ctx context.Context) error {
	js, err := jetstream.New(w.nc)
	if err != nil {
		return err
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		id, start := fmt.Sprintf("%s-%d", w.origin, w.next), time.Now()
		for {
			try, cancel := context.WithTimeout(ctx, 5*time.Second)
			_, err := js.Publish(try, w.subject, []byte(id), jetstream.WithMsgID(id))
			cancel()
			if err == nil {
				break
			}
			if ctx.Err() != nil || time.Since(start) > 5*time.Minute {
				return fmt.Errorf("storing %s: %w", id, err)
			}
			w.tries++
		}
		w.next++
		w.slowest = max(w.slowest, time.Since(start))
	}
}

// holds says how a stream's content differs from the first counts[origin]
// messages of each origin, each once and in order.
func holds(ctx context.Context, nc *nats.Conn, stream string, counts map[string]int) (err error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return err
	}
	total := 0
	for _, n := range counts {
		total += n
	}
	// Reading all of it each time would slow down what is waited for.
	if n := s.CachedInfo().State.Msgs; n != uint64(total) {
		return fmt.Errorf("%s has %d messages, not %d; %s", stream, n, total, sources(s.CachedInfo()))
	}
	if total == 0 {
		return nil
	}
	c, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.DeleteConsumer(ctx, c.CachedInfo().Name)) }()
	batch, err := c.Fetch(total, jetstream.FetchMaxWait(20*time.Second))
	if err != nil {
		return err
	}
	next := map[string]int{}
	for m := range batch.Messages() {
		origin, number, _ := cutLast(string(m.Data()), "-")
		n, err := strconv.Atoi(number)
		if err != nil {
			return fmt.Errorf("%q is no message of this test", m.Data())
		}
		if n != next[origin] {
			return fmt.Errorf("%s in %s follows %s-%d: lost, doubled or out of order", m.Data(), stream, origin, next[origin]-1)
		}
		next[origin]++
	}
	var errs []error
	for origin, want := range counts {
		if next[origin] != want {
			errs = append(errs, fmt.Errorf("%d of %d messages of %s in %s", next[origin], want, origin, stream))
		}
	}
	return errors.Join(append(errs, batch.Error())...)
}

// sources tells how the sources of a stream stand.
func sources(info *jetstream.StreamInfo) string {
	var all []string
	for _, s := range info.Sources {
		why := ""
		if s.Error != nil {
			why = ": " + s.Error.Description
		}
		all = append(all, fmt.Sprintf("source %s lags by %d, was active %v ago%s", s.Name, s.Lag, s.Active, why))
	}
	return strings.Join(all, "; ")
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func jetStream(t testing.TB, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// workerConfig is that of the consumer that takes jobs.
var workerConfig = jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute}

// take takes what is there, and counts it by payload. An acknowledgement that is
// itself acknowledged means that the job does not come again; many are under way
// at once, since each is written on three servers.
func take(t testing.TB, c jetstream.Consumer, taken map[string]int) {
	t.Helper()
	batch, err := c.Fetch(500, jetstream.FetchMaxWait(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for m := range batch.Messages() {
		taken[string(m.Data())]++
		wg.Go(func() {
			if err := m.DoubleAck(t.Context()); err != nil {
				t.Errorf("acknowledging %s: %v", m.Data(), err)
			}
		})
	}
	wg.Wait()
	if err := batch.Error(); err != nil {
		t.Log("taking jobs:", err)
	}
}

// standing tells what a stream holds, for a failure.
func standing(ctx context.Context, nc *nats.Conn, where, stream string) string {
	js, err := jetstream.New(nc)
	if err != nil {
		return err.Error()
	}
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return fmt.Sprintf("%s at %s: %v", stream, where, err)
	}
	state := s.CachedInfo().State
	all := fmt.Sprintf("%s at %s holds %d, from %d to %d; %s", stream, where, state.Msgs, state.FirstSeq, state.LastSeq, sources(s.CachedInfo()))
	for c := range s.ListConsumers(ctx).Info() {
		all += fmt.Sprintf("; %s has delivered %d, acknowledged %d, pending %d", c.Name, c.Delivered.Stream, c.AckFloor.Stream, c.NumPending)
	}
	return all
}
