package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// debianSuite is the Debian of the node, whatever the machine runs.
const debianSuite = "bookworm"

// base makes the Debian part of the node with the machine's own sources of
// packages. Nothing of those stays in it.
func (b *builder) base(ctx context.Context) error {
	b.cache = filepath.Join(b.work, "base")
	sources := "/etc/apt/sources.list.d/debian.sources"
	if _, err := os.Stat(sources); err != nil {
		sources = "/etc/apt/sources.list"
	}
	if _, err := b.command(ctx, "", nil, "mmdebstrap", "--mode=root", "--variant=essential", "--format=directory",
		`--aptopt=Apt::Install-Recommends "false"`,
		"--include=systemd,conntrack,iptables,nftables,iproute2,ethtool,mount,kmod,libseccomp2,procps",
		debianSuite, b.cache, sources); err != nil {
		return err
	}
	remove := []string{
		"etc/apt/*", "etc/hostname", "etc/resolv.conf", "var/cache/*", "var/log/*", "var/lib/apt/*", "var/lib/dpkg/info",
		"usr/share/bash-completion", "usr/share/zsh", "usr/share/lintian", "usr/share/perl5",
		// In a container systemd starts what kind asks for, and nothing else.
		"etc/systemd/system/*.wants/*", "lib/systemd/system/*.target.wants/systemd-tmpfiles-setup.service",
		"lib/systemd/system/multi-user.target.wants/*", "lib/systemd/system/local-fs.target.wants/*", "lib/systemd/system/basic.target.wants/*",
		"lib/systemd/system/sockets.target.wants/*udev*", "lib/systemd/system/sockets.target.wants/*initctl*",
	}
	for _, pattern := range remove {
		found, err := filepath.Glob(filepath.Join(b.cache, pattern))
		if err != nil {
			return err
		}
		for _, f := range found {
			if err := os.RemoveAll(f); err != nil {
				return err
			}
		}
	}
	journald, err := os.OpenFile(filepath.Join(b.cache, "etc/systemd/journald.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer journald.Close()
	if _, err := journald.WriteString("ReadKMsg=no\n"); err != nil { // the kernel's log is the machine's
		return err
	}
	if err := symlink("/usr/lib/systemd/systemd", filepath.Join(b.cache, "sbin/init")); err != nil {
		return err
	}
	return symlink("/dev/null", filepath.Join(b.cache, "etc/systemd/system/systemd-binfmt.service"))
}

func (b *builder) root(path string) string { return filepath.Join(b.work, "root", path) }

// node puts together the root file system: the base, kind's files, ours, the
// programs, and the images unpacked in containerd's store.
func (b *builder) node(ctx context.Context, images []*image) error {
	if err := os.Rename(b.cache, b.root("")); err != nil {
		return err
	}
	if err := b.kindFiles(ctx); err != nil {
		return err
	}
	if err := b.ownFiles(images); err != nil {
		return err
	}
	version, err := b.module(ctx, kubernetesModule, "Version")
	if err != nil {
		return err
	}
	if err := os.WriteFile(b.root("kind/version"), []byte(version), 0o644); err != nil {
		return err
	}
	for dir, names := range map[string][]string{
		"usr/local/bin":  {"containerd", "containerd-shim-runc-v2", "ctr"},
		"usr/local/sbin": {"runc"},
		"opt/cni/bin":    {"host-local", "loopback", "ptp", "portmap"},
	} {
		for _, name := range names {
			if err := copyFile(b.bin(name), b.root(filepath.Join(dir, name)), 0o755); err != nil {
				return err
			}
		}
	}
	if err := b.runtimeSpec(ctx); err != nil {
		return err
	}
	if err := b.preload(ctx, images); err != nil {
		return err
	}
	// The node's own programs are further links to the file in the image store.
	var kube string
	err = filepath.WalkDir(b.root("var/lib/containerd"), func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, "/usr/local/bin/kube-apiserver") {
			kube = path
			return fs.SkipAll
		}
		return err
	})
	if err != nil || kube == "" {
		return fmt.Errorf("no unpacked kube-apiserver in the image store: %w", err)
	}
	for _, name := range []string{"kubelet", "kubeadm", "kubectl"} {
		if err := os.Link(kube, b.root(filepath.Join("usr/bin", name))); err != nil {
			return err
		}
	}
	return nil
}

