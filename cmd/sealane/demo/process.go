package demo

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopGrace is how long a process may take to end when asked to.
const stopGrace = 5 * time.Second

// forker starts all child processes from one operating system thread. The
// kernel ends a child with the thread that started it, not with the process, so
// that thread must live as long as the demo.
type forker struct{ work chan func() }

func newForker() *forker {
	f := &forker{work: make(chan func())}
	go func() {
		runtime.LockOSThread()
		for w := range f.work {
			w()
		}
		runtime.UnlockOSThread()
	}()
	return f
}

func (f *forker) start(cmd *exec.Cmd) error {
	err := make(chan error, 1)
	f.work <- func() { err <- cmd.Start() }
	return <-err
}

// close ends the thread's duty. No child may be running.
func (f *forker) close() { close(f.work) }

// process is a program of the demo that can be ended and started again.
type process struct {
	// name as the story tells it: "the hub", "berlin".
	name string
	path string
	args []string
	// dir is its data folder: its pid and its log are there.
	dir    string
	forker *forker

	mu      sync.Mutex
	cmd     *exec.Cmd
	ended   chan struct{} // closed when cmd has ended
	wanted  bool          // it should be running
	outcome error
}

func (p *process) logFile() string { return filepath.Join(p.dir, "log") }
func (p *process) pidFile() string { return filepath.Join(p.dir, "pid") }

// start runs the program. Its output is added to the log in its folder.
func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.path, p.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SEALANE_") }) // would stand for flags
	cmd.SysProcAttr = childAttributes()
	if err := p.forker.start(cmd); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	ended := make(chan struct{})
	p.cmd, p.ended, p.wanted, p.outcome = cmd, ended, true, nil
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.outcome = err
		p.mu.Unlock()
		close(ended)
	}()
	return os.WriteFile(p.pidFile(), []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o600)
}

func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

func (p *process) running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// signal sends a signal to the program. expected tells that it will end of it.
func (p *process) signal(s os.Signal, expected bool) (ended <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		done := make(chan struct{})
		close(done)
		return done
	}
	if expected {
		p.wanted = false
	}
	_ = p.cmd.Process.Signal(s) // it may have ended by itself
	return p.ended
}

// kill ends the program without warning and waits for the end.
func (p *process) kill() {
	<-p.signal(syscall.SIGKILL, true)
	_ = os.Remove(p.pidFile()) // it may never have been written
}

// stop asks the program to end, and insists after a while.
func (p *process) stop() {
	ended := p.signal(syscall.SIGTERM, true)
	t := time.NewTimer(stopGrace)
	defer t.Stop()
	select {
	case <-ended:
	case <-t.C:
	}
	p.kill()
}

// died says how the program ended if it did so without being told to.
func (p *process) died() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil || !p.wanted {
		return nil
	}
	select {
	case <-p.ended:
	default:
		return nil
	}
	how := "exit status 0"
	if p.outcome != nil {
		how = p.outcome.Error()
	}
	return fmt.Errorf("%s ended unexpectedly: %s", p.name, how)
}

// tail is the end of the log.
func (p *process) tail(lines int) string {
	b, err := os.ReadFile(p.logFile())
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimRight(b, "\n"), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// findBinary looks beside this program, then in PATH.
func findBinary(name string) (string, error) {
	var tried []string
	if self, err := os.Executable(); err == nil {
		if target, err := filepath.EvalSymlinks(self); err == nil {
			tried = append(tried, filepath.Join(filepath.Dir(target), name))
		}
		tried = append(tried, filepath.Join(filepath.Dir(self), name))
	}
	for _, path := range tried {
		if s, err := os.Stat(path); err == nil && s.Mode().IsRegular() && s.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return "", fmt.Errorf("the demo runs %s, which is neither beside this program nor in PATH: run \"make build\" in the source tree and start bin/sealane demo", name)
	}
	return filepath.Abs(path)
}
