package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealane/sealane/e2e/child"
)

// manifest is a chain of three members with an events bridge over one link and
// over two, and a durable bridge over one.
//
//go:embed chain.yaml
var manifest []byte

// The members of the chain, in order.
const (
	origin = "berlin"
	near   = "tokyo"
	far    = "denver"
)

// federation is a running demo of that manifest.
type federation struct {
	cmd   *exec.Cmd
	dir   string
	ready time.Duration // from the start of the demo
}

// startFederation runs "sealane demo" and returns when it says that all is
// ready.
func startFederation(ctx context.Context, sealane string) (_ *federation, err error) {
	f := &federation{}
	defer func() {
		if err != nil {
			f.stop()
		}
	}()
	if f.dir, err = os.MkdirTemp("", "sealane-bench"); err != nil {
		return nil, err
	}
	file := filepath.Join(f.dir, "chain.yaml")
	if err := os.WriteFile(file, manifest, 0o600); err != nil {
		return nil, err
	}
	f.cmd = exec.CommandContext(ctx, sealane, "demo", "--json", "--direct", "--dir", filepath.Join(f.dir, "demo"), // the program under test
		"--members", strings.Join([]string{origin, near, far}, ","), "--topology", file)
	f.cmd.Cancel = func() error { return f.cmd.Process.Signal(syscall.SIGTERM) }
	f.cmd.Stderr = os.Stderr
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := child.Start(f.cmd); err != nil {
		return nil, fmt.Errorf("%w (build the programs first: make build)", err)
	}
	lines := bufio.NewScanner(out)
	var said []string
	for lines.Scan() {
		said = append(said, lines.Text())
		var event struct{ Step, Status string }
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return nil, fmt.Errorf("the demo said %q: %w", lines.Text(), err)
		}
		if event.Step == "ready" && event.Status == "pass" {
			f.ready = time.Since(start)
			go func() {
				for lines.Scan() { // it must not block on a full pipe
				}
			}()
			return f, nil
		}
	}
	return nil, fmt.Errorf("the demo ended before it was ready:\n%s", strings.Join(said, "\n"))
}

func (f *federation) connect(member string) (*nats.Conn, error) {
	dir := filepath.Join(f.dir, "demo", "members", member)
	url, err := os.ReadFile(filepath.Join(dir, "url"))
	if err != nil {
		return nil, err
	}
	return nats.Connect(strings.TrimSpace(string(url)), nats.UserCredentials(filepath.Join(dir, "creds", "app.creds")))
}

// pid is the process of the demo that is called "hub" or "members/NAME".
func (f *federation) pid(process string) (int, error) {
	pid, err := os.ReadFile(filepath.Join(f.dir, "demo", process, "pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(pid)))
}

func (f *federation) stop() {
	if f.cmd != nil && f.cmd.Process != nil {
		f.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
		f.cmd.Wait()                          //nolint:errcheck // as above
	}
	os.RemoveAll(f.dir) // a temporary folder
}
