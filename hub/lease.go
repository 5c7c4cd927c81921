package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// How long a leader that died keeps the others waiting, when a leader that
// cannot reach the API server gives up, and how often both look.
const (
	leaseDuration = 15 * time.Second
	leaseRenew    = 10 * time.Second
	leaseRetry    = 2 * time.Second
)

// errLeaseLost ends a hub: what it knows of the members is not the only truth
// any more. It is started again by whoever runs it.
var errLeaseLost = errors.New("the lease was lost, because the API server could not be reached in time or another replica took it")

// lease decides which of the hub's replicas leads: plans, has the members'
// sessions and writes statuses. Its holder is NAME@HOST:PORT, so that the others
// know where to pass sessions on to.
type lease struct {
	self    string
	elector *leaderelection.LeaderElector
	// leads is closed once this replica is the leader; that ends with the process.
	leads chan struct{}
	// changed tells, in one slot, that another replica may lead.
	changed chan struct{}
}

// newLease is the lease of this name for the replica that others reach at
// address.
func newLease(cfg *rest.Config, namespace, name, replica, address string, log *slog.Logger) (*lease, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.ContentType = runtime.ContentTypeJSON // an API server of custom resources alone knows no other
	client, err := coordinationv1.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	l := &lease{self: replica + "@" + address, leads: make(chan struct{}), changed: make(chan struct{}, 1)}
	l.elector, err = leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: name,
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: namespace, Name: name},
			Client:     client,
			LockConfig: resourcelock.ResourceLockConfig{Identity: l.self},
		},
		LeaseDuration: leaseDuration, RenewDeadline: leaseRenew, RetryPeriod: leaseRetry,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { close(l.leads) },
			OnStoppedLeading: func() {},
			OnNewLeader: func(who string) {
				log.Info("leader", "replica", who, "self", who == l.self)
				nudge(l.changed)
			},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("lease %s/%s: %w", namespace, name, err)
	}
	return l, nil
}

// run takes part until ctx ends, and then gives the lease back.
func (l *lease) run(ctx context.Context) error {
	l.elector.Run(ctx)
	if ctx.Err() == nil {
		return errLeaseLost
	}
	return nil
}

// leader is where the leader is reached, or empty if there is none; mine: it is
// this replica.
func (l *lease) leader() (address string, mine bool) {
	select {
	case <-l.leads:
		return "", l.elector.IsLeader()
	default:
	}
	who := l.elector.GetLeader()
	if who == l.self {
		return "", false // about to lead
	}
	_, address, _ = strings.Cut(who, "@")
	return address, false
}
