package pod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	"github.com/sealane/sealane/broker/embedded"
)

const (
	keepaliveFloor = time.Second
	// bootPoll is how often the boot folder is looked at: what the agent could not
	// say comes there, late.
	bootPoll = 2 * time.Second
	// startRetry is how long a server that does not start waits for another try.
	startRetry = 2 * time.Second
	// lameDuck is over how long clients are let go.
	lameDuck = 5 * time.Second
	// stopTimeout bounds a stop as a whole.
	stopTimeout = 30 * time.Second
)

// Options say how to run a server's process.
type Options struct {
	// DataDir is the volume: streams, and the last state.
	DataDir string
	// BootDir holds the boot state, in BootFile.
	BootDir string
	// Name of the process among those of the member.
	Name string
	// Where to listen, HOST:PORT each. HealthListen may be empty, LinkListen too.
	ControlListen, ClientListen, LinkListen, RouteListen, HealthListen string
	// WaitForAgent is how long a server that has data waits for the agent before it
	// starts with the state that it has: it may be an old one.
	WaitForAgent time.Duration
	// LameDuck is over how long clients are let go; 0: 5 s.
	LameDuck time.Duration
	Log      *slog.Logger
}

// Run runs the process until ctx ends. It returns nil after a clean stop.
func Run(ctx context.Context, o Options) (err error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.LameDuck == 0 {
		o.LameDuck = lameDuck
	}
	if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
		return err
	}
	node, err := embedded.NewNode(embedded.NodeOptions{
		DataDir: o.DataDir, Name: o.Name, ClientListen: o.ClientListen, LinkListen: o.LinkListen,
		RouteListen: o.RouteListen, LameDuck: o.LameDuck, Log: o.Log,
	})
	if err != nil {
		return err
	}
	p := &process{Options: o, node: node, control: &control{node: node, heard: make(chan struct{}, 1)}}
	return p.run(ctx)
}

type process struct {
	Options
	node    *embedded.Node
	control *control
	bootErr string
}

func (p *process) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var loops sync.WaitGroup
	defer loops.Wait()
	defer cancel()
	failed := make(chan error, 2)
	if p.HealthListen != "" {
		l, err := net.Listen("tcp", p.HealthListen)
		if err != nil {
			return fmt.Errorf("listen for health checks: %w", err)
		}
		h := &http.Server{Handler: p.health(), ReadHeaderTimeout: 5 * time.Second}
		loops.Go(func() {
			if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		})
		defer func() { _ = h.Close() }()
	}
	l, err := net.Listen("tcp", p.ControlListen)
	if err != nil {
		return fmt.Errorf("listen for the agent: %w", err)
	}
	s := newServer(p.control)
	brokerv1.RegisterControlServer(s, p.control)
	loops.Go(func() {
		if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			failed <- err
		}
	})
	loops.Go(func() { p.followBoot(ctx) })
	loops.Go(func() { p.start(ctx) })
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	sctx, stopped := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer stopped()
	cancel()
	err = errors.Join(err, p.node.Stop(sctx))
	s.Stop()
	p.Log.Info("stopped")
	return err
}

// followBoot takes the boot state whenever it counts more than what is held.
func (p *process) followBoot(ctx context.Context) {
	t := time.NewTicker(bootPoll)
	defer t.Stop()
	for {
		p.readBoot(ctx)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (p *process) readBoot(ctx context.Context) {
	boot, err := readBoot(p.BootDir)
	if err == nil && newer(boot, p.node.State()) {
		_, err = p.node.Apply(ctx, boot)
		if err == nil {
			p.Log.Info("took the boot state", "generation", boot.Generation)
		}
	}
	switch {
	case err == nil:
		p.bootErr = ""
	case ctx.Err() != nil || errors.Is(err, fs.ErrNotExist) || p.bootErr == err.Error():
	default:
		p.bootErr = err.Error()
		p.Log.Warn("the boot state cannot be used", "error", err)
	}
}

// start starts a server that has data, once the agent has been heard or is not
// there. A server without data is begun by the agent.
func (p *process) start(ctx context.Context) {
	wait := time.NewTimer(p.WaitForAgent)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return
	case <-p.control.heard:
	case <-wait.C:
		if o := p.node.Observe(false); o.Phase == brokerv1.Observation_STOPPED {
			p.Log.Warn("the agent is not heard, starting with the state that is here", "generation", o.Generation)
		}
	}
	retry := time.NewTicker(startRetry)
	defer retry.Stop()
	for {
		if p.node.State() != nil && !p.node.Fresh() {
			switch err := p.node.Start(ctx); {
			case err == nil:
			case ctx.Err() != nil:
				return
			default:
				p.Log.Error("the server does not start, trying again", "error", err)
			}
		}
		// Also one that stopped later, because a restart failed, is started again.
		select {
		case <-ctx.Done():
			return
		case <-p.control.heard:
		case <-retry.C:
		}
	}
}

// health serves the kubelet: alive is the process, ready is a server that clients
// can use.
func (p *process) health() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		o := p.node.Observe(false)
		if o.Phase == brokerv1.Observation_RUNNING && o.Meta.GetLeader() != "" {
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, o.Phase, o.Problem, o.Health)
	})
	return mux
}
