package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
)

// lane is a way from one client connection to another: what is published on
// subject at from arrives at to.
type lane struct {
	name     string
	from, to *nats.Conn
	subject  string
	servers  []int // the processes that it leads through
}

// ready returns when a message published at one end arrives at the other.
func (l lane) ready(timeout time.Duration) error {
	sub, err := l.to.SubscribeSync(l.subject)
	if err != nil {
		return err
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection is about to be measured or closed
	if err := l.to.Flush(); err != nil {
		return err
	}
	deadline := time.Now().Add(timeout)
	for time.Now().Before(deadline) {
		if err := l.from.Publish(l.subject, []byte("ready?")); err != nil {
			return err
		}
		if _, err := sub.NextMsg(100 * time.Millisecond); err == nil {
			// The answers to earlier tries may still be under way.
			for err == nil {
				_, err = sub.NextMsg(200 * time.Millisecond)
			}
			return nil
		}
	}
	return fmt.Errorf("%s: no message came through in %v", l.name, timeout)
}

// Messages are published in batches, of which so many bytes may be under way. A
// link never stalls its publishers: what it cannot take it drops, and what is
// to be measured is what it can take.
const (
	batch  = 500
	window = 8 << 20
)

// throughput publishes count messages of size bytes as fast as the lane takes
// them and returns how many arrived per second, first publish to last arrival. A
// message lost is an error: the lanes are measured loss-free.
func (l lane) throughput(count, size int) (float64, error) {
	done := make(chan struct{})
	room := make(chan struct{}, count/batch+1)
	for range min(cap(room), max(1, window/(size*batch))) {
		room <- struct{}{}
	}
	var got int
	sub, err := l.to.Subscribe(l.subject, func(*nats.Msg) {
		if got++; got%batch == 0 && got < count {
			select {
			case room <- struct{}{}:
			default: // there is room for all that is left
			}
		}
		if got == count {
			close(done)
		}
	})
	if err != nil {
		return 0, err
	}
	defer sub.Unsubscribe() //nolint:errcheck // as above
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return 0, err
	}
	if err := l.to.Flush(); err != nil {
		return 0, err
	}
	if err := l.settled(); err != nil {
		return 0, err
	}
	payload := make([]byte, size)
	start := time.Now()
	late := time.NewTimer(60 * time.Second)
	defer late.Stop()
	for i := range count {
		if i%batch == 0 {
			select {
			case <-room:
			case <-late.C:
				return 0, fmt.Errorf("%s: %d of %d messages sent, and no room for more", l.name, i, count)
			}
		}
		if err := l.from.Publish(l.subject, payload); err != nil {
			return 0, err
		}
	}
	if err := l.from.Flush(); err != nil {
		return 0, err
	}
	select {
	case <-done:
		return float64(count) / time.Since(start).Seconds(), nil
	case <-late.C:
		return 0, fmt.Errorf("%s: %d of %d messages arrived", l.name, got, count)
	}
}

// settled waits until interest of the new subscription has reached the sender.
func (l lane) settled() error {
	probe := l
	probe.subject += ".settled"
	return probe.ready(10 * time.Second)
}

// latency sends count messages, each after the one before has arrived, and
// returns the one-way times, sorted.
func (l lane) latency(count, size int) ([]time.Duration, error) {
	arrived := make(chan time.Duration, 1)
	epoch := time.Now()
	sub, err := l.to.Subscribe(l.subject, func(m *nats.Msg) {
		arrived <- time.Since(epoch) - time.Duration(binary.LittleEndian.Uint64(m.Data)) // written below
	})
	if err != nil {
		return nil, err
	}
	defer sub.Unsubscribe() //nolint:errcheck // as above
	if err := errors.Join(l.to.Flush(), l.settled()); err != nil {
		return nil, err
	}
	payload := make([]byte, max(size, 8))
	all := make([]time.Duration, 0, count)
	for range count {
		binary.LittleEndian.PutUint64(payload, uint64(time.Since(epoch))) // never negative
		if err := errors.Join(l.from.Publish(l.subject, payload), l.from.Flush()); err != nil {
			return nil, err
		}
		select {
		case d := <-arrived:
			all = append(all, d)
		case <-time.After(10 * time.Second):
			return nil, fmt.Errorf("%s: a message did not arrive", l.name)
		}
	}
	slices.Sort(all)
	return all, nil
}

func percentile(sorted []time.Duration, p float64) time.Duration {
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}

func median(v []float64) float64 {
	s := slices.Clone(v)
	slices.Sort(s)
	return s[len(s)/2]
}

func mean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}
