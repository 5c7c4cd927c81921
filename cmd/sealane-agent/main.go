// Command sealane-agent runs a member of a federation: its broker and the agent
// that looks after it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = "devel"

func main() {
	release := raiseHeap()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	err := newCommand().ExecuteContext(ctx)
	release()
	if err != nil {
		fmt.Fprintln(os.Stderr, "sealane-agent:", err)
		os.Exit(exitCode(err))
	}
}
