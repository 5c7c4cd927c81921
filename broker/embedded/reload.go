package embedded

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// connectPatience is how long a reload waits for clients that are connecting.
	connectPatience = 250 * time.Millisecond
	connectPoll     = 2 * time.Millisecond
)

// reload has a running server change its options, which build makes anew for each
// try.
func reload(ctx context.Context, srv *server.Server, build func() *server.Options) error {
	for {
		awaitConnecting(ctx, srv, connectPatience)
		err := srv.ReloadOptions(build())
		switch {
		case err == nil:
			return nil
		case strings.Contains(err.Error(), "try again") && ctx.Err() == nil:
			// A remote that was removed is still connecting; the server has waited a
			// second already.
		default:
			return fmt.Errorf("reload broker: %w", err)
		}
	}
}

// awaitConnecting waits until no client is in the middle of connecting: a reload
// authorises every client anew, and refuses one that has not said yet who it is
// (nats-server 2.15.2, reloadAuthorization). Until then NATS counts it to the global
// account, which has no others here. One that never says so, or ever new ones, delay
// a reload by no more than patience.
func awaitConnecting(ctx context.Context, srv *server.Server, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	poll := time.NewTicker(connectPoll)
	defer poll.Stop()
	for srv.GlobalAccount().NumLocalConnections() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
		}
	}
}
