//go:build e2e

package kind

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/sealane/sealane/e2e/kind/lab"
)

// image is one of those that `make images` made.
type image struct {
	archive string
	ref     string // NAME:TAG
}

// version is what is installed of a commit.
type version struct {
	dir    string           // its checkout, in which `make images` was run
	images map[string]image // by program
}

func (v version) chart(name string) string { return filepath.Join(v.dir, "charts", name) }

// program is the path of one of those that are in the images.
func (v version) program(name string) string {
	return filepath.Join(v.dir, "bin/images/linux-"+runtime.GOARCH, name)
}

// present is what is in this checkout.
func present(t testing.TB) version { return version{dir: root, images: imagesIn(t, root)} }

// previous builds what the commit before was: the one that SEALANE_E2E_PREVIOUS
// names, else the parent of HEAD. A checkout without history has none.
func previous(t testing.TB) (v version, ok bool) {
	t.Helper()
	commit := os.Getenv("SEALANE_E2E_PREVIOUS")
	asked := commit != ""
	if !asked {
		commit = "HEAD~1"
	}
	v.dir = t.TempDir()
	archive := filepath.Join(t.TempDir(), "checkout.tar")
	for _, args := range [][]string{
		{"git", "-c", "safe.directory=*", "archive", "--output", archive, commit},
		{"tar", "-x", "-f", archive, "-C", v.dir},
		{"nice", "make", "-C", v.dir, "images", "VERSION=e2e-previous"},
	} {
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Dir = root
		cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "MAKE") || strings.HasPrefix(s, "MFLAGS") })
		out, err := cmd.CombinedOutput()
		if err == nil {
			continue
		}
		if args[0] == "git" && !asked {
			t.Logf("there is no commit before this one here: %v\n%s", err, out)
			return version{}, false
		}
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	v.images = imagesIn(t, v.dir)
	t.Logf("built %s as well", commit)
	return v, true
}

// imagesIn finds the images of a checkout by the last part of their names.
func imagesIn(t testing.TB, dir string) map[string]image {
	t.Helper()
	archives, err := filepath.Glob(filepath.Join(dir, "bin/images/*-linux-"+runtime.GOARCH+".tar"))
	if err != nil || len(archives) == 0 {
		t.Fatalf("no images in bin/images of %s (make images): %v", dir, err)
	}
	found := map[string]image{}
	for _, a := range archives {
		ref, err := refOf(a)
		if err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(filepath.Base(ref), ":")
		found[name] = image{archive: a, ref: ref}
	}
	return found
}

// refOf reads the name from a docker archive.
func refOf(archive string) (string, error) {
	f, err := os.Open(archive)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err != nil {
			return "", fmt.Errorf("%s: no manifest.json: %w", archive, err)
		}
		if h.Name != "manifest.json" {
			continue
		}
		var manifest []struct{ RepoTags []string }
		raw, err := io.ReadAll(r)
		if err != nil {
			return "", err
		}
		if err := json.Unmarshal(raw, &manifest); err != nil {
			return "", err
		}
		if len(manifest) != 1 || len(manifest[0].RepoTags) != 1 {
			return "", fmt.Errorf("%s: want one image with one name, got %s", archive, raw)
		}
		return manifest[0].RepoTags[0], nil
	}
}

// load brings an image into clusters.
func load(t testing.TB, i image, clusters ...*lab.Cluster) {
	t.Helper()
	for _, c := range clusters {
		if err := c.Load(t.Context(), i.archive); err != nil {
			t.Fatal(err)
		}
	}
}