// kindFiles are those that kind's own image has: the entrypoint knows cgroup v1
// and v2, docker's DNS, and addresses that change with a restart.
func (b *builder) kindFiles(ctx context.Context) error {
	dir, err := b.module(ctx, kindModule, "Dir")
	if err != nil {
		return err
	}
	files := filepath.Join(dir, "images/base/files")
	const units = "etc/systemd/system"
	for pattern, mode := range map[string]os.FileMode{
		"usr/local/bin/entrypoint":          0o755,
		"kind/bin/*.sh":                     0o755,
		"etc/sysctl.d/*":                    0o644,
		units + "/kubelet.slice":            0o644,
		units + "/kubelet.service":          0o644,
		units + "/containerd.service":       0o644,
		units + "/undo-mount-hacks.service": 0o644,
		units + "/kubelet.service.d/*":      0o644,
		units + "/containerd.service.d/*":   0o644,
	} {
		found, err := filepath.Glob(filepath.Join(files, pattern))
		if err != nil {
			return err
		}
		for _, f := range found {
			if err := copyFile(f, b.root(strings.TrimPrefix(f, files)), mode); err != nil {
				return err
			}
		}
	}
	for _, unit := range []string{"kubelet", "containerd", "undo-mount-hacks"} {
		link := b.root(units + "/multi-user.target.wants/" + unit + ".service")
		if err := symlink("/"+units+"/"+unit+".service", link); err != nil {
			return err
		}
	}
	for _, dir := range []string{"etc/kubernetes/manifests", "etc/cni/net.d"} {
		if err := os.MkdirAll(b.root(dir), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// ownFiles are those in rootfs, with the names of images in their places.
func (b *builder) ownFiles(images []*image) error {
	pause := ""
	for _, img := range images {
		if strings.Contains(img.Tag, "/pause:") {
			pause = img.Tag
		}
	}
	fill := strings.NewReplacer("@PAUSE@", pause, "@PROVISIONER@", provisionerImage)
	src := filepath.Join(b.src, "rootfs")
	return filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		to, mode := b.root(strings.TrimPrefix(path, src)), os.FileMode(0o644)
		if filepath.Base(filepath.Dir(path)) == "bin" {
			mode = 0o755
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		return os.WriteFile(to, []byte(fill.Replace(string(content))), mode)
	})
}

// runtimeSpec is containerd's default for containers without limits of
// resources: raising those takes a capability that the machine may lack.
func (b *builder) runtimeSpec(ctx context.Context) error {
	raw, err := b.command(ctx, "", nil, b.bin("ctr"), "oci", "spec")
	if err != nil {
		return err
	}
	var spec, process map[string]json.RawMessage
	if err := json.Unmarshal([]byte(raw), &spec); err != nil {
		return err
	}
	if err := json.Unmarshal(spec["process"], &process); err != nil {
		return err
	}
	delete(process, "rlimits")
	if spec["process"], err = json.Marshal(process); err != nil {
		return err
	}
	out, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	return os.WriteFile(b.root("etc/containerd/cri-base.json"), out, 0o644)
}

// archive writes the node as a docker archive. systemd reads the variable
// "container", and stops on SIGRTMIN+3.
func (b *builder) archive(ctx context.Context, output, tag string, labels map[string]string) error {
	l, err := b.layer(ctx, b.root(""))
	if err != nil {
		return err
	}
	partial := output + ".partial"
	defer os.Remove(partial)
	if err := writeArchive(partial, []*image{{
		Tag:        tag,
		Layers:     []layer{l},
		Entrypoint: []string{"/usr/local/bin/entrypoint", "/sbin/init"},
		Env:        []string{"container=docker"},
		Labels:     labels,
		StopSignal: "SIGRTMIN+3",
	}}); err != nil {
		return err
	}
	return os.Rename(partial, output)
}

func symlink(target, link string) error {
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	if err := os.Remove(link); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.Symlink(target, link)
}
