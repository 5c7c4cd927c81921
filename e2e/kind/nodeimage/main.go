// Command nodeimage builds an image for the nodes of kind clusters from Go
// modules and Debian packages alone, for machines that reach no registry.
//
//	go run . -output node.tar -tag NAME [-label KEY=VALUE] [-work DIR]
//
// Kubernetes, etcd, CoreDNS, containerd, runc and the CNI plugins are compiled
// from the modules that go.mod pins; the rest is Debian's. What makes a folder a
// kind node (entrypoint, systemd units, sysctls) comes from kind's own module, and
// what is different here lies in rootfs. No container runs and no image is pulled.
// It needs root, Go and apt, and installs from Debian what it runs.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// builder holds the folders of one build.
type builder struct {
	out   io.Writer // progress
	src   string    // this module
	work  string    // everything that is made on the way
	cache string    // the Debian base, which later builds take up
}

func (b *builder) bin(name string) string { return filepath.Join(b.work, "bin", name) }

func main() {
	output := flag.String("output", "node.tar", "the docker archive to write")
	tag := flag.String("tag", "sealane-e2e/node", "name of the image")
	label := flag.String("label", "", "one label of the image, KEY=VALUE")
	work := flag.String("work", "", "folder for intermediate results, removed at the end (default: temporary)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *output, *tag, *label, *work)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "nodeimage:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, output, tag, label, work string) error {
	src, err := os.Getwd()
	if err != nil {
		return err
	}
	if work, err = os.MkdirTemp(work, "nodeimage-"); err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if output, err = filepath.Abs(output); err != nil {
		return err
	}
	b := &builder{out: os.Stderr, src: src, work: work}
	labels := map[string]string{}
	if key, value, ok := strings.Cut(label, "="); ok {
		labels[key] = value
	}
	var images []*image
	start := time.Now()
	for _, step := range []struct {
		name string
		run  func() error
	}{
		{"Debian packages that the build runs", func() error { return b.packages(ctx) }},
		{"binaries from Go modules", func() error { return b.binaries(ctx) }},
		{"Debian base of the node", func() error { return b.base(ctx) }},
		{"images of the control plane", func() (err error) { images, err = b.controlPlane(ctx); return err }},
		{"node", func() error { return b.node(ctx, images) }},
		{"archive", func() error { return b.archive(ctx, output, tag, labels) }},
	} {
		began := time.Now()
		b.say("%s ...", step.name)
		if err := step.run(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		b.say("%s: %.1f s", step.name, time.Since(began).Seconds())
	}
	b.say("all: %.1f s", time.Since(start).Seconds())
	return nil
}

func (b *builder) say(format string, args ...any) {
	fmt.Fprintf(b.out, "node image: "+format+"\n", args...)
}

// command runs a program and returns what it printed. An error holds the end of
// what the program said.
func (b *builder) command(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(stdout.String() + "\n" + stderr.String())
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args[:min(4, len(cmd.Args))], " "), err, said[max(0, len(said)-4000):])
	}
	return strings.TrimSpace(stdout.String()), nil
}
