package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// runDir holds sockets, whose paths must be short, and the process id.
const (
	runDir  = "/run/sealane-e2e"
	pidFile = runDir + "/pid"
)

// engine is a docker engine.
type engine struct {
	host string      // for the client; "": its own choice
	own  *os.Process // nil: it was running before
}

func (e *engine) env() []string {
	if e.host == "" {
		return nil
	}
	return []string{"DOCKER_HOST=" + e.host}
}

// startEngine finds an engine that can run kind's nodes, or starts one with its
// own socket and data, which meets no other.
func (l *Lab) startEngine(ctx context.Context) error {
	l.engine = &engine{}
	lacks, err := lacksCapabilities()
	if err != nil {
		return err
	}
	if l.usable(ctx, lacks) {
		return nil
	}
	// In newer Debians the client is a package of its own.
	for _, need := range []struct{ program, pkg string }{{"dockerd", "docker.io"}, {"docker", "docker-cli"}} {
		if _, err := exec.LookPath(need.program); err != nil {
			if err := l.install(ctx, need.pkg); err != nil {
				return err
			}
		}
	}
	l.engine.host = "unix://" + runDir + "/docker.sock"
	if _, err := l.docker(ctx, "info"); err != nil {
		return l.launchEngine(ctx, lacks)
	}
	// Of a run that was killed, or whose clusters were kept.
	raw, err := os.ReadFile(pidFile)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return fmt.Errorf("%s: %w", pidFile, err)
	}
	l.engine.own, err = os.FindProcess(pid)
	return err
}

// usable says whether the client's engine answers and can start a privileged
// container: where capabilities are missing plain runc cannot.
func (l *Lab) usable(ctx context.Context, lacks bool) bool {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	runtime, err := l.docker(ctx, "info", "-f", "{{.DefaultRuntime}}")
	return err == nil && runtime != "" && (!lacks || runtime != "runc")
}

func (l *Lab) launchEngine(ctx context.Context, lacks bool) error {
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(l.cache, "dockerd.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{
		"--host", l.engine.host, "--data-root", filepath.Join(l.cache, "docker"), "--exec-root", filepath.Join(runDir, "exec"),
		"--pidfile", pidFile, "--bridge", "none", "--log-level", "warn",
		"--containerd-namespace", "sealane-e2e", "--containerd-plugins-namespace", "sealane-e2e-plugins",
	}
	if lacks {
		args = append(args, "--add-runtime", "capfit="+l.program("capfit"), "--default-runtime", "capfit")
	}
	// Another engine may have been started since, which needs its chains.
	l.settings.Chains = hasChains()
	if err := l.settings.save(); err != nil {
		return err
	}
	// Not bound to ctx: it has to outlive the tests, for the clean-up.
	cmd := exec.Command("dockerd", args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	l.engine.own = cmd.Process
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	deadline := time.After(2 * time.Minute)
	for {
		_, err := l.docker(ctx, "info")
		if err == nil {
			return nil
		}
		select {
		case exit := <-exited:
			said, _ := os.ReadFile(log.Name())
			l.engine.own = nil
			return fmt.Errorf("dockerd ended: %w\n%s", exit, said[max(0, len(said)-4000):])
		case <-deadline:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// stopEngine ends the engine that the lab started, and what it put into the
// machine's network.
func (l *Lab) stopEngine(ctx context.Context) error {
	if l.engine.own == nil {
		return nil
	}
	var errs []error
	if _, err := l.docker(ctx, "network", "inspect", "kind"); err == nil {
		_, err := l.docker(ctx, "network", "rm", "kind")
		errs = append(errs, err)
	}
	// The process may be one that an earlier run started: not ours to wait for.
	pid := l.engine.own.Pid
	if err := l.engine.own.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		errs = append(errs, err)
	}
	for syscall.Kill(pid, 0) == nil && ctx.Err() == nil {
		select {
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("dockerd (process %d) does not end", pid))
		case <-time.After(100 * time.Millisecond):
		}
	}
	if !l.settings.Chains {
		errs = append(errs, l.removeChains(ctx))
	}
	return errors.Join(append(errs, os.RemoveAll(runDir))...)
}

// hasChains says whether an engine has been at iptables.
func hasChains() bool {
	return exec.Command("iptables", "-w", "-n", "-L", "DOCKER-USER").Run() == nil
}

// removeChains takes out the chains that an engine leaves when it ends, and the
// jumps into them, and lets packets be forwarded again.
func (l *Lab) removeChains(ctx context.Context) error {
	var errs []error
	for _, table := range []string{"filter", "nat"} {
		rules, err := l.run(ctx, command{Args: []string{"iptables", "-w", "-t", table, "-S"}})
		if err != nil {
			return err
		}
		var chains [][]string
		for rule := range strings.Lines(rules) {
			words := strings.Fields(rule)
			switch {
			case len(words) < 2:
			case words[0] == "-N" && strings.HasPrefix(words[1], "DOCKER"):
				chains = append(chains, []string{"-F", words[1]}, []string{"-X", words[1]})
			case words[0] == "-A" && !strings.HasPrefix(words[1], "DOCKER") && strings.Contains(rule, "-j DOCKER"):
				_, err := l.run(ctx, command{Args: append([]string{"iptables", "-w", "-t", table, "-D"}, words[1:]...)})
				errs = append(errs, err)
			case words[0] == "-P" && words[1] == "FORWARD" && words[2] == "DROP":
				chains = append(chains, []string{"-P", "FORWARD", "ACCEPT"})
			}
		}
		// All must be empty before the first can go: they point at each other.
		for _, verb := range []string{"-P", "-F", "-X"} {
			for _, c := range chains {
				if c[0] == verb {
					_, err := l.run(ctx, command{Args: append([]string{"iptables", "-w", "-t", table}, c...)})
					errs = append(errs, err)
				}
			}
		}
	}
	return errors.Join(errs...)
}

// install installs Debian packages. What they would start stays as it is: the lab
// starts an engine of its own, and ends it.
func (l *Lab) install(ctx context.Context, packages ...string) (err error) {
	fmt.Fprintf(l.out, "lab: installing %s\n", strings.Join(packages, " "))
	const policy = "/usr/sbin/policy-rc.d"
	if _, err := os.Stat(policy); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.Remove(policy)) }()
	}
	quiet := []string{"DEBIAN_FRONTEND=noninteractive"}
	if _, err := l.run(ctx, command{Args: []string{"apt-get", "update", "-qq"}, Env: quiet}); err != nil {
		return err
	}
	_, err = l.run(ctx, command{Args: append([]string{
		"apt-get", "install", "-qq", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120",
	}, packages...), Env: quiet})
	return err
}

// lacksCapabilities says whether root has not all that the kernel knows here.
func lacksCapabilities() (bool, error) {
	bounding, err := capabilities("CapBnd:")
	if err != nil {
		return false, err
	}
	raw, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return false, err
	}
	last, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return false, err
	}
	return bounding != 1<<(last+1)-1, nil
}

// capabilities are this process's set of that name, as bits.
func capabilities(set string) (uint64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), set)
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0, errors.New("no " + set + " in /proc/self/status")
	}
	return strconv.ParseUint(fields[0], 16, 64)
}
