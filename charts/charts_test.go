// Package charts_test checks what the Helm charts render: that it is what the
// golden files say, that the API server would know every field of it, and that
// the documentation lists exactly the rights that are asked for.
package charts_test

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite the golden files and the rights in docs/install.md")

// helm is the pinned tool, which Go builds once and keeps in its cache.
var helm = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "tool", "-modfile=../tools/go.mod", "-n", "helm").Output()
	return strings.TrimSpace(string(out)), err
})

func runHelm(t *testing.T, args ...string) (string, string, error) {
	t.Helper()
	path, err := helm()
	if err != nil {
		t.Fatalf("helm is not built: %v", err)
	}
	home := t.TempDir()
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home, "KUBECONFIG=/dev/null")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	return stdout.String(), stderr.String(), err
}

// cases are the values files of testdata, by chart.
func cases(t *testing.T, chart string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", chart, "*.values.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases for %s: %v", chart, err)
	}
	return files
}

func render(t *testing.T, chart, values string) string {
	t.Helper()
	out, stderr, err := runHelm(t, "template", "sealane", chart, "--namespace", "sealane-"+chart, "--values", values)
	if err != nil {
		t.Fatalf("%s: %v\n%s", values, err, stderr)
	}
	return out
}

// documents are the objects of a rendered chart.
func documents(text string) []string {
	var out []string
	for _, doc := range strings.Split("\n"+text, "\n---\n") {
		if lines := regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(doc, ""); strings.TrimSpace(lines) != "" {
			out = append(out, doc)
		}
	}
	return out
}

func TestGolden(t *testing.T) {
	for _, chart := range []string{"hub", "agent"} {
		for _, values := range cases(t, chart) {
			t.Run(chart+"/"+strings.TrimSuffix(filepath.Base(values), ".values.yaml"), func(t *testing.T) {
				got := ""
				for _, doc := range documents(render(t, chart, values)) {
					if !strings.Contains(doc, "kind: CustomResourceDefinition") { // see TestDefinitions
						got += "---\n" + strings.TrimSpace(doc) + "\n"
					}
				}
				golden := strings.TrimSuffix(values, ".values.yaml") + ".golden.yaml"
				if *update {
					if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(string(want), got); d != "" {
					t.Errorf("rendered is not as in %s (-want +got); if it shall be: go test ./charts -update\n%s", golden, d)
				}
			})
		}
	}
}

// TestKnownFields decodes what is rendered into the types of the API server: a
// field that they do not have fails.
func TestKnownFields(t *testing.T) {
	foreign := []string{"CustomResourceDefinition", "Certificate", "Issuer", "ServiceMonitor", "PrometheusRule", "TLSRoute"}
	for _, chart := range []string{"hub", "agent"} {
		for _, values := range cases(t, chart) {
			for _, doc := range documents(render(t, chart, values)) {
				var kind runtime.TypeMeta
				if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
					t.Fatalf("%s: %v in\n%s", values, err, doc)
				}
				if slices.Contains(foreign, kind.Kind) {
					continue
				}
				obj, err := scheme.Scheme.New(kind.GroupVersionKind())
				if err == nil {
					err = yaml.UnmarshalStrict([]byte(doc), obj)
				}
				if err != nil {
					t.Errorf("%s: %v in\n%s", values, err, doc)
				}
			}
		}
	}
}

