package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// provisionerImage is the one image that kubeadm does not ask for; the manifest
// of the storage class names it.
const provisionerImage = "sealane.local/provisioner:1"

// controlPlane makes the images that the node holds from the start, under the
// names that this version of kubeadm asks for.
func (b *builder) controlPlane(ctx context.Context) ([]*image, error) {
	version, err := b.module(ctx, kubernetesModule, "Version")
	if err != nil {
		return nil, err
	}
	wanted, err := b.command(ctx, "", nil, b.bin("hyperkube"), "kubeadm", "config", "images", "list", "--kubernetes-version", version)
	if err != nil {
		return nil, err
	}
	layers := filepath.Join(b.work, "layers")
	// Hard links: one file, and later one page cache, for all components.
	kube := filepath.Join(layers, "kube")
	apiserver := filepath.Join(kube, "usr/local/bin/kube-apiserver")
	if err := copyFile(b.bin("hyperkube"), apiserver, 0o755); err != nil {
		return nil, err
	}
	for _, name := range []string{"kube-controller-manager", "kube-scheduler", "kube-proxy"} {
		if err := os.Link(apiserver, filepath.Join(filepath.Dir(apiserver), name)); err != nil {
			return nil, err
		}
	}
	netfilter := filepath.Join(layers, "netfilter")
	if err := b.netfilter(ctx, netfilter); err != nil {
		return nil, err
	}
	kubeLayer, err := b.layer(ctx, kube)
	if err != nil {
		return nil, err
	}
	netfilterLayer, err := b.layer(ctx, netfilter)
	if err != nil {
		return nil, err
	}
	var images []*image
	for ref := range strings.Lines(wanted + "\n" + provisionerImage) {
		ref = strings.TrimSpace(ref)
		name, _, _ := strings.Cut(path.Base(ref), ":")
		img := &image{Tag: ref, Entrypoint: []string{"/usr/local/bin/" + name}}
		switch name {
		case "kube-apiserver", "kube-controller-manager", "kube-scheduler":
			img.Layers = []layer{kubeLayer}
		case "kube-proxy":
			img.Layers = []layer{kubeLayer, netfilterLayer}
		case "etcd", "coredns", "pause", "provisioner":
			// Upstream has these two at the root, and its manifests say so.
			if name == "coredns" || name == "pause" {
				img.Entrypoint = []string{"/" + name}
			}
			dir := filepath.Join(layers, name)
			if err := copyFile(b.bin(name), filepath.Join(dir, img.Entrypoint[0]), 0o755); err != nil {
				return nil, err
			}
			l, err := b.layer(ctx, dir)
			if err != nil {
				return nil, err
			}
			img.Layers = []layer{l}
		default:
			return nil, fmt.Errorf("kubeadm asks for image %s, which this builder does not know", ref)
		}
		images = append(images, img)
	}
	return images, nil
}

// netfilter fills dir with what kube-proxy runs: nft and iptables, and every
// library that they and their extensions load. A library missing here is found by
// kube-proxy only when a Service first needs that extension.
func (b *builder) netfilter(ctx context.Context, dir string) error {
	base := b.cache
	programs := []string{"/usr/sbin/nft", "/usr/sbin/xtables-nft-multi", "/usr/sbin/xtables-legacy-multi"}
	extensions, err := filepath.Glob(filepath.Join(base, "usr/lib/*/xtables/*.so"))
	if err != nil || len(extensions) == 0 {
		return fmt.Errorf("no extensions of iptables in %s: %w", base, err)
	}
	files := slices.Clone(programs)
	for _, e := range extensions {
		files = append(files, strings.TrimPrefix(e, base))
	}
	needed, err := b.command(ctx, "", nil, "chroot", append([]string{base, "ldd"}, files...)...)
	if err != nil {
		return err
	}
	// "libm.so.6 => /lib/x/libm.so.6 (0x7f)" and "/lib64/ld-linux-x86-64.so.2 (0x7f)"
	for scan := bufio.NewScanner(strings.NewReader(needed)); scan.Scan(); {
		for field := range strings.FieldsSeq(scan.Text()) {
			if strings.HasPrefix(field, "/lib") && !strings.HasSuffix(field, ":") && !slices.Contains(files, field) {
				files = append(files, field)
			}
		}
	}
	for _, f := range files {
		if err := copyFile(filepath.Join(base, f), filepath.Join(dir, f), 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			if err := os.Symlink("xtables-nft-multi", filepath.Join(dir, "usr/sbin", name+suffix)); err != nil {
				return err
			}
		}
	}
	return os.MkdirAll(filepath.Join(dir, "run"), 0o755) // the lock of iptables
}
