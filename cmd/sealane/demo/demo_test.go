package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/cmd/sealane/hubapi"
)

func TestChooseMembers(t *testing.T) {
	for _, c := range []struct {
		flag string
		want []string
		err  string
	}{
		{flag: "3", want: []string{"berlin", "tokyo", "denver"}},
		{flag: "hub,edge-1", want: []string{"hub", "edge-1"}},
		{flag: "2", err: "want 3 to 20"},
		{flag: "21", err: "want 3 to 20"},
		{flag: "Berlin", err: "want a number"},
		{flag: "a,,b", err: "want a number"},
		{flag: "a,b,a", err: "a is there twice"},
	} {
		got, err := chooseMembers(c.flag)
		if c.err == "" {
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("%s: %v, %v", c.flag, got, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: error %v, want %q", c.flag, err, c.err)
		}
	}
}

func TestOnlyTokyoDialsDenver(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range cities {
		if seen[c.name] || !memberName.MatchString(c.name) {
			t.Errorf("%s is there twice or is no name", c.name)
		}
		seen[c.name] = true
		if c.name > denver && c.name != tokyo {
			t.Errorf("%s sorts after denver and would dial it: cutting denver's address would cut two links", c.name)
		}
	}
}

func TestBuiltinManifests(t *testing.T) {
	dir := t.TempDir()
	right, wrong, err := writeBuiltin(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(wrong) == 0 || right[0].GetKind() != "MessagingTopology" {
		t.Errorf("%d wrong resources; the first right one is a %s", len(wrong), right[0].GetKind())
	}
	if got := namedMembers(append(slices.Clone(right), wrong...)); !slices.Equal(got, []string{"berlin", "denver", "tokyo"}) {
		t.Errorf("the built-in manifests name %v", got)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*.yaml")); len(files) != 6 {
		t.Errorf("%d files written", len(files))
	}
}

// TestReadyAsIs: what was said of an older generation does not count.
func TestReadyAsIs(t *testing.T) {
	b := &v1alpha1.Bridge{}
	b.Name, b.Generation = "news", 2
	if readyAsIs(b) == nil {
		t.Error("a bridge of which nothing is said is taken for Ready")
	}
	b.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, ObservedGeneration: 1}}
	if readyAsIs(b) == nil {
		t.Error("the word on generation 1 is taken for one on generation 2")
	}
	b.Status.Conditions[0].ObservedGeneration = 2
	if err := readyAsIs(b); err != nil {
		t.Error(err)
	}
	b.Status.Conditions[0].Status = metav1.ConditionFalse
	if readyAsIs(b) == nil {
		t.Error("not Ready is taken for Ready")
	}
}

