// Command fleet measures the control plane: a real hub with its own API server in
// one process, and simulated members that speak the real protocol over mutual TLS in
// another. It keeps to loopback and a temporary folder, ends by itself, and prints
// tables.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/go-logr/logr"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == profiledHub {
		os.Exit(runProfiledHub(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == apiServer {
		os.Exit(runAPIServer(os.Args[2:]))
	}
	var o options
	var members string
	flag.StringVar(&o.hub, "hub", "bin/sealane-hub", "the hub's program")
	flag.StringVar(&members, "members", "100,1000,5000", "sizes of federations, separated by commas")
	flag.IntVar(&o.changes, "changes", 20, "how many changes are measured of each kind")
	flag.IntVar(&o.singles, "singles", 100, "how many changes that concern two members")
	flag.IntVar(&o.storms, "storms", 20, "how often all members connect at once, in federations of up to 1,000")
	flag.IntVar(&o.kills, "kills", 3, "how often the hub is killed")
	flag.DurationVar(&o.rest, "rest", 30*time.Second, "for how long the hub is watched at rest")
	flag.IntVar(&o.subjects, "subjects", 192, "subjects that every member gets")
	flag.IntVar(&o.streams, "streams", 12, "streams that every member has")
	flag.IntVar(&o.parents, "parents", 1, "regions to which each edge site has links")
	flag.StringVar(&o.profile, "profile", "", "`folder` for processor and memory profiles of the hub, which then runs in this program's code")
	flag.BoolVar(&o.traced, "trace", false, "with -profile: traces of its execution instead of its processor time")
	flag.BoolVar(&o.beside, "beside", false, "the API server is another process, as in a cluster, and is not measured")
	flag.BoolVar(&o.growth, "growth", false, "measure also federations with more and fewer links and bridges")
	flag.StringVar(&o.only, "only", "", "measure only these, separated by commas: stream, bridge, pair, rest, storm, kill")
	flag.Parse()
	log.SetLogger(logr.Discard())
	debug.SetGCPercent(400) // it is the hub that is measured
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, members); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop is called
	}
}

type options struct {
	hub, profile, only                                          string
	changes, singles, storms, kills, subjects, streams, parents int
	rest                                                        time.Duration
	traced, growth, beside                                      bool
}

func (o options) wants(what string) bool {
	return o.only == "" || strings.Contains(","+o.only+",", ","+what+",")
}

func run(ctx context.Context, o options, members string) error {
	fmt.Printf("%s %s/%s, %d cores shared by hub and members, load %s at the beginning\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), load()) //nolint:forbidigo // a program that prints
	var rows []row
	add := func(s size) error {
		r, err := o.measure(ctx, s)
		if err != nil {
			return fmt.Errorf("%d members: %w", s.members, err)
		}
		rows = append(rows, r)
		return nil
	}
	base := size{subjects: o.subjects, streams: o.streams, parents: o.parents}
	for _, text := range strings.Split(members, ",") {
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("-members: %w", err)
		}
		s := base
		s.members = n
		if err := add(s); err != nil {
			return err
		}
	}
	if o.growth {
		o.only, o.changes = "rest,stream,bridge", min(o.changes, 5)
		for _, change := range []func(*size){
			func(*size) {}, func(s *size) { s.parents = 2 }, func(s *size) { s.parents = 3 }, func(s *size) { s.subjects *= 2 },
			func(s *size) { s.subjects *= 4 }, func(s *size) { s.streams *= 2 },
		} {
			s := base
			s.members = 300
			change(&s)
			if err := add(s); err != nil {
				return err
			}
		}
	}
	if len(rows) < 2 {
		return nil
	}
	return compare(newTable(), rows)
}

func newTable() *tabwriter.Writer { return tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0) }

