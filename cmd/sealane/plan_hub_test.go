package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/cmd/sealane/hubapi"
)

// planOf runs "sealane plan -o json" on manifests.
func planOf(t *testing.T, manifests string, args ...string) (int, planReport) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "next.yaml")
	if err := os.WriteFile(file, []byte(manifests), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := call(t, append([]string{"plan", "-o", "json", "-f", file}, args...)...)
	var r planReport
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatalf("status %d, %v\n%s%s", code, err, stdout, stderr)
	}
	return code, r
}

func TestPlanWithAHub(t *testing.T) {
	h := hub(t)
	load(t, h, "testdata/fine.yaml")
	const bridge = `apiVersion: messaging.sealane.dev/v1alpha1
kind: Bridge
metadata: {name: NAME, namespace: shop}
spec: {account: shop, type: Events, from: {clusters: [berlin]}, to: {clusters: [tokyo]}, subjects: ["news.>"]}
`
	fresh := strings.ReplaceAll(bridge, "NAME", "news")
	before, err := h.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	code, r := planOf(t, fresh)
	if code != 2 || r.Result != resultChanges || len(r.Members) != 2 || len(r.Objects) != 1 || r.Objects[0].Action != "Add" || r.Objects[0].Unchecked != "" {
		t.Errorf("a new bridge: status %d, %+v", code, r)
	}

	// Refused by the schema, by a rule, by a rule on changes, and by the compiler: all at once.
	code, r = planOf(t, strings.ReplaceAll(fresh, `["news.>"]`, `["a b"]`)+"---\n"+
		strings.ReplaceAll(strings.ReplaceAll(bridge, "NAME", "ruled"), "subjects:", "stream: {name: X}, subjects:")+"---\n"+
		strings.ReplaceAll(strings.ReplaceAll(bridge, "NAME", "orders"), "type: Events", "type: Requests")+"---\n"+
		strings.ReplaceAll(strings.ReplaceAll(bridge, "NAME", "lost"), "tokyo", "nowhere-yet")+"---\n"+
		strings.ReplaceAll(strings.ReplaceAll(bridge, "NAME", "bank"), "account: shop", "account: bank"))
	if code != 1 || r.Result != resultProblems {
		t.Errorf("wrong objects: status %d, %+v", code, r)
	}
	for object, field := range map[string]string{
		"bridge shop/news": "spec.subjects[0]", "bridge shop/ruled": "spec", "bridge shop/orders": "spec", "bridge shop/bank": "spec.account",
	} {
		if !slices.ContainsFunc(r.Problems, func(p planProblem) bool {
			return p.Object == object && p.Field == field && p.Message != "" && p.Reason != ""
		}) {
			t.Errorf("no problem of %s at %s in %+v", object, field, r.Problems)
		}
	}
	if !slices.ContainsFunc(r.Waiting, func(p planProblem) bool { return p.Object == "bridge shop/lost" }) {
		t.Errorf("a member that has not joined is no problem: %+v", r.Waiting)
	}

	// A wrong edit of what runs changes nothing that runs.
	code, r = planOf(t, `apiVersion: messaging.sealane.dev/v1alpha1
kind: Stream
metadata: {name: orders, namespace: shop}
spec: {account: shop, name: ORDERS, placement: {clusters: [berlin]}, subjects: ["$JS.>"]}
`)
	if code != 1 || len(r.Problems) == 0 || len(r.Members) != 0 {
		t.Errorf("a wrong edit: status %d, %+v", code, r)
	}

	// What is there, read back, is no change; deletions show.
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Bridge"))
	if err := h.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "orders"}, live); err != nil {
		t.Fatal(err)
	}
	asIs, err := live.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if code, r = planOf(t, string(asIs)); code != 0 || r.Result != resultUnchanged {
		t.Errorf("the same: status %d, %+v", code, r)
	}
	if code, r = planOf(t, string(asIs), "--delete", "stream/shop/orders"); code != 1 || len(r.Problems) == 0 || r.Problems[0].Reason != v1alpha1.ReasonUnknownStream {
		t.Errorf("the stream of a bridge goes: status %d, %+v", code, r)
	}
	code, stdout, stderr := call(t, "plan", "--delete", "bridge/shop/orders", "--delete", "stream/shop/orders", "--delete", "member/tokyo")
	for _, want := range []string{"- bridge shop/orders", "- member tokyo", "- berlin<->tokyo", "account shop goes", "stays on the member"} {
		if code != 2 || !strings.Contains(stdout, want) {
			t.Errorf("deletions: status %d, no %q in\n%s%s", code, want, stdout, stderr)
		}
	}
	if code, r = planOf(t, fresh, "--prune"); code != 1 || len(r.Members) != 2 {
		t.Errorf("prune takes all but the bridge: status %d, %+v", code, r)
	}

	after, err := h.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range before.Bridges {
		if len(after.Bridges) != len(before.Bridges) || before.Bridges[i].ResourceVersion != after.Bridges[i].ResourceVersion {
			t.Error("plan has written something")
		}
	}
}

