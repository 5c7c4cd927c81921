package embedded

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

// Options are what a Runtime needs to know for its whole life.
type Options struct {
	// DataDir is the agent's data folder; everything is below its folder nats.
	DataDir string
	// ClientListen is where applications connect, as HOST:PORT. Port 0 is chosen
	// once and kept.
	ClientListen string
	// LinkListen is where links are accepted; empty: they are not. Port 0 as above.
	LinkListen string
	// ClientTLS is the TLS of ClientListen; nil: none.
	ClientTLS *tls.Config
	// Keyring holds the member's keys.
	Keyring *broker.Keyring
	// Log gets what the server says; nil: slog.Default.
	Log *slog.Logger
}

// Runtime runs one NATS server in this process.
type Runtime struct {
	opts     Options
	log      *slog.Logger
	operator *jwt.OperatorClaims
	client   listener
	link     listener
	dir      string

	// turn is held by whatever changes the server; the fields below are its.
	turn    chan struct{}
	config  broker.Config
	book    *book
	stopped bool

	// mu guards what is read at any time, also while the server restarts.
	mu    sync.RWMutex
	srv   *server.Server
	ports ports
}

var _ broker.Runtime = (*Runtime)(nil)

// ErrNotRunning says that there is no server: not yet, not any more, or not
// while it restarts.
var ErrNotRunning = errors.New("the broker is not running")

// ErrNoAccount says that an account does not exist.
var ErrNoAccount = errors.New("there is no such account")

