// Command sealane is the command line of a federation: it makes join tokens,
// shows what is there and whether it is fine, hands out credentials, and runs a
// demo of everything on one machine. All that it knows of a hub it reads from
// the hub's API; start reading at newRoot.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = ""

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, osEnv(), os.Args[1:])
	stop()
	os.Exit(code)
}

// exitStatus is an error that sets the exit status. Its text is empty if the
// command has said everything already.
type exitStatus struct {
	code int
	err  error
}

func (e *exitStatus) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitStatus) Unwrap() error { return e.err }

// run is the whole program but for the process around it.
func run(ctx context.Context, env *environment, args []string) int {
	root := newRoot(env)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(env.err, env.paint(env.errColour, red, "Error:"), text)
	}
	var status *exitStatus
	if errors.As(err, &status) {
		return status.code
	}
	return 1
}