// refusing is an API that does not check anything.
type refusing struct {
	hubapi.API
	err error
}

func (r refusing) Create(context.Context, client.Object, ...client.CreateOption) error { return r.err }

func (r refusing) Patch(context.Context, client.Object, client.Patch, ...client.PatchOption) error {
	return r.err
}

// TestPlanThatTheAPIDoesNotCheck: who may only read gets a plan, and is told what
// was not checked.
func TestPlanThatTheAPIDoesNotCheck(t *testing.T) {
	h := hub(t)
	load(t, h, "testdata/fine.yaml")
	s, err := h.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := hubapi.ReadManifests([]string{"-"}, false, strings.NewReader(`
apiVersion: messaging.sealane.dev/v1alpha1
kind: Bridge
metadata: {name: news, namespace: shop}
spec: {account: shop, type: Events, from: {clusters: [berlin]}, to: {clusters: [tokyo]}, subjects: ["news.>"]}
---
apiVersion: messaging.sealane.dev/v1alpha1
kind: Stream
metadata: {name: orders, namespace: shop}
spec: {maxMessages: 12}
`))
	if err != nil {
		t.Fatal(err)
	}
	resource := schema.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: "bridges"}
	for why, refusal := range map[string]error{
		"this user may not change it":      apierrors.NewForbidden(resource, "news", errors.New("no")),
		"there is no namespace shop yet":   apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "shop"),
		"":                                 context.DeadlineExceeded,
		"the server is about to shut down": apierrors.NewServiceUnavailable("away"),
	} {
		r, err := hubapi.Rehearse(t.Context(), refusing{h, refusal}, s.Input(), nil, hubapi.Wish{Manifests: m, Namespace: "default", Now: noon})
		if !apierrors.IsForbidden(refusal) && !apierrors.IsNotFound(refusal) {
			if !errors.Is(err, refusal) {
				t.Errorf("%v is lost: %v", refusal, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range r.Objects {
			if o.Unchecked != why {
				t.Errorf("%v: unchecked for %q, want %q", o.Object, o.Unchecked, why)
			}
		}
		i := slices.IndexFunc(r.Input.Streams, func(s *v1alpha1.Stream) bool { return s.Name == "orders" })
		if o := r.Input.Streams[i]; len(r.Input.Bridges) != len(s.Bridges)+1 || o.Spec.Name != "ORDERS" || *o.Spec.MaxMessages != 12 || o.Generation != 2 {
			t.Errorf("%d bridges, stream %+v", len(r.Input.Bridges), o)
		}
	}
}

func TestDiffWithAHub(t *testing.T) {
	h := hub(t)
	load(t, h, "testdata/broken.yaml")
	code, stdout, stderr := call(t, "diff")
	for _, want := range []string{"berlin", "stream/shop/ORDERS", "InsufficientStorage", "link tokyo", "Down", "no answer to 3 probes", "bridge shop/loop"} {
		if code != 1 || !strings.Contains(stdout, want) {
			t.Errorf("status %d, no %q in\n%s%s", code, want, stdout, stderr)
		}
	}
	if code, _, stderr = call(t, "diff", "oslo"); code != 2 || !strings.Contains(stderr, `no member "oslo"`) {
		t.Errorf("status %d, %s", code, stderr)
	}
	if code, stdout, _ = call(t, "diff", "lagos", "-o", "json"); code != 1 || !strings.Contains(stdout, "NeverConnected") {
		t.Errorf("status %d, %s", code, stdout)
	}
	if code, stdout, _ = call(t, "__complete", "diff", "ber"); code != 0 || !strings.HasPrefix(stdout, "berlin\n") {
		t.Errorf("status %d, %s", code, stdout)
	}
	noHub(t)
	if code, _, _ = call(t, "diff"); code != 2 {
		t.Errorf("without a hub: status %d", code)
	}
}
