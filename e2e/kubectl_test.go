package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
)

// builtKubectl is the program that "make kubectl" builds, built once.
var builtKubectl = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binaries, "kubectl")
	build := exec.Command("go", "build", "-C", filepath.Join("..", "tools"), "-trimpath", "-ldflags", "-s -w", "-o", path, "./kubectl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building kubectl: %w\n%s", err, out)
	}
	return path, nil
})

// kubectl is the command line as an administrator of a federation has it.
type kubectl struct {
	t    testing.TB
	path string
	tmp  string // for what it keeps
	env  []string
}

func newKubectl(t testing.TB, kubeconfig string) *kubectl {
	t.Helper()
	path, err := builtKubectl()
	if err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	return &kubectl{t: t, path: path, tmp: tmp, env: append(os.Environ(), "KUBECONFIG="+kubeconfig, "HOME="+tmp, "TMPDIR="+tmp)}
}

// try runs a command and returns what it printed.
func (k *kubectl) try(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(k.t.Context(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, k.path, args...)
	cmd.Env, cmd.Stdin = k.env, strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// run runs a command that must succeed.
func (k *kubectl) run(args ...string) string {
	k.t.Helper()
	out, err := k.try("", args...)
	if err != nil {
		k.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// refused runs a command that must fail, and say why.
func (k *kubectl) refused(stdin, why string, args ...string) {
	k.t.Helper()
	out, err := k.try(stdin, args...)
	if err == nil || !strings.Contains(out, why) {
		k.t.Errorf("kubectl %s: %v, and not %q:\n%s", strings.Join(args, " "), err, why, out)
	}
}

// apply applies manifests.
func (k *kubectl) apply(manifests string) {
	k.t.Helper()
	if out, err := k.try(manifests, "apply", "-f", "-"); err != nil {
		k.t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
}

// manifests make a federation of berlin and tokyo with an object of every kind
// that a person writes.
const manifests = `
apiVersion: messaging.sealane.dev/v1alpha1
kind: MessagingTopology
metadata: {name: world}
spec:
  groups:
    - name: sites
      selector: {matchLabels: {kind: site}}
  links:
    - {name: all, type: Mesh, groups: [sites]}
  accounts:
    - {name: app, namespaces: [shop]}
---
apiVersion: messaging.sealane.dev/v1alpha1
kind: Stream
metadata: {name: orders, namespace: shop}
spec:
  account: app
  subjects: ["orders.>"]
  placement: {clusters: [berlin]}
---
apiVersion: messaging.sealane.dev/v1alpha1
kind: Bridge
metadata: {name: orders, namespace: shop}
spec:
  account: app
  type: Stream
  from: {clusters: [berlin]}
  to: {clusters: [tokyo]}
  stream: {name: orders}
---
apiVersion: messaging.sealane.dev/v1alpha1
kind: Bridge
metadata: {name: news, namespace: shop}
spec:
  account: app
  type: Events
  from: {group: sites}
  to: {group: sites}
  subjects: ["news.>"]
`

// kinds are the kinds of the API, with the columns of kubectl get, fields to
// explain with a word that must be told of them, and what to wait for.
var kinds = []struct {
	name, short string
	object      []string // of the federation of this test
	columns     string
	wide        string
	fields      map[string]string
	wait        []string
}{
	{
		"messagingtopology", "mtop", []string{"world"},
		"NAME ACCEPTED PROGRAMMED LINKS READY REASON AGE", "",
		map[string]string{
			"spec": "wanted federation", "spec.links.type": "Ring", "spec.links.hubAndSpoke.maxParents": "one at a time",
			"spec.groups.overrides.broker.durability": "safe on disk", "status.conditions": "Accepted, Programmed and Ready",
		},
		[]string{"condition=Accepted", "condition=Programmed", "condition=Ready"},
	},
	{
		"membercluster", "member", []string{"berlin"},
		"NAME CONNECTED APPLIED READY REASON AGE", "NAME CONNECTED APPLIED READY REASON AGENT BROKER SUSPENDED AGE",
		map[string]string{"spec.endpoints": "reach this member", "status.links.rttMicros": "microseconds", "status.identity.keyHash": "SHA-256"},
		[]string{"condition=Connected", "condition=Accepted", "condition=Programmed", "condition=Ready"},
	},
	{
		"jointoken", "", []string{"guest"},
		"NAME FOR USES MAX EXPIRES AGE", "",
		map[string]string{"spec.maxUses": "how many members", "spec.secretHash": "SHA-256", "status.hub": "hub"},
		[]string{"jsonpath={.status.hub}", "jsonpath={.status.authority}"},
	},
	{
		"stream.messaging.sealane.dev", "mstream", []string{"orders", "-n", "shop"},
		"NAME ACCOUNT ACCEPTED PROGRAMMED READY REASON AGE", "",
		map[string]string{"spec.maxBytes": "reserved", "spec.placement.selector.matchLabels": "{key,value}", "status.members": "have applied"},
		[]string{"condition=Accepted", "condition=Programmed", "condition=Ready"},
	},
	{
		"bridge", "mbridge", []string{"orders", "-n", "shop"},
		"NAME TYPE ACCOUNT ACCEPTED PROGRAMMED LAG READY REASON AGE", "",
		map[string]string{"spec.rename.to": "{{origin}}", "spec.stream.rateLimit": "bytes per second", "status.lag": "not arrived"},
		[]string{"condition=Accepted", "condition=Programmed", "condition=Ready"},
	},
}

// TestKubectl does to every kind what an administrator does with kubectl.
func TestKubectl(t *testing.T) {
	t.Parallel()
	f := newFederation(t)
	k := newKubectl(t, f.kubeconfig())
	f.join("berlin", "tokyo")
	k.run("label", "membercluster", "--all", "kind=site")
	f.create(&v1alpha1.JoinToken{ObjectMeta: metav1.ObjectMeta{Name: "guest"}, Spec: tokenSpec("guest")})
	k.apply(manifests)

	t.Run("wait", func(t *testing.T) {
		k := k.in(t)
		for _, kind := range kinds {
			for _, what := range kind.wait {
				k.run(append([]string{"wait", "--timeout=60s", "--for=" + what, kind.name}, kind.object...)...)
			}
		}
	})
	t.Run("get", func(t *testing.T) {
		k := k.in(t)
		for _, kind := range kinds {
			k.columns(kind.columns, append([]string{"get", kind.name}, kind.object...)...)
			if kind.wide != "" {
				k.columns(kind.wide, append([]string{"get", "-o", "wide", kind.name}, kind.object...)...)
			}
			if kind.short != "" {
				k.columns(kind.columns, append([]string{"get", kind.short}, kind.object...)...)
			}
		}
		k.matches(`(?m)^world +True +2/2 +1/1 +True +Ready +\S+$`, "get", "mtop")
		k.matches(`(?m)^berlin +True +(\d+)/\d+ +True +Ready +\S+$`, "get", "member")
		k.matches(`(?m)^guest +guest +1 +\S+ +\S+$`, "get", "jointoken") // not used yet
		k.matches(`(?m)^orders +app +True +1/1 +True +Ready +\S+$`, "get", "mstream", "-n", "shop")
		k.matches(`(?m)^orders +Stream +app +True +2/2 +0? +True +Ready +\S+$`, "get", "mbridge", "-n", "shop")
		all := k.run("get", "sealane", "-A", "-o", "name")
		for _, want := range []string{
			"messagingtopology.messaging.sealane.dev/world", "membercluster.messaging.sealane.dev/tokyo", "jointoken.messaging.sealane.dev/guest",
			"stream.messaging.sealane.dev/orders", "bridge.messaging.sealane.dev/news",
		} {
			if !strings.Contains(all, want) {
				t.Errorf("kubectl get sealane does not list %s:\n%s", want, all)
			}
		}
	})
	t.Run("explain", func(t *testing.T) {
		k := k.in(t)
		for _, kind := range kinds {
			kind.fields[""] = "spec\t<"
			for field, tells := range kind.fields {
				out := k.run("explain", strings.Trim(strings.TrimSuffix(kind.name, ".messaging.sealane.dev")+"."+field, "."), "--api-version=messaging.sealane.dev/v1alpha1")
				if flat := strings.Join(strings.Fields(out), " "); !strings.Contains(flat, strings.ReplaceAll(tells, "\t", " ")) || strings.Contains(flat, "<empty>") {
					t.Errorf("kubectl explain %s.%s does not tell of %q:\n%s", kind.name, field, tells, out)
				}
			}
		}
	})
	t.Run("apply", func(t *testing.T) {
		k := k.in(t)
		generations := func() string {
			return k.run("get", "sealane", "-A", "-o", "jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.generation}{\"\\n\"}{end}")
		}
		before := generations()
		k.apply(manifests)
		if out, err := k.try(manifests, "apply", "--server-side", "--force-conflicts", "-f", "-"); err != nil {
			t.Errorf("applied by the server: %v\n%s", err, out)
		}
		if out, err := k.try(manifests, "diff", "-f", "-"); err != nil {
			t.Errorf("a difference to what was applied: %v\n%s", err, out)
		}
		if after := generations(); after != before {
			t.Errorf("the same applied again has made new generations:\n%s\nbefore:\n%s", after, before)
		}
		k.refused(strings.Replace(manifests, "account: app", "acount: app", 1), `unknown field "spec.acount"`, "apply", "-f", "-")
		k.refused(strings.Replace(manifests, "type: Events", "type: Event", 1), `supported values: "Events", "Requests", "Stream", "Queue"`, "apply", "-f", "-")

		// What only all objects together show is told by a condition.
		back := strings.NewReplacer("name: news", "name: back", "type: Events", "type: Stream", "group: sites", "clusters: [tokyo]",
			`subjects: ["news.>"]`, "stream: {name: orders}").Replace(manifests[strings.LastIndex(manifests, "---"):])
		k.apply(strings.Replace(back, "to: {clusters: [tokyo]}", "to: {clusters: [berlin]}", 1))
		k.run("wait", "--timeout=60s", "--for=condition=Accepted=False", "bridge/back", "-n", "shop")
		k.matches(`(?m)^back +Stream +app +False .*NotAccepted`, "get", "bridge", "back", "-n", "shop")
		k.run("delete", "bridge/back", "-n", "shop")
	})
	t.Run("edit", func(t *testing.T) {
		k := k.in(t)
		for _, e := range []struct{ from, to, object, path, want string }{
			{"news.>", "newest.>", "bridge/news", "{.spec.subjects[0]}", "newest.>"},
			{"orders.>", "orders.*", "stream.messaging.sealane.dev/orders", "{.spec.subjects[0]}", "orders.*"},
			{"replies: Shared", "replies: PerCluster", "messagingtopology/world", "{.spec.accounts[0].replies}", "PerCluster"},
			{"kind: site", "kind: site\\n    floor: first", "membercluster/tokyo", "{.metadata.labels.floor}", "first"},
			{"name: guest", "name: guest\\n  labels: {for: guests}", "jointoken/guest", "{.metadata.labels.for}", "guests"},
		} {
			k.editor(e.from, e.to)
			k.run("edit", e.object, "-n", "shop")
			if got := k.run("get", e.object, "-n", "shop", "-o", "jsonpath="+e.path); got != e.want {
				t.Errorf("%s: %s is %q after the edit, want %q", e.object, e.path, got, e.want)
			}
		}
		k.run("wait", "--timeout=60s", "--for=condition=Ready", "bridge/news", "-n", "shop")
		k.editor("type: Events", "type: Requests")
		k.refused("", "is invalid", "edit", "bridge/news", "-n", "shop")
		told := ""
		left, err := filepath.Glob(filepath.Join(k.tmp, "kubectl-edit-*"))
		for _, path := range left {
			kept, rerr := os.ReadFile(path)
			told, err = told+string(kept), errors.Join(err, rerr)
		}
		if err != nil || !strings.Contains(told, "type and account cannot be changed: create another bridge") {
			t.Errorf("the editor is not told why the edit is refused: %v\n%s", err, told)
		}
	})
	news := &v1alpha1.Bridge{}
	if err := f.kube.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "news"}, news); err != nil || news.Spec.Type != v1alpha1.BridgeEvents {
		t.Errorf("the bridge is of type %s: %v", news.Spec.Type, err)
	}
}

// in is the same command line in a subtest.
func (k *kubectl) in(t testing.TB) *kubectl {
	return &kubectl{t: t, path: k.path, tmp: k.tmp, env: append([]string(nil), k.env...)}
}

// editor makes kubectl edit replace one text by another, as sed understands it.
func (k *kubectl) editor(from, to string) {
	k.t.Helper()
	path := filepath.Join(k.t.TempDir(), "editor")
	script := "#!/bin/sh\nexec sed -i 's/" + strings.ReplaceAll(strings.ReplaceAll(from, ".", `\.`), "*", `\*`) + "/" + to + "/' \"$1\"\n"
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		k.t.Fatal(err)
	}
	k.env = append(k.env, "KUBE_EDITOR="+path)
}

// columns checks the heading of a table.
func (k *kubectl) columns(want string, args ...string) {
	k.t.Helper()
	out := k.run(args...)
	heading, _, _ := strings.Cut(out, "\n")
	if got := strings.Join(strings.Fields(heading), " "); got != want {
		k.t.Errorf("kubectl %s has columns %q, want %q", strings.Join(args, " "), got, want)
	}
}

// matches checks that the output comes to match: the hub writes a status a
// moment after what it tells of.
func (k *kubectl) matches(pattern string, args ...string) {
	k.t.Helper()
	re := regexp.MustCompile(pattern)
	eventually(k.t, 30*time.Second, "kubectl "+strings.Join(args, " "), func() error {
		if out := k.run(args...); !re.MatchString(out) {
			return fmt.Errorf("%s does not match:\n%s", pattern, out)
		}
		return nil
	})
}
