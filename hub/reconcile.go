package hub

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/tools/cache"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

// How often, at most, a plan is made and statuses are looked at: less often if
// that takes long, so that a large fleet does not keep a core busy. What happens
// in between is taken together.
const (
	planInterval      = 20 * time.Millisecond
	statusInterval    = 100 * time.Millisecond
	maxStatusInterval = time.Second
)

// How long a look at the statuses waits for what is likely to follow what caused
// it: a plan is followed by reports of all members that it concerns, and to write
// each member's status once costs half of writing it before and after.
const (
	minStatusDelay = 10 * time.Millisecond
	maxStatusDelay = 500 * time.Millisecond
	// statusDelay is for each member.
	statusDelay = 500 * time.Microsecond
)

// startGrace is how long after its start the hub leaves alone what the status of
// an object says, if the object depends on a member that has yet to reconnect.
const startGrace = 5 * time.Second

// Reconciler makes the plan of the resources, publishes it to the fleet, and
// writes what the fleet observed into the statuses. Events only tell that
// something changed; every pass looks at everything.
//
// The plan depends on what members say of themselves (keys, addresses, grants),
// but only as it stands in their MemberCluster: what is lost with the hub's
// memory must not change a plan.
type Reconciler struct {
	cache  ctrlcache.Cache
	view   view
	fleet  fleet
	log    *slog.Logger
	writer *statusWriter
	keeper *keeper
	leaver *leaver
	// rollouts writes where rollouts are.
	rollouts *advancer
	// metrics and follow are those of the fleet.
	metrics *metrics
	follow  *follower
	// causes are of the events that the next plan answers.
	causes causes

	planDirty, statusDirty chan struct{} // one slot each
	current                atomic.Pointer[round]
}

// fleet is what the Reconciler needs of Fleet.
type fleet interface {
	Publish(*topology.Plan)
	Observe() Observation
	Changes() <-chan struct{}
}

// round is a plan with what it was made of: the objects as they are, and what of
// them is staged, with the plan that staged members keep.
type round struct {
	plan    *topology.Plan
	in      topology.Input
	staging staging
	base    *topology.Plan
}

// NewReconciler returns a Reconciler for the resources in c, which somebody else
// starts. It keeps in a file what is in effect, for the next start.
func NewReconciler(c cluster.Cluster, f *Fleet, file string, log *slog.Logger) *Reconciler {
	r := newReconciler(c, f, file, log)
	r.metrics, r.follow = f.metrics, f.follow
	r.writer.yield = f.idle
	r.writer.wrote = func(result string) { f.metrics.statusWrites.WithLabelValues(result).Inc() }
	return r
}

func newReconciler(c cluster.Cluster, f fleet, file string, log *slog.Logger) *Reconciler {
	r := &Reconciler{
		cache: c.GetCache(), fleet: f, log: log, keeper: newKeeper(keepFile(file), log), metrics: newMetrics(),
		planDirty: make(chan struct{}, 1), statusDirty: make(chan struct{}, 1),
	}
	r.leaver = newLeaver(c.GetClient(), c.GetAPIReader(), log)
	r.follow = newFollower(r.metrics, time.Now)
	r.rollouts = &advancer{reader: r.cache, client: c.GetClient(), metrics: r.metrics, log: log, now: time.Now}
	r.writer = newStatusWriter(c.GetClient(), log, func() { nudge(r.statusDirty) })
	return r
}

// Run reconciles until ctx ends. It waits for the cache first: a cold hub plans
// and writes nothing.
func (r *Reconciler) Run(ctx context.Context) error {
	synced, unwatch, err := r.watch(ctx)
	if err != nil {
		return err
	}
	defer unwatch()
	for _, s := range synced {
		select {
		case <-s.Done():
		case <-ctx.Done():
			return nil
		}
	}
	nudge(r.planDirty)
	var running sync.WaitGroup
	running.Go(func() { r.plans(ctx) })
	running.Go(func() { r.statuses(ctx) })
	running.Go(func() { r.keeper.run(ctx) })
	running.Go(func() { r.writer.run(ctx) })
	running.Go(func() { r.leaver.run(ctx, r.look) })
	running.Wait()
	return nil
}

// look is the present plan, nil before the first, with what members reported.
func (r *Reconciler) look() (*topology.Plan, topology.Progress) {
	current := r.current.Load()
	if current == nil {
		return nil, nil
	}
	return current.plan, r.fleet.Observe().Progress
}

// plans makes a plan whenever something changed that a plan depends on.
func (r *Reconciler) plans(ctx context.Context) {
	stager := newStager(r.cache)
	var plan *topology.Plan
	inEffect, nowhere := r.keeper.read(ctx)
	for await(ctx, r.planDirty, nil, 0) {
		began := time.Now()
		s := r.causes.take(began)
		in := r.view.toPlan()
		stage, err := stager.stage(ctx, in)
		if err != nil {
			if ctx.Err() == nil {
				r.log.Error("no plan made, trying again", "error", err)
			}
			nudge(r.planDirty)
			pause(ctx, time.Second)
			continue
		}
		s.gathered = r.metrics.phase("gather", began)
		plan = stager.plan(plan, stage, func(first topology.Input) topology.Input {
			first.InEffect, first.Nowhere = inEffect, nowhere
			return first
		})
		inEffect, nowhere = nil, nil
		s.compiled, s.revisions = r.metrics.phase("compile", s.gathered), stage.revisions()
		r.metrics.published.Set(float64(s.compiled.UnixNano()) / 1e9)
		r.metrics.problems.Set(float64(refusedObjects(plan)))
		r.follow.publishing(s)
		r.fleet.Publish(plan)
		r.follow.published()
		r.metrics.phase("publish", s.compiled)
		r.keeper.offer(plan)
		r.current.Store(&round{plan, in, stage, stager.base})
		nudge(r.statusDirty)
		pause(ctx, max(planInterval, time.Since(began)))
	}
}

