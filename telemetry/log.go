package telemetry

import (
	"fmt"
	"io"
	"log/slog"
)

// NewLogger makes the log of a program from its flags --log-level and --log-format,
// which the error names.
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var o slog.HandlerOptions
	least, known := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}[level]
	if !known {
		return nil, fmt.Errorf("--log-level %q: expected debug, info, warn or error", level)
	}
	o.Level = least
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, &o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, &o)), nil
	}
	return nil, fmt.Errorf("--log-format %q: expected text or json", format)
}