// New returns a Runtime that does nothing yet.
func New(o Options) (*Runtime, error) {
	if o.DataDir == "" || o.Keyring == nil {
		return nil, errors.New("embedded broker: DataDir and Keyring are required")
	}
	r := &Runtime{opts: o, log: o.Log, dir: filepath.Join(o.DataDir, "nats"), turn: make(chan struct{}, 1)}
	if r.log == nil {
		r.log = slog.Default()
	}
	for _, l := range []struct {
		name, addr string
		to         *listener
	}{{"client", o.ClientListen, &r.client}, {"link", o.LinkListen, &r.link}} {
		var err error
		if *l.to, err = parseListener(l.addr); err != nil {
			return nil, fmt.Errorf("%s listener %q: %w", l.name, l.addr, err)
		}
	}
	if !r.client.enabled() {
		return nil, errors.New("embedded broker: ClientListen is required")
	}
	r.operator = keyringOperator(o.Keyring)
	for _, d := range []string{r.jwtDir(), r.linksDir(), r.storeDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	var err error
	if r.book, err = openBook(r.jwtDir(), o.Keyring, r.log); err != nil {
		return nil, err
	}
	if r.ports, err = loadPorts(r.portsFile()); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Runtime) jwtDir() string    { return filepath.Join(r.dir, "jwt") }
func (r *Runtime) linksDir() string  { return filepath.Join(r.dir, "links") }
func (r *Runtime) storeDir() string  { return filepath.Join(r.dir, "js") }
func (r *Runtime) portsFile() string { return filepath.Join(r.dir, "ports.json") }

func keyringOperator(k *broker.Keyring) *jwt.OperatorClaims {
	var spares []string
	for _, s := range k.SpareSigners() {
		spares = append(spares, s.Public)
	}
	return operatorClaims(k.Operator().Public, spares, k.Account(broker.SystemAccount).Public)
}

// operatorClaims cannot be reloaded: the system account and the spare signing
// keys are in them from the first start.
func operatorClaims(operator string, spares []string, system string) *jwt.OperatorClaims {
	c := jwt.NewOperatorClaims(operator)
	c.Name = "member"
	c.Issuer = operator
	c.SystemAccount = system
	c.SigningKeys.Add(spares...)
	return c
}

// take waits for the turn to change the server.
func (r *Runtime) take(ctx context.Context) error {
	select {
	case r.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Runtime) release() { <-r.turn }

// Configure implements broker.Runtime. Remotes that cannot be configured are left
// out: the error then wraps a *broker.RemoteError for each, and the rest of c is
// in effect. Any other error leaves the server as it was.
func (r *Runtime) Configure(ctx context.Context, c broker.Config) (restarted bool, err error) {
	if err := r.take(ctx); err != nil {
		return false, err
	}
	defer r.release()
	if r.stopped {
		return false, ErrNotRunning
	}
	if err := r.check(c); err != nil {
		return false, err
	}
	// The caller may go on changing what it passed.
	c.Spec, c.Remotes = broker.WithDefaults(c.Spec), sortedRemotes(c.Remotes)
	srv := r.server()
	if srv != nil && equalConfig(r.config, c) {
		return false, r.remoteErrors(c)
	}
	so, creds, bad := r.serverOptions(c)
	switch {
	case srv == nil:
		err = r.start(ctx, so)
	case needsRestart(r.config, c):
		restarted, err = r.restart(ctx, srv, so)
	default:
		restarted, err = r.reload(ctx, srv, so)
	}
	if err != nil {
		return restarted, err
	}
	r.config = c
	if err := removeCreds(r.linksDir(), creds); err != nil {
		r.log.Warn("old link credentials are not removed", "error", err)
	}
	return restarted, errors.Join(bad...)
}

func (r *Runtime) check(c broker.Config) error {
	switch {
	case c.Cluster == "":
		return errors.New("configure broker: the member's name is missing")
	case c.TLS == nil && (r.link.enabled() || len(c.Remotes) > 0):
		return errors.New("configure broker: links need TLS")
	case c.TLS != nil && (c.TLS.InsecureSkipVerify || c.TLS.RootCAs == nil):
		return errors.New("configure broker: links need the federation's authority to verify peers")
	}
	return nil
}

// serverOptions makes what the server's options are built from, with the
// credentials that its remotes use and the errors of remotes left out.
func (r *Runtime) serverOptions(c broker.Config) (so serverOptions, creds map[string]bool, bad []error) {
	so = serverOptions{
		config: c, operator: r.operator, storeDir: r.storeDir(), clientTLS: r.opts.ClientTLS,
		client: r.client, link: r.link,
	}
	creds = map[string]bool{}
	for _, remote := range c.Remotes {
		path, err := writeCreds(r.linksDir(), r.opts.Keyring.LinkUser(), remote)
		var ro *server.RemoteLeafOpts
		if err == nil {
			ro, err = remoteOptions(r.opts.Keyring.Account(remoteAccount(remote)).Public, c, remote, path)
		}
		if err != nil {
			bad = append(bad, &broker.RemoteError{Peer: remote.Peer, Err: err})
			continue
		}
		creds[path] = true
		so.remotes = append(so.remotes, ro)
	}
	return so, creds, bad
}

// remoteErrors tells again what is wrong with an unchanged configuration.
func (r *Runtime) remoteErrors(c broker.Config) error {
	_, _, bad := r.serverOptions(c)
	return errors.Join(bad...)
}

func equalConfig(a, b broker.Config) bool {
	return a.Cluster == b.Cluster && a.TLS == b.TLS && a.TrustDomain == b.TrustDomain &&
		proto.Equal(a.Spec, b.Spec) && reflect.DeepEqual(a.Remotes, b.Remotes)
}

// needsRestart knows what NATS cannot reload.
func needsRestart(from, to broker.Config) bool {
	return from.Cluster != to.Cluster || len(federationv1.Restarts(from.Spec, to.Spec)) > 0
}

// start runs a new server on the accounts in the book.
func (r *Runtime) start(ctx context.Context, so serverOptions) error {
	if err := r.book.settle(); err != nil {
		return fmt.Errorf("write accounts: %w", err)
	}
	chosen := r.chosenPorts()
	so.client.resolve(chosen.Client)
	so.link.resolve(chosen.Link)
	resolver, err := newResolver(r.jwtDir())
	if err != nil {
		return err
	}
	so.resolver = resolver
	srv, err := server.NewServer(so.build())
	if err != nil {
		resolver.Close()
		return fmt.Errorf("start broker: %w", err)
	}
	log := newServerLog(r.log)
	srv.SetLoggerV2(log, log.debug(), false, false)
	go srv.Start()
	if err := waitReady(ctx, srv, log); err != nil {
		stop(ctx, srv)
		return fmt.Errorf("start broker: %w", err)
	}
	if err := r.notePorts(srv); err != nil {
		stop(ctx, srv)
		return err
	}
	r.book.resolver, r.book.says = resolver, log
	r.book.stale.reset()
	r.mu.Lock()
	r.srv = srv
	r.mu.Unlock()
	for name, err := range r.book.load(ctx, srv) {
		r.log.Warn("account is not in effect", "account", name, "error", err)
	}
	return nil
}

func waitReady(ctx context.Context, srv *server.Server, log *serverLog) error {
	for {
		if srv.ReadyForConnections(time.Millisecond) {
			return nil
		}
		t := time.NewTimer(2 * time.Millisecond)
		select {
		case msg := <-log.fatal:
			t.Stop()
			return errors.New(msg)
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}

// notePorts keeps the ports that the server chose.
func (r *Runtime) notePorts(srv *server.Server) error {
	v, err := srv.Varz(nil)
	if err != nil {
		return err
	}
	p := ports{Client: v.Port, Link: v.LeafNode.Port}
	if p == r.chosenPorts() {
		return nil
	}
	r.mu.Lock()
	r.ports = p
	r.mu.Unlock()
	return p.save(r.portsFile())
}

func (r *Runtime) chosenPorts() ports {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.ports
}

// reload changes the running server, or restarts it if NATS turns out not to be
// able to.
func (r *Runtime) reload(ctx context.Context, srv *server.Server, so serverOptions) (restarted bool, err error) {
	p := r.chosenPorts()
	so.resolver = r.book.resolver
	so.client.port = p.Client
	if so.link.enabled() {
		so.link.port = p.Link
	}
	err = reload(ctx, srv, so.build)
	if err != nil && strings.Contains(err.Error(), "not supported") {
		r.log.Warn("the broker restarts for a change that it should have been able to reload", "error", err)
		return r.restart(ctx, srv, so)
	}
	return false, err
}

// restart replaces the server. If the new one does not start, the old
// configuration does.
func (r *Runtime) restart(ctx context.Context, srv *server.Server, so serverOptions) (bool, error) {
	if err := r.checkFits(srv, so.config); err != nil {
		return false, err
	}
	r.log.Info("restarting the broker for a change of its limits")
	r.retire()
	stop(ctx, srv)
	err := r.start(ctx, so)
	if err == nil {
		return true, nil
	}
	old, _, _ := r.serverOptions(r.config)
	if rerr := r.start(context.WithoutCancel(ctx), old); rerr != nil {
		return true, errors.Join(err, fmt.Errorf("and with the previous configuration: %w", rerr))
	}
	return true, err
}

// checkFits refuses to restart with less than what is in use or promised: streams
// that do not fit are not loaded, and an account whose limit does not fit has no
// JetStream at all.
func (r *Runtime) checkFits(srv *server.Server, c broker.Config) error {
	js, err := srv.Jsz(nil)
	if err != nil {
		return err
	}
	var storage, memory int64
	for _, a := range r.book.wanted {
		storage += max(a.Limits.DiskStorage, 0)
		memory += max(a.Limits.MemoryStorage, 0)
	}
	for _, l := range []struct {
		what  string
		used  int64
		limit int64
	}{
		{"storage", max(int64(js.Store), int64(js.ReservedStore), storage), c.Spec.GetMaxStorage()},
		{"memory", max(int64(js.Memory), int64(js.ReservedMemory), memory), c.Spec.GetMaxMemory()},
	} {
		if l.used > l.limit {
			return fmt.Errorf("%s cannot be lowered to %d bytes: streams use or reserve, or accounts are promised, %d", l.what, l.limit, l.used)
		}
	}
	return nil
}

// retire takes the server out of use.
func (r *Runtime) retire() {
	r.mu.Lock()
	r.srv = nil
	r.mu.Unlock()
	r.book.resolver, r.book.says = nil, nil
}

// stop ends a server: clients are told first, unless ctx is over.
func stop(ctx context.Context, srv *server.Server) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if ctx.Err() == nil {
			srv.LameDuckShutdown() // does nothing if the server does not listen
		}
		srv.Shutdown()
		srv.WaitForShutdown()
	}()
	letGo(ctx, srv, done)
	if ctx.Err() != nil {
		srv.Shutdown()
	}
	<-done
}

// Shutdown implements broker.Runtime. After it nothing starts the server again.
// When ctx is over, clients are not waited for any longer.
func (r *Runtime) Shutdown(ctx context.Context) error {
	if err := r.take(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	defer r.release()
	r.stopped = true
	if srv := r.server(); srv != nil {
		r.retire()
		stop(ctx, srv)
	}
	return nil
}

func (r *Runtime) server() *server.Server {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.srv
}
