package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
)

// bench is one federation under measurement.
type bench struct {
	size  size
	hub   *hubProcess
	api   client.Client
	fleet *fleet
	// want is the hash of what each member shall hold, at rest.
	want map[string]string
	// links is how many there are, at rest.
	links int
	// beats ends the heartbeats.
	beats func()
	log   func(format string, args ...any)
}

// changes is what a series of changes of the resources took.
type changes struct {
	// sent counts from when the write was sent to the hub's API, stored from when
	// the API had answered, published from when the plan was made: until the last
	// member that the change concerns has it.
	sent, stored, published []time.Duration
	// gather and compile are the hub's share before that.
	gather, compile []time.Duration
	members         int
	// cpu is the hub's processor time for a member and change until the last of
	// them has it; all that until the hub is at rest again: with reports, status and
	// the API server's work.
	cpu, all time.Duration
	bytes    float64 // of updates, for a member and change
	// writes of statuses, for a member and change.
	writes float64
}

// change measures rounds of a write that concerns members.
func (b *bench) change(ctx context.Context, rounds int, members []string, write func(round int) error) (*changes, error) {
	c := &changes{members: len(members)}
	for round := range rounds + 1 { // the first is not counted
		runtime.GC() // of the members
		if err := b.hub.quiet(ctx); err != nil {
			return nil, err
		}
		left := map[string]bool{}
		for _, name := range members {
			left[name] = true
		}
		var mu sync.Mutex
		var last time.Time
		all := make(chan struct{})
		stop := b.fleet.watch(func(m *member, at time.Time) {
			mu.Lock()
			defer mu.Unlock()
			if left[m.name] {
				delete(left, m.name)
				if last = at; len(left) == 0 {
					close(all)
				}
			}
		})
		before, err := b.hub.sample(ctx)
		if err != nil {
			return nil, err
		}
		if err := b.hub.mark(ctx); err != nil {
			return nil, err
		}
		used, err := b.hub.cpu()
		if err != nil {
			return nil, err
		}
		sent := time.Now()
		if err := write(round + 1); err != nil {
			return nil, err
		}
		stored := time.Now()
		select {
		case <-all:
		case <-time.After(30 * time.Second):
			mu.Lock()
			err := fmt.Errorf("%d of %d members have not got the change: %.200s", len(left), len(members), fmt.Sprint(left))
			mu.Unlock()
			return nil, errors.Join(err, b.fleet.err())
		}
		now, err := b.hub.cpu()
		if err != nil {
			return nil, err
		}
		stop()
		if err := errors.Join(b.hub.mark(ctx), b.hub.mark(ctx)); err != nil { // what follows is another profile
			return nil, err
		}
		if err := b.hub.quiet(ctx); err != nil {
			return nil, err
		}
		done, err := b.hub.cpu()
		if err != nil {
			return nil, err
		}
		if err := b.hub.mark(ctx); err != nil {
			return nil, err
		}
		after, err := b.hub.sample(ctx)
		if err != nil {
			return nil, err
		}
		if round == 0 {
			continue
		}
		c.sent, c.stored = append(c.sent, last.Sub(sent)), append(c.stored, last.Sub(stored))
		// The last plan is the one of this change: a status is not part of a plan.
		published := time.Unix(0, int64(after["sealane_hub_plan_published_timestamp_seconds"]*1e9))
		c.published = append(c.published, last.Sub(published))
		phase := func(name string) time.Duration {
			key := `sealane_hub_plan_phase_seconds_sum{phase="` + name + `"}`
			return time.Duration((after[key] - before[key]) * 1e9)
		}
		c.gather, c.compile = append(c.gather, phase("gather")), append(c.compile, phase("compile"))
		n := rounds * len(members)
		c.cpu += (now - used) / time.Duration(n)
		c.all += (done - used) / time.Duration(n)
		const writes = `sealane_hub_status_writes_total{result="ok"}`
		c.writes += (after[writes] - before[writes]) / float64(n)
		c.bytes += (after["sealane_hub_update_bytes_sent_total"] - before["sealane_hub_update_bytes_sent_total"]) / float64(n)
	}
	return c, b.fleet.err()
}

