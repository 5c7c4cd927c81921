package statefulset

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
	"github.com/sealane/sealane/broker/embedded"
	"github.com/sealane/sealane/broker/replica"
)

const (
	// verifyTries bounds how often accounts that are not in effect are signed anew.
	verifyTries = 3
	// startSay is how often it is said why the broker does not run yet.
	startSay = 15 * time.Second
	// patience is how long a server that does not answer counts as one that has to
	// have what is pushed.
	patience = 5 * time.Second
)

// Options are what a Runtime needs to know for its whole life.
type Options struct {
	// DataDir is the agent's data folder; everything is below its folder broker.
	DataDir string
	// Member is the name of the member.
	Member  string
	Keyring *broker.Keyring
	Place   Place
	Log     *slog.Logger
}

// Runtime runs a broker of several servers.
type Runtime struct {
	opts  Options
	log   *slog.Logger
	dir   string
	local *local
	// changed wakes the steward.
	changed chan struct{}
	cancel  context.CancelFunc
	loops   sync.WaitGroup

	// turn is held by whatever makes a state; the fields below are its.
	turn       chan struct{}
	composer   *composer
	config     *broker.Config
	accounts   map[string]*jwt.AccountClaims
	done       map[string]bool
	count      int
	stopped    bool
	stewarding bool

	// shrinking is held by who brings a stream to one replica.
	shrinking chan struct{}
	rests     replica.Rests

	// mu guards what is read at any time.
	mu       sync.RWMutex
	state    *brokerv1.State
	names    map[string]string // of accounts that are not removed, by key
	want     chosen
	controls []*control
	status   string
	// auto says how the number of servers follows the load, nil: it does not; short are
	// the targets that the most servers that it allows do not hold.
	auto  *federationv1.Autoscaling
	short []string
}

var _ broker.Runtime = (*Runtime)(nil)

// ErrNotRunning says that no server of the broker can be reached.
var ErrNotRunning = errors.New("no server of the broker can be reached")

// New returns a Runtime that does nothing yet.
func New(o Options) (*Runtime, error) {
	if o.DataDir == "" || o.Member == "" || o.Keyring == nil || o.Place == nil {
		return nil, errors.New("broker: DataDir, Member, Keyring and Place are required")
	}
	r := &Runtime{
		opts: o, log: o.Log, dir: filepath.Join(o.DataDir, "broker"),
		changed: make(chan struct{}, 1), turn: make(chan struct{}, 1), shrinking: make(chan struct{}, 1), done: map[string]bool{}, names: map[string]string{},
	}
	if r.log == nil {
		r.log = slog.Default()
	}
	var err error
	if r.local, err = loadLocal(filepath.Join(r.dir, "local"), o.Member); err != nil {
		return nil, err
	}
	r.composer = &composer{keyring: o.Keyring, local: r.local}
	switch last, err := embedded.ReadState(r.stateFile()); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("what servers were told cannot be read (remove the file to tell them anew): %w", err)
	default:
		r.composer.last = last
	}
	return r, nil
}

func (r *Runtime) stateFile() string { return filepath.Join(r.dir, "state") }

