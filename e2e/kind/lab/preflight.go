package lab

import (
	"archive/tar"
	"bytes"
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
)

const (
	// leastMemory and leastDisk are in bytes, for three clusters and a new node image.
	leastMemory = 4 << 30
	leastDisk   = 10 << 30

	probeImage   = "sealane-e2e/probe"
	probeNetwork = "sealane-e2e-probe"
)

// engineNeeds are the capabilities, by bit, without which an engine cannot run
// privileged containers. Of others it can do without; see capfit.
var engineNeeds = map[int]string{
	0: "CAP_CHOWN", 1: "CAP_DAC_OVERRIDE", 3: "CAP_FOWNER", 5: "CAP_KILL", 6: "CAP_SETGID", 7: "CAP_SETUID", 8: "CAP_SETPCAP",
	12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW", 18: "CAP_SYS_CHROOT", 21: "CAP_SYS_ADMIN", 27: "CAP_MKNOD", 31: "CAP_SETFCAP",
}

// Preflight says what this machine lacks to run clusters, in sentences for people;
// none: it can. It installs and starts an engine where none runs, as Open does,
// and leaves nothing that runs.
func Preflight(ctx context.Context, o Options) (lacks []string, err error) {
	l, err := begin(o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close(context.WithoutCancel(ctx))) }()
	if lacks = l.look(ctx); len(lacks) > 0 {
		return lacks, nil
	}
	if err := l.timed("programs", func() error { return l.programs(ctx, "kind", "capfit") }); err != nil {
		return nil, err
	}
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{{"container engine", l.startEngine}, {"privileged container", l.probe}} {
		err := l.timed(step.name, func() error { return step.run(ctx) })
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			return []string{strings.ReplaceAll(err.Error(), "\n", " | ")}, nil
		}
	}
	return nil, nil
}

// look finds what is missing without starting anything.
func (l *Lab) look(ctx context.Context) (lacks []string) {
	if free, err := meminfo("MemAvailable"); err == nil && free < leastMemory {
		lacks = append(lacks, fmt.Sprintf("memory: %d MiB are available, of %d", free>>20, leastMemory>>20))
	}
	l.engine = &engine{}
	if _, err := l.docker(ctx, "info"); err == nil {
		return lacks // whoever runs it has seen to the rest
	}
	l.engine = nil
	if os.Geteuid() != 0 {
		return append(lacks, "a container engine that this user may use, or root to start one")
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(l.cache, &disk); err == nil {
		if free := disk.Bavail * uint64(disk.Bsize); free < leastDisk {
			lacks = append(lacks, fmt.Sprintf("disk: %d MiB are free in %s, of %d", free>>20, l.cache, leastDisk>>20))
		}
	}
	if has, err := capabilities("CapEff:"); err != nil {
		lacks = append(lacks, err.Error())
	} else {
		for bit := range 64 {
			if name := engineNeeds[bit]; name != "" && has>>bit&1 == 0 {
				lacks = append(lacks, "the capability "+name)
			}
		}
	}
	if problem := controlGroups(); problem != "" {
		lacks = append(lacks, problem)
	}
	for _, program := range []string{"dockerd", "docker"} {
		_, err := exec.LookPath(program)
		if _, noApt := exec.LookPath("apt-get"); err != nil && noApt != nil {
			lacks = append(lacks, program+", and there is no apt-get to install it")
		}
	}
	return lacks
}

// controlGroups says why an engine could not make control groups.
func controlGroups() string {
	const top = "/sys/fs/cgroup"
	dir := top
	if _, err := os.Stat(filepath.Join(top, "cgroup.controllers")); errors.Is(err, fs.ErrNotExist) {
		dir = filepath.Join(top, "memory") // version 1
	}
	if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err != nil {
		return "control groups: neither version 2 nor the memory controller of version 1 is mounted at " + top
	}
	dir = filepath.Join(dir, "sealane-e2e-preflight")
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return "control groups that can be written: " + err.Error()
	}
	if err := os.Remove(dir); err != nil {
		return "control groups that can be written: " + err.Error()
	}
	return ""
}

// meminfo is a value of /proc/meminfo, in bytes.
func meminfo(name string) (uint64, error) {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == name+":" {
			kib, err := strconv.ParseUint(f[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no " + name + " in /proc/meminfo")
}

// probe runs a privileged container on a network of its own, as a node is, which
// does what a node does.
func (l *Lab) probe(ctx context.Context) (err error) {
	binary := filepath.Join(l.work, "probe")
	if _, err := l.run(ctx, command{
		Dir: l.root, Env: []string{"CGO_ENABLED=0", "GOFLAGS=-buildvcs=false"},
		Args: []string{"go", "build", "-trimpath", "-o", binary, "./e2e/kind/probe"},
	}); err != nil {
		return err
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "probe", Mode: 0o755, Size: int64(len(content))}), second(w.Write(content)), w.Close()); err != nil {
		return err
	}
	if _, err := l.run(ctx, command{Args: []string{"docker", "import", "-", probeImage}, Env: l.engine.env(), Stdin: &layer}); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, second(l.docker(context.WithoutCancel(ctx), "image", "rm", probeImage)))
	}()
	// Of a run that was killed.
	_, _ = l.docker(ctx, "network", "rm", probeNetwork)
	if _, err := l.docker(ctx, "network", "create", "--driver", "bridge", probeNetwork); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, second(l.docker(context.WithoutCancel(ctx), "network", "rm", probeNetwork)))
	}()
	return second(l.docker(ctx, "run", "--rm", "--privileged", "--cgroupns=private", "--network", probeNetwork, probeImage, "/probe"))
}

// second is the error of two results.
func second[T any](_ T, err error) error { return err }
