package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
	"github.com/sealane/sealane/telemetry"
)

// Options say how to run an agent.
type Options struct {
	// Name of the member. May be empty once it is enrolled.
	Name string
	// Hub is where the hub listens for agents, host:port. May be empty once the
	// member is enrolled.
	Hub string
	// Token is the join token's text. Not needed, and not used, once the member is
	// enrolled and its certificate is valid.
	Token string
	// DataDir holds everything that the member keeps.
	DataDir string
	// ClientListen is where applications connect: a loopback address unless
	// ClientTLS is set.
	ClientListen string
	// ClientTLS is the TLS of ClientListen; nil: none.
	ClientTLS *tls.Config
	// LinkListen is where peers connect; empty: this member only dials.
	LinkListen string
	// Advertise lists the addresses at which peers reach LinkListen.
	Advertise []string
	// Kubernetes has the broker run as pods of a cluster, and is nil for one in this
	// process. The listening addresses above do not apply then.
	Kubernetes *KubernetesOptions
	// HealthListen is where health checks are answered; empty: nowhere.
	HealthListen string
	// MetricsListen is where metrics are served; empty: nowhere.
	MetricsListen string
	// MetricsIfFree has metrics served nowhere, with a warning, if MetricsListen cannot be
	// had: nobody chose it.
	MetricsIfFree bool
	// Version of the agent.
	Version string
	Log     *slog.Logger

	health *health
	// proxy is for links; nil: that of the environment.
	proxy proxyFunc
}

// Defaults of Options.
const (
	DefaultDataDir      = "/var/lib/sealane/agent"
	DefaultClientListen = "127.0.0.1:4222"
)

const (
	// shutdownTimeout is how long clients may take to leave.
	shutdownTimeout = 10 * time.Second
	// firstPassTimeout is how long the first session waits for the broker, so that
	// what the hub hears first is what is.
	firstPassTimeout = 5 * time.Second
)

