package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// preloadConfig makes a containerd of this machine work on the node's folder,
// with as little of it as an import needs.
const preloadConfig = `version = 3
root = %[1]s
state = %[2]s
disabled_plugins = [
  'io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime', 'io.containerd.grpc.v1.cri',
  'io.containerd.nri.v1.nri', 'io.containerd.podsandbox.controller.v1.podsandbox',
  'io.containerd.snapshotter.v1.erofs', 'io.containerd.snapshotter.v1.blockfile',
]
[grpc]
  address = %[3]s
[plugins.'io.containerd.internal.v1.opt']
  path = %[4]s
`

// preload unpacks images into the node's containerd store. The layers' tar files
// are dropped: a node needs the unpacked ones only.
func (b *builder) preload(ctx context.Context, images []*image) error {
	archive := filepath.Join(b.work, "images.tar")
	if err := writeArchive(archive, images); err != nil {
		return err
	}
	store, state := b.root("var/lib/containerd"), filepath.Join(b.work, "state")
	socket := filepath.Join(state, "containerd.sock")
	if err := os.MkdirAll(state, 0o700); err != nil {
		return err
	}
	config := filepath.Join(state, "config.toml")
	text := fmt.Sprintf(preloadConfig, strconv.Quote(store), strconv.Quote(filepath.Join(state, "run")),
		strconv.Quote(socket), strconv.Quote(filepath.Join(state, "opt")))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(state, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	daemon := exec.CommandContext(ctx, b.bin("containerd"), "-c", config)
	daemon.Stdout, daemon.Stderr = log, log
	// It must close its database before the folder is packed.
	daemon.Cancel = func() error { return daemon.Process.Signal(syscall.SIGTERM) }
	if err := daemon.Start(); err != nil {
		return err
	}
	err = b.importImages(ctx, socket, archive, images)
	stopped := errors.Join(daemon.Process.Signal(syscall.SIGTERM), daemon.Wait())
	if err := errors.Join(err, stopped); err != nil {
		said, _ := os.ReadFile(log.Name())
		return fmt.Errorf("containerd: %w\n%s", err, said)
	}
	for _, img := range images {
		for _, l := range img.Layers {
			// Its garbage collector did not get to it.
			os.Remove(filepath.Join(store, "io.containerd.content.v1.content/blobs/sha256", l.Digest))
		}
	}
	return errors.Join(os.RemoveAll(filepath.Join(store, "tmpmounts")), os.RemoveAll(filepath.Join(store, "io.containerd.content.v1.content/ingest")))
}

func (b *builder) importImages(ctx context.Context, socket, archive string, images []*image) error {
	ctr := func(args ...string) error {
		_, err := b.command(ctx, "", nil, b.bin("ctr"), append([]string{"-a", socket, "-n", "k8s.io"}, args...)...)
		return err
	}
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for ctr("version") != nil {
		select {
		case <-ready.Done():
			return fmt.Errorf("it does not answer: %w", ready.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
	// Pinned: the kubelet does not remove them when the disk is nearly full.
	if err := ctr("images", "import", "--label=io.cri-containerd.pinned=pinned", "--snapshotter=overlayfs", archive); err != nil {
		return err
	}
	dropped := map[string]bool{}
	for _, img := range images {
		for _, l := range img.Layers {
			if dropped[l.Digest] {
				continue
			}
			dropped[l.Digest] = true
			if err := ctr("content", "rm", "sha256:"+l.Digest); err != nil {
				return err
			}
		}
	}
	return nil
}
