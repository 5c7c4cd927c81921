package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// storeAndCopy stores count messages of size bytes in a stream at one end and
// returns how many a second arrived in the stream at the other end, first
// publish to last copy.
func storeAndCopy(ctx context.Context, from *nats.Conn, to jetstream.Stream, subject string, count, size int) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	js, err := jetstream.New(from, jetstream.WithPublishAsyncMaxPending(4096))
	if err != nil {
		return 0, err
	}
	before, err := to.Info(ctx)
	if err != nil {
		return 0, err
	}
	payload := make([]byte, size)
	start := time.Now()
	for range count {
		if _, err := js.PublishAsync(subject, payload, jetstream.WithStallWait(time.Minute)); err != nil {
			return 0, err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		return 0, fmt.Errorf("storing: %w", ctx.Err())
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := to.Info(ctx)
		if err != nil {
			return 0, fmt.Errorf("waiting for the copies: %w", err)
		}
		if now.State.Msgs-before.State.Msgs >= uint64(count) { // positive
			return float64(count) / time.Since(start).Seconds(), nil
		}
		<-tick.C
	}
}