// program is how the hub is started.
func (o options) program() ([]string, error) {
	if o.profile == "" {
		return []string{o.hub}, nil
	}
	dir, err := filepath.Abs(o.profile)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	what := "cpu"
	if o.traced {
		what = "trace"
	}
	return []string{self, profiledHub, dir, what}, err
}

func (o options) measure(ctx context.Context, s size) (_ row, err error) {
	tmp, err := os.MkdirTemp("", "sealane-fleet-")
	if err != nil {
		return row{}, err
	}
	defer func() {
		if err == nil {
			_ = os.RemoveAll(tmp) // nothing depends on it
		} else {
			err = fmt.Errorf("%w (the hub's log is in %s)", err, tmp)
		}
	}()
	data := filepath.Join(tmp, "hub")
	if err := os.Mkdir(data, 0o700); err != nil {
		return row{}, err
	}
	program, err := o.program()
	if err != nil {
		return row{}, err
	}
	hub, err := newHub(program, data)
	if err != nil {
		return row{}, err
	}
	if o.profile != "" {
		hub.profiles = program[2]
	}
	defer hub.kill()
	if o.beside {
		api, kubeconfig, err := startAPI(ctx, filepath.Join(tmp, "api"))
		if err != nil {
			return row{}, err
		}
		defer api.kill()
		hub.beside = kubeconfig
	}
	r := &report{w: newTable(), row: row{size: s}}
	b := &bench{size: s, hub: hub, log: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }}
	b.beats = func() {}
	defer func() { b.beats() }()
	if err := b.begin(ctx, r); err != nil {
		return row{}, err
	}
	if err := b.figures(ctx, o, r); err != nil {
		return row{}, err
	}
	return r.row, r.w.Flush()
}

// begin starts the hub and brings up the federation.
func (b *bench) begin(ctx context.Context, r *report) error {
	start, err := b.hub.start(ctx)
	if err != nil {
		return err
	}
	if err := b.hub.quiet(ctx); err != nil {
		return err
	}
	empty, _, err := b.hub.memory()
	if err != nil {
		return err
	}
	alone, err := b.rest(ctx, 10*time.Second)
	if err != nil {
		return err
	}
	if b.api, err = connectAPI(b.hub.kubeconfig()); err != nil {
		return err
	}
	b.log("%d members: enrolling ...", b.size.members)
	began := time.Now()
	if b.fleet, err = enrolAll(ctx, b.api, b.hub.agents, b.size); err != nil {
		return err
	}
	enrolled := time.Since(began)
	for _, m := range b.fleet.members {
		if err := m.connect(ctx); err != nil {
			return err
		}
	}
	b.beats = b.beat(ctx)
	b.log("%d members: first links and states ...", b.size.members)
	began = time.Now()
	for _, o := range b.size.objects() {
		if err := b.api.Create(ctx, o); err != nil {
			return err
		}
	}
	if err := b.settle(ctx); err != nil {
		return err
	}
	up := time.Since(began)
	all, edges, err := b.stateBytes(ctx)
	if err != nil {
		return err
	}
	r.title("%d members: %d regions, %d edge sites behind them, load %s", b.size.members, b.size.regions(), b.size.members-b.size.regions(), load())
	kind := "with its API server"
	if b.hub.beside != "" {
		kind = "beside its API server"
	}
	r.line("hub without members, "+kind, "%.0f MiB resident, %.2f %% of a core, ready after %.1f s", mib(empty), 100*alone, start.Seconds())
	r.line("enrolled", "in %.1f s", enrolled.Seconds())
	r.line("from nothing to all states and links", "in %.1f s", up.Seconds())
	r.line("state", "%.1f KiB a member, %.1f KiB an edge site; %d links, %d bridges, %d streams", all/1024, edges/1024, b.links, b.size.bridges(), b.size.streams)
	r.empty, r.row.links, r.row.state = empty, b.links, all/1024
	return nil
}

func (b *bench) beat(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); b.fleet.heartbeats(ctx, 10*time.Second) }()
	return func() { cancel(); <-done }
}
