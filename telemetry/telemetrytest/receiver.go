// Package telemetrytest receives what the telemetry package exports, for tests.
package telemetrytest

import (
	"context"
	"encoding/hex"
	"maps"
	"net"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/sealane/sealane/telemetry"
)

// Span is a span as it was received. Ids are in hexadecimal.
type Span struct {
	Trace, ID, Parent string
	Service, Name     string
	Begin, End        uint64 // Unix nanoseconds
	Events            []string
	Attributes        map[string]string // those that are strings
	Error             string
}

// Receiver is an OTLP receiver, in this process.
type Receiver struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []Span
}

// Start starts a receiver and has everything in this process that is started later
// export to it, without delay.
func Start(t *testing.T) *Receiver {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r, s := &Receiver{}, grpc.NewServer()
	collector.RegisterTraceServiceServer(s, r)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Setenv(telemetry.EndpointVariable, "http://"+l.Addr().String())
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
	return r
}

// Export implements the OTLP service.
func (r *Receiver) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, of := range req.ResourceSpans {
		process := map[string]string{}
		for _, a := range of.GetResource().GetAttributes() {
			process[a.Key] = a.GetValue().GetStringValue()
		}
		for _, scope := range of.ScopeSpans {
			for _, s := range scope.Spans {
				out := Span{
					Trace: hex.EncodeToString(s.TraceId), ID: hex.EncodeToString(s.SpanId), Parent: hex.EncodeToString(s.ParentSpanId),
					Service: process["service.name"], Name: s.Name, Begin: s.StartTimeUnixNano, End: s.EndTimeUnixNano,
					Attributes: maps.Clone(process), Error: s.GetStatus().GetMessage(),
				}
				for _, a := range s.Attributes {
					out.Attributes[a.Key] = a.GetValue().GetStringValue()
				}
				for _, e := range s.Events {
					out.Events = append(out.Events, e.Name)
				}
				r.spans = append(r.spans, out)
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// Spans are those of that name which have come.
func (r *Receiver) Spans(name string) []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Span
	for _, s := range r.spans {
		if s.Name == name {
			out = append(out, s)
		}
	}
	return out
}
