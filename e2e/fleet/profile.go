package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"syscall"

	"github.com/sealane/sealane/hub"
)

// profiledHub, as first argument, makes of this program a hub like sealane-hub. A
// SIGUSR1 begins a profile of its processor time and a second one ends it, with one
// of its memory; so on with further ones.
const profiledHub = "hub-with-profile"

func runProfiledHub(args []string) int {
	dir := args[0]
	o := hub.Options{Version: "bench"}
	f := flag.NewFlagSet(profiledHub, flag.ContinueOnError)
	f.BoolVar(&o.Embedded, "embedded", false, "")
	f.StringVar(&o.DataDir, "data", "", "")
	f.StringVar(&o.Listen, "listen", "", "")
	f.StringVar(&o.Advertise, "advertise", "", "")
	f.StringVar(&o.APIListen, "api-listen", "", "")
	f.StringVar(&o.MetricsListen, "metrics-listen", "", "")
	if err := f.Parse(args[1:]); err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go profiles(ctx, dir)
	if err := hub.Run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func profiles(ctx context.Context, dir string) {
	usr := make(chan os.Signal, 1)
	signal.Notify(usr, syscall.SIGUSR1)
	for n := 0; ; n++ {
		if !next(ctx, usr) {
			return
		}
		cpu, err := os.Create(filepath.Join(dir, fmt.Sprintf("cpu-%d.pprof", n)))
		if err == nil {
			err = pprof.StartCPUProfile(cpu)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		more := next(ctx, usr)
		pprof.StopCPUProfile()
		cpu.Close()
		if heap, err := os.Create(filepath.Join(dir, fmt.Sprintf("heap-%d.pprof", n))); err == nil {
			runtime.GC()
			_ = pprof.WriteHeapProfile(heap) // its absence is seen
			heap.Close()
		}
		if !more {
			return
		}
	}
}

func next(ctx context.Context, c <-chan os.Signal) bool {
	select {
	case <-ctx.Done():
		return false
	case <-c:
		return true
	}
}
