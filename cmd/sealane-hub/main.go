// Command sealane-hub runs the hub of a federation.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// version is set by the linker.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	cmd := newCommand()
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "sealane-hub:", err)
		os.Exit(exitCode(err))
	}
}

// Garbage is collected earlier than by default. Most memory of a hub with its own API
// server is what requests to that leave behind: half of it goes for some percent more
// processor time. One beside an API server is smaller, and has processor time to spare.
const (
	percentEmbedded = 50
	percentBeside   = 25
)

func saveMemory(embedded bool) {
	if os.Getenv("GOGC") != "" {
		return
	}
	percent := percentBeside
	if embedded {
		percent = percentEmbedded
	}
	debug.SetGCPercent(percent)
}
