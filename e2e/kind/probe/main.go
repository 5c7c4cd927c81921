//go:build linux

// Command probe does, in a privileged container, what a node of kind does there,
// and prints what it may not. See lab.Preflight.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	checks := map[string]func() error{
		"make control groups":                      controlGroups,
		"mount overlay file systems":               overlay,
		"make devices":                             func() error { return syscall.Mknod("/probe-null", syscall.S_IFCHR|0o600, 1<<8|3) },
		"start a process in namespaces of its own": namespaces,
		"set parameters of its network":            func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) },
		"read the kernel's messages":               func() error { _, err := os.Stat("/dev/kmsg"); return err },
	}
	if len(os.Args) > 1 && os.Args[1] == "inner" {
		checks = map[string]func() error{"mount /proc": func() error {
			return firstOf(os.MkdirAll("/probe-proc", 0o755), syscall.Mount("proc", "/probe-proc", "proc", 0, ""))
		}}
	}
	failed := false
	for what, try := range checks {
		if err := try(); err != nil {
			failed = true
			fmt.Fprintf(os.Stdout, "it may not %s: %v\n", what, err)
		}
	}
	if failed {
		os.Exit(1)
	}
}

// firstOf is the first that there is.
func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// controlGroups makes a group below its own, in which a kubelet could limit pods.
func controlGroups() error {
	const top = "/sys/fs/cgroup"
	groups := []string{top}
	if all, err := os.ReadFile(filepath.Join(top, "cgroup.controllers")); err == nil {
		for _, name := range []string{"cpu", "memory", "pids"} {
			if !strings.Contains(" "+strings.TrimSpace(string(all))+" ", " "+name+" ") {
				return fmt.Errorf("there is no %s among %q", name, all)
			}
		}
	} else {
		groups = []string{filepath.Join(top, "cpu"), filepath.Join(top, "memory"), filepath.Join(top, "pids")}
	}
	for _, g := range groups {
		g = filepath.Join(g, "probe")
		if err := firstOf(os.Mkdir(g, 0o755), os.Remove(g)); err != nil {
			return err
		}
	}
	return nil
}

// overlay mounts one, on memory: the container itself lies on one already.
func overlay() error {
	for _, dir := range []string{"/probe-mem", "/probe-top"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := syscall.Mount("tmpfs", "/probe-mem", "tmpfs", 0, ""); err != nil {
		return err
	}
	for _, dir := range []string{"/probe-mem/lower", "/probe-mem/upper", "/probe-mem/work"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	return syscall.Mount("overlay", "/probe-top", "overlay", 0, "lowerdir=/probe-mem/lower,upperdir=/probe-mem/upper,workdir=/probe-mem/work")
}

// namespaces starts this program as the first process of a container would be.
func namespaces() error {
	cmd := exec.Command("/proc/self/exe", "inner")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w %s", err, out)
	}
	return nil
}
