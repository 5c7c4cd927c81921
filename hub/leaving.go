package hub

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

const (
	// drainSettle is for how long a member that leaves must be seen to have nothing
	// to deliver: agents look at their flows every few seconds.
	drainSettle = 5 * time.Second
	// departPatience bounds the wait for a member to drop its links.
	departPatience = 15 * time.Second
	leaveInterval  = 250 * time.Millisecond
)

// leaver sees members out: an object that is deleted stays, by a finalizer, until
// its member has left.
//
//	deleted -> Leaving: Draining -> Leaving: Departing -> gone
//
// Draining: everything runs on, until the durable bridges from the member are
// empty. Departing: it is out of the plan; others drop what they have of it, and
// it drops its links. With Forget nothing is waited for.
type leaver struct {
	client client.Client
	live   client.Reader
	log    *slog.Logger
	now    func() time.Time
	// since is when a member that leaves was first seen to have nothing to deliver,
	// or to depart.
	since map[types.UID]time.Time
	// members as they were last read, and one slot that tells of them.
	members atomic.Pointer[[]*v1alpha1.MemberCluster]
	dirty   chan struct{}
}

func newLeaver(c client.Client, live client.Reader, log *slog.Logger) *leaver {
	return &leaver{client: c, live: live, log: log, now: time.Now, since: map[types.UID]time.Time{}, dirty: make(chan struct{}, 1)}
}

// offer has the leaver look at members. It never blocks.
func (l *leaver) offer(members []*v1alpha1.MemberCluster) {
	l.members.Store(&members)
	nudge(l.dirty)
}

// run looks at the members whenever something changed, until ctx ends.
func (l *leaver) run(ctx context.Context, look func() (*topology.Plan, topology.Progress)) {
	var due time.Duration
	for await(ctx, l.dirty, nil, due) {
		if members := l.members.Load(); members != nil {
			due = l.pass(ctx, *members, look)
		}
		pause(ctx, leaveInterval)
	}
}

// pass brings every member one step further, and returns when to look again; 0:
// when something changed.
func (l *leaver) pass(ctx context.Context, members []*v1alpha1.MemberCluster, look func() (*topology.Plan, topology.Progress)) time.Duration {
	var due time.Duration
	there := map[types.UID]bool{}
	for _, m := range members {
		held := slices.Contains(m.Finalizers, v1alpha1.LeaveFinalizer)
		var err error
		switch {
		case m.DeletionTimestamp.IsZero() && !held && m.Spec.Removal != v1alpha1.LeaveForget:
			err = l.hold(ctx, m)
		case !m.DeletionTimestamp.IsZero() && held:
			there[m.UID] = true
			plan, prog := look()
			err = l.leave(ctx, plan, m, prog)
			due = leaveInterval
		}
		switch {
		case apierrors.IsConflict(err): // the next pass has the newer version
			due = leaveInterval
		case err != nil && ctx.Err() == nil:
			l.log.Warn("a member that leaves waits for the API server, trying again", "member", m.Name, "error", err)
			due = time.Second
		}
	}
	for uid := range l.since {
		if !there[uid] {
			delete(l.since, uid)
		}
	}
	return due
}

// hold puts the finalizer on a member.
func (l *leaver) hold(ctx context.Context, m *v1alpha1.MemberCluster) error {
	next := m.DeepCopy()
	next.Finalizers = append(next.Finalizers, v1alpha1.LeaveFinalizer)
	return client.IgnoreNotFound(l.client.Update(ctx, next))
}

func (l *leaver) leave(ctx context.Context, plan *topology.Plan, m *v1alpha1.MemberCluster, prog topology.Progress) error {
	if m.Spec.Removal == v1alpha1.LeaveForget {
		return l.release(ctx, m, "forgotten")
	}
	standing := topology.StandingOf(m)
	switch {
	case standing.Revoked:
		return l.release(ctx, m, "revoked")
	case plan == nil || plan.Members[m.Name] == nil:
		return nil
	case standing.Departing:
		if !plan.Standing[m.Name].Departing {
			return nil // the plan is about to follow
		}
		if topology.Departed(plan, m.Name, prog) || l.lasts(m.UID, departPatience) {
			return l.release(ctx, m, "left")
		}
		return nil
	}
	if waits := topology.Undrained(plan, m, prog); len(waits) > 0 {
		delete(l.since, m.UID)
		return l.note(ctx, m, v1alpha1.ReasonDraining, waitsFor(waits))
	}
	if plan.Carries(m.Name) && !l.lasts(m.UID, drainSettle) {
		return l.note(ctx, m, v1alpha1.ReasonDraining, "all is delivered; waits a moment for more")
	}
	delete(l.since, m.UID)
	return l.note(ctx, m, v1alpha1.ReasonDeparting, "drops its links")
}

// lasts tells whether it has been so, without a break, for a time.
func (l *leaver) lasts(uid types.UID, d time.Duration) bool {
	now := l.now()
	if l.since[uid].IsZero() {
		l.since[uid] = now
	}
	return now.Sub(l.since[uid]) >= d
}

func waitsFor(waits []string) string {
	const most = 3
	more := ""
	if n := len(waits); n > most {
		waits, more = waits[:most], " and others"
	}
	return "waits until nothing is left to deliver: " + strings.Join(waits, "; ") + more +
		". To let it go at once, set spec.removal to Forget (sealane remove --forget)"
}

// note says in the status how far a member is.
func (l *leaver) note(ctx context.Context, m *v1alpha1.MemberCluster, reason, message string) error {
	c := metav1.Condition{Type: v1alpha1.ConditionLeaving, Status: metav1.ConditionTrue, Reason: reason, Message: clip(message), ObservedGeneration: m.Generation}
	if have := meta.FindStatusCondition(m.Status.Conditions, c.Type); have != nil && have.Reason == reason && have.Message == c.Message {
		return nil
	}
	return retry.RetryOnConflict(claimBackoff, func() error {
		now := &v1alpha1.MemberCluster{}
		if err := l.live.Get(ctx, client.ObjectKeyFromObject(m), now); err != nil || now.UID != m.UID {
			return client.IgnoreNotFound(err)
		}
		if !meta.SetStatusCondition(&now.Status.Conditions, c) {
			return nil
		}
		l.log.Info("member leaves", "member", m.Name, "reason", reason, "message", c.Message)
		return client.IgnoreNotFound(l.client.Status().Update(ctx, now))
	})
}

// release lets the object go.
func (l *leaver) release(ctx context.Context, m *v1alpha1.MemberCluster, how string) error {
	err := retry.RetryOnConflict(claimBackoff, func() error {
		now := &v1alpha1.MemberCluster{}
		if err := l.live.Get(ctx, client.ObjectKeyFromObject(m), now); err != nil || now.UID != m.UID {
			return client.IgnoreNotFound(err)
		}
		now.Finalizers = slices.DeleteFunc(now.Finalizers, func(f string) bool { return f == v1alpha1.LeaveFinalizer })
		return client.IgnoreNotFound(l.client.Update(ctx, now))
	})
	if err == nil {
		l.log.Info("member is out of the federation", "member", m.Name, "how", how)
	}
	return err
}