func (r *Runtime) take(ctx context.Context) error {
	select {
	case r.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Runtime) release() { <-r.turn }

// Configure implements broker.Runtime. The first call returns when the broker
// runs, which may take as long as its place takes to bring servers up. restarted
// is always false: servers are restarted one by one, later, and clients go on.
func (r *Runtime) Configure(ctx context.Context, c broker.Config) (restarted bool, err error) {
	if err := r.take(ctx); err != nil {
		return false, err
	}
	defer r.release()
	if r.stopped {
		return false, ErrNotRunning
	}
	if c.Cluster != r.opts.Member {
		return false, fmt.Errorf("configure broker: this is %q, not %q", r.opts.Member, c.Cluster)
	}
	c.Remotes = slices.Clone(c.Remotes)
	if err := r.checkFits(c); err != nil {
		return false, err
	}
	before := r.config
	r.config = &c
	if r.count == 0 {
		servers, err := r.opts.Place.Servers(ctx)
		switch {
		case err == nil:
			r.count = max(1, len(servers))
		case r.composer.last != nil:
			// The servers can be told what to be without their place.
			r.log.Warn("the place of the servers does not answer, going on with those that were", "error", err)
			r.count = max(1, len(r.composer.last.Servers))
		default:
			r.config = before
			return false, fmt.Errorf("configure broker: %w", err)
		}
	}
	r.aim(c.Spec)
	_, errs, err := r.compose(nil)
	for name, e := range errs {
		r.log.Warn("account cannot be made", "account", name, "error", e)
	}
	if err != nil {
		r.config = before
		return false, err
	}
	if !r.stewarding {
		r.stewarding = true
		sctx, cancel := context.WithCancel(context.Background())
		r.cancel = cancel
		r.loops.Go(func() { (&steward{Runtime: r, draining: map[string]*draining{}, moving: map[string]bool{}}).run(sctx) })
	}
	r.wake()
	if before == nil {
		if err := r.awaitRunning(ctx); err != nil {
			r.config = nil
			return false, err
		}
	}
	out := r.push(ctx)
	return false, out.err()
}

// awaitRunning waits until the broker has a leader. Only then an application could
// use it.
func (r *Runtime) awaitRunning(ctx context.Context) error {
	say := time.NewTicker(startSay)
	defer say.Stop()
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	for {
		for _, c := range r.pods() {
			if o := c.known(); o.GetPhase() == brokerv1.Observation_RUNNING && o.Meta.GetLeader() != "" {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the broker does not run yet: %s: %w", r.Status(), ctx.Err())
		case <-say.C:
			r.log.Info("the broker does not run yet", "status", r.Status())
		case <-poll.C:
		}
	}
}

// checkFits refuses limits below what is in use or promised.
func (r *Runtime) checkFits(c broker.Config) error {
	if r.config == nil {
		return nil
	}
	spec, old := broker.WithDefaults(c.Spec), broker.WithDefaults(r.config.Spec)
	for _, p := range r.pods() {
		u := p.known().GetUsage()
		for _, l := range []struct {
			what           string
			limit, was     int64
			used, reserved int64
		}{
			{"storage", spec.MaxStorage, old.MaxStorage, u.GetStorage(), u.GetStorageReserved()},
			{"memory", spec.MaxMemory, old.MaxMemory, u.GetMemory(), u.GetMemoryReserved()},
		} {
			if l.limit < l.was && l.limit < max(l.used, l.reserved) {
				return fmt.Errorf("%s cannot be lowered to %d bytes: on %s streams use %d and reserve %d", l.what, l.limit, p.addr.Name, l.used, l.reserved)
			}
		}
	}
	return nil
}

func (r *Runtime) wake() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// compose makes the next state, on the disk before anyone else has it, and has
// control channels to all servers in it. The turn is held.
func (r *Runtime) compose(fresh map[string]bool) (*brokerv1.State, map[string]error, error) {
	w := wanted{config: *r.config, accounts: r.accounts, fresh: fresh, done: r.done, names: r.opts.Place.Names()}
	for n := range r.count {
		a := r.opts.Place.Address(n)
		w.servers = append(w.servers, &brokerv1.Server{Name: a.Name, Route: a.Route})
	}
	s, errs, err := r.composer.compose(w)
	if err != nil {
		return nil, errs, err
	}
	if s != r.composer.last {
		b, err := proto.Marshal(s)
		if err != nil {
			return nil, errs, err
		}
		if err := broker.WriteFile(r.stateFile(), b, 0o600); err != nil {
			return nil, errs, err
		}
		r.composer.last = s
	}
	names := map[string]string{}
	for _, a := range s.Accounts {
		if r.accounts == nil || r.accounts[a.Name] != nil || a.Name == broker.SystemAccount {
			names[a.Key] = a.Name
		}
	}
	if err := r.dial(); err != nil {
		return nil, errs, err
	}
	r.mu.Lock()
	r.state, r.names = s, names
	r.mu.Unlock()
	return s, errs, nil
}

// dial has one control channel to each server.
func (r *Runtime) dial() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.controls) > r.count {
		last := len(r.controls) - 1
		r.controls[last].close()
		r.controls = r.controls[:last]
	}
	for n := len(r.controls); n < r.count; n++ {
		c, err := dialControl(n, r.opts.Place, r.local)
		if err != nil {
			return err
		}
		r.controls = append(slices.Clip(r.controls), c)
	}
	return nil
}

func (r *Runtime) pods() []*control {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.controls
}

func (r *Runtime) current() *brokerv1.State {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.state
}

// SetAccounts implements broker.Runtime.
func (r *Runtime) SetAccounts(ctx context.Context, accounts map[string]*jwt.AccountClaims) map[string]error {
	errs := map[string]error{}
	fail := func(err error) map[string]error {
		for name := range accounts {
			errs[name] = err
		}
		return errs
	}
	if err := r.take(ctx); err != nil {
		return fail(err)
	}
	defer r.release()
	wanted := map[string]*jwt.AccountClaims{}
	for name, c := range accounts {
		if name == broker.SystemAccount || c == nil {
			errs[name] = errors.New("this account is not to be set")
			continue
		}
		wanted[name] = c
	}
	r.accounts = wanted
	if r.config == nil {
		return errs
	}
	var fresh map[string]bool
	for try := 1; ; try++ {
		_, bad, err := r.compose(fresh)
		if err != nil {
			return fail(err)
		}
		r.wake()
		out := r.push(ctx)
		if err := out.taken(); err != nil {
			return fail(err)
		}
		fresh = map[string]bool{}
		for name, err := range out.accounts {
			if wanted[name] != nil {
				fresh[name] = true
				bad[name] = errors.Join(bad[name], err)
			}
		}
		if len(fresh) == 0 || try == verifyTries || ctx.Err() != nil {
			for name, err := range bad {
				errs[name] = err
			}
			return errs
		}
	}
}

// ClientURL implements broker.Runtime.
func (r *Runtime) ClientURL() string { return r.opts.Place.ClientURL() }

// ClientCA is the authority, in PEM, of what servers show to applications.
func (r *Runtime) ClientCA() []byte { return r.local.caPEM() }

// LinkPort implements broker.Runtime.
func (r *Runtime) LinkPort() int { return r.opts.Place.LinkPort() }

// Version implements broker.Runtime.
func (r *Runtime) Version() string { return server.VERSION }

// Status says in words what the broker's servers are about.
func (r *Runtime) Status() string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.status
}

// Shutdown implements broker.Runtime. The servers run on: they are not the
// agent's to stop.
func (r *Runtime) Shutdown(ctx context.Context) error {
	if err := r.take(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	r.stopped = true
	cancel := r.cancel
	r.release()
	if cancel != nil {
		cancel()
	}
	r.loops.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.controls {
		c.close()
	}
	r.controls = nil
	return nil
}
