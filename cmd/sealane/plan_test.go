package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// archive is a txtar file: sections by name, in order.
type archive struct {
	comment string
	names   []string
	files   map[string]string
}

func readArchive(t *testing.T, file string) archive {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	a := archive{files: map[string]string{}}
	for _, line := range strings.SplitAfter(string(data), "\n") {
		name, isHeader := strings.CutPrefix(line, "-- ")
		switch {
		case isHeader && strings.HasSuffix(name, " --\n"):
			a.names = append(a.names, strings.TrimSuffix(name, " --\n"))
		case len(a.names) == 0:
			a.comment += line
		default:
			a.files[a.names[len(a.names)-1]] += line
		}
	}
	return a
}

func (a archive) write(t *testing.T, file string) {
	t.Helper()
	var b strings.Builder
	b.WriteString(a.comment)
	for _, n := range a.names {
		fmt.Fprintf(&b, "-- %s --\n%s", n, a.files[n])
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestPlanScenarios runs "sealane plan --offline --live live.yaml" with the
// arguments in each testdata/plan/*.txtar, in a folder with its files.
func TestPlanScenarios(t *testing.T) {
	noHub(t)
	files, err := filepath.Glob("testdata/plan/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for i, f := range files {
		if files[i], err = filepath.Abs(f); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a := readArchive(t, file)
			t.Chdir(t.TempDir())
			for _, n := range a.names {
				if strings.HasSuffix(n, ".yaml") {
					if err := os.WriteFile(n, []byte(a.files[n]), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			args := append([]string{"plan", "--offline", "--live", "live.yaml"}, strings.Fields(a.files["args"])...)
			for format, section := range map[string]string{"text": "text", "json": "json"} {
				var out bytes.Buffer
				code := run(t.Context(), testEnv(&out, &out), slices.Concat(args, []string{"-o", format}))
				got := fmt.Sprintf("%sexit status %d\n", out.String(), code)
				if *update {
					if !slices.Contains(a.names, section) {
						a.names = append(a.names, section)
					}
					a.files[section] = got
				} else if diff := cmp.Diff(a.files[section], got); diff != "" {
					t.Errorf("%s (-want +got; -update rewrites):\n%s", section, diff)
				}
			}
			if *update {
				slices.Sort(a.names[1:])
				a.write(t, file)
			}
		})
	}
}

func TestPlanArguments(t *testing.T) {
	noHub(t)
	dir := t.TempDir()
	write := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const bridge = "apiVersion: messaging.sealane.dev/v1alpha1\nkind: Bridge\nmetadata: {name: x}\nspec: {account: a, type: Events, from: {group: g}, to: {group: g}, subjects: [s]}\n"
	good, again := write("good.yaml", bridge), write("again.yaml", bridge)
	nameless := write("nameless.yaml", "apiVersion: messaging.sealane.dev/v1alpha1\nkind: Bridge\n")
	future := write("future.yaml", "apiVersion: messaging.sealane.dev/v2\nkind: Bridge\nmetadata: {name: x}\n")
	broken := write("broken.yaml", "a: [")
	twice := write("twice.yaml", "apiVersion: v1\napiVersion: v1\nkind: A\n")
	empty := filepath.Join(dir, "empty")
	write("empty/below/good.yaml", bridge)
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"plan", 1, "nothing to plan: name files with -f"},
		{"plan -f " + good, 1, "no hub to talk to"},
		{"plan -f " + good, 1, "--offline plans without a hub"},
		{"plan --live x -f " + good, 1, "--live goes with --offline"},
		{"plan --offline -f " + filepath.Join(dir, "nowhere"), 1, "no such file"},
		{"plan --offline -f " + empty, 1, "-R looks into the folders below"},
		{"plan --offline -R -f " + empty, 1, "UnknownTopology"},
		{"plan --offline -f " + good + " -f " + again, 1, "bridge default/x is in"},
		{"plan --offline -f " + nameless, 1, "has no metadata.name"},
		{"plan --offline -f " + future, 1, "there is no kind Bridge of messaging.sealane.dev/v2"},
		{"plan --offline -f " + broken, 1, "broken.yaml"},
		{"plan --offline -f " + twice, 1, "already set in map"},
		{"plan --offline --delete bridge/x", 1, "there is no bridge default/x to delete"},
		{"plan --offline --delete nonsense/x", 1, "names no kind"},
		{"plan --offline --delete topology/a/b", 1, "want KIND/NAME"},
		{"plan --offline --live " + good + " --delete bridge/x -f " + again, 1, "is to be deleted, and is in"},
		{"plan --offline --live " + good + " --delete bridge/x", 2, "- bridge default/x"},
		{"plan --offline --live " + good + " --delete mbridge/default/x --member berlin", 1, `no member "berlin"`},
		{"plan --offline --live " + good + " -f " + again, 1, "UnknownTopology"}, // it is asked for, and refused
	} {
		code, stdout, stderr := call(t, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stdout+stderr, c.want) {
			t.Errorf("sealane %s: status %d\n%s%s; want %d and %q", c.args, code, stdout, stderr, c.code, c.want)
		}
	}
}

// TestPlanOfALargeFleet: many members share few lines.
func TestPlanOfALargeFleet(t *testing.T) {
	noHub(t)
	const more = `---
apiVersion: messaging.sealane.dev/v1alpha1
kind: Stream
metadata: {name: more, namespace: apps}
spec: {account: orders, name: MORE, placement: {group: edges}, subjects: ["more.>"], maxBytes: 1Gi}
`
	dir := t.TempDir()
	live, next := filepath.Join(dir, "live.yaml"), filepath.Join(dir, "next.yaml")
	if err := os.WriteFile(live, []byte(fleetYAML(1000, 0)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(next, []byte(fleetBridges(10)+more), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := call(t, "plan", "--offline", "--live", live, "-f", next)
	if lines := strings.Count(stdout, "\n"); code != 2 || lines > 60 || !strings.Contains(stdout, "997 members: edge-000, edge-001, edge-002 and 994 more") {
		t.Errorf("status %d, %d lines\n%s%s", code, lines, stdout, stderr)
	}
	code, stdout, _ = call(t, "plan", "--offline", "--live", live, "-f", next, "-o", "json")
	var r planReport
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || code != 2 || len(r.Members) != 1000 {
		t.Errorf("status %d, %v, %d members", code, err, len(r.Members))
	}
}

// fleetYAML is a federation of 3 regions and n-3 edge sites with bridges.
func fleetYAML(n, bridges int) string {
	var b strings.Builder
	b.WriteString(`apiVersion: messaging.sealane.dev/v1alpha1
kind: MessagingTopology
metadata: {name: world, generation: 1, uid: w}
spec:
  groups: [{name: regions, selector: {matchLabels: {tier: region}}}, {name: edges, selector: {matchLabels: {tier: edge}}}]
  links: [{name: mesh, type: Mesh, groups: [regions]}, {name: spokes, type: HubAndSpoke, hubAndSpoke: {hubs: regions, spokes: edges, parents: Nearest, maxParents: 1}}]
  accounts: [{name: orders, namespaces: ["*"]}]
---
apiVersion: messaging.sealane.dev/v1alpha1
kind: Stream
metadata: {name: log, namespace: apps, generation: 1, uid: l}
spec: {account: orders, name: LOG, placement: {group: edges}, subjects: ["log.>"]}
`)
	grants := func(key string) string {
		var g []string
		for i := range 3 {
			g = append(g, fmt.Sprintf("{peer: region-%d, key: %s, out: o, in: i}", i, key))
		}
		return strings.Join(g, ", ")
	}
	for i := range n {
		name, tier, endpoints := fmt.Sprintf("edge-%03d", i-3), "edge", ""
		if i < 3 {
			name, tier = fmt.Sprintf("region-%d", i), "region"
			endpoints = fmt.Sprintf("endpoints: [\"%s:7422\"], ", name)
		}
		fmt.Fprintf(&b, "---\napiVersion: messaging.sealane.dev/v1alpha1\nkind: MemberCluster\nmetadata: {name: %s, uid: %s, generation: 1, labels: {tier: %s, topology.kubernetes.io/region: region-%d}}\nstatus: {%slinkKey: U%s, grants: [%s]}\n",
			name, name, tier, i%3, endpoints, name, grants("U"+name))
	}
	return b.String() + "---\n" + fleetBridges(bridges)
}

func fleetBridges(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "---\napiVersion: messaging.sealane.dev/v1alpha1\nkind: Bridge\nmetadata: {name: bridge-%03d, namespace: apps}\n", i)
		switch i % 10 {
		case 0: // regions to all edges
			fmt.Fprintf(&b, "spec: {account: orders, type: Events, from: {group: regions}, to: {group: edges}, subjects: [\"news%d.>\"]}\n", i)
		case 5: // two edges to a region, durably
			fmt.Fprintf(&b, "spec: {account: orders, type: Stream, from: {clusters: [edge-%03d, edge-%03d]}, to: {clusters: [region-%d]}, stream: {name: LOG, target: LOG_%d}}\n", 7*i%900, 7*i%900+1, i%3, i)
		default:
			fmt.Fprintf(&b, "spec: {account: orders, type: Requests, from: {clusters: [edge-%03d]}, to: {clusters: [edge-%03d]}, subjects: [\"ask%d.>\"]}\n", 7*i%900, 7*i%900+1, i)
		}
	}
	return b.String()
}
