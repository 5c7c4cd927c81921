package hub

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

// advancer writes where rollouts are, and keeps the revisions that they need. It
// writes a state before any plan follows from it: see topology.CourseOf.
type advancer struct {
	reader  client.Reader
	client  client.Client
	metrics *metrics
	log     *slog.Logger
	now     func() time.Time
}

// advance looks at all rollouts of a round. It returns when to do so again at the
// latest; 0: when something changes.
func (a *advancer) advance(ctx context.Context, current *round, now topology.Input, prog topology.Progress, statuses map[topology.ObjectRef]topology.Status) time.Duration {
	a.metrics.countRollouts(now.Topologies)
	if len(current.staging.rollouts) == 0 && !anyRollout(now) {
		return 0
	}
	revisions, err := readRevisions(ctx, a.reader)
	if err != nil {
		a.log.Error("no rollout looked at, trying again", "error", err)
		return time.Second
	}
	var due time.Duration
	again := func(d time.Duration) {
		if d > 0 && (due == 0 || d < due) {
			due = d
		}
	}
	for _, t := range now.Topologies {
		r := current.staging.rollouts[t.Name]
		if t.Spec.Rollout == nil {
			if t.Status.Rollout != nil {
				err = a.write(ctx, t, nil)
			}
		} else if r != nil && r.live.Topology.UID == t.UID {
			one := &rolloutPass{advancer: a, round: current, t: t, r: r, members: now.Members, prog: prog, statuses: statuses}
			for i := range revisions {
				if revisions[i].Spec.Topology == t.Name {
					one.revisions = append(one.revisions, &revisions[i])
				}
			}
			var d time.Duration
			d, err = one.run(ctx)
			again(d)
		}
		if err != nil && ctx.Err() == nil {
			if !apierrors.IsConflict(err) {
				a.log.Error("rollout not looked after, trying again", "topology", t.Name, "error", err)
			}
			again(time.Second)
		}
		err = nil
	}
	for i := range revisions {
		if r := &revisions[i]; !hasTopology(now, r.Spec.Topology) {
			if err := a.remove(ctx, r); err != nil {
				again(time.Second)
			}
		}
	}
	return due
}

func anyRollout(in topology.Input) bool {
	for _, t := range in.Topologies {
		if t.Spec.Rollout != nil || t.Status.Rollout != nil {
			return true
		}
	}
	return false
}

func hasTopology(in topology.Input, name string) bool {
	for _, t := range in.Topologies {
		if t.Name == name {
			return true
		}
	}
	return false
}

// rolloutPass is one look at one rollout.
type rolloutPass struct {
	*advancer
	round     *round
	t         *v1alpha1.MessagingTopology
	r         *rollingOut
	revisions []*v1alpha1.TopologyRevision // the newest first
	members   []*v1alpha1.MemberCluster
	prog      topology.Progress
	statuses  map[topology.ObjectRef]topology.Status
}

func (p *rolloutPass) run(ctx context.Context) (time.Duration, error) {
	live := p.r.live.revision
	if p.find(live) == nil {
		number := int64(1)
		if len(p.revisions) > 0 {
			number = p.revisions[0].Spec.Number + 1
		}
		r, err := newRevision(p.t, p.r.live, number)
		if err != nil {
			return 0, err
		}
		if err := p.client.Create(ctx, r); client.IgnoreAlreadyExists(err) != nil {
			return 0, fmt.Errorf("keep revision %s: %w", r.Name, err)
		}
		p.log.Info("revision kept", "topology", p.t.Name, "name", r.Name)
	}
	in := topology.RolloutInput{
		Topology: p.t, Members: p.members, Live: live, LastReady: p.lastReady(),
		Exists: func(name string) bool { return p.find(name) != nil },
		Plan:   p.round.plan, Progress: p.prog, Now: metav1.NewMicroTime(p.now()),
	}
	if st := p.t.Status.Rollout; st != nil && p.r.course.Base == st.Current {
		in.Base = p.round.base
	}
	next, micros := topology.Advance(in)
	due := time.Duration(micros) * time.Microsecond
	next.Message = clip(next.Message)
	if have := p.t.Status.Rollout; have == nil || !equality.Semantic.DeepEqual(*have, next) {
		if err := p.write(ctx, p.t, &next); err != nil {
			return 0, err
		}
		p.log.Info("rollout", "topology", p.t.Name, "status", next.State, "have", next.Current, "target", next.Target,
			"wave", next.Wave, "reached", next.Members, "why", next.Message)
		return due, nil
	}
	if err := p.note(ctx, next); err != nil {
		return 0, err
	}
	return due, p.prune(ctx, next)
}

