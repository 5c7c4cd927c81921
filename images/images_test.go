package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// build compiles a small static program under the names of the commands.
func build(t *testing.T, env ...string) string {
	t.Helper()
	dir := t.TempDir()
	src := filepath.Join(dir, "main.go")
	if err := os.WriteFile(src, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range commands {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, c.name), src)
		cmd.Env = append(os.Environ(), append([]string{"CGO_ENABLED=0"}, env...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	return dir
}

func files(t *testing.T, archive []byte) (map[string][]byte, map[string]*tar.Header) {
	t.Helper()
	content, headers := map[string][]byte{}, map[string]*tar.Header{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return content, headers
		}
		if err != nil {
			t.Fatal(err)
		}
		if content[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		headers[h.Name] = h
	}
}

func TestImages(t *testing.T) {
	binaries := build(t, "GOOS=linux", "GOARCH=arm64")
	out := func() string {
		dir := t.TempDir()
		err := run([]string{"--platform", "linux/arm64", "--binaries", binaries, "--out", dir, "--version", "v1.2", "--revision", "abc", "--created", "1700000000"})
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	first, second := out(), out()
	for _, c := range commands {
		name := c.name + "-linux-arm64.tar"
		archive, err := os.ReadFile(filepath.Join(first, name))
		if err != nil {
			t.Fatal(err)
		}
		again, err := os.ReadFile(filepath.Join(second, name))
		if err != nil || !bytes.Equal(archive, again) {
			t.Errorf("%s: the same input gave other bytes (%v)", name, err)
		}
		content, _ := files(t, archive)
		var manifest []struct {
			Config   string
			RepoTags []string
			Layers   []string
		}
		if err := json.Unmarshal(content["manifest.json"], &manifest); err != nil {
			t.Fatal(err)
		}
		if got, want := manifest[0].RepoTags[0], "sealane/"+c.name+":v1.2"; got != want {
			t.Errorf("tag %s, want %s", got, want)
		}
		var conf config
		if err := json.Unmarshal(content[manifest[0].Config], &conf); err != nil {
			t.Fatal(err)
		}
		layer := content[manifest[0].Layers[0]]
		if conf.Config.User != "65532:65532" || conf.Architecture != "arm64" || conf.Config.Labels["org.opencontainers.image.version"] != "v1.2" ||
			conf.RootFS.DiffIDs[0] != "sha256:"+hash(layer) || conf.Config.Entrypoint[0] != "/"+c.name {
			t.Errorf("configuration: %s", content[manifest[0].Config])
		}
		inside, headers := files(t, layer)
		if len(inside[c.name]) == 0 || headers[c.name].Mode != 0o755 {
			t.Errorf("%s is not in its image", c.name)
		}
		for path, h := range headers {
			if h.Typeflag == tar.TypeReg && path != c.name {
				t.Errorf("the image holds %s as well", path)
			}
		}
		if h := headers[c.data+"/"]; h == nil || h.Uid != user || h.Mode != 0o700 {
			t.Errorf("folder for data: %+v", h)
		}
	}
}

func TestImagesRefuse(t *testing.T) {
	arm := build(t, "GOOS=linux", "GOARCH=arm64")
	for what, tt := range map[string]struct {
		args []string
		want string
	}{
		"platform": {[]string{"--platform", "windows/amd64"}, "--platform"},
		"tag":      {[]string{"--version", "a b"}, "--version"},
		"missing":  {[]string{"--binaries", t.TempDir()}, "sealane-hub"},
		"other":    {[]string{"--binaries", arm}, "EM_AARCH64"},
		"dynamic":  {[]string{"--binaries", dynamic(t), "--platform", "linux/" + runtime.GOARCH}, "CGO_ENABLED=0"},
	} {
		t.Run(what, func(t *testing.T) {
			err := run(append(tt.args, "--out", t.TempDir()))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// dynamic is a folder in which a command needs shared libraries.
func dynamic(t *testing.T) string {
	t.Helper()
	shell, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "sealane-hub"), shell, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}
