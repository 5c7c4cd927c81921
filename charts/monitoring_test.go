package charts_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// declared are the metrics of hub and agent, by name; true: a histogram. What else a
// process shows comes from Prometheus' client library.
func declared(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{"process_resident_memory_bytes": false, "process_cpu_seconds_total": false, "sealane_hub_link_rtt_seconds": true}
	for _, file := range []string{"../hub/metrics.go", "../agent/metrics.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(HistogramOpts\{\s+)?(?:Name:\s+|desc\()"(sealane_\w+)"`).FindAllStringSubmatch(string(text), -1) {
			names[m[2]] = names[m[2]] || m[1] != ""
		}
	}
	return names
}

// expressions of rules and dashboards, by where they stand.
func expressions(t *testing.T) (where, exprs []string) {
	t.Helper()
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	text, err := os.ReadFile("hub/rules/sealane.yaml")
	if err == nil {
		err = yaml.UnmarshalStrict(text, &rules, yaml.DisallowUnknownFields)
	}
	if err != nil {
		t.Fatal(err)
	}
	runbooks := map[string]bool{"README.md": true}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			where, exprs = append(where, r.Alert), append(exprs, r.Expr)
			file := r.Annotations["runbook"]
			runbook, err := os.ReadFile(filepath.Join("..", file))
			if err != nil || !strings.HasPrefix(string(runbook), "# "+r.Alert+"\n") || file != "docs/runbooks/"+r.Alert+".md" {
				t.Errorf("the alert %s has no runbook: %q, %v", r.Alert, file, err)
			}
			runbooks[filepath.Base(file)] = true
			if _, err := time.ParseDuration(r.For); err != nil || r.Annotations["summary"] == "" || !regexp.MustCompile("^(critical|warning|info)$").MatchString(r.Labels["severity"]) {
				t.Errorf("the alert %s is not complete: %+v", r.Alert, r)
			}
		}
	}
	files, err := filepath.Glob("../docs/runbooks/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !runbooks[filepath.Base(f)] {
			t.Errorf("%s is of no alert", f)
		}
	}
	for _, name := range []string{"hub", "fleet"} {
		var dashboard struct {
			UID    string
			Panels []struct {
				Title   string
				Targets []struct{ Expr string }
			}
		}
		text, err := os.ReadFile("hub/dashboards/" + name + ".json")
		if err == nil {
			err = json.Unmarshal(text, &dashboard)
		}
		if err != nil || dashboard.UID != "sealane-"+name || len(dashboard.Panels) == 0 {
			t.Fatalf("dashboard %s: %v", name, err)
		}
		for _, p := range dashboard.Panels {
			for _, target := range p.Targets {
				where, exprs = append(where, name+": "+p.Title), append(exprs, target.Expr)
			}
		}
	}
	return where, exprs
}

// TestMonitoring: Prometheus understands what rules and dashboards ask, and each
// metric in it exists; each alert has its runbook.
func TestMonitoring(t *testing.T) {
	where, exprs := expressions(t)
	var in, out, stderr bytes.Buffer
	for _, e := range exprs {
		if err := json.NewEncoder(&in).Encode(e); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "run", "-C", "../tools/promql", ".")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	known := declared(t)
	used := map[string]bool{}
	for d, i := json.NewDecoder(&out), 0; i < len(exprs); i++ {
		var names []string
		if err := d.Decode(&names); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			base := name
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if short, ok := strings.CutSuffix(name, suffix); ok && known[short] {
					base = short
				}
			}
			if _, ok := known[base]; !ok || known[base] && base == name {
				t.Errorf("%s: there is no metric %s", where[i], name)
			}
			used[base] = true
		}
	}
	if len(used) < 20 {
		t.Errorf("only %d metrics are used: is this test looking in the right places?", len(used))
	}
}
