package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// layer is a file system as a tar file.
type layer struct {
	File   string
	Digest string // sha256, in hex
}

// image is one entry of a docker archive.
type image struct {
	Tag        string
	Layers     []layer
	Entrypoint []string
	Env        []string
	Labels     map[string]string
	StopSignal string
}

// layer packs a folder. Equal content makes equal bytes.
func (b *builder) layer(ctx context.Context, dir string) (layer, error) {
	file, err := os.Create(dir + ".layer.tar")
	if err != nil {
		return layer{}, err
	}
	defer file.Close()
	sum := sha256.New()
	// GNU tar keeps hard links, device files and extended attributes.
	cmd := exec.CommandContext(ctx, "tar", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "-C", dir, "-cf", "-", ".")
	var stderr strings.Builder
	cmd.Stdout, cmd.Stderr = io.MultiWriter(file, sum), &stderr
	if err := cmd.Run(); err != nil {
		return layer{}, fmt.Errorf("tar %s: %w: %s", dir, err, stderr.String())
	}
	return layer{File: file.Name(), Digest: hex.EncodeToString(sum.Sum(nil))}, file.Close()
}

// writeArchive writes images as `docker save` does. Not all engines take
// compressed ones, so it is not compressed.
func writeArchive(name string, images []*image) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer file.Close()
	w := tar.NewWriter(file)
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var manifest []entry
	written := map[string]bool{}
	for _, img := range images {
		config, digests, err := img.config()
		if err != nil {
			return err
		}
		sum := sha256.Sum256(config)
		e := entry{Config: hex.EncodeToString(sum[:]) + ".json", RepoTags: []string{img.Tag}}
		if err := writeFile(w, e.Config, config); err != nil {
			return err
		}
		for i, l := range img.Layers {
			e.Layers = append(e.Layers, l.Digest+".tar")
			if written[digests[i]] {
				continue
			}
			written[digests[i]] = true
			if err := writeLayer(w, l); err != nil {
				return err
			}
		}
		manifest = append(manifest, e)
	}
	raw, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	if err := writeFile(w, "manifest.json", raw); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return file.Close()
}

func (img *image) config() (raw []byte, digests []string, err error) {
	for _, l := range img.Layers {
		digests = append(digests, "sha256:"+l.Digest)
	}
	raw, err = json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"created":      "1970-01-01T00:00:00Z",
		"config": map[string]any{
			"Env":        append([]string{"PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"}, img.Env...),
			"Entrypoint": img.Entrypoint,
			"Labels":     img.Labels,
			"StopSignal": img.StopSignal,
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": digests},
	})
	return raw, digests, err
}

func writeFile(w *tar.Writer, name string, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

func writeLayer(w *tar.Writer, l layer) error {
	file, err := os.Open(l.File)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: l.Digest + ".tar", Mode: 0o644, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(w, file)
	return err
}

// copyFile copies what a path leads to, through symbolic links.
func copyFile(from, to string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to, content, mode); err != nil {
		return err
	}
	return os.Chmod(to, mode)
}
