package agent

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// TestRetryTold: an agent heeds when the hub told it to come back, within bounds.
func TestRetryTold(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		told *durationpb.Duration
		want time.Duration
	}{
		"nothing":  {nil, 0},
		"seconds":  {durationpb.New(3 * time.Second), 3 * time.Second},
		"negative": {durationpb.New(-time.Hour), 0},
		"for ever": {durationpb.New(1000 * time.Hour), maxRetryAfter},
	} {
		s := status.New(codes.Unavailable, "too many")
		if test.told != nil {
			var err error
			if s, err = s.WithDetails(&errdetails.RetryInfo{RetryDelay: test.told}); err != nil {
				t.Fatal(err)
			}
		}
		var told retryLater
		if errors.As(explainSession(s.Err()), &told); told.after != test.want {
			t.Errorf("%s: comes back after %v, want %v", name, told.after, test.want)
		}
	}
}
