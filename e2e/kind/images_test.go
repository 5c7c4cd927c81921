//go:build e2e

package kind

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealane/sealane/e2e/kind/lab"
)

// image is one of those that `make images` made.
type image struct {
	archive string
	ref     string // NAME:TAG
}

// builtImages finds the images by the last part of their names.
func builtImages(t testing.TB) map[string]image {
	t.Helper()
	archives, err := filepath.Glob(filepath.Join(root, "bin/images/*.tar"))
	if err != nil || len(archives) == 0 {
		t.Fatalf("no images in bin/images (make images): %v", err)
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
