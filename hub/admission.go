package hub

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"runtime"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/durationpb"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// A hub that was away is called by all members at once. Handshakes cost the most of
// that, so they begin at a bounded rate; who would have to wait too long is sent away
// at once and comes back, at a random time, by itself. A crowd of sessions is told when
// to come back: RetryInfo in the details of the status, which agents heed.
const (
	// handshakeRate is for each core, in a second. It is what a core can do.
	handshakeRate  = 1000
	handshakeBurst = 1000
	handshakeWait  = 4 * time.Second
	// sessionRate is for each core, in a second. Sessions beyond wait for their turn, up
	// to sessionWait.
	sessionRate  = 1000
	sessionBurst = 2000
	sessionWait  = time.Second
	// maxRetry bounds what agents are told to wait.
	maxRetry = 30 * time.Second
	// startingRetry is what agents wait that call a hub which starts, leaderRetry what
	// those wait that call a replica while none leads.
	startingRetry = time.Second
	leaderRetry   = 500 * time.Millisecond
)

var errCrowd = errors.New("too many connections at once")

// paced has handshakes begin at a bounded rate.
type paced struct {
	credentials.TransportCredentials

	rate    *rate.Limiter
	metrics *metrics
}

func newPaced(inner credentials.TransportCredentials, m *metrics) *paced {
	return &paced{inner, rate.NewLimiter(rate.Limit(handshakeRate*runtime.GOMAXPROCS(0)), handshakeBurst), m}
}

// ServerHandshake implements credentials.TransportCredentials.
func (p *paced) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if takeTurn(context.Background(), p.rate, handshakeWait) > 0 {
		p.metrics.refused.WithLabelValues(reasonCrowd).Inc()
		_ = raw.Close()
		return nil, nil, errCrowd
	}
	return p.TransportCredentials.ServerHandshake(raw)
}

// Clone implements credentials.TransportCredentials: the rate is one.
func (p *paced) Clone() credentials.TransportCredentials { return p }

// takeTurn waits for a turn, and returns 0; or, if that takes longer than limit, returns
// at once how long it would take.
func takeTurn(ctx context.Context, l *rate.Limiter, limit time.Duration) time.Duration {
	r := l.Reserve()
	d := r.Delay()
	if d > limit {
		r.Cancel()
		return d
	}
	if d > 0 {
		pause(ctx, d)
	}
	return 0
}

// crowd is the limit of new sessions.
func newCrowd() *rate.Limiter {
	return rate.NewLimiter(rate.Limit(sessionRate*runtime.GOMAXPROCS(0)), sessionBurst)
}

// admit lets a session begin when it is its turn. The others are told to come back,
// spread over twice the time that those take who wait.
func admit(ctx context.Context, l *rate.Limiter) error {
	d := takeTurn(ctx, l, sessionWait)
	if d == 0 {
		return nil
	}
	after := rand.N(2*d) + d/2 //nolint:gosec // no secret
	return &refusal{reasonCrowd, status.Convert(later(after, "too many members open sessions at once"))}
}

// later refuses a call for now, and tells when to come back.
func later(after time.Duration, what string) error {
	s := status.New(codes.Unavailable, what)
	if with, err := s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(min(after, maxRetry))}); err == nil {
		s = with
	}
	return s.Err()
}
