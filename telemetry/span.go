package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Span is a span, or none if it is nil: then its methods do nothing.
type Span struct {
	trace.Span
	tracer *Tracer
}

// Member is the attribute that names a member.
func Member(name string) attribute.KeyValue { return attribute.String("sealane.member", name) }

// Parts is the attribute that says how many parts something concerns.
func Parts(n int) attribute.KeyValue { return attribute.Int("sealane.parts", n) }

// Members is the attribute that says how many members something concerns.
func Members(n int) attribute.KeyValue { return attribute.Int("sealane.members", n) }

// Traceparent is what makes spans of another process children of this one.
func (s *Span) Traceparent() string {
	if s == nil || !s.SpanContext().IsSampled() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(trace.ContextWithSpan(context.Background(), s.Span), carrier)
	return carrier["traceparent"]
}

// Child begins a span within this one.
func (s *Span) Child(name string, at time.Time, about ...attribute.KeyValue) *Span {
	if s == nil {
		return nil
	}
	_, span := s.tracer.tracer.Start(trace.ContextWithSpan(context.Background(), s.Span), name, trace.WithTimestamp(at), trace.WithAttributes(about...))
	return &Span{Span: span, tracer: s.tracer}
}

// Note adds an event, if it has happened: at is not zero.
func (s *Span) Note(name string, at time.Time, about ...attribute.KeyValue) {
	if s != nil && !at.IsZero() {
		s.AddEvent(name, trace.WithTimestamp(at), trace.WithAttributes(about...))
	}
}

// Finish ends the span; why tells what went wrong, and is empty if nothing did.
func (s *Span) Finish(at time.Time, why string, about ...attribute.KeyValue) {
	if s == nil {
		return
	}
	s.SetAttributes(about...)
	if why != "" {
		s.SetStatus(codes.Error, why)
	}
	s.End(trace.WithTimestamp(at))
}

// Part is the attribute that names a part and the kind of its failure.
func Part(id, code string) attribute.KeyValue {
	return attribute.String("sealane.part", id+": "+code)
}
