package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// inbox counts what arrives on a subject at one member, by payload.
type inbox struct {
	where string
	mu    sync.Mutex
	got   map[string]int
}

func listen(t testing.TB, nc *nats.Conn, where, subject string) *inbox {
	t.Helper()
	in := &inbox{where: where + " " + subject, got: map[string]int{}}
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

// warmUp starts messages that are sent until interest has spread; they are not
// counted.
const warmUp = "warm-up-"

// saw says whether a message has arrived.
func (in *inbox) saw(payload string) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.got[payload] == 0 {
		return fmt.Errorf("%s has not arrived at %s", payload, in.where)
	}
	return nil
}

// all is what has arrived.
func (in *inbox) all() map[string]int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return maps.Clone(in.got)
}

// differs says how what arrived differs from exactly one of each wanted.
func (in *inbox) differs(want map[string]bool) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	var wrong []string
	for p := range want {
		if n := in.got[p]; n != 1 {
			wrong = append(wrong, fmt.Sprintf("%s arrived %d times", p, n))
		}
	}
	for p, n := range in.got {
		if !want[p] && !strings.HasPrefix(p, warmUp) {
			wrong = append(wrong, fmt.Sprintf("%s arrived %d times and was not meant to", p, n))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	slices.Sort(wrong)
	return fmt.Errorf("at %s: %s", in.where, strings.Join(wrong[:min(4, len(wrong))], "; "))
}

// writer stores numbered messages in a stream, each until it is acknowledged,
// with a message id so that a repeated try is stored once.
type writer struct {
	subject, origin string
	next            int
}

// pace is the time between two messages of a writer that writes for long, so
// that what is to be compared at the end stays small.
const pace = 5 * time.Millisecond

// writeUntil stores messages, one each pace, until stop is closed.
func (w *writer) writeUntil(ctx context.Context, nc *nats.Conn, stop <-chan struct{}) error {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return nil
		case <-tick.C:
			if err := w.write(ctx, nc); err != nil {
				return err
			}
		}
	}
}

func (w *writer) write(ctx context.Context, nc *nats.Conn) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	id := fmt.Sprintf("%s-%d", w.origin, w.next)
	for {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := js.Publish(try, w.subject, []byte(id), jetstream.WithMsgID(id))
		cancel()
		if err == nil {
			w.next++
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("storing %s: %w", id, err)
		}
	}
}

// stored reads all messages of a stream, in order.
func stored(ctx context.Context, s jetstream.Stream) (_ []string, err error) {
	n := s.CachedInfo().State.Msgs
	if n == 0 {
		return nil, nil
	}
	c, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.DeleteConsumer(ctx, c.CachedInfo().Name)) }()
	batch, err := c.Fetch(int(n), jetstream.FetchMaxWait(10*time.Second))
	if err != nil {
		return nil, err
	}
	var all []string
	for m := range batch.Messages() {
		all = append(all, string(m.Data()))
	}
	return all, batch.Error()
}

// holds says how the content of a stream differs from complete, with the state
// of its sources.
func holds(ctx context.Context, nc *nats.Conn, stream string, counts map[string]int) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return err
	}
	content, err := stored(ctx, s)
	if err != nil {
		return err
	}
	err = complete(content, counts)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%w; %d of %d messages read: %v", err, len(content), s.CachedInfo().State.Msgs, content)
	for _, source := range s.CachedInfo().Sources {
		why := ""
		if source.Error != nil {
			why = source.Error.Description
		}
		err = fmt.Errorf("%w; source %s: lag %d, active %v ago %s", err, source.Name, source.Lag, source.Active, why)
	}
	return err
}

// outlets describes the durable consumers of a stream: how far each delivered,
// and how far its deliveries are known to be stored.
func outlets(ctx context.Context, nc *nats.Conn, stream string) string {
	js, err := jetstream.New(nc)
	if err != nil {
		return err.Error()
	}
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return err.Error()
	}
	all := fmt.Sprintf("%s has %d to %d;", stream, s.CachedInfo().State.FirstSeq, s.CachedInfo().State.LastSeq)
	for c := range s.ListConsumers(ctx).Info() {
		all += fmt.Sprintf(" %s delivered %d, acknowledged %d, pending %d;", c.Name, c.Delivered.Stream, c.AckFloor.Stream, c.NumPending)
	}
	return all
}

// complete says how a stream's content differs from the first counts[origin]
// messages of each origin, each once, those of one origin in their order.
func complete(content []string, counts map[string]int) error {
	next := map[string]int{}
	for _, id := range content {
		i := strings.LastIndexByte(id, '-')
		if i < 0 {
			return fmt.Errorf("%q is no message of this test", id)
		}
		n, err := strconv.Atoi(id[i+1:])
		if err != nil {
			return fmt.Errorf("%q is no message of this test", id)
		}
		origin := id[:i]
		if n != next[origin] {
			return fmt.Errorf("%s follows %s-%d: lost, doubled or out of order", id, origin, next[origin]-1)
		}
		next[origin]++
	}
	var errs []error
	for origin, want := range counts {
		if next[origin] != want {
			errs = append(errs, fmt.Errorf("%d of %d messages of %s", next[origin], want, origin))
		}
	}
	for origin := range next {
		if _, ok := counts[origin]; !ok {
			errs = append(errs, fmt.Errorf("messages of %s, which are not meant to be here", origin))
		}
	}
	return errors.Join(errs...)
}

func jetStream(t testing.TB, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}
