package hub

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestCrowd: sessions that come together begin at a bounded rate; those for whom it
// would take too long are told to come back, spread.
func TestCrowd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const perSecond, burst, all = 100, 10, 500
		l := rate.NewLimiter(perSecond, burst)
		begin := time.Now()
		type end struct {
			err error
			at  time.Duration
		}
		ends := make(chan end, all)
		for range all {
			go func() {
				err := admit(t.Context(), l)
				ends <- end{err, time.Since(begin)}
			}()
		}
		admitted, told := 0, map[time.Duration]bool{}
		for range all {
			e := <-ends
			if e.err == nil {
				if admitted++; e.at > sessionWait {
					t.Errorf("a session waited %v", e.at)
				}
				continue
			}
			if e.at > 0 {
				t.Errorf("a session was sent away after %v", e.at)
			}
			s := status.Convert(e.err)
			if s.Code() != codes.Unavailable || len(s.Details()) != 1 {
				t.Fatalf("sent away with %v and %v", s, s.Details())
			}
			after := s.Details()[0].(*errdetails.RetryInfo).RetryDelay.AsDuration()
			if after <= 0 || after > maxRetry {
				t.Errorf("told to come back in %v", after)
			}
			told[after] = true
		}
		if want := burst + perSecond; admitted < want || admitted > want+1 {
			t.Errorf("%d sessions began, want %d", admitted, want)
		}
		if len(told) < (all-admitted)/2 {
			t.Errorf("%d were told to come back, at %d different times", all-admitted, len(told))
		}
		// Who was sent away took nobody's turn.
		time.Sleep(sessionWait + time.Second) //nolint:forbidigo // in a bubble
		if err := admit(t.Context(), l); err != nil {
			t.Errorf("later: %v", err)
		}
	})
}
