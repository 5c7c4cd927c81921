package hub

import (
	"maps"
	"slices"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/telemetry"
)

// One edit leads to several plans: members grant each other links, and waves of a
// rollout begin. The traces of all of them are one, that of the edit.

// cause says why a plan is made.
type cause struct {
	// edit: somebody has changed an object, or it is not known that nobody has.
	edit bool
	// rollouts are the topologies whose rollout went on.
	rollouts []string
}

// causeOf is that of the difference of two versions of an object, for which
// planDiffers; one is nil if the object comes or goes. What members say of
// themselves, and what the hub writes, is no edit.
func causeOf(before, after any) cause {
	switch o := after.(type) {
	case *v1alpha1.TopologyRevision:
		return cause{}
	case *v1alpha1.MemberCluster:
		if old, ok := before.(*v1alpha1.MemberCluster); ok && !edited(old, o) {
			return cause{}
		}
	case *v1alpha1.MessagingTopology:
		if old, ok := before.(*v1alpha1.MessagingTopology); ok && !edited(old, o) {
			return cause{rollouts: []string{o.Name}}
		}
	case nil:
		if _, ok := before.(*v1alpha1.TopologyRevision); ok {
			return cause{}
		}
	}
	return cause{edit: true}
}

// edited tells whether two versions differ in what only users change.
func edited(a, b client.Object) bool {
	return a.GetUID() != b.GetUID() || a.GetGeneration() != b.GetGeneration() || !maps.Equal(a.GetLabels(), b.GetLabels()) ||
		!maps.Equal(a.GetAnnotations(), b.GetAnnotations()) || (a.GetDeletionTimestamp() == nil) != (b.GetDeletionTimestamp() == nil)
}

// causes gathers those of events, until a plan answers them.
type causes struct {
	mu    sync.Mutex
	first time.Time
	cause cause
}

func (c *causes) add(more cause, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first.IsZero() {
		c.first = at
	}
	c.cause.edit = c.cause.edit || more.edit
	for _, t := range more.rollouts {
		if !slices.Contains(c.cause.rollouts, t) {
			c.cause.rollouts = append(c.cause.rollouts, t)
		}
	}
}

// take begins the stages of the plan that answers them.
func (c *causes) take(now time.Time) stages {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := stages{edited: c.first, began: now, cause: c.cause}
	if s.edited.IsZero() {
		s.edited = now
	}
	slices.Sort(s.cause.rollouts)
	c.first, c.cause = time.Time{}, cause{}
	return s
}

// origin is an edit that changes follow from.
type origin struct {
	edited time.Time
	// last is when the last of its changes began; zero: there is none.
	last time.Time
	// followed: a span has begun. Traceparent is that of the first; empty: it is not
	// sampled.
	followed    bool
	traceparent string
}

// rolloutOrigin is that of what goes to members in waves.
type rolloutOrigin struct {
	*origin
	revision string
}

// span is that of a change which follows from the edit: the root of the trace, or a
// part of it.
func (o *origin) span(t *telemetry.Tracer, began time.Time) *telemetry.Span {
	switch {
	case o.traceparent != "":
		return t.Start(o.traceparent, "follow-up", began)
	case o.followed:
		return nil // the trace is not sampled
	}
	o.followed = true
	span := t.Start("", "change", o.edited)
	o.traceparent = span.Traceparent()
	return span
}

// originOf is the edit from which the plan follows that is to be published: for
// waves the one that began the rollout; for what members said of themselves the
// latest, as it is most likely what they answer, unless that is long ago. mu is held.
func (f *follower) originOf(s stages) *origin {
	var out *origin
	if !s.cause.edit {
		for _, t := range s.cause.rollouts {
			if r, ok := f.rollouts[t]; ok && r.revision == s.revisions[t] {
				out = r.origin
				break
			}
		}
		if out == nil && f.latest != nil && f.now().Sub(f.latest.last) < followTime {
			out = f.latest
		}
	}
	if out == nil {
		out = &origin{edited: s.edited}
	}
	rollouts := make(map[string]rolloutOrigin, len(s.revisions))
	for t, revision := range s.revisions {
		r, ok := f.rollouts[t]
		if !ok || r.revision != revision {
			r = rolloutOrigin{out, revision}
		}
		rollouts[t] = r
	}
	f.rollouts = rollouts
	return out
}
