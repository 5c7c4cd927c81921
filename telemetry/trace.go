// Package telemetry is what hub and agent share in being observed: how a trace of
// a change is started, carried from one process to another, and exported. It
// decides nothing about what is traced: see hub/trace.go and agent/trace.go. It
// sets no global provider, so libraries that could trace do not.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// EndpointVariable names where spans go, by OTLP over gRPC. While it is not set
// nothing is traced. The exporter knows the other standard variables too.
const EndpointVariable = "OTEL_EXPORTER_OTLP_ENDPOINT"

// flushTimeout bounds how long the end of a process waits for spans to go.
const flushTimeout = 3 * time.Second

// Tracer makes spans and has them exported. A nil one does neither.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	log      *slog.Logger
}

// NewTracer starts to trace for a service, if EndpointVariable says where to. Of a
// member the name is given as well.
func NewTracer(ctx context.Context, service, version, member string, log *slog.Logger) (*Tracer, error) {
	if os.Getenv(EndpointVariable) == "" {
		return nil, nil
	}
	exporter, err := otlptracegrpc.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", EndpointVariable, err)
	}
	about := []attribute.KeyValue{attribute.String("service.name", service), attribute.String("service.version", version)}
	if member != "" {
		about = append(about, attribute.String("service.instance.id", member), Member(member))
	}
	// What the environment says of the process wins: OTEL_SERVICE_NAME for one.
	described, err := resource.New(ctx, resource.WithAttributes(about...), resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, errors.Join(err, exporter.Shutdown(ctx))
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(&quiet{SpanExporter: exporter, log: log}), sdktrace.WithResource(described))
	return &Tracer{provider: provider, tracer: provider.Tracer("github.com/sealane/sealane"), log: log}, nil
}

// Start begins a span at a moment, also one that has passed; parent is empty, or
// what Traceparent returned. A nil Tracer returns nil.
func (t *Tracer) Start(parent, name string, at time.Time, about ...attribute.KeyValue) *Span {
	if t == nil {
		return nil
	}
	ctx := context.Background()
	if parent != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": parent})
		if !trace.SpanContextFromContext(ctx).IsValid() {
			return nil
		}
	}
	_, span := t.tracer.Start(ctx, name, trace.WithTimestamp(at), trace.WithAttributes(about...))
	return &Span{Span: span, tracer: t}
}

// Close exports what is left, for a bounded time.
func (t *Tracer) Close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		t.log.Debug("spans are lost", "error", err)
	}
}

// quiet says that spans cannot be exported, and again only after it worked.
type quiet struct {
	sdktrace.SpanExporter
	log    *slog.Logger
	failed bool
}

// ExportSpans is called by one goroutine. It never fails: the SDK would only pass
// the error on to a global handler.
func (q *quiet) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := q.SpanExporter.ExportSpans(ctx, spans)
	if err != nil && !q.failed {
		q.log.Warn("spans are not exported", "error", err)
	}
	q.failed = err != nil
	return nil
}
