package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	"github.com/sealane/sealane/broker"
)

// NodeOptions are what a Node needs to know for its whole life.
type NodeOptions struct {
	// DataDir holds everything that the node keeps.
	DataDir string
	// Name is that of the process among those of its member.
	Name string
	// ClientListen, RouteListen and LinkListen are HOST:PORT; LinkListen may be
	// empty: links are not accepted.
	ClientListen, RouteListen, LinkListen string
	// LameDuck is over how long clients are let go when the server stops.
	LameDuck time.Duration
	// Log gets what the server says; nil: slog.Default.
	Log *slog.Logger
}

// Node is one NATS server of a broker of several. It holds no key that makes
// accounts: it runs what it is given, a brokerv1.State, and keeps the last one.
type Node struct {
	opts                NodeOptions
	log                 *slog.Logger
	client, route, link listener

	// turn is held by whatever changes the server; the fields below are its.
	turn     chan struct{}
	accounts *nodeAccounts
	// running is the state that the server has; nil while none runs. Its spec is the one
	// that it works with.
	running  *brokerv1.State
	resolver *server.DirAccResolver
	operator *jwt.OperatorClaims
	company  *companion

	// mu guards what is read at any time.
	mu    sync.RWMutex
	state *brokerv1.State
	srv   *server.Server
	name  string
	// problem is why the server does not run or does not have the state; restart is
	// what only a restart brings about.
	problem, restart string
}

// ErrOlderState says that a node holds a newer state than the one offered.
var ErrOlderState = errors.New("the server holds a newer state")

// ErrBadState says that a state cannot be used.
var ErrBadState = errors.New("the state cannot be used")

// ErrNotFresh says that a node has data and so neither founds nor joins.
var ErrNotFresh = errors.New("the server has data already")

