//go:build e2e

package kind

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/e2e/child"
)

// process is a program of this machine.
type process struct {
	t    testing.TB
	args []string
	log  string
	cmd  *exec.Cmd
	done chan error
}

// start runs a program, which does not outlive the tests. Its log is an artifact.
func start(t testing.TB, log, program string, args ...string) *process {
	t.Helper()
	p := &process{t: t, args: append([]string{program}, args...), log: filepath.Join(artifacts, log)}
	if err := os.MkdirAll(artifacts, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.end() })
	p.again()
	return p
}

// again runs the program once more, with the same arguments.
func (p *process) again() {
	p.t.Helper()
	log, err := os.OpenFile(p.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close() // the program has its own handle
	p.cmd = exec.Command(p.args[0], p.args[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := child.Start(p.cmd); err != nil {
		p.t.Fatal(err)
	}
	cmd, done := p.cmd, make(chan error, 1)
	p.done = done
	go func() { done <- cmd.Wait() }()
}

// become ends the program and runs another with the same arguments.
func (p *process) become(program string) {
	p.t.Helper()
	p.end()
	p.args[0] = program
	p.again()
}

// end asks the program to end, and kills it when it does not.
func (p *process) end() {
	p.t.Helper()
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		p.t.Errorf("%s does not end", p.args[0])
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	p.cmd = nil
}