func (p *rolloutPass) find(name string) *v1alpha1.TopologyRevision {
	for _, r := range p.revisions {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// lastReady is the newest revision, but the one that the objects say, that was
// Ready everywhere.
func (p *rolloutPass) lastReady() string {
	var last *v1alpha1.TopologyRevision
	for _, r := range p.revisions {
		if r.Status.ReadyAt != nil && r.Name != p.r.live.revision && (last == nil || last.Status.ReadyAt.Before(r.Status.ReadyAt)) {
			last = r
		}
	}
	if last == nil {
		return ""
	}
	return last.Name
}

// note writes into the revision that is complete that it is Ready, and how it came
// to the members.
func (p *rolloutPass) note(ctx context.Context, st v1alpha1.RolloutStatus) error {
	r := p.find(st.Current)
	if r == nil || st.State != v1alpha1.RolloutComplete || st.Current != p.r.live.revision || p.r.course != (topology.Course{}) {
		return nil
	}
	changed := r.DeepCopy()
	if st.Message != "" {
		changed.Status.Note = st.Message
	}
	if changed.Status.ReadyAt == nil && p.ready() {
		t := metav1.NewTime(p.now())
		changed.Status.ReadyAt = &t
	}
	if equality.Semantic.DeepEqual(r.Status, changed.Status) {
		return nil
	}
	if err := p.client.Status().Patch(ctx, changed, client.MergeFrom(r)); err != nil {
		return fmt.Errorf("note what became of revision %s: %w", r.Name, err)
	}
	return nil
}

// ready tells whether the topology and all its objects are Ready, as the plan of
// the round has them, on all members that are connected: in a large fleet somebody
// is always away. At least half of them are.
func (p *rolloutPass) ready() bool {
	is := func(kind topology.Kind, o metav1.Object) bool {
		st, ok := p.statuses[refOf(kind, o)]
		c := st.Condition(v1alpha1.ConditionReady)
		return ok && !st.Unheard && st.Generation == o.GetGeneration() && (c.Status == metav1.ConditionTrue || c.Reason == v1alpha1.ReasonMembersDisconnected)
	}
	fp := p.round.plan.Objects[refOf(topology.KindTopology, p.t)]
	if fp == nil || !is(topology.KindTopology, p.r.live.Topology) {
		return false
	}
	connected := 0
	for _, name := range fp.Members {
		if m := p.prog[name]; m != nil && m.Connected {
			connected++
		}
	}
	if connected == 0 || 2*connected < len(fp.Members) {
		return false // that is the hub's trouble, and says nothing
	}
	for _, s := range p.r.live.Streams {
		if !is(topology.KindStream, s) {
			return false
		}
	}
	for _, b := range p.r.live.Bridges {
		if b.Spec.Stream != nil && p.paused(b) {
			continue
		}
		if !is(topology.KindBridge, b) {
			return false
		}
	}
	return true
}

// paused tells whether the bridge is not to flow: then it is never Ready.
func (p *rolloutPass) paused(b *v1alpha1.Bridge) bool {
	fp := p.round.plan.Objects[refOf(topology.KindBridge, b)]
	return fp != nil && fp.Paused
}

// prune removes revisions that are too many and that nothing may need: the oldest,
// and before them those that were never Ready.
func (p *rolloutPass) prune(ctx context.Context, st v1alpha1.RolloutStatus) error {
	limit := int(p.t.Spec.Rollout.History)
	if limit == 0 {
		limit = 10
	}
	last, many := p.lastReady(), len(p.revisions)
	for _, ready := range []bool{false, true} {
		for _, r := range slices.Backward(p.revisions) {
			needed := r.Name == st.Current || r.Name == st.Target || r.Name == p.r.live.revision || r.Name == last
			if many <= limit || needed || (r.Status.ReadyAt != nil) != ready {
				continue
			}
			if err := p.remove(ctx, r); err != nil {
				return err
			}
			many--
		}
	}
	return nil
}

func (a *advancer) remove(ctx context.Context, r *v1alpha1.TopologyRevision) error {
	if err := a.client.Delete(ctx, r.DeepCopy(), client.Preconditions{UID: &r.UID}); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("remove revision %s: %w", r.Name, err)
	}
	return nil
}

// write writes where a rollout is, unless the object is newer than what that was
// decided from.
func (a *advancer) write(ctx context.Context, t *v1alpha1.MessagingTopology, st *v1alpha1.RolloutStatus) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	changed := t.DeepCopy()
	changed.Status.Rollout = st
	patch := client.MergeFromWithOptions(t, client.MergeFromWithOptimisticLock{})
	if err := a.client.Status().Patch(ctx, changed, patch); err != nil {
		return fmt.Errorf("write where the rollout of topology %s is: %w", t.Name, err)
	}
	return nil
}
