package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/cmd/sealane/hubapi"
	"github.com/sealane/sealane/hub/apiserver/apiservertest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(apiservertest.Main(m))
}

// documents reads a file of several YAML documents.
func documents(t *testing.T, file string) []*unstructured.Unstructured {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []*unstructured.Unstructured
	for d := yaml.NewYAMLOrJSONDecoder(f, 4096); ; {
		u := &unstructured.Unstructured{}
		if err := d.Decode(u); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		out = append(out, u)
	}
}

func snapshot(t *testing.T, file string) *hubapi.Snapshot {
	t.Helper()
	s := &hubapi.Snapshot{}
	for _, u := range documents(t, file) {
		var into any
		switch u.GetKind() {
		case "MessagingTopology":
			s.Topologies = append(s.Topologies, v1alpha1.MessagingTopology{})
			into = &s.Topologies[len(s.Topologies)-1]
		case "MemberCluster":
			s.Members = append(s.Members, v1alpha1.MemberCluster{})
			into = &s.Members[len(s.Members)-1]
		case "Stream":
			s.Streams = append(s.Streams, v1alpha1.Stream{})
			into = &s.Streams[len(s.Streams)-1]
		case "Bridge":
			s.Bridges = append(s.Bridges, v1alpha1.Bridge{})
			into = &s.Bridges[len(s.Bridges)-1]
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, into, true); err != nil {
			t.Fatalf("%s: %s: %v", file, u.GetName(), err)
		}
	}
	return s
}

// noon is when the golden files were taken.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func testEnv(out, err io.Writer) *environment {
	return &environment{out: out, err: err, now: func() time.Time { return noon }}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites):\n%s", file, diff)
	}
}

func TestTables(t *testing.T) {
	for _, state := range []string{"fine", "broken"} {
		t.Run(state, func(t *testing.T) {
			s := snapshot(t, "testdata/"+state+".yaml")
			var out bytes.Buffer
			env := testEnv(&out, &out)
			for _, v := range views {
				out.WriteString("$ sealane get " + v.use + "\n")
				if err := v.list(s, noon).show(env, "table", "", nil); err != nil {
					t.Fatal(err)
				}
				out.WriteString("\n")
			}
			golden(t, state+"-get", out.String())
		})
	}
}

func TestStatus(t *testing.T) {
	for _, state := range []string{"fine", "broken"} {
		t.Run(state, func(t *testing.T) {
			r := hubapi.Judge(snapshot(t, "testdata/"+state+".yaml"), noon)
			if r.Fine != (state == "fine") {
				t.Errorf("Fine is %v", r.Fine)
			}
			var out bytes.Buffer
			printReport(testEnv(&out, &out), r)
			golden(t, state+"-status", out.String())
			out.Reset()
			if err := printJSON(&out, r); err != nil {
				t.Fatal(err)
			}
			golden(t, state+"-status-json", out.String())
		})
	}
}

func TestColoursOnlyOnATerminal(t *testing.T) {
	s := snapshot(t, "testdata/broken.yaml")
	var out bytes.Buffer
	env := testEnv(&out, &out)
	printReport(env, hubapi.Judge(s, noon))
	if strings.Contains(out.String(), "\x1b") {
		t.Error("colours without a terminal")
	}
	plainText := out.String()
	out.Reset()
	env.outColour = true
	printReport(env, hubapi.Judge(s, noon))
	if !strings.Contains(out.String(), "\x1b[31mNot fine") {
		t.Errorf("no colours on a terminal:\n%s", out.String())
	}
	stripped := out.String()
	for _, c := range []colour{red, green, yellow, bold, faint} {
		stripped = strings.ReplaceAll(stripped, "\x1b["+string(c)+"m", "")
	}
	if diff := cmp.Diff(plainText, strings.ReplaceAll(stripped, "\x1b[0m", "")); diff != "" {
		t.Errorf("colours change the layout:\n%s", diff)
	}
}

// call runs a command line without a hub of the caller's.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	env := &environment{out: &out, err: &err, now: time.Now}
	code = run(ctx, env, args)
	return code, out.String(), err.String()
}

func noHub(t *testing.T) {
	t.Helper()
	t.Setenv("KUBECONFIG", "")
	t.Setenv("HOME", t.TempDir())
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
}

func TestWrongArguments(t *testing.T) {
	noHub(t)
	for _, c := range []struct {
		args string
		want string
	}{
		{"token create", `required flag(s) "cluster" not set`},
		{"token create --cluster Berlin", "want a name of a-z"},
		{"token create --cluster berlin --uses 0", "want 1 to 10000"},
		{"token create --cluster berlin --uses 3", "use a pattern such as 'berlin-*'"},
		{"token create --cluster berlin --ttl 0s", "at least 1s"},
		{"token create --cluster berlin --name A", "--name"},
		{"token create --cluster berlin --label nonsense", "must be formatted as key=value"},
		{"token create --cluster berlin -o xml", "want one of: text, json, token"},
		{"token delete", "requires at least 1 arg"},
		{"get nonsense", `unknown command "nonsense"`},
		{"get bridges -n a -A", "none of the others can be"},
		{"get bridges -o wide", "want one of: table, json, yaml, name"},
		{"status extra", `unknown command "extra"`},
		{"creds berlin", "accepts 2 arg(s), received 1"},
		{"creds berlin shop --url --path", "none of the others can be"},
		{"version 2", `unknown command "2"`},
		{"nonsense", `unknown command "nonsense" for "sealane"`},
		{"get members --frob", "unknown flag: --frob (see: sealane get members --help)"},
	} {
		code, stdout, stderr := call(t, strings.Fields(c.args)...)
		if code == 0 || !strings.Contains(stderr, c.want) || stdout != "" {
			t.Errorf("sealane %s: status %d, stdout %q, stderr %q; want %q", c.args, code, stdout, stderr, c.want)
		}
	}
}

func TestNoHub(t *testing.T) {
	noHub(t)
	empty := filepath.Join(t.TempDir(), "kubeconfig")
	for _, c := range []struct {
		args, env string
		code      int
		want      string
	}{
		{"status", "", 2, "cannot tell: no hub to talk to: pass --kubeconfig FILE, or set KUBECONFIG"},
		{"get members", "", 1, "no hub to talk to"},
		{"get members --kubeconfig " + empty, "", 1, "does not exist"},
		{"get members", empty, 1, "KUBECONFIG names " + empty},
	} {
		t.Setenv("KUBECONFIG", c.env)
		code, _, stderr := call(t, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("sealane %s: status %d, stderr %q; want %d and %q", c.args, code, stderr, c.code, c.want)
		}
	}
}

func TestVersionAndCompletion(t *testing.T) {
	for _, args := range []string{"version", "--version"} {
		if code, stdout, _ := call(t, args); code != 0 || strings.TrimSpace(stdout) == "" {
			t.Errorf("sealane %s: status %d, %q", args, code, stdout)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, stdout, stderr := call(t, "completion", shell); code != 0 || !strings.Contains(stdout, "sealane") {
			t.Errorf("completion %s: status %d, %d bytes, %s", shell, code, len(stdout), stderr)
		}
	}
}
