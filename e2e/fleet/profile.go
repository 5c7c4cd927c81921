package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
	"syscall"

	"github.com/sealane/sealane/hub"
)

// profiledHub, as first argument, makes of this program a hub like sealane-hub. A
// SIGUSR1 begins a profile of its processor time, or a trace of its execution, and a
// second one ends it, with profiles of its memory as of the last collection and of
// its goroutines; so on with further ones. What is begun and ended is counted in a
// file, for who waits for it.
const profiledHub = "hub-with-profile"

// profileRate is how often in a second it is looked what runs: what is measured is
// short.
const profileRate = 500

func runProfiledHub(args []string) int {
	dir, traced := args[0], args[1] == "trace"
	o := hub.Options{Version: "bench"}
	f := flag.NewFlagSet(profiledHub, flag.ContinueOnError)
	f.BoolVar(&o.Embedded, "embedded", false, "")
	f.StringVar(&o.Kubeconfig, "kubeconfig", "", "")
	f.StringVar(&o.DataDir, "data", "", "")
	f.StringVar(&o.Listen, "listen", "", "")
	f.StringVar(&o.Advertise, "advertise", "", "")
	f.StringVar(&o.APIListen, "api-listen", "", "")
	f.StringVar(&o.MetricsListen, "metrics-listen", "", "")
	if err := f.Parse(args[2:]); err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if os.Getenv("GOGC") == "" {
		percent := 25 // as sealane-hub
		if o.Embedded {
			percent = 50
		}
		debug.SetGCPercent(percent)
	}
	p := profiles{dir: dir, traced: traced}
	go func() {
		if err := p.run(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "no more profiles:", err)
		}
	}()
	if err := hub.Run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

type profiles struct {
	dir    string
	traced bool
	marks  int
}

// marksFile is where it is counted what was begun and ended.
const marksFile = "marks"

func (p *profiles) mark() error {
	p.marks++
	return os.WriteFile(filepath.Join(p.dir, marksFile), []byte(strconv.Itoa(p.marks)), 0o600)
}

func (p *profiles) run(ctx context.Context) error {
	usr := make(chan os.Signal, 1)
	signal.Notify(usr, syscall.SIGUSR1)
	for n := 0; next(ctx, usr); n++ {
		end, err := p.begin(n)
		if err != nil {
			return err
		}
		if err := p.mark(); err != nil {
			return err
		}
		next(ctx, usr)
		if err := errors.Join(end(), p.write("heap", n), p.write("goroutine", n), p.mark()); err != nil {
			return err
		}
	}
	return nil
}

func (p *profiles) begin(n int) (end func() error, err error) {
	name, start, stop := "cpu-%03d.pprof", pprof.StartCPUProfile, pprof.StopCPUProfile
	if p.traced {
		name, start, stop = "trace-%03d", trace.Start, trace.Stop
	} else {
		runtime.SetCPUProfileRate(profileRate) // StartCPUProfile then says that it cannot
	}
	f, err := os.Create(filepath.Join(p.dir, fmt.Sprintf(name, n)))
	if err != nil {
		return nil, err
	}
	return func() error { stop(); return f.Close() }, start(f)
}

func (p *profiles) write(what string, n int) error {
	f, err := os.Create(filepath.Join(p.dir, fmt.Sprintf("%s-%03d.pprof", what, n)))
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup(what).WriteTo(f, 0), f.Close())
}

func next(ctx context.Context, c <-chan os.Signal) bool {
	select {
	case <-ctx.Done():
		return false
	case <-c:
		return true
	}
}
