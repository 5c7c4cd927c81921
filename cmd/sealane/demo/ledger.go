package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// order is a message of the stream ORDERS.
type order struct {
	Origin string `json:"origin"`
	ID     int    `json:"id"`
}

// ledger remembers how many orders each member has taken: their ids are 1 to
// that number, in this order.
type ledger struct {
	mu    sync.Mutex
	taken map[string]int
}

// total counts all orders, or those of one member.
func (l *ledger) total(member string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if member != "" {
		return l.taken[member]
	}
	sum := 0
	for _, n := range l.taken {
		sum += n
	}
	return sum
}

// take publishes orders at a member every interval until ctx ends. An order
// counts once the member's stream has acknowledged it; one whose answer is lost
// is sent again under the same message id.
func (l *ledger) take(ctx context.Context, nc *nats.Conn, member string, every time.Duration) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var failure error
	for {
		select {
		case <-ctx.Done():
			return failure
		case <-tick.C:
		}
		o := order{member, l.total(member) + 1}
		b, err := json.Marshal(o)
		if err != nil {
			return err
		}
		// The last order is finished even when ctx ends, or it would be unclear
		// whether it was taken.
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		_, failure = js.Publish(within, "orders."+member, b, jetstream.WithMsgID(fmt.Sprintf("%s-%d", o.Origin, o.ID)))
		cancel()
		if failure != nil {
			failure = fmt.Errorf("order %d of %s was not acknowledged: %w", o.ID, member, failure)
			continue
		}
		l.mu.Lock()
		if l.taken == nil {
			l.taken = map[string]int{}
		}
		l.taken[member] = o.ID
		l.mu.Unlock()
	}
}

// check reads the whole of the stream ALL_ORDERS in tokyo and compares it with
// what was taken, once as many have arrived or time is up.
func (s *story) checkOrders(ctx context.Context, limit time.Duration) (caughtUp time.Duration, err error) {
	nc, err := s.fed.connect(ctx, s.fed.member(tokyo), account)
	if err != nil {
		return 0, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, err
	}
	want, at := s.orders.total(""), time.Now()
	err = s.fed.await(ctx, limit, fmt.Sprintf("%d orders are in ALL_ORDERS", want), func(ctx context.Context) error {
		n, err := stored(ctx, js, "ALL_ORDERS")
		if err != nil {
			return err
		}
		if n < want {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	caughtUp = time.Since(at)
	if err != nil && !errors.As(err, new(*timeoutError)) {
		return 0, err
	}
	late := err                                // to be told with what is missing
	if err := pause(ctx, settle); err != nil { // what is doubled may come late
		return 0, err
	}
	got, err := readOrders(ctx, js)
	if err != nil {
		return 0, err
	}
	return caughtUp, errors.Join(late, s.orders.compare(got))
}

// stored is how many messages a stream holds.
func stored(ctx context.Context, js jetstream.JetStream, stream string) (int, error) {
	st, err := js.Stream(ctx, stream)
	if err != nil {
		return 0, err
	}
	return int(st.CachedInfo().State.Msgs), nil
}

// readOrders reads ALL_ORDERS from its first message to its last.
func readOrders(ctx context.Context, js jetstream.JetStream) ([]order, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	st, err := js.Stream(ctx, "ALL_ORDERS")
	if err != nil {
		return nil, err
	}
	n := int(st.CachedInfo().State.Msgs)
	c, err := st.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return nil, err
	}
	got := make([]order, 0, n)
	for len(got) < n {
		batch, err := c.Fetch(min(n-len(got), 500), jetstream.FetchMaxWait(5*time.Second))
		if err != nil {
			return nil, err
		}
		before := len(got)
		for m := range batch.Messages() {
			var o order
			if err := json.Unmarshal(m.Data(), &o); err != nil {
				return nil, fmt.Errorf("a message of ALL_ORDERS is no order: %w", err)
			}
			got = append(got, o)
		}
		if len(got) == before {
			return nil, errors.Join(batch.Error(), fmt.Errorf("ALL_ORDERS gave only %d of its %d messages", before, n))
		}
	}
	return got, nil
}

// compare checks that each member's orders are all there, once, and in order.
func (l *ledger) compare(got []order) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := map[string]map[int]int{}
	last := map[string]int{}
	disordered := map[string]int{}
	for _, o := range got {
		if seen[o.Origin] == nil {
			seen[o.Origin] = map[int]int{}
		}
		seen[o.Origin][o.ID]++
		if o.ID < last[o.Origin] {
			disordered[o.Origin]++
		}
		last[o.Origin] = o.ID
	}
	var wrong []string
	for _, origin := range slices.Sorted(maps.Keys(seen)) {
		if _, ok := l.taken[origin]; !ok {
			wrong = append(wrong, "orders of "+origin+", which took none")
		}
	}
	for _, origin := range slices.Sorted(maps.Keys(l.taken)) {
		n, lost, doubled := l.taken[origin], 0, 0
		for id := 1; id <= n; id++ {
			switch c := seen[origin][id]; {
			case c == 0:
				lost++
			case c > 1:
				doubled++
			}
		}
		if extra := len(seen[origin]) - (n - lost); lost+doubled+disordered[origin]+extra > 0 {
			wrong = append(wrong, fmt.Sprintf("of the %d orders of %s, %d are lost, %d doubled, %d out of order, and %d are there that were not taken",
				n, origin, lost, doubled, disordered[origin], extra))
		}
	}
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "; "))
	}
	return nil
}