// NewNode returns a Node with the state that its folder holds. It runs nothing
// yet.
func NewNode(o NodeOptions) (*Node, error) {
	n := &Node{opts: o, log: o.Log, turn: make(chan struct{}, 1)}
	if n.log == nil {
		n.log = slog.Default()
	}
	if o.DataDir == "" || o.Name == "" {
		return nil, errors.New("broker server: DataDir and Name are required")
	}
	for _, l := range []struct {
		name, addr string
		to         *listener
	}{{"client", o.ClientListen, &n.client}, {"route", o.RouteListen, &n.route}, {"link", o.LinkListen, &n.link}} {
		var err error
		if *l.to, err = parseListener(l.addr); err != nil {
			return nil, fmt.Errorf("%s listener %q: %w", l.name, l.addr, err)
		}
	}
	if n.client.port <= 0 || n.route.port <= 0 || n.link.port < 0 {
		return nil, errors.New("broker server: the ports of listeners are fixed ones")
	}
	for _, d := range []string{n.path("jwt"), n.path("links")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	n.accounts = &nodeAccounts{dir: n.path("jwt"), log: n.log, doubtful: map[string]bool{}}
	state, err := ReadState(n.path("state"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		// The agent has it, and so has the boot folder.
		n.log.Error("the last state cannot be read, waiting for another", "error", err)
	default:
		n.state = state
	}
	return n, nil
}

func (n *Node) path(name string) string { return filepath.Join(n.opts.DataDir, name) }
func (n *Node) storeDir() string        { return n.path("js") }

// State is the state that the node holds; nil: none yet. It must not be changed.
func (n *Node) State() *brokerv1.State {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.state
}

// ReadState reads the file of a state.
func ReadState(path string) (*brokerv1.State, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &brokerv1.State{}
	if err := proto.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func (n *Node) take(ctx context.Context) error {
	select {
	case n.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *Node) release() { <-n.turn }

// Apply makes a state the node's own, on the disk first. If the server runs it is
// in effect when Apply returns, but for what the answer says. The state must not
// be changed afterwards. The same state again is looked at anew.
func (n *Node) Apply(ctx context.Context, s *brokerv1.State) (*brokerv1.Applied, error) {
	if err := n.take(ctx); err != nil {
		return nil, err
	}
	defer n.release()
	if err := checkState(s); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadState, err)
	}
	// Another operator is another member: its numbers have nothing to do with ours.
	if old := n.State(); old != nil && old.Operator == s.Operator && s.Generation < old.Generation {
		return &brokerv1.Applied{Generation: old.Generation}, fmt.Errorf("%w: generation %d, not %d", ErrOlderState, old.Generation, s.Generation)
	}
	if old := n.State(); old == nil || !proto.Equal(old, s) {
		b, err := proto.Marshal(s)
		if err != nil {
			return nil, err
		}
		if err := broker.WriteFile(n.path("state"), b, 0o600); err != nil {
			return nil, err
		}
		n.mu.Lock()
		n.state = s
		n.mu.Unlock()
	}
	applied := &brokerv1.Applied{Generation: s.Generation, Accounts: map[string]string{}, Peers: map[string]string{}}
	srv := n.server()
	if srv == nil {
		return applied, nil
	}
	if n.running.Operator != s.Operator || n.running.SystemAccount != s.SystemAccount || n.running.Member != s.Member {
		applied.Problem = "the server runs for another operator: its data must be removed"
		n.note(applied.Problem, "")
		return applied, nil
	}
	n.accounts.apply(ctx, srv, s.Accounts, applied.Accounts)
	problem := ""
	if err := n.reload(ctx, srv, s, applied.Peers); err != nil {
		problem = err.Error()
	} else {
		n.running = withSpec(s, n.running)
	}
	applied.Problem, applied.Restart = problem, needsNodeRestart(n.running.Spec, s)
	n.note(applied.Problem, applied.Restart)
	return applied, nil
}

func (n *Node) note(problem, restart string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.problem, n.restart = problem, restart
}

// Fresh tells that the node has no data: it has never been in a cluster.
func (n *Node) Fresh() bool {
	s := n.State()
	if s == nil {
		_, err := os.Stat(n.storeDir())
		return errors.Is(err, fs.ErrNotExist)
	}
	_, err := os.Stat(n.peersFile(s))
	return errors.Is(err, fs.ErrNotExist)
}

// Begin starts the server of a fresh node: to found a cluster, or to join one.
func (n *Node) Begin(ctx context.Context, found bool) error {
	if err := n.take(ctx); err != nil {
		return err
	}
	defer n.release()
	switch s := n.State(); {
	case s == nil:
		return fmt.Errorf("%w: there is none", ErrBadState)
	case n.server() != nil || !n.Fresh():
		return ErrNotFresh
	default:
		// A new name for new data: a peer that was removed may not come back for
		// minutes, and one that forgot its votes must not vote again.
		name, err := newServerName(s.Member, n.opts.Name)
		if err != nil {
			return err
		}
		if err := broker.WriteFile(n.path("server"), []byte(name), 0o600); err != nil {
			return err
		}
		if found {
			if err := writeFounder(n.peersFile(s), name); err != nil {
				return err
			}
		}
		return n.start(ctx, s)
	}
}

// Start starts the server of a node that has data. A server that runs is left
// alone.
func (n *Node) Start(ctx context.Context) error {
	if err := n.take(ctx); err != nil {
		return err
	}
	defer n.release()
	if n.server() != nil {
		return nil
	}
	s := n.State()
	if s == nil || n.Fresh() {
		return fmt.Errorf("%w: the server has no data yet", ErrNotRunning)
	}
	return n.start(ctx, s)
}

// Restart stops the server and starts it with the state that the node holds.
func (n *Node) Restart(ctx context.Context) error {
	if err := n.take(ctx); err != nil {
		return err
	}
	defer n.release()
	s := n.State()
	if s == nil || n.Fresh() {
		return fmt.Errorf("%w: the server has no data yet", ErrNotRunning)
	}
	n.stop(ctx)
	return n.start(ctx, s)
}

// Retire stops the server and puts its data aside: the node is fresh afterwards.
func (n *Node) Retire(ctx context.Context) error {
	if err := n.take(ctx); err != nil {
		return err
	}
	defer n.release()
	n.stop(ctx)
	aside := n.path("retired")
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	if err := os.Rename(n.storeDir(), aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Stop stops the server: leaders step down, and clients are let go, as long as ctx
// allows.
func (n *Node) Stop(ctx context.Context) error {
	if err := n.take(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	defer n.release()
	n.stop(ctx)
	return nil
}

func (n *Node) stop(ctx context.Context) {
	srv := n.server()
	if srv == nil {
		return
	}
	n.company.leave()
	stop(ctx, srv)
	n.mu.Lock()
	n.srv = nil
	n.mu.Unlock()
	n.running, n.resolver = nil, nil
}

// start runs the server with s. All accounts are in the folder before it listens.
func (n *Node) start(ctx context.Context, s *brokerv1.State) (err error) {
	defer func() {
		if err != nil {
			n.note(err.Error(), "")
		}
	}()
	if err := checkState(s); err != nil {
		return err
	}
	name, err := os.ReadFile(n.path("server"))
	if err != nil {
		return fmt.Errorf("start broker: %w", err)
	}
	if err := n.accounts.settle(s.Accounts); err != nil {
		return fmt.Errorf("write accounts: %w", err)
	}
	n.operator = operatorClaims(s.Operator, s.Signers, s.SystemAccount)
	if n.resolver, err = newNodeResolver(n.accounts.dir); err != nil {
		return err
	}
	so, err := n.serverOptions(s, string(name), map[string]string{})
	if err != nil {
		n.resolver.Close()
		return err
	}
	srv, err := server.NewServer(so.build())
	if err != nil {
		n.resolver.Close()
		return fmt.Errorf("start broker: %w", err)
	}
	log := newServerLog(n.log)
	srv.SetLoggerV2(log, log.debug(), false, false)
	go srv.Start()
	if err := waitReady(ctx, srv, log); err != nil {
		stop(ctx, srv)
		return fmt.Errorf("start broker: %w", err)
	}
	n.accounts.resolver, n.accounts.says = n.resolver, log
	n.accounts.stale.reset()
	n.running = s
	n.company = n.keepCompany(srv, so.cluster.tls, s.Member)
	n.mu.Lock()
	n.srv, n.name, n.problem, n.restart = srv, string(name), "", ""
	n.mu.Unlock()
	bad := map[string]string{}
	n.accounts.load(srv, s.Accounts, bad)
	for account, why := range bad {
		n.log.Warn("account is not in effect", "account", account, "error", why)
	}
	return nil
}

func (n *Node) server() *server.Server {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.srv
}

// Kick closes a leaf connection.
func (n *Node) Kick(id uint64) error {
	srv := n.server()
	if srv == nil {
		return ErrNotRunning
	}
	return srv.DisconnectClientByID(id)
}
