package telemetry

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestNewLogger(t *testing.T) {
	var text, lines strings.Builder
	log, err := NewLogger(&text, "warn", "text")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("quiet")
	log.Warn("loud", "member", "a")
	if got := text.String(); strings.Contains(got, "quiet") || !strings.Contains(got, "msg=loud member=a") {
		t.Errorf("text at warn: %q", got)
	}

	if log, err = NewLogger(&lines, "debug", "json"); err != nil {
		t.Fatal(err)
	}
	log.Debug("all")
	var line struct{ Level, Msg string }
	if err := json.Unmarshal([]byte(lines.String()), &line); err != nil || line.Level != "DEBUG" || line.Msg != "all" {
		t.Errorf("json at debug: %+v %v", line, err)
	}

	for _, flags := range [][2]string{{"loud", "text"}, {"INFO", "text"}, {"", "text"}, {"info", "yaml"}, {"info", ""}} {
		if _, err := NewLogger(&text, flags[0], flags[1]); err == nil || !strings.Contains(err.Error(), "expected") {
			t.Errorf("%q: error %v", flags, err)
		}
	}
}
