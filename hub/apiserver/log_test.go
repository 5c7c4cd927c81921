package apiserver

import (
	"bytes"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"
)

func capture(level slog.Level) (*bytes.Buffer, *slog.Logger) {
	var b bytes.Buffer
	return &b, slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: level}))
}

// TestKlog goes by the handler: klog itself is one per process.
func TestKlog(t *testing.T) {
	old := klogTarget.Load()
	defer klogTarget.Store(old)
	b, log := capture(slog.LevelDebug)
	klogTarget.Store(log)
	k := slog.New(klogHandler{}).With("who", "me").WithGroup("g")
	k.Error("e", "n", 1)
	k.Info("i")
	k.Log(t.Context(), slog.LevelInfo-1, "verbose")
	got := b.String()
	for _, want := range []string{"level=WARN msg=e who=me g.n=1", "level=DEBUG msg=i who=me"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s\nlacks %s", got, want)
		}
	}
	if strings.Contains(got, "verbose") {
		t.Error(got)
	}
}

func TestZap(t *testing.T) {
	b, log := capture(slog.LevelDebug)
	var loud atomic.Bool
	z := newZap(log, &loud).With(zap.String("who", "me"))
	z.Warn("while starting", zap.Int("n", 1))
	z.Debug("never")
	loud.Store(true)
	z.Warn("a warning")
	z.Error("an error")
	z.Info("information")
	func() {
		defer func() {
			if recover() == nil {
				t.Error("did not panic")
			}
		}()
		z.Fatal("the end")
	}()
	got := b.String()
	for _, want := range []string{
		`level=DEBUG msg="while starting" who=me n=1`, `level=WARN msg="a warning" who=me`, `level=ERROR msg="an error"`,
		`level=DEBUG msg=information`, `level=ERROR msg="the end"`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s\nlacks %s", got, want)
		}
	}
	if strings.Contains(got, "never") {
		t.Error(got)
	}
}