// changeStream changes a stream that every member has.
func (b *bench) changeStream(ctx context.Context) func(int) error {
	return func(round int) error {
		o := &v1alpha1.Stream{}
		o.Name, o.Namespace = "log-00", namespace
		patch := fmt.Sprintf(`{"spec":{"maxBytes":"%dMi"}}`, 100+round)
		return b.api.Patch(ctx, o, client.RawPatch("application/merge-patch+json", []byte(patch)))
	}
}

// changeBridge changes the subject of a bridge.
func (b *bench) changeBridge(ctx context.Context, name string) func(int) error {
	return func(round int) error {
		o := &v1alpha1.Bridge{}
		o.Name, o.Namespace = name, namespace
		patch := fmt.Sprintf(`{"spec":{"subjects":["%s.%d.>"]}}`, name, round)
		return b.api.Patch(ctx, o, client.RawPatch("application/merge-patch+json", []byte(patch)))
	}
}

// settle waits until every member holds what is planned, the hub is at rest, and
// nothing more is to come.
func (b *bench) settle(ctx context.Context) error {
	return poll(ctx, 10*time.Minute, 100*time.Millisecond, "all members hold what is planned", func() (bool, error) {
		if err := b.hub.quiet(ctx); err != nil {
			return false, err
		}
		p, err := planned(ctx, b.api)
		if err != nil {
			return false, err
		}
		if len(p.Problems) > 0 {
			return false, fmt.Errorf("the resources are refused: %+v", p.Problems[0])
		}
		b.want, b.links = map[string]string{}, len(p.Links)
		missing := 0
		for _, m := range b.fleet.members {
			b.want[m.name] = p.Members[m.name].Hash
			if m.holding() != b.want[m.name] {
				missing++
			}
		}
		for _, l := range p.Links {
			if !l.Granted {
				missing++
			}
		}
		return missing == 0, b.fleet.err()
	})
}

// stateBytes are the bytes of what members hold: the mean of all, and of the edge
// sites.
func (b *bench) stateBytes(ctx context.Context) (all, edges float64, err error) {
	p, err := planned(ctx, b.api)
	if err != nil {
		return 0, 0, err
	}
	n := 0
	for name, s := range p.Members {
		size := 0.0
		for _, part := range s.Parts {
			size += float64(proto.Size(part.Part))
		}
		all += size
		if strings.HasPrefix(name, "edge-") {
			edges += size
			n++
		}
	}
	runtime.GC() // the plan is large, and no member's
	return all / float64(len(p.Members)), edges / float64(max(n, 1)), nil
}

// storms is what happened when all members connected at once, several times.
type storms struct {
	// took is until the last of all members had what it shall hold, and welcomed until
	// the last had an answer.
	took, welcomed []time.Duration
	cpu            []time.Duration // of the hub, for a member
	// Of each member: bytes of updates, and bytes on the wire in both directions.
	payload, up, down float64
	without           int // members that were left without their state
	start             []time.Duration
}