// TestDefinitions: the hub's chart installs the definitions of this version, and
// keeps them unless told otherwise.
func TestDefinitions(t *testing.T) {
	source, err := filepath.Glob("../api/v1alpha1/crds/*.yaml")
	if err != nil || len(source) == 0 {
		t.Fatalf("no definitions: %v", err)
	}
	rendered := map[string]map[string]any{}
	for _, doc := range documents(render(t, "hub", "testdata/hub/default.values.yaml")) {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatal(err)
		}
		if o["kind"] == "CustomResourceDefinition" {
			meta := o["metadata"].(map[string]any)
			rendered[meta["name"].(string)] = o
			if meta["annotations"].(map[string]any)["helm.sh/resource-policy"] != "keep" {
				t.Errorf("%v would go with the release, and with it all resources", meta["name"])
			}
		}
	}
	for _, path := range source {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var want map[string]any
		if err := yaml.Unmarshal(b, &want); err != nil {
			t.Fatal(err)
		}
		got := rendered[want["metadata"].(map[string]any)["name"].(string)]
		if d := cmp.Diff(want["spec"], got["spec"]); d != "" {
			t.Errorf("%s is rendered differently:\n%s", path, d)
		}
	}
	if len(rendered) != len(source) {
		t.Errorf("%d definitions are rendered, of %d", len(rendered), len(source))
	}
	out, stderr, err := runHelm(t, "template", "x", "hub", "--set", "crds.keep=false")
	if err != nil || strings.Contains(out, "resource-policy") {
		t.Errorf("crds.keep=false keeps them (%v %s)", err, stderr)
	}
}

func TestLint(t *testing.T) {
	for _, chart := range []string{"hub", "agent"} {
		for _, values := range cases(t, chart) {
			if out, stderr, err := runHelm(t, "lint", "--strict", chart, "--values", values); err != nil {
				t.Errorf("%s: %v\n%s%s", values, err, out, stderr)
			}
		}
	}
}

// TestWrongValues: who sets a value wrongly is told which, and what to do.
func TestWrongValues(t *testing.T) {
	member := []string{"--set", "name=berlin", "--set", "hub=hub.example.com:7443", "--set", "token=slj1.a.b.c"}
	for _, tt := range []struct {
		chart string
		set   []string
		want  []string
	}{
		{"hub", []string{"--set", "replica=3"}, []string{"replica", "not allowed"}},
		{"hub", []string{"--set", "service.type=Ingress"}, []string{"/service/type", "NodePort"}},
		{"hub", []string{"--set", "service.type=NodePort"}, []string{"advertise: say as HOST:PORT"}},
		{"hub", []string{"--set", "tlsRoute.enabled=true", "--set", "tlsRoute.parentRefs={a}"}, []string{"/tlsRoute/parentRefs/0", "object"}},
		{"hub", []string{"--set", "tlsRoute.enabled=true", "--set", "advertise=a.example.com:443"}, []string{"tlsRoute.parentRefs"}},
		{"hub", []string{"--set", "advertise=hub.example.com"}, []string{"/advertise", "pattern"}},
		{"hub", []string{"--set", "epoch=0"}, []string{"/epoch"}},
		{"hub", []string{"--set", "authority.source=Vault"}, []string{"/authority/source", "CertManager"}},
		{"agent", nil, []string{"name: every member needs a name"}},
		{"agent", []string{"--set", "name=Berlin"}, []string{"/name", "pattern"}},
		{"agent", []string{"--set", "name=berlin"}, []string{"hub: say as HOST:PORT"}},
		{"agent", member[:4], []string{"token: the first start", "sealane token create"}},
		{"agent", append(slices.Clone(member[:4]), "--set", "token=abc"), []string{"/token", "slj1"}},
		{"agent", append(slices.Clone(member), "--set", "tokenSecret.name=x"), []string{"exclude each other"}},
		{"agent", append(slices.Clone(member), "--set", "broker.linkService.enabled=false", "--set", "advertise={a:1}"), []string{"nothing accepts links"}},
		{"agent", append(slices.Clone(member), "--set", "metrics.enabled=false", "--set", "serviceMonitor.enabled=true"), []string{"serviceMonitor: there are no metrics"}},
		{"agent", append(slices.Clone(member), "--set", "broker.volume.whenDeleted=Never"), []string{"/broker/volume/whenDeleted", "Retain"}},
		{"agent", append(slices.Clone(member), "--set", "proxy.url=proxy:3128"), []string{"/proxy/url", "pattern"}},
		{"agent", append(slices.Clone(member), "--set", "proxy.url=https://proxy:3128"), []string{"/proxy/url", "pattern"}},
		{"agent", append(slices.Clone(member), "--set", "proxy.url=http://site@proxy:3128"), []string{"/proxy/url", "pattern"}},
		{"agent", append(slices.Clone(member), "--set", "proxy.url=http://proxy:3128", "--set", "proxy.secret.name=x"), []string{"proxy.url", "exclude each other"}},
		{"agent", append(slices.Clone(member), "--set", "proxy.noProxy={a b}"), []string{"/proxy/noProxy/0", "pattern"}},
		{"agent", append(slices.Clone(member), "--set", "broker.replicas=3"), []string{"replicas", "not allowed"}},
	} {
		_, stderr, err := runHelm(t, append([]string{"template", "x", tt.chart}, tt.set...)...)
		if err == nil {
			t.Errorf("%s %v: rendered", tt.chart, tt.set)
		}
		for _, want := range tt.want {
			if !strings.Contains(stderr, want) {
				t.Errorf("%s %v: the message lacks %q:\n%s", tt.chart, tt.set, want, stderr)
			}
		}
	}
}

