package hub

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

// TestPaces: sessions of one member share what it may send, also one after the other,
// and what is not in use and at rest is forgotten.
func TestPaces(t *testing.T) {
	p := newPaces(newMetrics())
	first := p.take("a")
	ended, end := context.WithCancel(t.Context())
	end()
	for range 3 { // more than it may send at once; it goes while it waits
		_ = first.wait(ended, burstBytes)
	}
	p.giveBack(first)
	for i := range minPaces {
		p.giveBack(p.take(fmt.Sprint("rested", i)))
	}
	again, other := p.take("a"), p.take("b")
	if again != first {
		t.Fatal("what is owed was forgotten")
	}
	if err := again.resume(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("a new session owes nothing: %v", err)
	}
	if err := other.resume(ended); err != nil {
		t.Errorf("one member's messages count for another: %v", err)
	}
	if n := len(p.byMember); n > 3 {
		t.Errorf("%d are kept", n)
	}
	// At rest, but in use: another session shares it.
	for _, l := range []*rate.Limiter{again.messages, again.bytes} {
		l.SetLimitAt(time.Now().Add(-time.Hour), l.Limit())
	}
	p.mu.Lock()
	p.forget()
	p.mu.Unlock()
	if p.take("a") != again || p.take("b") != other {
		t.Error("what is in use was forgotten")
	}
}
