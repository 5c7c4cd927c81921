package hub

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/hub/crds"
)

// Run runs a hub until ctx ends, and stops it cleanly. An error says what could
// not be started, or what broke.
func Run(ctx context.Context, o Options) (err error) {
	if err := o.complete(); err != nil {
		return err
	}
	var authority *Authority // nil: in a Secret
	if o.AuthoritySecret == "" {
		if authority, err = OpenAuthority(filepath.Join(o.DataDir, "pki"), o.TrustDomain); err != nil {
			return err
		}
	}
	epoch := o.Epoch
	if epoch == 0 {
		if epoch, err = openEpoch(filepath.Join(o.DataDir, "epoch")); err != nil {
			return err
		}
	}
	ctrllog.SetLogger(logr.FromSlogHandler(o.Log.With("component", "kubernetes").Handler()))
	// What runs is stopped in reverse, so that nothing misses what it uses; in
	// particular the Reconciler before the sessions, so that it does not take the
	// end of all sessions for that of the members.
	parts := newStack(ctx)
	defer func() { err = errors.Join(parts.outcome(err), parts.stop()) }()
	return o.run(parts, NewFleet(epoch, o.Log), authority)
}

// run starts everything and waits for the end.
func (o *Options) run(parts *stack, fleet *Fleet, authority *Authority) error {
	ctx := parts.ctx
	where := Addresses{}
	var err error
	if err = o.startTracing(ctx, parts, fleet); err != nil {
		return err
	}
	passes := make(chan struct{})
	if where.Metrics, err = o.startMetrics(parts, fleet, passes); err != nil {
		return err
	}
	cfg, err := o.startAPI(ctx, parts, &where)
	if err != nil {
		return err
	}
	secret, authority, err := o.openSecret(ctx, cfg, authority)
	if err != nil {
		return err
	}
	c, err := o.startCache(ctx, parts, cfg)
	if err != nil {
		return err
	}
	l, err := o.listen(ctx, &where)
	if err != nil {
		return err
	}
	lease, err := o.startLease(parts, cfg, l)
	if err != nil {
		l.Close()
		return err
	}
	tokens, err := o.startServer(ctx, parts, l, fleet, authority, lease, c, &where)
	if err != nil {
		return err
	}
	if secret != nil {
		parts.start("authority", func(ctx context.Context) error { secret.follow(ctx, authority, tokens.look); return nil })
	}
	if !o.awaitLead(ctx, lease, passes, where) {
		return nil
	}
	if err := fleet.leadFrom(ctx, c.GetAPIReader()); err != nil {
		return err
	}
	fleet.metrics.leads.Set(1)
	parts.start("announcer", func(ctx context.Context) error { return tokens.run(ctx, c.GetCache()) })
	reconciler := NewReconciler(c, fleet, filepath.Join(o.DataDir, "in-effect"), o.Log)
	if err := o.keepState(reconciler, cfg); err != nil {
		return err
	}
	recorder, err := o.startEvents(parts, cfg, c.GetScheme(), fleet.metrics)
	if err != nil {
		return err
	}
	if recorder != nil {
		reconciler.writer.tell = func(obj client.Object, e event) { recorder.Event(obj, e.kind, e.reason, e.message) }
	}
	parts.start("reconciler", reconciler.Run)
	select {
	case <-fleet.planned:
	case <-ctx.Done():
		return nil
	}
	o.Log.Info("hub is ready", "version", o.Version, "agents", where.Agents, "advertise", where.Advertise, "api", where.API,
		"kubeconfig", where.Kubeconfig, "metrics", where.Metrics, "trust_domain", o.TrustDomain, "authority", authority.Hash(), "epoch", fleet.epoch)
	o.ready(where)
	<-ctx.Done()
	o.Log.Info("hub stops")
	return nil
}

