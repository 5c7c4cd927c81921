package hub

import (
	"context"

	"github.com/sealane/sealane/telemetry"
)

// A trace is one change:
//
//	change                  from the edit until the last member has applied it
//	├ gather, compile, publish
//	└ member                for some of the members, from the plan until applied
//	  └ update              made by the member's agent: see agent/trace.go
//
// See follower for when they begin and end.

// startTracing traces changes, if the environment says where spans go.
func (o *Options) startTracing(ctx context.Context, parts *stack, fleet *Fleet) error {
	t, err := telemetry.NewTracer(ctx, "sealane-hub", o.Version, "", o.Log)
	if t == nil || err != nil {
		return err
	}
	fleet.follow.trace(t)
	parts.start("traces", func(ctx context.Context) error {
		<-ctx.Done()
		t.Close()
		return nil
	})
	return nil
}
