// Command images writes container images without a container engine and without
// a registry: a static binary, the folders it needs and nothing else, as an
// archive for "docker load", "podman load", "ctr images import", "crane push" and
// "kind load image-archive". The same input gives the same bytes.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Commands that get an image, and the folder that each keeps its data in.
var commands = []struct{ name, data, title string }{
	{"sealane-hub", "var/lib/sealane/hub", "Hub of a Sealane federation"},
	{"sealane-agent", "var/lib/sealane/agent", "Agent and broker of a Sealane member"},
}

var tagPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	f := flag.NewFlagSet("images", flag.ContinueOnError)
	platform := f.String("platform", "linux/amd64", "OS/ARCH that the binaries were built for")
	binaries := f.String("binaries", "", "folder of the static binaries")
	out := f.String("out", "bin/images", "folder for the archives")
	repository := f.String("repository", "sealane", "what stands before the image's name")
	version := f.String("version", "devel", "tag of the images")
	revision := f.String("revision", "", "commit that the binaries were built from")
	created := f.String("created", "0", "time of the images: seconds since 1970")
	if err := f.Parse(args); err != nil {
		return err
	}
	goos, arch, ok := strings.Cut(*platform, "/")
	if !ok || goos != "linux" {
		return fmt.Errorf("--platform %q: expected linux/ARCH", *platform)
	}
	if !tagPattern.MatchString(*version) {
		return fmt.Errorf("--version %q cannot be the tag of an image", *version)
	}
	seconds, err := strconv.ParseInt(*created, 10, 64)
	if err != nil {
		return fmt.Errorf("--created: %w", err)
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	for _, c := range commands {
		binary, err := os.ReadFile(filepath.Join(*binaries, c.name))
		if err != nil {
			return err
		}
		if err := checkStatic(binary, arch); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		i := image{
			name: *repository + "/" + c.name, tag: *version, arch: arch, created: time.Unix(seconds, 0).UTC(),
			command: c.name, binary: binary, data: c.data,
			labels: map[string]string{
				"org.opencontainers.image.title":    c.title,
				"org.opencontainers.image.version":  *version,
				"org.opencontainers.image.revision": *revision,
				"org.opencontainers.image.licenses": "Apache-2.0",
				"org.opencontainers.image.source":   "https://github.com/sealane/sealane",
			},
		}
		archive, err := i.archive()
		if err != nil {
			return err
		}
		path := filepath.Join(*out, fmt.Sprintf("%s-%s-%s.tar", c.name, goos, arch))
		if err := os.WriteFile(path, archive, 0o644); err != nil {
			return err
		}
		fmt.Fprintf(os.Stdout, "%s\t%s:%s\t%.1f MiB\n", path, i.name, i.tag, float64(len(archive))/(1<<20))
	}
	return nil
}
