package statefulset

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealane/sealane/broker"
	"github.com/sealane/sealane/broker/replica"
)

const (
	// restMoves and restMoving are why accounts rest of which a stream is to be moved, and
	// was seen to be.
	restMoves  = "a stream is to be moved"
	restMoving = "a stream is being moved"
	// movingRest is how long an account rests after a stream of it was seen moving.
	movingRest = 4 * time.Second
)

var _ broker.Shrinker = (*Runtime)(nil)

// Resting implements broker.Shrinker.
func (r *Runtime) Resting(account string) <-chan struct{} { return r.rests.Until(account) }

// ToOneReplica implements broker.Shrinker.
func (r *Runtime) ToOneReplica(ctx context.Context, account, stream string) error {
	ctx, cancel := patient(ctx, replica.Timeout)
	defer cancel()
	select {
	case r.shrinking <- struct{}{}:
		defer func() { <-r.shrinking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	nc, err := r.Connect(account, nats.Timeout(dialTime))
	if err != nil {
		return err
	}
	defer nc.Close()
	r.mu.RLock()
	want := r.want.Servers
	r.mu.RUnlock()
	var stays []string
	for n, p := range r.pods() {
		if name := p.known().GetServer(); n < want && name != "" {
			stays = append(stays, name)
		}
	}
	why := "one replica: " + stream
	return replica.Stream{Conn: nc, Name: stream}.ToOne(ctx, stays, func() func() {
		r.rests.Hold(account, why, replica.Timeout)
		return func() { r.rests.Release(account, why) }
	})
}

// patient is ctx without its deadline, for so long at most.
func patient(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithTimeout(context.WithoutCancel(ctx), d)
	stop := context.AfterFunc(ctx, func() {
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			cancel()
		}
	})
	return out, func() {
		stop()
		cancel()
	}
}

// restWhileMoving has the accounts rest of which a stream of one replica is moved: it
// changes its leader and then ends its group, as in replica.Stream.ToOne.
func (s *steward) restWhileMoving(v view) {
	if len(s.moving) > 0 && v.ailment() == "" {
		for name := range s.moving {
			s.rests.Release(name, restMoving)
		}
		clear(s.moving)
	}
	for _, srv := range v.servers {
		for _, st := range srv.seen.GetStreams() {
			if name, err := s.accountOf(st); err == nil && st.Leader && st.Moving && st.Replicas <= 1 {
				s.moving[name] = true
				s.rests.Hold(name, restMoving, movingRest)
				s.rests.Release(name, restMoves)
			}
		}
	}
}

// draining is a stream of interest that waits to be led by another server.
type draining struct {
	// raised tells that it has replicas only for that.
	raised bool
	// last is its last message when it was first looked at, since when.
	last  uint64
	since time.Time
}

// drainPatience is how long a stream waits that had its replicas already.
const drainPatience = 30 * time.Second

// drained tells whether the stream of a may be led by another server. A replica of a
// stream of interest that is there before its consumers are skips what arrives then, so
// all that was there when it had them must be gone (ADR 22).
func (s *steward) drained(ctx context.Context, a action, st replica.Stream) (bool, error) {
	if !a.stream.Interest {
		return true, nil
	}
	first, last, err := st.Range(ctx)
	if err != nil {
		return false, err
	}
	key := a.stream.Account + "/" + a.stream.Name
	d := s.draining[key]
	if d == nil {
		d = &draining{}
		s.draining[key] = d
	}
	if d.since.IsZero() {
		d.last, d.since = last, time.Now()
	}
	if first <= d.last && (d.raised || time.Since(d.since) < drainPatience) {
		return false, nil
	}
	delete(s.draining, key)
	return true, nil
}
