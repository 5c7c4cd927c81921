package apiserver

import (
	"context"
	"log/slog"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/klog/v2"

	// Silences what writes to standard error past every logger.
	_ "github.com/sealane/sealane/hub/apiserver/internal/etcdlog"
)

// klogTarget is where klog's records go. klog is one per process, and its logger
// must not be changed while anything logs: it is therefore set once, before
// anything runs, and what it points at changes atomically.
var klogTarget atomic.Pointer[slog.Logger]

func init() { klog.SetSlogLogger(slog.New(klogHandler{})) }

// klogHandler demotes what the Kubernetes libraries log by one step each: their
// Info is of use only to those who debug them, and their errors are nearly
// always retried.
type klogHandler struct {
	with func(slog.Handler) slog.Handler
}

func (h klogHandler) target() slog.Handler {
	l := klogTarget.Load()
	if l == nil {
		l = slog.Default()
	}
	if h.with == nil {
		return l.Handler()
	}
	return h.with(l.Handler())
}

func demote(l slog.Level) slog.Level { return l - (slog.LevelInfo - slog.LevelDebug) }

func (h klogHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return h.target().Enabled(ctx, demote(l))
}

func (h klogHandler) Handle(ctx context.Context, r slog.Record) error {
	r.Level = demote(r.Level)
	return h.target().Handle(ctx, r)
}

func (h klogHandler) wrap(f func(slog.Handler) slog.Handler) slog.Handler {
	inner := h.with
	return klogHandler{with: func(t slog.Handler) slog.Handler {
		if inner != nil {
			t = inner(t)
		}
		return f(t)
	}}
}

func (h klogHandler) WithAttrs(as []slog.Attr) slog.Handler {
	return h.wrap(func(t slog.Handler) slog.Handler { return t.WithAttrs(as) })
}

func (h klogHandler) WithGroup(name string) slog.Handler {
	return h.wrap(func(t slog.Handler) slog.Handler { return t.WithGroup(name) })
}

// newZap returns a zap logger, which is what etcd takes, that writes to log.
// Only while loud is set does more than debugging come through: starting, etcd
// warns of a configuration that is meant, and stopping, of every listener that
// closes; real failures of the two are returned as errors. Where etcd would end
// the process it panics instead, so that there is an error to return.
func newZap(log *slog.Logger, loud *atomic.Bool) *zap.Logger {
	return zap.New(zapCore{log.Handler(), loud}, zap.WithFatalHook(zapcore.WriteThenPanic))
}

type zapCore struct {
	to   slog.Handler
	loud *atomic.Bool
}

func (c zapCore) level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.DPanicLevel:
		return slog.LevelError
	case l < zapcore.InfoLevel:
		// A line for every request.
		return slog.LevelDebug - 4
	case l == zapcore.InfoLevel || !c.loud.Load():
		return slog.LevelDebug
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	default:
		return slog.LevelError
	}
}

func (c zapCore) Enabled(l zapcore.Level) bool {
	return c.to.Enabled(context.Background(), c.level(l))
}

func (c zapCore) With(fs []zapcore.Field) zapcore.Core {
	return zapCore{c.to.WithAttrs(attrs(fs)), c.loud}
}

func (c zapCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c zapCore) Write(e zapcore.Entry, fs []zapcore.Field) error {
	r := slog.NewRecord(e.Time, c.level(e.Level), e.Message, 0)
	r.AddAttrs(attrs(fs)...)
	return c.to.Handle(context.Background(), r)
}

func (zapCore) Sync() error { return nil }

func attrs(fs []zapcore.Field) []slog.Attr {
	out := make([]slog.Attr, 0, len(fs))
	for _, f := range fs {
		enc := zapcore.NewMapObjectEncoder()
		f.AddTo(enc)
		for k, v := range enc.Fields {
			out = append(out, slog.Any(k, v))
		}
	}
	return out
}
