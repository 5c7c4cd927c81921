package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/sealane/sealane/e2e/child"
)

// binaries is the folder of the programs under test, built once with the race
// detector.
var binaries string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sealane-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) // a temporary folder
	ctrl.SetLogger(logr.Discard())
	binaries = dir
	build := exec.Command("go", "build", "-race", "-o", dir, "./cmd/sealane-hub", "./cmd/sealane-agent")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the programs: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// process is a program under test that can be killed and started again.
type process struct {
	t    testing.TB
	name string // of a file in the folder of the programs
	args []string
	env  []string // variables beside those of the test
	log  string
	cmd  *exec.Cmd
	done chan error
}

// start runs the program, which does not outlive the tests. Its log goes to a file
// that is shown when the test fails, and a data race in it fails the test.
func start(t testing.TB, dir, program string, args ...string) *process {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, name: program, args: args, log: filepath.Join(dir, "log")}
	t.Cleanup(func() {
		p.stop()
		out, err := os.ReadFile(p.log)
		if err != nil {
			t.Errorf("the log of %s: %v", p.name, err)
		}
		if bytes.Contains(out, []byte("DATA RACE")) || bytes.Contains(out, []byte("panic:")) {
			t.Errorf("%s has a data race or panicked:\n%s", p.name, out)
		} else if t.Failed() {
			t.Logf("log of %s %s:\n%s", p.name, strings.Join(args, " "), tail(out, 60))
		}
	})
	p.restart()
	return p
}

// restart runs the program again with the same arguments.
func (p *process) restart() {
	p.t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close() // the child has its own descriptor
	p.cmd = exec.Command(filepath.Join(binaries, p.name), p.args...)
	p.cmd.Env = append(os.Environ(), p.env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := child.Start(p.cmd); err != nil {
		p.t.Fatal(err)
	}
	p.done = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan<- error) { done <- cmd.Wait() }(p.cmd, p.done)
}

// kill ends the program as a crash would.
func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
	<-p.done
	p.cmd = nil
}

// stop ends the program as an administrator would; one that does not stop fails
// the test.
func (p *process) stop() {
	if p.cmd == nil {
		return
	}
	p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		p.t.Errorf("%s did not stop within 30 s of SIGTERM", p.name)
		p.cmd.Process.Kill() // as above
		<-p.done
	}
	p.cmd = nil
}

// exits waits until the program ends by itself, and returns its exit status.
func (p *process) exits() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(60 * time.Second):
		p.t.Fatalf("%s goes on:\n%s", p.name, p.logged())
	}
	code := p.cmd.ProcessState.ExitCode()
	p.cmd = nil
	return code
}

// logged is what the program has said so far.
func (p *process) logged() string {
	p.t.Helper()
	out, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(out)
}

func tail(log []byte, lines int) string {
	all := strings.Split(strings.TrimRight(string(log), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
