package statefulset

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	"github.com/sealane/sealane/broker"
	"github.com/sealane/sealane/broker/pod"
)

const (
	// busyTick is the pace of the steward while something is to be done, quietTick
	// while all is well.
	busyTick  = 300 * time.Millisecond
	quietTick = 2 * time.Second
	// placeTick is how often the place is asked and told again while all is well.
	placeTick = 10 * time.Second
	// healthyFor is how long all must have been well before the next disturbance.
	healthyFor = time.Second
)

// steward brings the servers to what they shall be, one action at a time. It
// remembers nothing that it could not see again.
type steward struct {
	*Runtime
	// told is the generation that the place has as boot state, for how many servers.
	told, toldCount uint64
	toldAt          time.Time
	well            time.Time
	said            string
	scaler          scaler
	// draining are streams, by account and name, that wait to be led by another server;
	// moving are accounts that rest because a stream is moved.
	draining map[string]*draining
	moving   map[string]bool
}

func (s *steward) run(ctx context.Context) {
	for ctx.Err() == nil {
		a, err := s.turnOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		s.say(a, err)
		tick := busyTick
		if err == nil && a.kind == rest {
			tick = quietTick
		}
		t := time.NewTimer(tick)
		select {
		case <-ctx.Done():
		case <-s.changed:
		case <-t.C:
		}
		t.Stop()
	}
}

// say logs what is new.
func (s *steward) say(a action, err error) {
	text := a.String()
	if err != nil {
		text = fmt.Sprintf("%s: %v", a, err)
	}
	s.mu.Lock()
	s.status = text
	s.mu.Unlock()
	if text == s.said {
		return
	}
	s.said = text
	switch {
	case err != nil:
		s.log.Warn("broker servers", "doing", a.String(), "error", err)
	case a.kind == wait || a.kind == rest:
		// These two take turns whenever a replica is behind for a moment.
		s.log.Debug("broker servers", "status", text)
	default:
		s.log.Info("broker servers", "status", text)
	}
}

// turnOnce looks at everything and does the one next thing.
func (s *steward) turnOnce(ctx context.Context) (action, error) {
	state := s.current()
	v := view{generation: state.Generation}
	// Servers are told what to be also while their place does not answer.
	seen := s.observeAll(ctx, true)
	if err := s.catchUp(ctx, seen, state); err != nil {
		return action{kind: wait, why: "a server takes no state"}, err
	}
	if err := s.tellPlace(ctx); err != nil {
		return action{kind: wait, why: "the servers' place"}, err
	}
	servers, err := s.opts.Place.Servers(ctx)
	if err != nil {
		return action{kind: wait, why: "the servers' place"}, err
	}
	for n, srv := range servers {
		sv := serverView{Server: srv}
		if n < len(seen) && seen[n] != nil {
			sv.seen = seen[n].o
		}
		v.servers = append(v.servers, sv)
	}
	s.noteDone(v, state)
	s.restWhileMoving(v)
	s.follow(v.servers, time.Now())
	s.mu.RLock()
	v.want = s.want.Servers
	s.mu.RUnlock()
	a := decide(v)
	if a.disturbs() {
		// What has just become well may not be yet.
		if v.ailment() == "" && s.well.IsZero() {
			s.well = time.Now()
		}
		if time.Since(s.well) < healthyFor {
			return action{kind: wait, why: "all is well, for a moment"}, nil
		}
	}
	if v.ailment() != "" {
		s.well = time.Time{}
	}
	return a, s.do(ctx, a)
}

// disturbs tells whether an action is one that others must not follow at once.
func (a action) disturbs() bool {
	switch a.kind {
	case grow, restart, replace, move, reduce, lead, raise, forget, stepDown:
		return true
	}
	return false
}

// tellPlace has the place make as many servers as there are, with the present boot
// state.
func (s *steward) tellPlace(ctx context.Context) error {
	count, state := len(s.pods()), s.current()
	if s.told == state.Generation && s.toldCount == uint64(count) && time.Since(s.toldAt) < placeTick {
		return nil
	}
	boot, err := pod.EncodeBoot(state)
	if err != nil {
		return err
	}
	if err := s.opts.Place.Apply(ctx, count, boot); err != nil {
		return err
	}
	s.told, s.toldCount, s.toldAt = state.Generation, uint64(count), time.Now()
	return nil
}

type seen struct {
	n int
	o *brokerv1.Observation
}

