package e2e

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/telemetry/telemetrytest"
)

// Names of the spans of the hub, and of an agent.
var (
	hubSpans   = []string{"change", "follow-up", "gather", "compile", "publish", "member"}
	agentSpans = []string{"update", "journal", "apply"}
)

// tracesSince are the spans that have come of all traces with a span that began
// after a moment, by trace.
func tracesSince(r *telemetrytest.Receiver, since time.Time) map[string][]telemetrytest.Span {
	out, young := map[string][]telemetrytest.Span{}, map[string]bool{}
	for _, name := range slices.Concat(hubSpans, agentSpans) {
		for _, s := range r.Spans(name) {
			out[s.Trace] = append(out[s.Trace], s)
			young[s.Trace] = young[s.Trace] || s.Begin >= uint64(since.UnixNano())
		}
	}
	for trace := range out {
		if !young[trace] {
			delete(out, trace)
		}
	}
	return out
}

// wholeTrace says what is missing for the spans to be one change that reached the
// members: of the hub one root, with how it was planned, and of each member what
// the hub saw and what its agent did, each within the other.
func wholeTrace(spans []telemetrytest.Span, members ...string) error {
	byID := map[string]telemetrytest.Span{}
	for _, s := range spans {
		byID[s.ID] = s
	}
	parents := map[string]string{
		"follow-up": "change", "gather": "change", "compile": "change", "publish": "change", "member": "change",
		"update": "member", "journal": "update", "apply": "update",
	}
	roots, seen := 0, map[string]bool{}
	for _, s := range spans {
		switch parent := byID[s.Parent]; {
		case s.Error != "":
			return fmt.Errorf("%s of %s went wrong: %s", s.Name, s.Service, s.Error)
		case s.Name == "change":
			if roots++; s.Parent != "" || s.Service != "sealane-hub" {
				return fmt.Errorf("the root is %+v", s)
			}
		case parents[s.Name] != parent.Name && (parents[s.Name] != "change" || parent.Name != "follow-up"):
			return fmt.Errorf("the parent of %s is %q", s.Name, parent.Name)
		case slices.Contains(agentSpans, s.Name) != (s.Service == "sealane-agent"):
			return fmt.Errorf("%s is of %s", s.Name, s.Service)
		case s.Name == "update" && s.Attributes["sealane.member"] != parent.Attributes["sealane.member"]:
			return fmt.Errorf("an update of %s is within what the hub saw of %s", s.Attributes["sealane.member"], parent.Attributes["sealane.member"])
		}
		seen[s.Name+" "+s.Attributes["sealane.member"]] = true
		seen[s.Name] = true
	}
	if roots != 1 {
		return fmt.Errorf("%d roots", roots)
	}
	for _, name := range []string{"gather", "compile", "publish"} {
		if !seen[name] {
			return fmt.Errorf("no %s", name)
		}
	}
	for _, m := range members {
		for _, name := range slices.Concat([]string{"member"}, agentSpans) {
			if !seen[name+" "+m] {
				return fmt.Errorf("no %s of %s", name, m)
			}
		}
	}
	return nil
}

// traced waits until what began after a moment is one whole trace.
func traced(t *testing.T, r *telemetrytest.Receiver, since time.Time, members ...string) []telemetrytest.Span {
	t.Helper()
	var out []telemetrytest.Span
	var all map[string][]telemetrytest.Span
	defer func() {
		if t.Failed() {
			t.Logf("traces:\n%s", tellTraces(all, since))
		}
	}()
	eventually(t, 60*time.Second, "one change is one trace", func() error {
		if all = tracesSince(r, since); len(all) != 1 {
			return fmt.Errorf("%d traces", len(all))
		}
		for _, out = range all {
			return wholeTrace(out, members...)
		}
		return nil
	})
	return out
}

func tellTraces(traces map[string][]telemetrytest.Span, since time.Time) string {
	var b strings.Builder
	for trace, spans := range traces {
		fmt.Fprintf(&b, "%s\n", trace)
		slices.SortFunc(spans, func(a, b telemetrytest.Span) int { return cmp.Compare(a.Begin, b.Begin) })
		for _, s := range spans {
			at := func(ns uint64) time.Duration { return time.Unix(0, int64(ns)).Sub(since).Round(time.Millisecond) }
			fmt.Fprintf(&b, "  %s < %s %-9s %s %s..%s %v %s\n", s.ID, s.Parent, s.Name, s.Attributes["sealane.member"], at(s.Begin), at(s.End), s.Events, s.Error)
		}
	}
	return b.String()
}

// TestTrace: one edit is one trace, from the edit until the last member has applied
// it, with what hub and agents did in their processes: also where members have to
// grant each other links first, and where it goes to them in waves.
func TestTrace(t *testing.T) {
	receiver := telemetrytest.Start(t)
	f := newFederation(t)
	f.join("a", "b", "c")
	world := topology(nil, "a", "b", "c")
	f.create(world)
	f.ready(world)

	edit := func(do func()) time.Time {
		t.Helper()
		before, since := world.DeepCopy(), time.Now()
		do()
		if err := f.kube.Patch(t.Context(), world, client.MergeFrom(before)); err != nil {
			t.Fatal(err)
		}
		return since
	}
	since := edit(func() { world.Spec.Links = mesh("all") })
	f.ready(world)
	ready := time.Now()
	spans := traced(t, receiver, since, "a", "b", "c")
	if !slices.ContainsFunc(spans, func(s telemetrytest.Span) bool { return s.Name == "follow-up" }) {
		t.Error("links were granted, but the plan with them is not in the trace")
	}
	for _, s := range spans {
		if s.Begin < uint64(since.UnixNano()) || s.Name == "apply" && s.Begin > uint64(ready.UnixNano()) {
			t.Errorf("edited at %v, ready at %v, but %+v", since, ready, s)
		}
	}

	one := intstr.FromInt32(1)
	edit(func() { world.Spec.Rollout = &v1alpha1.Rollout{Size: &one} })
	first := f.rolled(world, v1alpha1.RolloutComplete, "")
	limit := int32(5000)
	since = edit(func() { world.Spec.Groups[0].Broker.MaxConnections = &limit })
	f.rolled(world, v1alpha1.RolloutComplete, first.Current)
	f.ready(world)
	spans = traced(t, receiver, since, "a", "b", "c")
	waves := 1
	for _, s := range spans {
		if s.Name == "follow-up" { // each wave after the first
			waves++
		}
	}
	if waves != 3 {
		t.Errorf("%d waves in the trace:\n%s", waves, tellTraces(map[string][]telemetrytest.Span{"": spans}, since))
	}
}
