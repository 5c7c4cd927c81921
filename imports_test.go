// Package sealane_test checks what holds for the module as a whole: which
// packages may depend on which, that each says what it is for, and that the
// documentation agrees with the code. The rules are told in
// docs/architecture.md.
package sealane_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sealane/sealane"

// rules say what packages must not depend on, directly or through others. A
// path stands for itself and everything below it.
var rules = []struct {
	name      string
	packages  []string
	forbidden []string
	allowed   []string // exceptions to forbidden
}{
	{
		name:      "the wire and the journal stand on the wire alone",
		packages:  []string{"./api/federation/...", "./api/journal/...", "./api/broker/..."},
		forbidden: []string{module, "k8s.io", "sigs.k8s.io"},
		allowed:   []string{module + "/api/federation", module + "/api/journal", module + "/api/broker"},
	},
	{
		name:      "the resources stand on their own",
		packages:  []string{"./api/v1alpha1/..."},
		forbidden: []string{module, "k8s.io/client-go", "sigs.k8s.io/controller-runtime"},
		allowed:   []string{module + "/api/v1alpha1"},
	},
	{
		name:      "the planner depends on api only",
		packages:  []string{"./topology/..."},
		forbidden: []string{module, "k8s.io/client-go", "sigs.k8s.io/controller-runtime", "github.com/nats-io", "go.etcd.io"},
		allowed:   []string{module + "/api", module + "/topology"},
	},
	{
		name:      "the hub knows nothing of brokers",
		packages:  []string{"./hub/...", "./cmd/sealane-hub"},
		forbidden: []string{module, "github.com/nats-io/nats-server"},
		allowed:   []string{module + "/api", module + "/topology", module + "/telemetry", module + "/hub", module + "/cmd/sealane-hub"},
	},
	{
		name:      "the agent is lean: no Kubernetes and no etcd",
		packages:  []string{"./broker/...", "./agent/...", "./cmd/sealane-agent"},
		forbidden: []string{module, "k8s.io", "sigs.k8s.io", "go.etcd.io"},
		allowed:   []string{module + "/api/federation", module + "/api/journal", module + "/api/broker", module + "/telemetry", module + "/broker", module + "/agent", module + "/cmd/sealane-agent"},
	},
	{
		name:      "telemetry knows nothing of what is observed",
		packages:  []string{"./telemetry/..."},
		forbidden: []string{module, "k8s.io", "sigs.k8s.io"},
		allowed:   []string{module + "/telemetry"},
	},
	{
		name:      "the command line talks to the hub's API, computes, and runs nothing itself",
		packages:  []string{"./cmd/sealane/..."},
		forbidden: []string{module, "github.com/nats-io/nats-server", "go.etcd.io", "k8s.io/apiserver"},
		allowed:   []string{module + "/api", module + "/topology", module + "/cmd/sealane"},
	},
	{
		name:      "the broker does not know its agent",
		packages:  []string{"./broker/..."},
		forbidden: []string{module + "/agent"},
	},
}

// pure packages compute: these standard packages, imported directly, would let
// a clock, the network, randomness or a log in.
var pure = map[string][]string{
	"./topology": {"context", "time", "net", "net/http", "os", "math/rand", "math/rand/v2", "crypto/rand", "log", "log/slog"},
}

func TestDependencies(t *testing.T) {
	t.Parallel()
	for _, r := range rules {
		t.Run(strings.ReplaceAll(r.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			for _, p := range goList(t, append([]string{"-deps"}, r.packages...)...) {
				if within(p.ImportPath, r.forbidden) && !within(p.ImportPath, r.allowed) {
					t.Errorf("%s: %s depends on %s", r.name, strings.Join(r.packages, ", "), p.ImportPath)
				}
			}
		})
	}
}

// The hub in images has no API server, which would be most of it (see the Makefile).
func TestHubImageWithoutAPIServer(t *testing.T) {
	t.Parallel()
	for _, p := range goList(t, "-tags", "noapiserver", "-deps", "./cmd/sealane-hub") {
		if within(p.ImportPath, []string{module + "/hub/apiserver", "k8s.io/apiserver", "go.etcd.io"}) {
			t.Errorf("%s is part of it", p.ImportPath)
		}
	}
}

func TestPurePackages(t *testing.T) {
	t.Parallel()
	for pattern, forbidden := range pure {
		for _, p := range goList(t, pattern) {
			for _, i := range p.Imports {
				if slices.Contains(forbidden, i) {
					t.Errorf("%s imports %s", p.ImportPath, i)
				}
			}
		}
	}
}

func TestEveryPackageHasOneComment(t *testing.T) {
	t.Parallel()
	for _, p := range goList(t, "./...") {
		files := p.GoFiles
		if len(files) == 0 {
			files = slices.Concat(p.TestGoFiles, p.XTestGoFiles)
		}
		var with []string
		for _, name := range files {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc == nil || ast.IsGenerated(f) {
				continue
			}
			with = append(with, name)
			want := "Package " + f.Name.Name + " "
			if f.Name.Name == "main" {
				want = "Command " + filepath.Base(p.Dir) + " "
			}
			if !strings.HasPrefix(f.Doc.Text(), want) {
				t.Errorf("%s: the comment in %s should begin with %q", p.ImportPath, name, want)
			}
		}
		if len(with) != 1 {
			t.Errorf("%s: want one package comment, found %d: %v", p.ImportPath, len(with), with)
		}
	}
}

type goPackage struct {
	Dir          string
	ImportPath   string
	Imports      []string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
}

func goList(t *testing.T, args ...string) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=Dir,ImportPath,Imports,GoFiles,TestGoFiles,XTestGoFiles"}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v\n%s", args, err, stderr.String())
	}
	var pkgs []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// within tells whether path is one of roots or below one.
func within(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		return path == root || strings.HasPrefix(path, root+"/")
	})
}
