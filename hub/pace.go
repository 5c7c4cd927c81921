package hub

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// pace bounds how fast one member's messages are taken, by number and by size;
// an agent that sends more is slowed down by flow control.
type pace struct {
	messages, bytes *rate.Limiter
	metrics         *metrics
	sessions        int // that have it; guarded by the paces' mu
}

// A first report may have some megabytes, and later ones tell what changed.
const (
	paceMessages  = 50
	burstMessages = 200
	paceBytes     = 1 << 20
	burstBytes    = 16 << 20
)

// wait returns when the message after one of size may be taken. What was taken
// counts also if ctx ends before.
func (p *pace) wait(ctx context.Context, size int) error {
	now := time.Now()
	return p.until(ctx, now, p.messages.ReserveN(now, 1), p.bytes.ReserveN(now, min(size, burstBytes)))
}

// resume returns when the first message of a session may be taken, which is not
// before those of the member's earlier sessions were paid for.
func (p *pace) resume(ctx context.Context) error {
	now := time.Now()
	return p.until(ctx, now, p.messages.ReserveN(now, 0), p.bytes.ReserveN(now, 0))
}

func (p *pace) until(ctx context.Context, now time.Time, some ...*rate.Reservation) error {
	var d time.Duration
	for _, r := range some {
		d = max(d, r.DelayFrom(now))
	}
	if d == 0 {
		return nil
	}
	p.metrics.refused.WithLabelValues(reasonPace).Inc()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// rested tells whether the pace is as a new one: it may be forgotten.
func (p *pace) rested() bool {
	return p.sessions == 0 && p.messages.Tokens() >= burstMessages && p.bytes.Tokens() >= burstBytes
}

// paces are those of the members that have a session, or had one a short time ago:
// a new session goes on with what earlier ones left. A member that sent as much as it
// may rests after some seconds.
type paces struct {
	metrics *metrics

	mu       sync.Mutex
	byMember map[string]*pace
	// full is how many there are before those at rest are looked for: as many as twice
	// the last ones that were not.
	full int
}

const minPaces = 1000

func newPaces(m *metrics) *paces {
	return &paces{metrics: m, byMember: map[string]*pace{}, full: minPaces}
}

// take returns the pace of an authenticated member, for a session that gives it back.
func (p *paces) take(member string) *pace {
	p.mu.Lock()
	defer p.mu.Unlock()
	of := p.byMember[member]
	if of == nil {
		if len(p.byMember) >= p.full {
			p.forget()
		}
		of = &pace{messages: rate.NewLimiter(paceMessages, burstMessages), bytes: rate.NewLimiter(paceBytes, burstBytes), metrics: p.metrics}
		p.byMember[member] = of
	}
	of.sessions++
	return of
}

// giveBack ends what take began.
func (p *paces) giveBack(of *pace) {
	p.mu.Lock()
	defer p.mu.Unlock()
	of.sessions--
}

// forget drops those at rest. mu is held.
func (p *paces) forget() {
	for name, of := range p.byMember {
		if of.rested() {
			delete(p.byMember, name)
		}
	}
	p.full = max(minPaces, 2*len(p.byMember))
}