func TestManifestsOfTheUser(t *testing.T) {
	const head = "apiVersion: messaging.sealane.dev/v1alpha1\n"
	for _, c := range []struct {
		name, text, err string
		named, needed   []string
	}{
		{name: "no file", err: "no such file"},
		{name: "empty", text: "---\n---\n", err: "there is no resource in it"},
		{name: "not YAML", text: "a: [", err: "document 1"},
		{name: "foreign kind", text: "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n", err: `not Secret of "v1"`},
		{name: "token", text: head + "kind: JoinToken\nmetadata: {name: a}\n", err: "not JoinToken"},
		{name: "no name", text: head + "kind: Bridge\n", err: "metadata.name is missing"},
		{
			name: "by name", text: head + "kind: MessagingTopology\nmetadata: {name: a}\nspec: {groups: [{name: g, clusters: [x, u]}], links: [{name: l, type: Edges, edges: [{a: x, b: z}]}]}\n",
			named: []string{"u", "x", "z"}, needed: []string{"u", "x", "z"},
		},
		{
			name: "by label", text: head + "kind: MessagingTopology\nmetadata: {name: a}\nspec: {groups: [{name: g, selector: {}}, {name: h, clusters: [x]}]}\n---\n" + head + "kind: MemberCluster\nmetadata: {name: w}\n",
			named: []string{"w", "x"}, needed: []string{"berlin", "tokyo", "denver", "w", "x"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "m.yaml")
			if c.text != "" {
				if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := readManifests(file)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			named := namedMembers(got)
			if diff := cmp.Diff(c.named, named); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.needed, neededMembers(got, named)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWrongOptions(t *testing.T) {
	own := filepath.Join(t.TempDir(), "own.yaml")
	text := "apiVersion: messaging.sealane.dev/v1alpha1\nkind: MessagingTopology\nmetadata: {name: a}\nspec: {groups: [{name: g, clusters: [x, u]}]}\n"
	if err := os.WriteFile(own, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	full := t.TempDir()
	if err := os.Mkdir(filepath.Join(full, "hub"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", t.TempDir())
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Members: "1"}, "want 3 to 20"},
		{Options{Members: "a,b,c"}, "the built-in story needs berlin, denver and tokyo"},
		{Options{Topology: own, Members: "x,z"}, "the manifests name u, which will not join"},
		{Options{Topology: own + ".not"}, "no such file"},
		{Options{Dir: full}, `there is "hub" in it, which no demo has made`},
		{Options{Dir: t.TempDir()}, `run "make build" in the source tree`},
	} {
		var out bytes.Buffer
		c.o.Out = &out
		err := Run(t.Context(), c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want %q", c.o, err, c.want)
		}
		if out.Len() > 0 {
			t.Errorf("%+v: it began to tell: %s", c.o, out.String())
		}
	}
}

func TestFolderIsClearedOnlyIfADemoMadeIt(t *testing.T) {
	dir := t.TempDir()
	f, err := openFolder(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openFolder(dir, false); err == nil || !strings.Contains(err.Error(), "another demo is running there") {
		t.Errorf("two demos in one folder: %v", err)
	}
	old := filepath.Join(f.member(berlin), "nats")
	mine := filepath.Join(dir, "notes.txt")
	if err := errors.Join(os.MkdirAll(old, 0o700), os.WriteFile(mine, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	f.close()
	if f, err = openFolder(dir, false); err != nil {
		t.Fatal(err)
	}
	f.close()
	if exists(old) || !exists(mine) {
		t.Errorf("old data there: %v, the user's own file there: %v", exists(old), exists(mine))
	}

	for _, keep := range []bool{false, true} {
		f, err := openFolder("", keep)
		if err != nil {
			t.Fatal(err)
		}
		f.close()
		if exists(f.path) != keep {
			t.Errorf("keep %v: the temporary folder is there: %v", keep, exists(f.path))
		}
		_ = os.RemoveAll(f.path)
	}
}

func TestFreePorts(t *testing.T) {
	addrs, err := freePorts(42)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Sort(addrs); len(slices.Compact(addrs)) != 42 {
		t.Errorf("not 42 different addresses: %v", addrs)
	}
}

func TestLedgerCompare(t *testing.T) {
	l := ledger{taken: map[string]int{"a": 3, "b": 1}}
	for _, c := range []struct {
		name string
		got  []order
		want string
	}{
		{"all", []order{{"a", 1}, {"b", 1}, {"a", 2}, {"a", 3}}, ""},
		{"lost", []order{{"a", 1}, {"b", 1}, {"a", 3}}, "of the 3 orders of a, 1 are lost"},
		{"doubled", []order{{"a", 1}, {"a", 2}, {"a", 2}, {"b", 1}, {"a", 3}}, "1 doubled"},
		{"disordered", []order{{"a", 2}, {"a", 1}, {"a", 3}, {"b", 1}}, "1 out of order"},
		{"invented", []order{{"a", 1}, {"a", 2}, {"a", 3}, {"a", 4}, {"b", 1}}, "1 are there that were not taken"},
		{"foreign", []order{{"a", 1}, {"a", 2}, {"a", 3}, {"b", 1}, {"c", 1}}, "orders of c, which took none"},
	} {
		err := l.compare(c.got)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestTeller(t *testing.T) {
	var out bytes.Buffer
	tell := func(asJSON bool) string {
		out.Reset()
		s := &teller{out: &out, json: asJSON}
		s.begin("join", "Members join")
		s.say("berlin joined\nwith a token")
		s.end(nil, "1 member")
		s.begin("cut", "A cut")
		s.end(errors.New("2 orders lost"), "")
		return out.String()
	}
	want := "\n1. Members join\n   berlin joined\n   with a token\n   PASS 1 member (TIME)\n\n2. A cut\n   FAIL 2 orders lost (TIME)\n"
	got := tell(false)
	for _, line := range strings.Split(got, "\n") {
		if i := strings.LastIndex(line, "("); i > 0 {
			got = strings.Replace(got, line[i:], "(TIME)", 1)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var statuses []string
	for line := range strings.Lines(tell(true)) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		statuses = append(statuses, e.Step+" "+string(e.Status))
	}
	if diff := cmp.Diff([]string{"join start", "join info", "join pass", "cut start", "cut fail"}, statuses); diff != "" {
		t.Error(diff)
	}
}

func shell(t *testing.T, f *forker, script string) *process {
	t.Helper()
	p := &process{name: "the shell", path: "/bin/sh", args: []string{"-c", script}, dir: filepath.Join(t.TempDir(), "p"), forker: f}
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := hubapi.Poll(ctx, 10*time.Millisecond, func() (bool, error) { return done(), nil }); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

func TestProcess(t *testing.T) {
	f := newForker()
	defer f.close()
	p := shell(t, f, "echo hello; exec sleep 1000")
	eventually(t, "the log has its output", func() bool { return strings.Contains(p.tail(3), "hello") })
	b, err := os.ReadFile(p.pidFile())
	if err != nil || strings.TrimSpace(string(b)) != strconv.Itoa(p.pid()) {
		t.Errorf("pid file %q, %v; pid %d", b, err, p.pid())
	}
	if err := p.died(); err != nil || !p.running() {
		t.Errorf("%v; running: %v", err, p.running())
	}
	p.stop()
	if err := p.died(); err != nil || p.running() || exists(p.pidFile()) {
		t.Errorf("a stopped process is not one that died: %v; its pid file is there: %v", err, exists(p.pidFile()))
	}

	p = shell(t, f, "exit 3")
	eventually(t, "it ends", func() bool { return p.died() != nil })
	if err := p.died(); !strings.Contains(err.Error(), "the shell ended unexpectedly: exit status 3") {
		t.Error(err)
	}
	if err := p.start(); err != nil {
		t.Error(err)
	}
}

// TestChildrenDieWithTheDemo kills a process that has a child by the means of
// the demo.
func TestChildrenDieWithTheDemo(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("only Linux ends children with their parent")
	}
	if dir := os.Getenv("SEALANE_TEST_PARENT"); dir != "" {
		p := &process{name: "child", path: "/bin/sleep", args: []string{"1000"}, dir: dir, forker: newForker()}
		if err := p.start(); err != nil {
			t.Fatal(err)
		}
		select {}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	parent := exec.Command(self, "-test.run", "^TestChildrenDieWithTheDemo$")
	parent.Env = append(os.Environ(), "SEALANE_TEST_PARENT="+dir)
	parent.SysProcAttr = childAttributes()
	f := newForker()
	defer f.close()
	if err := f.start(parent); err != nil {
		t.Fatal(err)
	}
	child := 0
	eventually(t, "the child runs", func() bool {
		b, _ := os.ReadFile(filepath.Join(dir, "pid"))
		child, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		return child != 0 && alive(child)
	})
	if err := parent.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	eventually(t, "the child dies with its parent", func() bool { return !alive(child) })
}