// TestTokenIsNeededOnce: a member that has joined is upgraded without a token.
func TestTokenIsNeededOnce(t *testing.T) {
	out, stderr, err := runHelm(t, "template", "x", "agent", "--is-upgrade", "--set", "name=berlin", "--set", "hub=h:7443")
	if err != nil || strings.Contains(out, "token") {
		t.Errorf("%v\n%s", err, stderr)
	}
}

// TestDocumentedRights holds docs/install.md against what the charts ask for.
func TestDocumentedRights(t *testing.T) {
	const doc = "../docs/install.md"
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ chart, values string }{{"hub", "default"}, {"agent", "full"}} {
		table := "| where | group | resources | names | verbs |\n| --- | --- | --- | --- | --- |\n"
		for _, doc := range documents(render(t, c.chart, "testdata/"+c.chart+"/"+c.values+".values.yaml")) {
			var role rbacv1.ClusterRole // a Role has the same rules
			if err := yaml.Unmarshal([]byte(doc), &role); err != nil || role.Kind != "ClusterRole" && role.Kind != "Role" {
				continue
			}
			where := "cluster"
			switch {
			case role.Labels["rbac.authorization.k8s.io/aggregate-to-view"] != "":
				where = "users: view"
			case role.Labels["rbac.authorization.k8s.io/aggregate-to-edit"] != "":
				where = "users: edit, admin"
			case role.Namespace == "sealane-"+c.chart:
				where = "own namespace"
			case role.Namespace != "":
				where = "each of credentialNamespaces"
			}
			for _, r := range role.Rules {
				row := "| " + strings.Join([]string{where, strings.Join(r.APIGroups, ", "), strings.Join(r.Resources, ", "), strings.Join(r.ResourceNames, ", "), strings.Join(r.Verbs, ", ")}, " | ") + " |\n"
				if !strings.Contains(table, row) { // namespaces of applications are alike
					table += row
				}
			}
		}
		begin, end := "<!-- rights of charts/"+c.chart+" -->\n", "<!-- end -->"
		before, rest, found := strings.Cut(string(text), begin)
		have, after, closed := strings.Cut(rest, end)
		if !found || !closed {
			t.Fatalf("%s has no %s", doc, begin)
		}
		if *update {
			text = []byte(before + begin + table + end + after)
			if err := os.WriteFile(doc, text, 0o644); err != nil {
				t.Fatal(err)
			}
		} else if d := cmp.Diff(table, have); d != "" {
			t.Errorf("%s does not list the rights of charts/%s (-want +got); go test ./charts -update writes them\n%s", doc, c.chart, d)
		}
		if strings.Contains(table, "*") {
			t.Errorf("charts/%s asks for everything of something:\n%s", c.chart, table)
		}
	}
}
