package agent

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/e2e/freeport"
	"github.com/sealane/sealane/telemetry"
	"github.com/sealane/sealane/telemetry/telemetrytest"
)

// scrape is what Prometheus would get.
func scrape(t *testing.T, addr string) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get("http://" + addr + "/metrics")
	check(t, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	check(t, err)
	return string(b)
}

// TestObserved: an agent shows what it does as metrics, and what it applies as part
// of the hub's trace.
func TestObserved(t *testing.T) {
	receiver := telemetrytest.Start(t)
	hub := startHub(t, newCA(t))
	hub.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	hub.want("tokyo", accountPart("app"), ordersPart())
	a := newAgent(t, hub, "tokyo")
	a.opts.MetricsListen = freeport.Addr(t)
	a.start()
	hub.applied("tokyo")
	update := func() (out telemetrytest.Span) {
		eventually(t, "the span of the update", func() error {
			spans := receiver.Spans("update")
			if len(spans) == 0 {
				return fmt.Errorf("there is none")
			}
			out = spans[len(spans)-1]
			return nil
		})
		return out
	}()
	if update.Trace != "0af7651916cd43dd8448eb211c80319c" || update.Parent != "b7ad6b7169203331" || update.Error != "" ||
		update.Service != "sealane-agent" || update.Attributes["sealane.member"] != "tokyo" {
		t.Errorf("%+v", update)
	}
	for _, name := range []string{"journal", "apply"} {
		if !slices.ContainsFunc(receiver.Spans(name), func(s telemetrytest.Span) bool { return s.Parent == update.ID && s.Trace == update.Trace }) {
			t.Errorf("no span %s in that of the update: %+v", name, receiver.Spans(name))
		}
	}
	text := scrape(t, a.opts.MetricsListen)
	for _, line := range []string{
		"sealane_agent_session 1", `sealane_agent_parts{state="applied"} 2`, `sealane_agent_parts{state="failed"} 0`,
		`sealane_agent_sessions_total{result="open"} 1`, `sealane_agent_updates_total{result="accepted"} `,
		"sealane_agent_broker_servers 1", "sealane_agent_broker_healthy_servers 1", "sealane_agent_broker_storage_limit_bytes ",
		"sealane_agent_apply_seconds_count ", "sealane_agent_certificate_expiry_timestamp_seconds ", "sealane_agent_series_left_out 0",
	} {
		if !strings.Contains(text, "\n"+line) {
			t.Errorf("no %q in\n%s", line, text)
		}
	}
}

// TestSeriesAreBounded: however many links and flows there are, so many are shown.
func TestSeriesAreBounded(t *testing.T) {
	m := map[string]int{}
	for i := range 300 {
		m[fmt.Sprintf("%03d", i)] = i
	}
	keys, more := some(m, maxLinkSeries, strings.Compare)
	if len(keys) != maxLinkSeries || more != 300-maxLinkSeries || keys[0] != "000" {
		t.Errorf("%d keys, %d more", len(keys), more)
	}
}

// TestMetricsListen: an address that is in use is an error only if it was chosen.
func TestMetricsListen(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	c := &memberCollector{metrics: newMetrics()}
	if _, err := serveMetrics(l.Addr().String(), false, c, testLog(t)); err == nil || !strings.Contains(err.Error(), "--metrics-listen") {
		t.Errorf("in use: %v", err)
	}
	var out strings.Builder
	s, err := serveMetrics(l.Addr().String(), true, c, slog.New(slog.NewTextHandler(&out, nil)))
	if s != nil || err != nil || strings.Count(out.String(), "level=") != 1 || !strings.Contains(out.String(), "level=WARN") || !strings.Contains(out.String(), "--metrics-listen") {
		t.Errorf("in use, and not chosen: %v, %v\n%s", s, err, out.String())
	}
	if s, err := serveMetrics("", false, c, testLog(t)); s != nil || err != nil {
		t.Errorf("nowhere: %v, %v", s, err)
	}
}