// storm disconnects all members, and connects them at once. With empty hands they
// have lost what they hold; with restart the hub is killed and started in between.
func (b *bench) storm(ctx context.Context, rounds int, empty, restart bool) (*storms, error) {
	s := &storms{}
	for range rounds {
		runtime.GC() // of the members
		if err := b.hub.quiet(ctx); err != nil {
			return nil, err
		}
		if err := b.down(ctx, s, restart); err != nil {
			return nil, err
		}
		if empty {
			for _, m := range b.fleet.members {
				m.wipe()
			}
		}
		before, err := b.hub.sample(ctx)
		if err != nil {
			return nil, err
		}
		used, err := b.hub.cpu()
		if err != nil {
			return nil, err
		}
		if err := b.hub.mark(ctx); err != nil {
			return nil, err
		}
		b.fleet.sent.Store(0)
		b.fleet.received.Store(0)
		if err := b.up(ctx, s); err != nil {
			return nil, err
		}
		now, err := b.hub.cpu()
		if err != nil {
			return nil, err
		}
		if err := b.hub.mark(ctx); err != nil {
			return nil, err
		}
		n := float64(len(b.fleet.members) * rounds)
		s.cpu = append(s.cpu, (now-used)/time.Duration(len(b.fleet.members)))
		s.up += float64(b.fleet.sent.Load()) / n
		s.down += float64(b.fleet.received.Load()) / n
		if err := b.hub.quiet(ctx); err != nil {
			return nil, err
		}
		after, err := b.hub.sample(ctx)
		if err != nil {
			return nil, err
		}
		const bytes = "sealane_hub_update_bytes_sent_total"
		s.payload += (after[bytes] - before[bytes]) / n
		for _, m := range b.fleet.members {
			if m.holding() != b.want[m.name] {
				s.without++
			}
		}
		if c := after["sealane_hub_connected_members"]; int(c) != len(b.fleet.members) {
			return nil, fmt.Errorf("the hub has %v sessions, not %d", c, len(b.fleet.members))
		}
	}
	return s, b.fleet.err()
}

func (b *bench) down(ctx context.Context, s *storms, restart bool) error {
	var gone errgroup.Group
	for _, m := range b.fleet.members {
		gone.Go(func() error { m.disconnect(); return nil })
	}
	if err := gone.Wait(); err != nil {
		return err
	}
	if !restart {
		return poll(ctx, time.Minute, 50*time.Millisecond, "the hub has no session", func() (bool, error) {
			now, err := b.hub.sample(ctx)
			return now["sealane_hub_connected_members"] == 0, err
		})
	}
	b.hub.kill()
	took, err := b.hub.start(ctx)
	s.start = append(s.start, took)
	return err
}

// up connects all at once.
func (b *bench) up(ctx context.Context, s *storms) error {
	var mu sync.Mutex
	var welcomed, synced time.Time
	answered, there := map[string]bool{}, map[string]bool{}
	all := make(chan struct{})
	stop := b.fleet.watch(func(m *member, at time.Time) {
		mu.Lock()
		defer mu.Unlock()
		if !answered[m.name] {
			answered[m.name], welcomed = true, at
		}
		if m.hash == b.want[m.name] && !there[m.name] {
			there[m.name], synced = true, at
			if len(there) == len(b.fleet.members) {
				close(all)
			}
		}
	})
	defer stop()
	began := time.Now()
	g := errgroup.Group{}
	for _, m := range b.fleet.members {
		g.Go(func() error { return m.connect(ctx) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	select {
	case <-all:
	case <-time.After(2 * time.Minute):
		mu.Lock()
		defer mu.Unlock()
		return errors.Join(fmt.Errorf("%d of %d members were answered, %d have their state", len(answered), len(b.fleet.members), len(there)), b.fleet.err())
	}
	s.took, s.welcomed = append(s.took, synced.Sub(began)), append(s.welcomed, welcomed.Sub(began))
	return nil
}

// rest is the hub's share of a core while nothing happens but heartbeats.
func (b *bench) rest(ctx context.Context, d time.Duration) (float64, error) {
	if err := b.hub.quiet(ctx); err != nil {
		return 0, err
	}
	if err := b.hub.mark(ctx); err != nil {
		return 0, err
	}
	used, err := b.hub.cpu()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(d):
	}
	now, err := b.hub.cpu()
	return float64(now-used) / float64(time.Since(began)), errors.Join(err, b.hub.mark(ctx))
}

// load is the machine's load average of the last minute.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	return strings.Fields(string(b))[0]
}

// percentile of durations; they are sorted.
func percentile(d []time.Duration, p float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[min(len(d)-1, int(p*float64(len(d))))]
}
