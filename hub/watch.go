package hub

import (
	"context"
	"log/slog"
	"slices"

	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
)

// watchIdentities ends sessions at once when their MemberCluster is deleted,
// made anew, or given another key.
func watchIdentities(ctx context.Context, c ctrlcache.Cache, f *Fleet) error {
	informer, err := c.GetInformer(ctx, &v1alpha1.MemberCluster{})
	if err != nil {
		return err
	}
	gone := func(m *v1alpha1.MemberCluster) {
		f.revoke(m.Name, errRemoved(m.Name), func(id identity) bool { return id.uid == m.UID })
	}
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(before, after any) {
			a, b := before.(*v1alpha1.MemberCluster), after.(*v1alpha1.MemberCluster)
			if a.UID != b.UID {
				gone(a)
				return
			}
			// Only what was valid and is no more: a session may know of a key
			// that this watch has yet to show.
			f.revoke(a.Name, errRemoved(a.Name), func(id identity) bool { return mayUse(a, id.keyHash) && !mayUse(b, id.keyHash) })
			f.revoke(a.Name, errRevoked(a.Name), func(id identity) bool { return slices.Contains(b.Spec.RevokedKeys, id.keyHash) })
		},
		DeleteFunc: func(obj any) {
			if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = last.Obj
			}
			if m, ok := obj.(*v1alpha1.MemberCluster); ok {
				gone(m)
			}
		},
	})
	return err
}

func mayUse(m *v1alpha1.MemberCluster, key string) bool {
	have := m.Status.Identity
	return have != nil && (have.KeyHash == key || have.NextKeyHash == key)
}

// announcer writes into every JoinToken what else belongs into its text: where
// the hub is and who vouches for it.
type announcer struct {
	hub       string        // host:port that agents dial
	authority func() string // hash
	client    client.Client
	log       *slog.Logger
	again     chan struct{} // one slot: all tokens are to be looked at
}

func newAnnouncer(hub string, authority *Authority, c client.Client, log *slog.Logger) *announcer {
	return &announcer{hub: hub, authority: authority.Hash, client: c, log: log, again: make(chan struct{}, 1)}
}

// look has all tokens looked at again.
func (a *announcer) look() { nudge(a.again) }

// run announces until ctx ends.
func (a *announcer) run(ctx context.Context, c ctrlcache.Cache) error {
	informer, err := c.GetInformer(ctx, &v1alpha1.JoinToken{})
	if err != nil {
		return err
	}
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]())
	defer queue.ShutDown()
	add := func(obj any) {
		if t, ok := obj.(*v1alpha1.JoinToken); ok && !a.done(t) {
			queue.Add(t.Name)
		}
	}
	handler, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    add,
		UpdateFunc: func(_, after any) { add(after) },
	})
	if err != nil {
		return err
	}
	defer func() { _ = informer.RemoveEventHandler(handler) }()
	go func() {
		defer queue.ShutDown()
		for await(ctx, a.again, nil, 0) {
			var all v1alpha1.JoinTokenList
			if err := a.client.List(ctx, &all); err != nil {
				a.log.Warn("join tokens not announced again", "error", err)
			}
			for i := range all.Items {
				add(&all.Items[i])
			}
		}
	}()
	for {
		name, down := queue.Get()
		if down {
			return nil
		}
		if err := a.announce(ctx, name); err != nil {
			if ctx.Err() == nil {
				a.log.Warn("join token not announced, trying again", "token", name, "error", err)
			}
			queue.AddRateLimited(name)
		} else {
			queue.Forget(name)
		}
		queue.Done(name)
	}
}

func (a *announcer) done(t *v1alpha1.JoinToken) bool {
	return t.Status.Hub == a.hub && t.Status.Authority == a.authority()
}

func (a *announcer) announce(ctx context.Context, name string) error {
	t := &v1alpha1.JoinToken{}
	if err := a.client.Get(ctx, client.ObjectKey{Name: name}, t); err != nil {
		return client.IgnoreNotFound(err)
	}
	if a.done(t) {
		return nil
	}
	before := t.DeepCopy()
	t.Status.Hub, t.Status.Authority = a.hub, a.authority()
	return client.IgnoreNotFound(a.client.Status().Patch(ctx, t, client.MergeFrom(before)))
}
