package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	containerdModule = "github.com/containerd/containerd/v2"
	pluginsModule    = "github.com/containernetworking/plugins"
	runcModule       = "github.com/opencontainers/runc"
	kubernetesModule = "k8s.io/kubernetes"
	kindModule       = "sigs.k8s.io/kind"
)

// packages installs what the build runs. A machine that has it all is left alone.
func (b *builder) packages(ctx context.Context) error {
	missing := []string{}
	for pkg, program := range map[string]string{"mmdebstrap": "mmdebstrap", "gcc": "gcc", "pkg-config": "pkg-config"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	for pkg, header := range map[string]string{"libseccomp-dev": "/usr/include/seccomp.h", "libc6-dev": "/usr/include/stdio.h"} {
		if _, err := os.Stat(header); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	b.say("installing %s", strings.Join(missing, " "))
	quiet := []string{"DEBIAN_FRONTEND=noninteractive"}
	if _, err := b.command(ctx, "", quiet, "apt-get", "update", "-qq"); err != nil {
		return err
	}
	_, err := b.command(ctx, "", quiet, "apt-get", append([]string{"install", "-qq", "-y", "--no-install-recommends"}, missing...)...)
	return err
}

// module asks for a field of a module in the build list.
func (b *builder) module(ctx context.Context, path, field string) (string, error) {
	return b.command(ctx, b.src, goEnv, "go", "list", "-m", "-f", "{{."+field+"}}", path)
}

// goEnv: the garbage collector of compiler and linker may be lazy, for the build
// has the memory and lacks the time.
var goEnv = []string{"GOFLAGS=-buildvcs=false", "GOGC=400", "GOWORK=off"}

func (b *builder) binaries(ctx context.Context) error {
	if err := os.MkdirAll(b.bin(""), 0o755); err != nil {
		return err
	}
	// Files of these two are used as they are; what is compiled is fetched as needed.
	if _, err := b.command(ctx, b.src, goEnv, "go", "mod", "download", kindModule, kubernetesModule); err != nil {
		return err
	}
	kubernetes, err := b.module(ctx, kubernetesModule, "Version")
	if err != nil {
		return err
	}
	containerd, err := b.module(ctx, containerdModule, "Version")
	if err != nil {
		return err
	}
	// A program from a module does not know its version unless the linker says it;
	// kubeadm compares those of the components.
	minor := strings.Split(kubernetes, ".")[1]
	link := "-s -w -X " + containerdModule + "/version.Version=" + containerd
	for _, p := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		link += fmt.Sprintf(" -X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=1 -X %[1]s.gitMinor=%[3]s -X %[1]s.gitTreeState=clean", p, kubernetes, minor)
	}
	b.say("compiling: some minutes when nothing of it is cached")
	// One command, so that common packages compile once, and small programs link
	// while the large one still compiles. Nobody debugs these: no DWARF.
	common := []string{"build", "-trimpath", "-gcflags=all=-dwarf=false", "-o", b.bin("") + "/"}
	static := append(common[:len(common):len(common)], "-ldflags", link, "-tags", "no_btrfs no_devmapper no_zfs no_aufs",
		"./cmd/hyperkube", "./cmd/coredns", "./cmd/provisioner", "go.etcd.io/etcd/server/v3",
		containerdModule+"/cmd/containerd", containerdModule+"/cmd/containerd-shim-runc-v2", containerdModule+"/cmd/ctr",
		pluginsModule+"/plugins/ipam/host-local", pluginsModule+"/plugins/main/loopback",
		pluginsModule+"/plugins/main/ptp", pluginsModule+"/plugins/meta/portmap")
	if _, err := b.command(ctx, b.src, append(goEnv, "CGO_ENABLED=0"), "go", static...); err != nil {
		return err
	}
	if err := os.Rename(b.bin("server"), b.bin("etcd")); err != nil {
		return err
	}
	// runc enters namespaces in C.
	cgo := append(common[:len(common):len(common)], "-ldflags", "-s -w", "-tags", "seccomp urfave_cli_no_docs", runcModule)
	if _, err := b.command(ctx, b.src, append(goEnv, "CGO_ENABLED=1"), "go", cgo...); err != nil {
		return err
	}
	dir, err := b.module(ctx, kubernetesModule, "Dir")
	if err != nil {
		return err
	}
	_, err = b.command(ctx, "", nil, "gcc", "-Os", "-static", "-s", "-DVERSION=sealane-e2e", "-o", b.bin("pause"),
		filepath.Join(dir, "build", "pause", "linux", "pause.c"))
	return err
}
