//go:build e2e

package kind

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/sealane/sealane/e2e/kind/lab"
)

// The clusters of all tests. berlin and tokyo are members in the end.
var (
	place              *lab.Lab
	hub, berlin, tokyo *lab.Cluster
	// root is the checkout, artifacts what a failure leaves for whoever looks into it.
	root, artifacts string
)

// cleanUp is the time kept free at the end of -timeout, after which go test would
// kill this process and leave clusters behind.
const cleanUp = 4 * time.Minute

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

// run opens the lab, runs the tests and closes the lab, whether they end by
// themselves, are interrupted or take too long.
func run(m *testing.M) int {
	ctrl.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends this process at once
	limit := 35 * time.Minute
	if f := flag.Lookup("test.timeout"); f != nil {
		if d, ok := f.Value.(flag.Getter).Get().(time.Duration); ok && d > cleanUp {
			limit = d
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit-cleanUp, errors.New("the time is over"))
	defer cancel()
	if err := prepare(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		finish(1)
		return 1
	}
	ended := make(chan int, 1)
	go func() { ended <- m.Run() }()
	code := 1
	select {
	case code = <-ended:
	case <-ctx.Done():
		fmt.Fprintln(os.Stderr, "e2e: stopped:", context.Cause(ctx))
		// Errors of writing to standard error are nobody's to handle.
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
	}
	return finish(code)
}

// prepare opens the lab and creates the clusters.
func prepare(ctx context.Context) (err error) {
	if root, err = filepath.Abs("../.."); err != nil {
		return err
	}
	if artifacts = os.Getenv("E2E_ARTIFACTS"); artifacts == "" {
		artifacts = filepath.Join(root, "e2e", "kind", "artifacts")
	}
	if err := os.RemoveAll(artifacts); err != nil { // those of an earlier run mislead
		return err
	}
	if place, err = lab.Open(ctx, lab.Options{Root: root, Cache: os.Getenv("SEALANE_E2E_CACHE"), Out: os.Stderr}); err != nil {
		return err
	}
	if f := flag.Lookup("test.run"); f != nil && f.Value.String() == "^$" {
		return nil // only the node image, or the clean-up, is wanted
	}
	clusters, err := place.Create(ctx, "hub", "berlin", "tokyo")
	if err != nil {
		return err
	}
	hub, berlin, tokyo = clusters[0], clusters[1], clusters[2]
	return nil
}

// finish keeps what tells of a failure and takes everything away.
func finish(code int) int {
	if place == nil {
		return code
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanUp)
	defer cancel()
	if code != 0 {
		if err := place.Collect(ctx, artifacts); err != nil {
			fmt.Fprintln(os.Stderr, "e2e: artifacts:", err)
		}
		fmt.Fprintln(os.Stderr, "e2e: artifacts are in", artifacts)
	}
	if os.Getenv("SEALANE_E2E_KEEP") != "" {
		place.Detach()
		return code
	}
	if err := place.Close(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: cleaning up:", err)
		return 1
	}
	return code
}
