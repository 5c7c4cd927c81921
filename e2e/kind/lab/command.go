package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// command is a program to run to its end.
type command struct {
	Args  []string
	Dir   string
	Env   []string
	Stdin io.Reader
	Show  io.Writer // gets what the program says on standard error as well
	Out   io.Writer // gets what the program prints as well
}

// run returns what the program printed. An error holds the end of what it said.
// A program is not hit by a Ctrl-C at the terminal: the lab decides when it ends.
func (l *Lab) run(ctx context.Context, c command) (string, error) {
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Dir, cmd.Stdin = c.Dir, c.Stdin
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if c.Out != nil {
		cmd.Stdout = io.MultiWriter(&stdout, c.Out)
	}
	if c.Show != nil {
		cmd.Stderr = io.MultiWriter(&stderr, c.Show)
	}
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(stdout.String() + "\n" + stderr.String())
		return strings.TrimSpace(stdout.String()), fmt.Errorf("%s: %w\n%s", strings.Join(c.Args[:min(6, len(c.Args))], " "), err, said[max(0, len(said)-4000):])
	}
	return strings.TrimSpace(stdout.String()), nil
}

// docker runs the engine's client.
func (l *Lab) docker(ctx context.Context, args ...string) (string, error) {
	return l.run(ctx, command{Args: append([]string{"docker"}, args...), Env: l.engine.env()})
}

// kind runs kind on the lab's engine.
func (l *Lab) kind(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	return l.run(ctx, command{Args: append([]string{l.program("kind")}, args...), Env: l.engine.env(), Stdin: stdin})
}