// Run runs an agent until ctx ends: it enrols the member if need be, brings its
// broker up from what is held, and follows the hub. It returns nil after a clean
// shutdown.
func Run(ctx context.Context, o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
		return err
	}
	lock, err := lockDir(filepath.Join(o.DataDir, "lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	health, err := serveHealth(o.HealthListen)
	if err != nil {
		return err
	}
	defer health.close()
	o.health = health
	if err := os.Remove(urlFile(o.DataDir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir := identityDir(filepath.Join(o.DataDir, "identity"))
	id, err := o.identity(ctx, dir)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if o.Hub == "" {
		o.Hub = dir.hub()
	}
	if o.Hub == "" {
		return errors.New("the hub's address is missing: give it with --hub HOST:PORT")
	}
	if err := dir.setHub(o.Hub); err != nil {
		return err
	}
	return o.run(ctx, dir, id)
}

// check judges the options before anything is touched.
func (o *Options) check() error {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.DataDir == "" {
		return errors.New("the data folder is missing: give it with --data DIR")
	}
	if o.Name != "" && !memberName.MatchString(o.Name) {
		return fmt.Errorf("%q is no name for a member: --name takes a-z, 0-9 and '-', at most 63 characters, beginning and ending with a letter or digit", o.Name)
	}
	for _, a := range []struct {
		flag, addr string
		needed     bool
	}{{"--hub", o.Hub, false}, {"--client-listen", o.ClientListen, true}, {"--link-listen", o.LinkListen, false}, {"--metrics-listen", o.MetricsListen, false}} {
		if a.addr == "" && !a.needed {
			continue
		}
		if _, _, err := net.SplitHostPort(a.addr); err != nil {
			return fmt.Errorf("%s %q: expected HOST:PORT", a.flag, a.addr)
		}
	}
	if o.Kubernetes != nil {
		if err := o.Kubernetes.check(); err != nil {
			return err
		}
		return validateAdvertised(o.Advertise)
	}
	if o.ClientTLS == nil && !isLoopback(hostOf(o.ClientListen)) {
		return fmt.Errorf("--client-listen %s can be reached by others and has no TLS: listen on 127.0.0.1, or give --client-tls-cert and --client-tls-key", o.ClientListen)
	}
	if len(o.Advertise) > 0 && o.LinkListen == "" {
		return errors.New("--advertise tells others where to connect, but this member accepts no links: give --link-listen too")
	}
	return validateAdvertised(o.Advertise)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// identity loads the member's identity, or enrols it.
func (o *Options) identity(ctx context.Context, dir identityDir) (*identity, error) {
	id, err := dir.load()
	switch {
	case errors.Is(err, errNotEnrolled):
		return o.enrol(ctx, dir)
	case err != nil:
		return nil, err
	case o.Name != "" && o.Name != id.name:
		return nil, fmt.Errorf("this data folder belongs to member %q, not %q: start it with --name %s, or use another folder for the new member with --data", id.name, o.Name, id.name)
	case time.Now().After(id.notAfter()):
		if o.Token != "" { // see renewal
			o.Log.Warn("the certificate of this member has expired, or the clock of this machine is wrong: it runs on with what it holds, and tries to enrol again", "member", id.name, "expired", id.notAfter())
			return id, nil
		}
		o.Log.Error("the certificate of this member has expired, or the clock of this machine is wrong: it runs on with what it holds, but neither the hub nor new links accept it; start it with --token and a new join token", "member", id.name, "expired", id.notAfter())
		return id, nil
	}
	if o.Token != "" {
		o.Log.Info("already enrolled, the join token is not used", "member", id.name)
	}
	return id, nil
}

func (o *Options) enrol(ctx context.Context, dir identityDir) (*identity, error) {
	e, err := o.enrolment(dir, o.Name)
	if err != nil {
		return nil, err
	}
	id, err := e.run(ctx)
	if err != nil {
		return nil, err
	}
	o.Log.Info("enrolled", "member", federationv1.MemberID(id.trustDomain, id.name), "hub", e.hub)
	return id, nil
}

// again is how a member whose certificate has expired enrols again; nil without a
// token.
func (o *Options) again(dir identityDir, name string) func(context.Context) (*identity, error) {
	if o.Token == "" {
		return nil
	}
	return func(ctx context.Context) (*identity, error) {
		e, err := o.enrolment(dir, name)
		if err != nil {
			return nil, err
		}
		return e.try(ctx)
	}
}

func (o *Options) enrolment(dir identityDir, name string) (*enrolment, error) {
	hub := o.Hub
	if hub == "" {
		hub = dir.hub()
	}
	switch {
	case name == "":
		return nil, errors.New("the member's name is missing: give it with --name")
	case hub == "":
		return nil, errors.New("the hub's address is missing: give it with --hub HOST:PORT")
	case o.Token == "":
		return nil, fmt.Errorf("this member is not enrolled yet: make a join token with \"sealane token create --cluster %s\" and give it with --token or --token-file", name)
	}
	token, err := federationv1.ParseJoinToken(o.Token)
	if err != nil {
		return nil, err
	}
	return &enrolment{
		dir: dir, name: name, hub: hub, token: token, log: o.Log,
		retry: backoff{base: backoffBase, limit: backoffLimit},
	}, nil
}

// run runs an enrolled member.
func (o *Options) run(ctx context.Context, dir identityDir, id *identity) (err error) {
	log := o.Log.With("member", id.name)
	keyring, err := broker.LoadOrCreateKeyring(filepath.Join(o.DataDir, "seed"))
	if err != nil {
		return err
	}
	holder, err := openHolder(&journal{dir: filepath.Join(o.DataDir, "journal"), log: log})
	if err != nil {
		return fmt.Errorf("the journal cannot be read, and without it nothing is known of what this member shall do: %w", err)
	}
	rt, err := o.runtime(id.name, keyring, log)
	if err != nil {
		return err
	}
	defer func() {
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		err = errors.Join(err, rt.Shutdown(sctx))
		_ = os.Remove(urlFile(o.DataDir)) // nobody listens there any more
		log.Info("stopped")
	}()
	if o.Kubernetes == nil && o.LinkListen != "" && len(o.Advertise) == 0 {
		log.Warn("this member accepts links, but nobody is told where: give its address with --advertise")
	}
	linkKey := keyring.LinkUser().Public
	m := &member{
		name: id.name, dataDir: o.DataDir, log: log, rt: rt, keyring: keyring,
		ident: &atomic.Pointer[identity]{}, holder: holder,
		work: make(chan struct{}, 1), health: o.health, proxy: o.proxy,
	}
	if m.proxy == nil {
		m.proxy = environmentProxy()
	}
	m.facts = &factFinder{linkKey: linkKey, advertised: o.Advertise, dataDir: o.DataDir, rt: rt}
	m.pic = newPicture(m.facts.find())
	if o.Kubernetes != nil {
		m.patient, m.secrets = true, o.Kubernetes.secrets(m, o.DataDir)
	}
	m.ident.Store(id)
	m.prober = newProber(m)
	m.links = newLinks(m, linkKey)
	tracer, err := telemetry.NewTracer(ctx, "sealane-agent", o.Version, m.name, log)
	if err != nil {
		return err
	}
	defer tracer.Close()
	hub := &hubClient{
		hub: o.Hub, metrics: newMetrics(), tracer: tracer,
		info: &federationv1.AgentInfo{Version: o.Version, BrokerVersion: rt.Version(), Runtime: o.runtimeName()},
	}
	served, err := serveMetrics(o.MetricsListen, o.MetricsIfFree, &memberCollector{hub.metrics, m, func() bool { return hub.conn.Load() != nil }}, log)
	if err != nil {
		return err
	}
	defer served.close()
	renew := &renewal{
		dir: dir, ident: m.ident, conn: hub.conn.Load, enrol: o.again(dir, id.name), renewed: m.wakeApplier, log: log,
	}
	return m.run(ctx, hub, renew)
}

// run runs the loops of a member until ctx ends or one of them cannot go on.
func (m *member) run(ctx context.Context, hub *hubClient, renew *renewal) error {
	ctx, cancel := context.WithCancel(ctx)
	var loops sync.WaitGroup
	fatal := make(chan error, 1)
	apply := newApplier(m, fatal)
	m.conns = &accountConns{rt: m.rt, advised: apply.advised, log: m.log, open: map[string]*accountConn{}}
	defer m.conns.close()
	defer loops.Wait()
	defer cancel()

	hub.ident, hub.holder, hub.pic, hub.updated, hub.log = m.ident, m.holder, m.pic, m.wakeApplier, m.log
	flows := newFlows(m)
	m.pic.hold(m.holder.now())
	m.prober.announce()
	flows.announce()
	apply.announce()

	loops.Go(func() { apply.run(ctx) })
	loops.Go(func() { m.prober.run(ctx) })
	loops.Go(func() { flows.run(ctx) })
	loops.Go(func() { (&failover{member: m, attempts: map[string]attempt{}}).run(ctx) })
	loops.Go(func() { m.facts.watch(ctx, m.pic) })
	if m.secrets != nil {
		loops.Go(func() { m.secrets.run(ctx) })
	}
	loops.Go(func() { renew.run(ctx) })
	loops.Go(func() {
		if len(m.holder.now().parts) > 0 {
			t := time.NewTimer(firstPassTimeout)
			defer t.Stop()
			select {
			case <-ctx.Done():
			case <-apply.first:
			case <-t.C:
			}
		}
		hub.run(ctx)
	})
	select {
	case <-ctx.Done():
		return nil
	case err := <-fatal:
		return err
	}
}
