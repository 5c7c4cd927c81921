package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

const (
	// originPatience is how long a stream waits for the ways to its origins.
	originPatience = 3 * time.Second
	originPoll     = 100 * time.Millisecond
	originTimeout  = 250 * time.Millisecond
)

// errNotYet says that a part is still being applied.
var errNotYet = errors.New("not yet")

// awaitOrigins delays a stream a little until the origins of the sources that
// are new in it answer. The broker asks each origin once when it gets the
// source, and when nobody answers, because the link is just coming up, only
// again after more than five seconds. A stream whose origin stays away is made
// all the same. The error is errNotYet as long as there is hope.
func (a *applier) awaitOrigins(ctx context.Context, p *federationv1.Part, have []*jetstream.StreamSource) error {
	r := a.results[p.Id]
	if r == nil {
		r = a.pending(p)
	}
	if r.awaited {
		return nil
	}
	conn, err := a.conns.get(p.GetStream().Account)
	if err != nil {
		return &failure{codeUnavailable, err}
	}
	silent := silentOrigins(ctx, conn.nc, newSources(p.GetStream().Sources, have))
	now := time.Now()
	if r.awaiting.IsZero() {
		r.awaiting = now
	}
	if len(silent) > 0 && now.Sub(r.awaiting) < originPatience {
		return fmt.Errorf("%w: %s does not answer", errNotYet, silent[0])
	}
	r.awaited = true
	return nil
}

// newSources are the remote sources that are not in have.
func newSources(want []*federationv1.Source, have []*jetstream.StreamSource) []*federationv1.Source {
	var l []*federationv1.Source
	for _, s := range want {
		key := sourceKey(streamSource(s))
		if s.Origin != "" && !slices.ContainsFunc(have, func(h *jetstream.StreamSource) bool { return sourceKey(h) == key }) {
			l = append(l, s)
		}
	}
	return l
}

// silentOrigins asks the origin of each source for a fence, as a reset does, and
// returns the members that give none.
func silentOrigins(ctx context.Context, nc *nats.Conn, sources []*federationv1.Source) []string {
	ctx, cancel := context.WithTimeout(ctx, originTimeout)
	defer cancel()
	answered := make([]bool, len(sources))
	var asked sync.WaitGroup
	for i, s := range sources {
		asked.Go(func() {
			_, err := askFence(ctx, nc, fmt.Sprintf("%s.CONSUMER.RESET.%s.%s", s.ApiPrefix, s.Stream, s.Consumer))
			answered[i] = err == nil
		})
	}
	asked.Wait()
	var silent []string
	for i, s := range sources {
		if !answered[i] {
			silent = append(silent, s.Origin)
		}
	}
	return silent
}
