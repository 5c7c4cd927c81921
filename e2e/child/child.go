// Package child starts programs that end with the one that started them, however
// that ends: a test that is killed leaves nothing behind. Only Linux can see to that.
package child

import (
	"os/exec"
	"runtime"
	"sync"
)

// starter is the one thread that starts children. The kernel ends a child with the
// thread that started it, not with the process; and Go ends a thread whose goroutine
// ends while it is bound to it, so this one never does.
var starter = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go serve(work)
	return work
})

// Thread names the function in which that thread waits, for who looks for leaks.
const Thread = "github.com/sealane/sealane/e2e/child.serve"

func serve(work <-chan func()) {
	runtime.LockOSThread()
	for start := range work {
		start()
	}
}

// Start starts a program as cmd.Start does.
func Start(cmd *exec.Cmd) error {
	bind(cmd)
	started := make(chan error, 1)
	starter() <- func() { started <- cmd.Start() }
	return <-started
}