// observeAll asks all servers at once; nil for one that does not answer.
func (r *Runtime) observeAll(ctx context.Context, streams bool) []*seen {
	pods := r.pods()
	out := make([]*seen, len(pods))
	var all sync.WaitGroup
	for n, c := range pods {
		all.Go(func() {
			if o := c.observe(ctx, streams); o != nil {
				out[n] = &seen{n, o}
			}
		})
	}
	all.Wait()
	return out
}

// catchUp gives the state to servers that have another: they were away.
func (s *steward) catchUp(ctx context.Context, seen []*seen, state *brokerv1.State) error {
	pods := s.pods()
	for n, srv := range seen {
		if n >= len(pods) || srv == nil {
			continue
		}
		// One that waits for the agent before it starts waits to hear just this.
		if srv.o.Generation == state.Generation && srv.o.Phase != brokerv1.Observation_STOPPED {
			continue
		}
		if srv.o.Generation > state.Generation {
			if err := s.take(ctx); err != nil {
				return err
			}
			s.adopt(ctx, pods[n])
			_, _, err := s.compose(nil)
			s.release()
			return err
		}
		if _, err := pods[n].apply(ctx, state); err != nil {
			return fmt.Errorf("%s: %w", pods[n].addr.Name, err)
		}
	}
	return nil
}

// noteDone notes which removed accounts are gone for good: every server has their
// last token, and none has a stream of theirs.
func (s *steward) noteDone(v view, state *brokerv1.State) {
	has := map[string]bool{}
	for _, srv := range v.servers {
		if srv.seen.GetPhase() != brokerv1.Observation_RUNNING || srv.seen.Generation != state.Generation || srv.seen.Problem != "" {
			return
		}
		for _, st := range srv.seen.Streams {
			has[st.Account] = true
		}
	}
	select {
	case s.turn <- struct{}{}:
	default:
		return // another time
	}
	defer s.release()
	if s.current() != state || s.accounts == nil {
		return
	}
	done := map[string]bool{}
	for _, a := range state.Accounts {
		if s.accounts[a.Name] != nil || a.Name == broker.SystemAccount || has[a.Key] {
			continue
		}
		if c, err := jwt.DecodeAccountClaims(a.Token); err == nil && isTombstone(c) {
			done[a.Key] = true
		}
	}
	if len(done) == 0 {
		return
	}
	s.done = done
	if _, _, err := s.compose(nil); err != nil {
		s.log.Error("removed accounts are not forgotten", "error", err)
	}
	s.done = map[string]bool{}
	s.wake()
}

// do does one thing.
func (s *steward) do(ctx context.Context, a action) error {
	pods := s.pods()
	if a.server >= len(pods) && a.kind != grow {
		return fmt.Errorf("there is no server %d", a.server)
	}
	switch a.kind {
	case found, join:
		cctx, cancel := context.WithTimeout(ctx, restartTimeout)
		defer cancel()
		_, err := pods[a.server].c.Begin(cctx, &brokerv1.BeginRequest{Found: a.kind == found})
		return err
	case grow:
		return s.resize(ctx, a.server+1)
	case shrink:
		return s.resize(ctx, a.server)
	case retire:
		cctx, cancel := context.WithTimeout(ctx, restartTimeout)
		defer cancel()
		_, err := pods[a.server].c.Retire(cctx, &brokerv1.RetireRequest{})
		return err
	case restart:
		s.well = time.Time{}
		cctx, cancel := context.WithTimeout(ctx, restartTimeout)
		defer cancel()
		_, err := pods[a.server].c.Restart(cctx, &brokerv1.RestartRequest{})
		return err
	case replace:
		s.well = time.Time{}
		return s.opts.Place.Replace(ctx, a.server)
	case forget, stepDown, reduce, lead, raise, release, move:
		return s.ask(ctx, a)
	case wait, rest:
	}
	return nil
}

// resize changes the number of servers. Those that stay learn of the new routes
// first.
func (s *steward) resize(ctx context.Context, n int) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	defer s.release()
	before := s.count
	s.count = n
	state, _, err := s.compose(nil)
	if err != nil {
		s.count = before
		return err
	}
	boot, err := pod.EncodeBoot(state)
	if err != nil {
		return err
	}
	if err := s.opts.Place.Apply(ctx, n, boot); err != nil {
		return err
	}
	s.told, s.toldCount, s.toldAt = state.Generation, uint64(n), time.Now()
	return nil
}
