package sealane_test

import (
	"bytes"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/sealane/sealane/api/v1alpha1"
)

var (
	fencePattern     = regexp.MustCompile("(?s)```([a-z]*)\n(.*?)```")
	heredocPattern   = regexp.MustCompile(`(?s)<<'EOF'\n(.*?)\nEOF`)
	codePattern      = regexp.MustCompile("`[^`\n]*`")
	linkPattern      = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	codeConstPattern = regexp.MustCompile(`(?m)^\tcode[A-Z]\w* += "(\w+)"$`)
	headingPattern   = regexp.MustCompile(`(?m)^#+ +(.*)$`)
)

// markdown reads every document of the project, by path.
func markdown(t *testing.T) map[string]string {
	t.Helper()
	docs := map[string]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) == ".md" {
			b, err := os.ReadFile(path)
			docs[path] = string(b)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return docs
}

func TestDocumentationLinksLead(t *testing.T) {
	t.Parallel()
	docs := markdown(t)
	for path, text := range docs {
		prose := codePattern.ReplaceAllString(fencePattern.ReplaceAllString(text, ""), "")
		for _, m := range linkPattern.FindAllStringSubmatch(prose, -1) {
			link := m[1]
			if strings.Contains(link, "://") {
				continue
			}
			file, anchor, _ := strings.Cut(link, "#")
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: the link %s leads nowhere: %v", path, link, err)
				continue
			}
			if anchor != "" && !anchors(docs[target])[anchor] {
				t.Errorf("%s: the link %s names no heading of %s", path, link, target)
			}
		}
	}
}

// anchors are the names that a Markdown renderer gives to the headings.
func anchors(text string) map[string]bool {
	names := map[string]bool{}
	for _, m := range headingPattern.FindAllStringSubmatch(fencePattern.ReplaceAllString(text, ""), -1) {
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z':
				return r
			}
			return -1
		}, strings.ToLower(m[1]))
		names[name] = true
	}
	return names
}

// TestDocumentedManifests decodes every resource that the documents show: a
// field that does not exist fails.
func TestDocumentedManifests(t *testing.T) {
	t.Parallel()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	found := 0
	for path, text := range markdown(t) {
		for _, fence := range fencePattern.FindAllStringSubmatch(text, -1) {
			blocks := []string{fence[2]}
			if fence[1] != "yaml" {
				blocks = nil
				for _, doc := range heredocPattern.FindAllStringSubmatch(fence[2], -1) {
					blocks = append(blocks, doc[1])
				}
			}
			for _, block := range blocks {
				found += decodeManifests(t, scheme, path, block)
			}
		}
	}
	if found == 0 {
		t.Error("the documents show no resource at all: is this test looking in the right places?")
	}
}

func decodeManifests(t *testing.T, scheme *runtime.Scheme, path, block string) int {
	t.Helper()
	n := 0
	for r := utilyaml.NewDocumentDecoder(io.NopCloser(strings.NewReader(block))); ; {
		doc := make([]byte, len(block)+1)
		size, err := r.Read(doc)
		if errors.Is(err, io.EOF) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		doc = bytes.TrimPrefix(doc[:size], []byte("---\n"))
		var kind struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
		}
		if err := yaml.Unmarshal(doc, &kind); err != nil {
			t.Errorf("%s: %v in\n%s", path, err, doc)
			continue
		}
		gv, err := schema.ParseGroupVersion(kind.APIVersion)
		if err != nil || gv.Group != v1alpha1.GroupVersion.Group {
			continue
		}
		obj, err := scheme.New(gv.WithKind(kind.Kind))
		if err == nil {
			err = yaml.UnmarshalStrict(doc, obj)
		}
		if err != nil {
			t.Errorf("%s: %v in\n%s", path, err, doc)
		}
		n++
	}
}

// TestEveryReasonIsExplained holds docs/troubleshooting.md against conditions.go.
func TestEveryReasonIsExplained(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	explained := anchors(string(text))
	f, err := parser.ParseFile(token.NewFileSet(), "api/v1alpha1/conditions.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{} // by name of the constant
	ast.Inspect(f, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			for i, name := range v.Names {
				if lit, ok := v.Values[i].(*ast.BasicLit); ok {
					if values[name.Name], err = strconv.Unquote(lit.Value); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		return true
	})
	for name, value := range values {
		reason, ok := strings.CutPrefix(name, "Reason")
		if ok && values["Condition"+reason] == "" && !explained[strings.ToLower(value)] {
			t.Errorf("docs/troubleshooting.md has no section about the reason %s", value)
		}
	}
}

// TestEveryCodeIsExplained does the same for the codes of failed parts.
func TestEveryCodeIsExplained(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("agent/apply.go")
	if err != nil {
		t.Fatal(err)
	}
	codes := codeConstPattern.FindAllSubmatch(source, -1)
	if len(codes) == 0 {
		t.Fatal("agent/apply.go declares no codes: where are they now?")
	}
	for _, m := range codes {
		if code := string(m[1]); !strings.Contains(string(text), "`"+code+"`") {
			t.Errorf("docs/troubleshooting.md does not explain the code %s of failed parts", code)
		}
	}
}
