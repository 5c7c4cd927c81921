package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
)

// user runs what is in the image: no root, and no entry in any passwd is needed.
const user = 65532

// image is one binary and what must be around it.
type image struct {
	name, tag, arch string
	created         time.Time
	command         string
	binary          []byte
	data            string // folder for data, if no volume is there
	labels          map[string]string
}

// config is what OCI calls the image configuration.
type config struct {
	Created      time.Time `json:"created"`
	Architecture string    `json:"architecture"`
	OS           string    `json:"os"`
	Config       struct {
		User       string
		Entrypoint []string
		WorkingDir string
		Labels     map[string]string
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
	History []history `json:"history"`
}

type history struct {
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

// archive is the image as "docker save" would write it.
func (i image) archive() ([]byte, error) {
	layer, err := i.layer()
	if err != nil {
		return nil, err
	}
	var c config
	c.Created, c.Architecture, c.OS = i.created, i.arch, "linux"
	c.Config.User = fmt.Sprintf("%d:%d", user, user)
	c.Config.Entrypoint = []string{"/" + i.command}
	c.Config.WorkingDir = "/"
	c.Config.Labels = i.labels
	c.RootFS.Type = "layers"
	c.RootFS.DiffIDs = []string{"sha256:" + hash(layer)}
	c.History = []history{{Created: i.created, CreatedBy: "make images"}}
	configJSON, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	configFile, layerFile := hash(configJSON)+".json", hash(layer)+"/layer.tar"
	manifest, err := json.Marshal([]map[string]any{{
		"Config": configFile, "RepoTags": []string{i.name + ":" + i.tag}, "Layers": []string{layerFile},
	}})
	if err != nil {
		return nil, err
	}
	w := newTar(i.created)
	w.file("manifest.json", manifest, 0o644, 0)
	w.file(configFile, configJSON, 0o644, 0)
	w.dir(path.Dir(layerFile), 0o755, 0)
	w.file(layerFile, layer, 0o644, 0)
	return w.close()
}

// layer is the image's only one. The folders matter where no volume is mounted
// and the root file system may be written.
func (i image) layer() ([]byte, error) {
	w := newTar(i.created)
	w.file(i.command, i.binary, 0o755, 0)
	w.dir("tmp", 0o1777, 0)
	at := ""
	for name := range strings.SplitSeq(path.Dir(i.data), "/") {
		at = path.Join(at, name)
		w.dir(at, 0o755, 0)
	}
	w.dir(i.data, 0o700, user)
	return w.close()
}

// checkStatic refuses a binary that could not run in an empty image.
func checkStatic(binary []byte, arch string) error {
	f, err := elf.NewFile(bytes.NewReader(binary))
	if err != nil {
		return fmt.Errorf("no binary for Linux: %w", err)
	}
	want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "arm": elf.EM_ARM, "riscv64": elf.EM_RISCV, "s390x": elf.EM_S390, "ppc64le": elf.EM_PPC64}
	if m, known := want[arch]; known && f.Machine != m {
		return fmt.Errorf("the binary is for %s, not for %s", f.Machine, arch)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("the binary needs shared libraries: build it with CGO_ENABLED=0")
		}
	}
	return nil
}

// tarWriter writes entries in the order given, with nothing of this machine in
// them.
type tarWriter struct {
	buf  bytes.Buffer
	tar  *tar.Writer
	time time.Time
	err  error
}

func newTar(t time.Time) *tarWriter {
	w := &tarWriter{time: t}
	w.tar = tar.NewWriter(&w.buf)
	return w
}

func (w *tarWriter) dir(name string, mode int64, owner int) {
	w.entry(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, Uid: owner, Gid: owner}, nil)
}

func (w *tarWriter) file(name string, content []byte, mode int64, owner int) {
	w.entry(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Uid: owner, Gid: owner, Size: int64(len(content))}, content)
}

func (w *tarWriter) entry(h *tar.Header, content []byte) {
	h.ModTime, h.Format = w.time, tar.FormatUSTAR
	if w.err == nil {
		w.err = w.tar.WriteHeader(h)
	}
	if w.err == nil {
		_, w.err = w.tar.Write(content)
	}
}

func (w *tarWriter) close() ([]byte, error) {
	return w.buf.Bytes(), errors.Join(w.err, w.tar.Close())
}

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
