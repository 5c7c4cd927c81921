package sealane_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var metricPattern = regexp.MustCompile(`sealane_(?:hub|agent)_\w+`)

// TestMetricsAreDocumented: each process declares its metrics in one file, and
// docs/observability.md has a row for each, and for none that is not.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]bool{}
	goFiles(t, func(path string, f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				for _, name := range metricPattern.FindAllString(lit.Value, -1) {
					if path != "hub/metrics.go" && path != "agent/metrics.go" {
						t.Errorf("%s names the metric %s: metrics are declared in metrics.go of hub and agent", path, name)
					}
					declared[name] = true
				}
			}
			return true
		})
	})
	if len(declared) < 20 {
		t.Errorf("only %d metrics: is this test looking in the right places?", len(declared))
	}
	for name := range declared {
		if !strings.Contains(string(doc), "\n| `"+name+"` | ") {
			t.Errorf("docs/observability.md has no row for the metric %s", name)
		}
	}
	for _, name := range metricPattern.FindAllString(string(doc), -1) {
		if !declared[name] {
			t.Errorf("docs/observability.md speaks of the metric %s, which does not exist", name)
		}
	}
}

// goFiles calls visit for each file that is not a test.
func goFiles(t *testing.T, visit func(path string, f *ast.File)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != "." && (strings.HasPrefix(name, ".") || name == "bin" || name == "testdata" || name == "tools" || name == "e2e") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".pb.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err == nil {
			visit(filepath.ToSlash(path), f)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestLogKeysAreDocumented: logs use one vocabulary, that of docs/observability.md.
func TestLogKeysAreDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(doc), "\n## Logs\n")
	if !found {
		t.Fatal("docs/observability.md has no section about logs")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	goFiles(t, func(path string, f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			from := map[string]int{"Info": 1, "Warn": 1, "Error": 1, "Debug": 1}[sel.Sel.Name]
			if from == 0 || len(call.Args) < 3 || !isLogger(sel.X) {
				return true
			}
			for i := from; i < len(call.Args); i += 2 {
				if lit, ok := call.Args[i].(*ast.BasicLit); ok && !strings.Contains(section, "`"+strings.Trim(lit.Value, `"`)+"`") {
					t.Errorf("%s logs the key %s, which is not in docs/observability.md", path, lit.Value)
				}
			}
			return true
		})
	})
}

// isLogger tells whether an expression ends in log.
func isLogger(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name == "log"
	case *ast.SelectorExpr:
		return e.Sel.Name == "log" || e.Sel.Name == "Log"
	}
	return false
}
