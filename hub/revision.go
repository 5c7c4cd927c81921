package hub

import (
	"context"
	"fmt"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/tools/cache"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

// The API server numbers all changes of all resources. How far the numbers have
// come tells a hub whose data was restored from a backup from one that was not:
// agents have seen a higher number than it has.

// seen notes that the resources have come to a version.
func (f *Fleet) seen(version string) {
	n, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return
	}
	for {
		now := f.revision.Load()
		if n <= now || f.revision.CompareAndSwap(now, n) {
			return
		}
	}
}

// watchRevision follows the versions of all resources.
func watchRevision(ctx context.Context, c ctrlcache.Cache, f *Fleet) error {
	note := func(obj any) {
		if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = last.Obj
		}
		if o, ok := obj.(client.Object); ok {
			f.seen(o.GetResourceVersion())
		}
	}
	for _, kind := range []client.Object{&v1alpha1.MessagingTopology{}, &v1alpha1.MemberCluster{}, &v1alpha1.JoinToken{}, &v1alpha1.Stream{}, &v1alpha1.Bridge{}} {
		informer, err := c.GetInformer(ctx, kind)
		if err != nil {
			return err
		}
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: note, UpdateFunc: func(_, after any) { note(after) }, DeleteFunc: note,
		}); err != nil {
			return err
		}
	}
	return nil
}

// leadFrom notes how far the resources are when this hub begins to lead: whoever
// led before it cannot have told a member more.
func (f *Fleet) leadFrom(ctx context.Context, live client.Reader) error {
	var list v1alpha1.MemberClusterList
	if err := live.List(ctx, &list, client.Limit(1)); err != nil {
		return fmt.Errorf("read how far the resources are: %w", err)
	}
	f.seen(list.ResourceVersion)
	f.base.Store(f.revision.Load())
	return nil
}

// outdated is why the hub must not rule an agent: the agent has seen newer state
// than the hub has, which is neither from before it began to lead, nor its own. It
// shows in the status of the member.
func (f *Fleet) outdated(cluster string, h *federationv1.Hello) error {
	var seen, have string
	f.mu.RLock()
	now := max(f.base.Load(), f.issued[cluster])
	f.mu.RUnlock()
	switch {
	case h.GetEpoch() > f.epoch:
		seen, have = fmt.Sprintf("epoch %d", h.Epoch), fmt.Sprintf("epoch %d", f.epoch)
	case h.GetEpoch() == f.epoch && h.GetRevision() > now:
		seen, have = fmt.Sprintf("revision %d", h.Revision), fmt.Sprintf("revision %d", now)
	}
	why := ""
	if seen != "" {
		why = fmt.Sprintf("the agent has seen %s, and this hub is at %s: its data was restored from a backup, or it is a copy. "+
			"The member goes on with what it holds. To let this hub rule, raise its epoch above %d (the file \"epoch\" of its data folder, or --epoch) and restart it",
			seen, have, max(h.GetEpoch(), f.epoch))
		f.log.Error("this hub has older data than a member has seen: it does not rule that member", "member", cluster, "seen", seen, "have", have, "raise_epoch_above", max(h.GetEpoch(), f.epoch))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if pr := f.progress[cluster]; f.desired(cluster) != nil && (pr == nil && why != "" || pr != nil && pr.Outdated != why) {
		f.update(cluster, func(n *topology.MemberProgress) { n.Outdated = why })
	}
	if why == "" {
		return nil
	}
	return status.Error(codes.FailedPrecondition, why)
}