func TestResultOf(t *testing.T) {
	h := &held{epoch: 2, parts: map[string]*federationv1.Part{}}
	for i := range 20 {
		h.parts[fmt.Sprint(i)] = nil
	}
	removals := make([]string, 15)
	for _, tc := range []struct {
		v    verdict
		u    *federationv1.Update
		want string
	}{
		{accepted, &federationv1.Update{Epoch: 2}, "accepted"},
		{unknownBase, &federationv1.Update{Epoch: 2}, "unknown_base"},
		{unsaved, &federationv1.Update{Epoch: 2}, federationv1.RefusedUnsaved},
		{refused, &federationv1.Update{Epoch: 1}, federationv1.RefusedEpoch},
		{refused, &federationv1.Update{Epoch: 2, Removals: removals}, federationv1.RefusedRemovals},
		{refused, &federationv1.Update{Epoch: 2, Removals: removals, RemovalMeant: true}, federationv1.RefusedInvalid},
	} {
		if got := resultOf(tc.v, tc.u, h); got != tc.want {
			t.Errorf("%v: %s, want %s", tc.v, got, tc.want)
		}
	}
}

// TestApplyingFails: the span of an update says which parts failed.
func TestApplyingFails(t *testing.T) {
	receiver := telemetrytest.Start(t)
	tracer, err := telemetry.NewTracer(t.Context(), "sealane-agent", "test", "tokyo", testLog(t))
	check(t, err)
	p := accountPart("app")
	u := &federationv1.Update{Upserts: []*federationv1.Part{p}, Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	now := time.Now()
	a := follow(newMetrics(), tracer, u, now, now)
	v := &view{parts: map[string]*federationv1.PartStatus{p.Id: {Id: p.Id, Hash: p.Hash, State: federationv1.PartStatus_PENDING}}}
	if a.look(v) {
		t.Error("pending is the end")
	}
	v.parts[p.Id] = &federationv1.PartStatus{Id: p.Id, Hash: p.Hash, State: federationv1.PartStatus_FAILED, Code: codeAccount}
	if !a.look(v) {
		t.Error("failed is not the end")
	}
	tracer.Close()
	if spans := receiver.Spans("update"); len(spans) != 1 || spans[0].Error == "" || !slices.Contains(spans[0].Events, "failed") {
		t.Errorf("%+v", spans)
	}
	for _, parent := range []string{"nonsense", "00-0-0-01"} {
		if s := tracer.Start(parent, "update", now); s != nil {
			t.Errorf("%q is a parent", parent)
		}
	}
}

// TestApplyingSeveral: what came before the last update is followed until it is
// applied, but for too many.
func TestApplyingSeveral(t *testing.T) {
	receiver := telemetrytest.Start(t)
	tracer, err := telemetry.NewTracer(t.Context(), "sealane-agent", "test", "tokyo", testLog(t))
	check(t, err)
	v := &view{parts: map[string]*federationv1.PartStatus{}}
	var a *applying
	come := func(name string) {
		p := accountPart(name)
		v.parts[p.Id] = &federationv1.PartStatus{Id: p.Id, Hash: p.Hash, State: federationv1.PartStatus_PENDING}
		u := &federationv1.Update{Upserts: []*federationv1.Part{p}, Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
		a = a.then(follow(newMetrics(), tracer, u, time.Now(), time.Now()))
	}
	come("one")
	come("two")
	v.parts[federationv1.AccountID("two")].State = federationv1.PartStatus_APPLIED
	if a.look(v) {
		t.Error("the first is pending, but nothing is waited for")
	}
	v.parts[federationv1.AccountID("one")].State = federationv1.PartStatus_APPLIED
	if !a.look(v) {
		t.Error("all is applied, but not the end")
	}
	a = nil
	for i := range maxApplying + 1 {
		come(fmt.Sprint("many", i))
	}
	a.drop("the session is over")
	tracer.Close()
	var wrong []string
	for _, s := range receiver.Spans("update") {
		if s.Error != "" {
			wrong = append(wrong, s.Error)
		}
	}
	slices.SortFunc(wrong, func(a, b string) int { return cmp.Compare(len(a), len(b)) })
	if n := len(receiver.Spans("update")); n != maxApplying+3 || len(wrong) != maxApplying+1 || wrong[0] != "superseded" || wrong[1] != "the session is over" {
		t.Errorf("%d updates, of which went wrong: %q", n, wrong)
	}
}
