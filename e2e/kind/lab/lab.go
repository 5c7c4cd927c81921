// Package lab makes kind clusters on this machine for tests and takes them away
// again. It starts with what the machine has: it uses an engine that runs, else
// starts one of its own; it pulls the public node image, else builds one from Go
// modules and Debian packages (../nodeimage). What it changes on the machine is
// written down before, so that also the next run can put it back.
//
// Start at Open. It needs root only for what it has to start, install or build.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// prefix is that of the clusters' names for kind: the lab owns, and removes, what
// begins with it.
const prefix = "sealane-e2e-"

// Options say where a lab works.
type Options struct {
	// Root is the checkout.
	Root string
	// Cache keeps programs, images and the engine's data from run to run (default:
	// sealane-e2e in the user's cache folder).
	Cache string
	// Out gets a line for each thing done, with the time it took.
	Out io.Writer
}

// Lab is a place for clusters. Its methods may be called at once.
type Lab struct {
	root  string
	cache string
	work  string // kubeconfigs and what a build needs on its way
	out   io.Writer
	lock  *os.File

	engine   *engine
	node     string // the node image
	settings settings

	mu       sync.Mutex
	clusters []*Cluster
}

// Open prepares engine, programs and the node image; nothing is done that was
// done before and has not changed. Close must follow, also when a test fails.
func Open(ctx context.Context, o Options) (_ *Lab, err error) {
	l, err := begin(o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close(context.WithoutCancel(ctx)))
		}
	}()
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"programs", func(ctx context.Context) error { return l.programs(ctx, "kind", "capfit", "helm") }},
		{"container engine", l.startEngine},
		{"clusters of an earlier run", l.removeLeftovers},
		{"node image", l.nodeImage},
	} {
		if err := l.timed(step.name, func() error { return step.run(ctx) }); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// begin takes the cache for this process, and reads or takes down the machine's
// settings.
func begin(o Options) (_ *Lab, err error) {
	if o.Cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return nil, err
		}
		o.Cache = filepath.Join(dir, "sealane-e2e")
	}
	l := &Lab{root: o.Root, cache: o.Cache, out: o.Out}
	if err := os.MkdirAll(filepath.Join(l.cache, "bin"), 0o755); err != nil {
		return nil, err
	}
	if err := l.acquire(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.lock.Close())
		}
	}()
	l.work = filepath.Join(l.cache, "work")
	if err := os.RemoveAll(l.work); err != nil { // of a run that was killed
		return nil, err
	}
	if err := os.Mkdir(l.work, 0o700); err != nil {
		return nil, err
	}
	return l, l.settings.load(filepath.Join(l.cache, "settings.json"))
}

// acquire makes sure that one lab at a time uses the cache.
func (l *Lab) acquire() error {
	f, err := os.OpenFile(filepath.Join(l.cache, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return fmt.Errorf("another run uses %s: %w", l.cache, err)
	}
	l.lock = f
	return nil
}

// Close deletes the clusters, stops the engine if the lab started it, and puts
// the machine's settings back. It does all it can, whatever fails.
func (l *Lab) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	var errs []error
	if l.engine != nil {
		errs = append(errs, l.timed("delete clusters", func() error { return l.removeLeftovers(ctx) }), l.stopEngine(ctx))
	}
	errs = append(errs, l.settings.restore())
	if l.work != "" {
		errs = append(errs, os.RemoveAll(l.work))
	}
	if l.lock != nil {
		errs = append(errs, l.lock.Close())
	}
	return errors.Join(errs...)
}

// Detach ends the lab and leaves the clusters and the engine running. The next
// run removes them, or one that is only opened and closed.
func (l *Lab) Detach() {
	fmt.Fprintf(l.out, "lab: kept; docker -H %s; kubeconfigs in %s\n", l.engine.host, l.work)
	l.lock.Close()
}

// timed runs a step and prints how long it took.
func (l *Lab) timed(name string, step func() error) error {
	start := time.Now()
	fmt.Fprintf(l.out, "lab: %s ...\n", name)
	if err := step(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Fprintf(l.out, "lab: %s: %.1f s\n", name, time.Since(start).Seconds())
	return nil
}

// program is the path of a program that the lab has built.
func (l *Lab) program(name string) string { return filepath.Join(l.cache, "bin", name) }

// programs builds what the lab runs: from the module of the node image, and from
// that of the project's tools.
func (l *Lab) programs(ctx context.Context, names ...string) error {
	for _, p := range []struct{ name, dir, mod, pkg string }{
		{"kind", nodeImageDir, "go.mod", "sigs.k8s.io/kind"},
		{"capfit", nodeImageDir, "go.mod", "./cmd/capfit"},
		{"helm", ".", "tools/go.mod", "helm.sh/helm/v4/cmd/helm"},
	} {
		if !slices.Contains(names, p.name) {
			continue
		}
		if _, err := l.run(ctx, command{
			Dir: filepath.Join(l.root, p.dir),
			Env: []string{"CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off"},
			Args: []string{
				"nice", "go", "build", "-modfile=" + p.mod, "-trimpath", "-ldflags", "-s -w", "-o", l.program(p.name), p.pkg,
			},
		}); err != nil {
			return err
		}
	}
	return nil
}
