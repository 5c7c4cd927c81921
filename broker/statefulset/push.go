package statefulset

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	"github.com/sealane/sealane/broker"
)

const retryApply = 100 * time.Millisecond

// pushed is what came of giving the state to all servers.
type pushed struct {
	accounts map[string]error
	peers    map[string]error
	// refused are servers that did not take the state, problems what they could not
	// do of it.
	refused, problems []error
	reached           int
}

// err is what Configure returns: all but accounts.
func (p *pushed) err() error {
	if err := errors.Join(p.taken(), errors.Join(p.problems...)); err != nil {
		return err
	}
	var errs []error
	for _, peer := range sortedKeys(p.peers) {
		errs = append(errs, &broker.RemoteError{Peer: peer, Err: p.peers[peer]})
	}
	return errors.Join(errs...)
}

// taken returns nil if every server that can be reached has the state.
func (p *pushed) taken() error {
	if p.reached == 0 {
		return errors.Join(append([]error{ErrNotRunning}, p.refused...)...)
	}
	return errors.Join(p.refused...)
}

// push gives the state to all servers at once. The turn is held. A server that has
// been away for a while does not count: it gets the state before it listens.
func (r *Runtime) push(ctx context.Context) *pushed {
	s := r.current()
	out := &pushed{accounts: map[string]error{}, peers: map[string]error{}}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, c := range r.pods() {
		all.Go(func() {
			a, err := c.applyPatiently(ctx, s)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
			case c.away(patience) && status.Code(err) == codes.Unavailable:
				return
			default:
				out.refused = append(out.refused, fmt.Errorf("%s: %w", c.addr.Name, err))
				if status.Code(err) == codes.FailedPrecondition {
					r.adopt(ctx, c)
				}
				return
			}
			out.reached++
			if a.Problem != "" {
				out.problems = append(out.problems, fmt.Errorf("%s: %s", c.addr.Name, a.Problem))
			}
			for name, why := range a.Accounts {
				out.accounts[name] = errors.Join(out.accounts[name], fmt.Errorf("%s: %s", c.addr.Name, why))
			}
			for peer, why := range a.Peers {
				out.peers[peer] = fmt.Errorf("%s: %s", c.addr.Name, why)
			}
		})
	}
	all.Wait()
	return out
}

// adopt makes the numbers of states go on after those of a server that has seen
// more: this agent came back with an old folder.
func (r *Runtime) adopt(ctx context.Context, c *control) {
	o := c.observe(ctx, false)
	if last := r.composer.last; o != nil && o.Generation > last.GetGeneration() {
		r.log.Warn("a server has seen later states than this agent knows of, going on after them", "server", c.addr.Name, "generation", o.Generation)
		next := proto.Clone(last).(*brokerv1.State)
		next.Generation = o.Generation
		next.Servers = nil // so that the next state is another
		r.composer.last = next
	}
}

// applyPatiently gives the server a state, and waits a while for one that has just
// gone: it may be back at once.
func (c *control) applyPatiently(ctx context.Context, s *brokerv1.State) (*brokerv1.Applied, error) {
	for {
		a, err := c.apply(ctx, s)
		if err == nil || status.Code(err) != codes.Unavailable || c.away(patience) {
			return a, err
		}
		t := time.NewTimer(retryApply)
		select {
		case <-ctx.Done():
			t.Stop()
			return a, err
		case <-t.C:
		}
	}
}

// apply gives the server a state.
func (c *control) apply(ctx context.Context, s *brokerv1.State) (*brokerv1.Applied, error) {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	return c.c.Apply(ctx, s)
}