// statuses looks at all statuses whenever a plan, a report, or a status changed,
// or something that was put off is due.
func (r *Reconciler) statuses(ctx context.Context) {
	var due time.Duration
	members := 0
	for await(ctx, r.statusDirty, r.fleet.Changes(), due) {
		pause(ctx, min(max(minStatusDelay, time.Duration(members)*statusDelay), maxStatusDelay))
		r.writer.yield(ctx)
		began := time.Now()
		if current := r.current.Load(); current != nil {
			now := r.view.latest()
			members = len(now.Members)
			due = r.status(ctx, current, now)
		}
		pause(ctx, min(max(statusInterval, 10*time.Since(began)), maxStatusInterval))
	}
}

// status looks at all statuses, and returns when to do so again at the latest; 0:
// when something changes.
func (r *Reconciler) status(ctx context.Context, current *round, now topology.Input) time.Duration {
	seen := r.fleet.Observe()
	r.leaver.offer(now.Members)
	in := current.in
	in.Members = renewed(in.Members, now.Members)
	statuses := topology.Summarize(current.plan, in, seen.Progress)
	rollouts := r.rollouts.advance(ctx, current, now, seen.Progress, statuses)
	for _, o := range current.staging.rollouts {
		if o.inEffect != nil {
			topology.HoldBack(statuses, current.in, *o.inEffect, o.course.InEffect)
		}
	}
	due := r.writer.write(now, seen, statuses, current.in)
	if due == 0 || rollouts > 0 && rollouts < due {
		due = rollouts
	}
	return due
}

// await waits until one of the channels, or a time if it is not zero; false: ctx
// has ended.
func await(ctx context.Context, a, b <-chan struct{}, due time.Duration) bool {
	var timer <-chan time.Time
	if due > 0 {
		t := time.NewTimer(due)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-a:
	case <-b:
	case <-timer:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

func pause(ctx context.Context, d time.Duration) { await(ctx, nil, nil, d) }

// nudge fills a channel's one slot. It never blocks.
func nudge(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// watch keeps the view, and marks dirty what a change of a resource affects. Synced
// are done when the view is complete.
func (r *Reconciler) watch(ctx context.Context) (synced []cache.DoneChecker, stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, s := range stops {
			s()
		}
	}
	change := func(before, after any) {
		if r.view.change(before, after) {
			r.causes.add(causeOf(before, after), time.Now())
			nudge(r.planDirty)
		} else {
			nudge(r.statusDirty)
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { change(nil, o) },
		UpdateFunc: change,
		DeleteFunc: func(o any) { change(o, nil) },
	}
	for _, kind := range []client.Object{&v1alpha1.MessagingTopology{}, &v1alpha1.MemberCluster{}, &v1alpha1.Stream{}, &v1alpha1.Bridge{}, &v1alpha1.TopologyRevision{}} {
		informer, err := r.cache.GetInformer(ctx, kind)
		if err != nil {
			stop()
			return nil, nil, fmt.Errorf("watch %T: %w", kind, err)
		}
		registration, err := informer.AddEventHandler(handler)
		if err != nil {
			stop()
			return nil, nil, fmt.Errorf("watch %T: %w", kind, err)
		}
		synced = append(synced, registration.HasSyncedChecker())
		stops = append(stops, func() { _ = informer.RemoveEventHandler(registration) })
	}
	return synced, stop, nil
}

// planDiffers tells whether a plan may depend on the difference between two
// versions of an object. Statuses do not matter, but for what members say of
// themselves.
func planDiffers(a, b client.Object) bool {
	if a.GetUID() != b.GetUID() || a.GetGeneration() != b.GetGeneration() || !maps.Equal(a.GetLabels(), b.GetLabels()) {
		return true
	}
	if t, is := a.(*v1alpha1.MessagingTopology); is {
		u, _ := b.(*v1alpha1.MessagingTopology)
		return u == nil || !maps.Equal(t.Annotations, u.Annotations) || !equality.Semantic.DeepEqual(t.Status.Rollout, u.Status.Rollout)
	}
	m, isMember := a.(*v1alpha1.MemberCluster)
	n, _ := b.(*v1alpha1.MemberCluster)
	return isMember && (n == nil || topology.StandingOf(m) != topology.StandingOf(n) || m.Status.LinkKey != n.Status.LinkKey || incarnationOf(m) != incarnationOf(n) || !sameRuntime(m.Status.Agent, n.Status.Agent) ||
		!slices.Equal(m.Status.Endpoints, n.Status.Endpoints) || !slices.Equal(m.Status.Grants, n.Status.Grants))
}

// sameRuntime compares what of an agent's word on itself matters to the plan.
func sameRuntime(a, b *v1alpha1.AgentInfo) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Runtime == b.Runtime && a.MaxReplicas == b.MaxReplicas && a.LinkRoles == b.LinkRoles && a.LinkGroups == b.LinkGroups &&
		a.StorageCapacity == b.StorageCapacity && a.Memory == b.Memory
}
