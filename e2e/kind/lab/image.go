package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	nodeImageDir = "e2e/kind/nodeimage"
	// publicImage is the one that belongs to the version of kind in nodeimage/go.mod.
	publicImage = "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"
	localImage  = "sealane-e2e/node:local"
	// recipeLabel says what a built image was built from.
	recipeLabel = "sealane.recipe"
)

// nodeImage finds, pulls or builds the image for nodes. SEALANE_E2E_NODE_IMAGE
// names one that the engine has; the value "build" asks not to pull.
func (l *Lab) nodeImage(ctx context.Context) error {
	wanted := os.Getenv("SEALANE_E2E_NODE_IMAGE")
	if wanted != "" && wanted != "build" {
		l.node = wanted
		return nil
	}
	recipe, err := fingerprint(filepath.Join(l.root, nodeImageDir))
	if err != nil {
		return err
	}
	if label, err := l.docker(ctx, "image", "inspect", "-f", `{{index .Config.Labels "`+recipeLabel+`"}}`, localImage); err == nil && label == recipe {
		l.node = localImage
		fmt.Fprintf(l.out, "lab: %s is built from what is here (%s)\n", localImage, recipe)
		return nil
	}
	if wanted == "" {
		if err := l.pull(ctx, publicImage); err == nil {
			l.node = publicImage
			fmt.Fprintf(l.out, "lab: the public image %s\n", publicImage)
			return nil
		} else if ctx.Err() != nil {
			return ctx.Err()
		}
		fmt.Fprintln(l.out, "lab: the public image cannot be pulled: building one")
	}
	archive := filepath.Join(l.work, "node.tar")
	defer os.Remove(archive)
	if _, err := l.run(ctx, command{
		Dir:  filepath.Join(l.root, nodeImageDir),
		Env:  []string{"GOFLAGS=-buildvcs=false", "GOWORK=off"},
		Args: []string{"nice", "go", "run", ".", "-output", archive, "-tag", localImage, "-label", recipeLabel + "=" + recipe, "-work", l.work},
		Show: l.out,
	}); err != nil {
		return err
	}
	if _, err := l.docker(ctx, "load", "-i", archive); err != nil {
		return err
	}
	l.node = localImage
	return nil
}

// pull gives up soon when no registry is reached, and late when one is.
func (l *Lab) pull(ctx context.Context, image string) error {
	if _, err := l.docker(ctx, "image", "inspect", image); err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	silent := time.AfterFunc(20*time.Second, cancel)
	defer silent.Stop()
	_, err := l.run(ctx, command{Args: []string{"docker", "pull", image}, Env: l.engine.env(), Out: onWrite(silent.Stop)})
	return err
}

// fingerprint is a hash of all files in a folder.
func fingerprint(dir string) (string, error) {
	sum := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		fmt.Fprintf(sum, "%s %d\n%s", rel, len(content), content)
		return err
	})
	return hex.EncodeToString(sum.Sum(nil))[:16], err
}

// onWrite calls a function when something is written.
type onWrite func() bool

func (f onWrite) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}
