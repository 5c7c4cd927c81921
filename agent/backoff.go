package agent

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff gives waits with full jitter: any time between nothing and a bound
// that doubles from base to limit.
type backoff struct {
	base, limit time.Duration
	bound       time.Duration
}

func (b *backoff) next() time.Duration {
	if b.bound == 0 {
		b.bound = b.base
	} else {
		b.bound = min(2*b.bound, b.limit)
	}
	return rand.N(b.bound) + 1 //nolint:gosec // jitter is no secret
}

func (b *backoff) reset() { b.bound = 0 }

// sleep waits, or returns false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
