package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
)

// Several replicas of a hub share what is in the API server of a cluster: the
// resources, the authority (a Secret) and a Lease. All of them admit members.
// One of them leads: it plans, writes statuses and has the members' sessions,
// which the others pass on to it.

// namespaceFile says in which namespace a pod runs.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// completeReplicas judges what replicas share.
func (o *Options) completeReplicas() error {
	if o.AuthoritySecret == "" && o.Lease == "" && o.StateConfigMap == "" {
		return nil
	}
	if o.Embedded {
		return errors.New("--embedded excludes --authority-secret, --state-configmap and --lease: the hub's own API server has no such objects, and serves one hub")
	}
	if o.Namespace == "" {
		b, err := os.ReadFile(namespaceFile)
		if err != nil {
			return fmt.Errorf("--namespace is needed for --authority-secret, --state-configmap and --lease where the hub has no service account: %w", err)
		}
		o.Namespace = strings.TrimSpace(string(b))
	}
	if o.Lease != "" && !specific(o.ReplicaHost) {
		return errors.New("--lease needs --replica-host: the address at which the other replicas reach this one")
	}
	return nil
}

// openSecret opens the authority of the Secret, if it is in one.
func (o *Options) openSecret(ctx context.Context, cfg *rest.Config, a *Authority) (*authoritySecret, *Authority, error) {
	if o.AuthoritySecret == "" {
		return nil, a, nil
	}
	core, err := corev1.NewForConfig(cfg)
	if err != nil {
		return nil, nil, err
	}
	s := &authoritySecret{
		secrets: core.Secrets(o.Namespace), name: o.AuthoritySecret, trustDomain: o.TrustDomain,
		create: !o.NoAuthority, interval: secretInterval, log: o.Log,
	}
	a, err = s.open(ctx)
	return s, a, err
}

// keepState has the Reconciler keep its state in the ConfigMap, if that is named.
func (o *Options) keepState(r *Reconciler, cfg *rest.Config) error {
	if o.StateConfigMap == "" {
		return nil
	}
	core, err := corev1.NewForConfig(cfg)
	if err != nil {
		return err
	}
	r.keeper.place = &keepConfigMap{core.ConfigMaps(o.Namespace), o.StateConfigMap}
	return nil
}

// startLease takes part in choosing the leader, if there are replicas.
func (o *Options) startLease(parts *stack, cfg *rest.Config, l net.Listener) (*lease, error) {
	if o.Lease == "" {
		return nil, nil
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	lease, err := newLease(cfg, o.Namespace, o.Lease, cmp.Or(host, "hub"), net.JoinHostPort(o.ReplicaHost, port), o.Log)
	if err != nil {
		return nil, err
	}
	parts.start("lease", lease.run)
	return lease, nil
}

// awaitLead waits until this replica leads; false: ctx has ended. Until then it
// is of use as soon as another one leads.
func (o *Options) awaitLead(ctx context.Context, l *lease, passes chan<- struct{}, where Addresses) bool {
	if l == nil {
		return true
	}
	for passing := false; ; {
		if leader, _ := l.leader(); leader != "" && !passing {
			passing = true
			close(passes)
			o.Log.Info("hub stands by", "version", o.Version, "agents", where.Agents, "advertise", where.Advertise, "leader", leader)
			o.ready(where)
		}
		select {
		case <-l.leads:
			return true
		case <-ctx.Done():
			return false
		case <-l.changed:
		}
	}
}

// ready tells that the hub is, once.
func (o *Options) ready(where Addresses) {
	if o.Ready != nil {
		o.Ready(where)
		o.Ready = nil
	}
}
