package statefulset

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sealane/sealane/broker/pod"
	"github.com/sealane/sealane/e2e/child"
	"github.com/sealane/sealane/e2e/freeport"
)

// childVariable has the test binary be a server.
const childVariable = "SEALANE_TEST_SERVER"

func TestMain(m *testing.M) {
	if args := os.Getenv(childVariable); args != "" {
		os.Exit(childMain(args))
	}
	// A stream that waits for its source waits on after its server has ended, and who
	// starts children for the next.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*stream).trySetupSourceConsumer.func3"), goleak.IgnoreTopFunction(child.Thread))
}

func childMain(args string) int {
	var o pod.Options
	if err := json.Unmarshal([]byte(args), &o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := pod.Run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// machine is a Place whose servers are processes of this machine.
type machine struct {
	t   *testing.T
	dir string

	mu    sync.Mutex
	procs []*proc
	addrs []Address
	links []string
	boot  []byte
	// away servers are not started again.
	away map[int]bool
	// version is what servers are started with, as of a template.
	version int
	log     bytes.Buffer
	closed  bool
}

type proc struct {
	cmd     *exec.Cmd
	done    chan struct{}
	version int
}

func (p *proc) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir(), away: map[int]bool{}}
	for n := range 3 {
		m.addrs = append(m.addrs, Address{Name: fmt.Sprintf("s%d", n), Control: freeport.Addr(t), Client: freeport.Addr(t), Route: freeport.Addr(t)})
		m.links = append(m.links, freeport.Addr(t))
	}
	t.Cleanup(m.close)
	return m
}

func (m *machine) Address(n int) Address {
	if n >= len(m.addrs) {
		return Address{}
	}
	return m.addrs[n]
}
func (m *machine) Names() []string { return []string{"127.0.0.1"} }
func (m *machine) LinkPort() int   { return 1 }
func (m *machine) ClientURL() string {
	var l []string
	for _, a := range m.addrs {
		l = append(l, "tls://"+a.Client)
	}
	return strings.Join(l, ",")
}

func (m *machine) bootDir(n int) string { return filepath.Join(m.dir, fmt.Sprintf("boot%d", n)) }

func (m *machine) Apply(_ context.Context, n int, boot []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.boot = boot
	for len(m.procs) < n {
		m.procs = append(m.procs, nil)
	}
	for i := n; i < len(m.procs); i++ {
		m.stop(m.procs[i], syscall.SIGTERM)
	}
	m.procs = m.procs[:n]
	for i := range m.procs {
		if !m.away[i] && (m.procs[i] == nil || !m.procs[i].alive()) {
			m.start(i)
		}
	}
	return nil
}

// start starts server n with the present boot state: as a kubelet, it does not
// change the boot state of one that runs.
func (m *machine) start(n int) {
	if m.closed {
		return
	}
	if err := os.MkdirAll(m.bootDir(n), 0o700); err != nil {
		m.t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(m.bootDir(n), pod.BootFile), m.boot, 0o600); err != nil {
		m.t.Error(err)
	}
	a := m.addrs[n]
	args, _ := json.Marshal(pod.Options{
		DataDir: filepath.Join(m.dir, a.Name), BootDir: m.bootDir(n), Name: a.Name,
		ControlListen: a.Control, ClientListen: a.Client, RouteListen: a.Route, LinkListen: m.links[n],
		WaitForAgent: 5 * time.Second, LameDuck: time.Second,
	})
	p := &proc{cmd: exec.Command(os.Args[0]), done: make(chan struct{}), version: m.version}
	p.cmd.Env = append(os.Environ(), childVariable+"="+string(args))
	p.cmd.Stderr = &logWriter{m: m, name: a.Name}
	if err := child.Start(p.cmd); err != nil {
		m.t.Error(err)
		return
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	m.procs[n] = p
}

func (m *machine) stop(p *proc, sig os.Signal) {
	if p == nil || !p.alive() {
		return
	}
	_ = p.cmd.Process.Signal(sig)
	<-p.done
}

func (m *machine) Servers(context.Context) ([]Server, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var l []Server
	for _, p := range m.procs {
		l = append(l, Server{Exists: p.alive(), Outdated: p.version != m.version})
	}
	return l, nil
}

func (m *machine) Replace(_ context.Context, n int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stop(m.procs[n], syscall.SIGTERM)
	m.start(n)
	return nil
}

// kill ends server n as a power cut does, and has it stay away until revived.
func (m *machine) kill(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away[n] = true
	m.stop(m.procs[n], syscall.SIGKILL)
}

func (m *machine) revive(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.away, n)
	m.start(n)
}

// wipe loses the volume of a server that is dead.
func (m *machine) wipe(n int) {
	if err := os.RemoveAll(filepath.Join(m.dir, m.addrs[n].Name)); err != nil {
		m.t.Error(err)
	}
}

func (m *machine) upgrade() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.version++
}

func (m *machine) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	for _, p := range m.procs {
		m.stop(p, syscall.SIGKILL)
	}
	if m.t.Failed() {
		m.t.Log(m.log.String())
	}
}

// logWriter keeps what the servers say for when the test fails.
type logWriter struct {
	m    *machine
	name string
}

var logMu sync.Mutex

func (w *logWriter) Write(p []byte) (int, error) {
	logMu.Lock()
	defer logMu.Unlock()
	fmt.Fprintf(&w.m.log, "%s: %s", w.name, p)
	return len(p), nil
}
