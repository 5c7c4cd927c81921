// Command preflight says whether this machine can run the tests on kind clusters.
// It prints what is missing, a line each, and nothing when nothing is. It exits
// with 0 in both cases; anything else is a mistake in this program. It looks at the
// machine first, and then tries: it starts the engine that the tests would start, and in
// it a container that does what a node does.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sealane/sealane/e2e/kind/lab"
)

func main() {
	root := flag.String("root", ".", "`folder` of the checkout")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	err := run(ctx, *root)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "preflight:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, root string) error {
	root, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	lacks, err := lab.Preflight(ctx, lab.Options{Root: root, Cache: os.Getenv("SEALANE_E2E_CACHE"), Out: os.Stderr})
	for _, l := range lacks {
		fmt.Fprintln(os.Stdout, l)
	}
	return err
}
