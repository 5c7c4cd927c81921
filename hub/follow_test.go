package hub

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/telemetry"
	"github.com/sealane/sealane/telemetry/telemetrytest"
	"github.com/sealane/sealane/topology"
)

// gauges are the values of all metrics of a fleet that have no labels, and the
// counts of histograms by name and phase.
func gauges(t *testing.T, f *Fleet) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	f.metrics.register(r, f)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, family := range families {
		for _, m := range family.Metric {
			name := family.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			switch {
			case m.Histogram != nil:
				out[name] = float64(m.Histogram.GetSampleCount())
			case m.Counter != nil:
				out[name] = m.Counter.GetValue()
			default:
				out[name] = m.Gauge.GetValue()
			}
		}
	}
	return out
}

// TestFollowChange: a change is followed until its last member has applied it, in
// metrics and in one trace, of which members are told.
func TestFollowChange(t *testing.T) {
	receiver := telemetrytest.Start(t)
	f := quietFleet()
	tracer, err := telemetry.NewTracer(t.Context(), "sealane-hub", "test", "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer tracer.Close()
	f.follow.trace(tracer)
	const members = sampledMembers + 4
	var names []string
	sessions := map[string]*session{}
	for i := range members {
		names = append(names, fmt.Sprintf("m%02d", i))
		sessions[names[i]] = connect(t, f, names[i], federationv1.EmptyHash)
	}
	publish := func(imports ...string) {
		var states []*topology.MemberState
		for _, name := range names {
			states = append(states, state(name, account("app", imports...)))
		}
		now := time.Now()
		f.follow.publishing(stages{edited: now.Add(-time.Second), began: now, gathered: now, compiled: now, cause: cause{edit: true}})
		f.Publish(plan(states...))
		f.follow.published()
	}
	publish()
	if got := gauges(t, f); got["sealane_hub_members_behind"] != members || got["sealane_hub_oldest_unapplied_change_seconds"] < 1 {
		t.Errorf("after the plan: %v", got)
	}
	told, last := 0, ""
	for i, name := range names {
		s := sessions[name]
		u := f.next(s)
		f.sent(s, u, 1)
		if u.Traceparent != "" {
			told++
		} else if i == members-1 || last == "" {
			last = name // to be the last
			continue
		}
		tell(t, f, s, done(u))
	}
	if told != sampledMembers {
		t.Errorf("%d members were told of the trace", told)
	}
	if spans := receiver.Spans("change"); len(spans) != 0 {
		t.Errorf("the change is over before its last member: %v", spans)
	}
	for _, name := range names {
		if s := sessions[name]; s.inflight != nil {
			tell(t, f, s, done(s.inflight))
		}
	}
	got := gauges(t, f)
	for _, phase := range []string{"sent", "journalled", "applied"} {
		if n := got["sealane_hub_change_seconds "+phase]; n != members {
			t.Errorf("%s: %v", phase, n)
		}
	}
	if got["sealane_hub_members_behind"] != 0 || got["sealane_hub_oldest_unapplied_change_seconds"] != 0 || got["sealane_hub_planned_members"] != members {
		t.Errorf("at the end: %v", got)
	}
	eventually(t, "the trace is exported", func() bool { return len(receiver.Spans("change")) == 1 })
	root := receiver.Spans("change")[0]
	if !slices.Contains(root.Events, "last member") || root.End-root.Begin < uint64(time.Second) {
		t.Errorf("%+v", root)
	}
	all := receiver.Spans("member")
	if n := len(all); n < sampledMembers || n > sampledMembers+1 {
		t.Errorf("%d members in the trace", n)
	}
	for _, name := range []string{"gather", "compile", "publish"} {
		all = append(all, receiver.Spans(name)...)
	}
	for _, s := range all {
		if s.Trace != root.Trace || s.Parent != root.ID {
			t.Errorf("not part of the change: %+v", s)
		}
	}

	// Nothing is traced of a plan that changes nothing, and what goes away ends.
	publish()
	publish("x.>")
	for _, s := range sessions {
		s.end(nil)
		f.close(s)
	}
	eventually(t, "the second trace", func() bool { return len(receiver.Spans("change")) == 2 })
	if len(f.follow.waits)+len(f.follow.open) != 0 {
		t.Error("something is still followed")
	}
}

// TestFollowEnds: a trace ends also if a member never applies its change.
func TestFollowEnds(t *testing.T) {
	receiver := telemetrytest.Start(t)
	f := quietFleet()
	tracer, err := telemetry.NewTracer(t.Context(), "sealane-hub", "test", "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer tracer.Close()
	f.follow.trace(tracer)
	s := connect(t, f, "a", federationv1.EmptyHash)
	f.Publish(plan(state("a", account("app"))))
	f.follow.published()
	u := f.next(s)
	u.Upserts[0].Hash = "" // whatever: it is never answered
	f.follow.now = func() time.Time { return time.Now().Add(2 * followTime) }
	f.follow.sweep()
	eventually(t, "the trace is exported", func() bool {
		spans := receiver.Spans("change")
		return len(spans) == 1 && spans[0].Error != ""
	})
	if n := gauges(t, f)["sealane_hub_oldest_unapplied_change_seconds"]; n < followTime.Seconds() {
		t.Errorf("the member is not behind any more: %v", n)
	}
}

// TestFollowNothing: without a tracer nothing is told, and nothing is kept.
func TestFollowNothing(t *testing.T) {
	f := quietFleet()
	s := connect(t, f, "a", federationv1.EmptyHash)
	f.Publish(plan(state("a", account("app"))))
	f.follow.published()
	u := f.next(s)
	if u.Traceparent != "" {
		t.Errorf("traceparent %q", u.Traceparent)
	}
	f.sent(s, u, 1)
	tell(t, f, s, done(u))
	if len(f.follow.waits)+len(f.follow.open) != 0 {
		t.Error("something is still followed")
	}
}