// startAPI starts, or finds, the API server, and has it serve our kinds.
func (o *Options) startAPI(ctx context.Context, parts *stack, where *Addresses) (*rest.Config, error) {
	if !o.Embedded {
		cfg, err := o.restConfig()
		if err != nil {
			return nil, err
		}
		cfg.QPS, cfg.Burst = 200, 400
		where.API, where.Kubeconfig = cfg.Host, o.Kubeconfig
		if o.SkipCRDs {
			return cfg, nil
		}
		if err := crds.Install(ctx, cfg); err != nil {
			return nil, fmt.Errorf("%w: the hub needs the right to install its resource definitions at %s; if somebody else installs them, start with --install-crds=false", err, cfg.Host)
		}
		return cfg, nil
	}
	return o.startOwnAPI(ctx, parts, where)
}

// startCache starts the watches on all kinds and waits until they are complete:
// a cold hub plans nothing.
func (o *Options) startCache(ctx context.Context, parts *stack, cfg *rest.Config) (cluster.Cluster, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	cfg = rest.CopyConfig(cfg)
	cfg.UserAgent = "sealane-hub/" + o.Version
	c, err := cluster.New(cfg, func(co *cluster.Options) {
		co.Scheme = scheme
		co.Cache.DefaultTransform = cache.TransformStripManagedFields() // a third of an object, and of no use here
	})
	if err != nil {
		return nil, fmt.Errorf("the API server at %s: %w", cfg.Host, err)
	}
	parts.start("cache", c.Start)
	kinds := []client.Object{&v1alpha1.MessagingTopology{}, &v1alpha1.MemberCluster{}, &v1alpha1.JoinToken{}, &v1alpha1.Stream{}, &v1alpha1.Bridge{}, &v1alpha1.TopologyRevision{}}
	for _, kind := range kinds {
		if _, err := c.GetCache().GetInformer(ctx, kind); err != nil {
			return nil, fmt.Errorf("watch %T at %s: %w", kind, cfg.Host, err)
		}
	}
	if !c.GetCache().WaitForCacheSync(ctx) {
		return nil, context.Cause(ctx)
	}
	return c, nil
}

// listen is where agents reach the hub.
func (o *Options) listen(ctx context.Context, where *Addresses) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("--listen %s: %w", o.Listen, err)
	}
	where.Agents = l.Addr().String()
	if where.Advertise, err = o.advertised(l.Addr()); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// startServer serves agents. What it returns announces tokens, once it runs.
func (o *Options) startServer(ctx context.Context, parts *stack, l net.Listener, fleet *Fleet, authority *Authority, lease *lease, c cluster.Cluster, where *Addresses) (*announcer, error) {
	ids := &identities{trustDomain: o.TrustDomain, authority: authority, cached: c.GetCache(), live: c.GetAPIReader(), writer: c.GetClient()}
	server, err := newServer(fleet, authority, ids, o.serverNames(where.Advertise), o.Log)
	if err != nil {
		l.Close()
		return nil, err
	}
	if lease != nil {
		server.relay = newRelay(lease, authority, fleet.metrics)
	}
	if err := errors.Join(watchIdentities(ctx, c.GetCache(), fleet), watchRevision(ctx, c.GetCache(), fleet)); err != nil {
		l.Close()
		return nil, err
	}
	parts.start("server for agents", func(ctx context.Context) error { return server.serve(ctx, l) })
	return newAnnouncer(where.Advertise, authority, c.GetClient(), o.Log), nil
}

// startMetrics serves metrics and health, if it shall.
func (o *Options) startMetrics(parts *stack, fleet *Fleet, passes <-chan struct{}) (string, error) {
	if o.MetricsListen == "" {
		return "", nil
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	fleet.metrics.register(registry, fleet)
	l, err := net.Listen("tcp", o.MetricsListen)
	if err != nil {
		return "", fmt.Errorf("--metrics-listen %s: %w: choose another address, or --metrics-listen \"\" for none", o.MetricsListen, err)
	}
	h := &health{planned: fleet.planned, passes: passes}
	parts.start("server of metrics", func(ctx context.Context) error { return h.serve(ctx, l, registry) })
	return l.Addr().String(), nil
}
