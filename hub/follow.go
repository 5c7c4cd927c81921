package hub

import (
	"sync"
	"time"

	"github.com/sealane/sealane/telemetry"
)

const (
	// sampledMembers is how many members of one change are traced one by one, and
	// told so; the last one that a change reaches is added. Histograms count all.
	sampledMembers = 16
	// followTime is how long a change is traced at most.
	followTime = 5 * time.Minute
)

// follower follows each change of the plan from the edit until it is applied on
// every connected member that it concerns: for histograms and, if there is a
// tracer, for a trace. It only watches; nothing depends on it.
//
// Its mu is a leaf: it is taken under Fleet.mu, and takes none.
type follower struct {
	metrics *metrics
	now     func() time.Time

	mu     sync.Mutex
	tracer *telemetry.Tracer // nil: no traces
	// stages are those of the plan that is about to be published.
	stages stages
	// origin is that of the plan that is being published, change its change, once it
	// concerns a member.
	origin *origin
	change *change
	// latest is the origin of the latest change, rollouts those of what goes to
	// members in waves, by topology.
	latest   *origin
	rollouts map[string]rolloutOrigin
	// open are the changes that are traced; waits is what each member has yet to do.
	open  map[*change]struct{}
	waits map[string]*awaited
}

// stages are when the stages of making a plan ended.
type stages struct {
	// edited is when the hub learned of the first edit that led to the plan.
	edited                    time.Time
	began, gathered, compiled time.Time
	// cause of the plan, and the revisions that rollouts have as their target, by
	// topology.
	cause     cause
	revisions map[string]string
}

// change is one plan that concerns members.
type change struct {
	stages
	origin  *origin
	span    *telemetry.Span
	members int // that it concerns and that were connected
	left    int // of them that have not applied it
	sampled int
	// complete tells that the plan is published: left says how many there are.
	complete bool
}

// awaited is a member that has yet to apply a change.
type awaited struct {
	change                      *change
	published, sent, journalled time.Time
	span                        *telemetry.Span // nil: not sampled
}

func newFollower(m *metrics, now func() time.Time) *follower {
	return &follower{metrics: m, now: now, rollouts: map[string]rolloutOrigin{}, open: map[*change]struct{}{}, waits: map[string]*awaited{}}
}

// trace has changes traced from now on.
func (f *follower) trace(t *telemetry.Tracer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tracer = t
}

// publishing announces the stages of the plan that is published next.
func (f *follower) publishing(s stages) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stages, f.change, f.origin = s, nil, f.originOf(s)
}

// published ends that plan.
func (f *follower) published() {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.change
	f.stages, f.change, f.origin = stages{}, nil, nil
	if c == nil {
		return
	}
	c.complete = true
	c.span.Child("publish", c.compiled).Finish(f.now(), "", telemetry.Members(c.members))
	f.closeIfDone(c, "")
}

// wanted notes that a connected member shall hold something else than before.
func (f *follower) wanted(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.change == nil {
		f.change = f.begin()
	}
	c := f.change
	if w := f.waits[name]; w != nil && w.change.origin == c.origin {
		w.span.Note("superseded", f.now())
		f.leave(name, "")
	} else {
		f.leave(name, "superseded")
	}
	w := &awaited{change: c, published: f.now()}
	c.members++
	c.left++
	if c.sampled < sampledMembers {
		c.sampled++
		w.span = c.span.Child("member", w.published, telemetry.Member(name))
	}
	f.waits[name] = w
}

func (f *follower) begin() *change {
	c := &change{stages: f.stages, origin: f.origin}
	if c.edited.IsZero() { // nobody said
		now := f.now()
		c.stages = stages{edited: now, began: now, gathered: now, compiled: now}
		c.origin = &origin{edited: now}
	}
	f.latest, c.origin.last = c.origin, f.now()
	if c.span = c.origin.span(f.tracer, c.edited); c.span != nil {
		f.open[c] = struct{}{}
		c.span.Child("gather", c.began).Finish(c.gathered, "")
		c.span.Child("compile", c.gathered).Finish(c.compiled, "")
	}
	return c
}

// traceparent is what the member is told of the trace that it is part of.
func (f *follower) traceparent(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if w := f.waits[name]; w != nil {
		return w.span.Traceparent()
	}
	return ""
}

// sent notes that the member was sent something.
func (f *follower) sent(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.waits[name]
	if w == nil {
		return
	}
	now := f.now()
	w.span.Note("sent", now)
	if w.sent.IsZero() { // there may be several updates: the order between members
		w.sent = now
		f.metrics.sent.Observe(now.Sub(w.change.edited).Seconds())
	}
}

// progressed notes what the member reported: whether it holds all that it shall,
// and has applied all that it holds.
func (f *follower) progressed(name string, holds, applied bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.waits[name]
	if w == nil || !holds {
		return
	}
	now := f.now()
	c := w.change
	if w.journalled.IsZero() {
		w.journalled = now
		w.span.Note("journalled", now)
		f.metrics.journalled.Observe(now.Sub(c.edited).Seconds())
	}
	if !applied {
		return
	}
	f.metrics.applied.Observe(now.Sub(c.edited).Seconds())
	if c.complete && c.left == 1 {
		c.span.Note("last member", now, telemetry.Member(name))
		if w.span == nil && c.span != nil {
			w.span = c.span.Child("member", w.published, telemetry.Member(name))
			w.span.Note("sent", w.sent)
			w.span.Note("journalled", w.journalled)
		}
	}
	f.leave(name, "")
}

// lost notes that the member will not apply what it was to, and why. If its
// session is over, what it gets in the next one is not followed: how long it is
// away says nothing of the hub.
func (f *follower) lost(name, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leave(name, why)
}

// leave ends the wait for a member; why is empty if it has applied the change.
func (f *follower) leave(name, why string) {
	w := f.waits[name]
	if w == nil {
		return
	}
	delete(f.waits, name)
	w.span.Finish(f.now(), why)
	w.change.left--
	f.closeIfDone(w.change, "")
}

func (f *follower) closeIfDone(c *change, why string) {
	if !c.complete || c.left > 0 && why == "" {
		return
	}
	delete(f.open, c)
	c.span.Finish(f.now(), why, telemetry.Members(c.members))
	c.span = nil
}

// sweep ends the traces of changes that take too long.
func (f *follower) sweep() {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	for c := range f.open {
		if !c.complete || now.Sub(c.edited) < followTime {
			continue
		}
		for _, w := range f.waits {
			if w.change == c {
				w.span.Finish(now, "not applied in time")
				w.span = nil
			}
		}
		f.closeIfDone(c, "not applied everywhere in time")
	}
}

// oldest is how long ago the oldest edit was that a connected member has yet to
// apply; 0: there is none.
func (f *follower) oldest() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	now, out := f.now(), time.Duration(0)
	for _, w := range f.waits {
		out = max(out, now.Sub(w.change.edited))
	}
	return out
}
