package agent

import (
	"testing"
	"time"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

func TestWithWarning(t *testing.T) {
	status := func(code, message string) *federationv1.PartStatus {
		return &federationv1.PartStatus{Id: "broker", State: federationv1.PartStatus_APPLIED, Code: code, Message: message}
	}
	fine, full := status("", ""), status(codeNearlyFull, "80%")
	for _, tt := range []struct {
		name       string
		have       *federationv1.PartStatus
		warning    string
		since      time.Duration
		code, text string
	}{
		{"nothing", fine, "", 0, "", ""},
		{"at once", fine, "80%", 0, codeNearlyFull, "80%"},
		{"better, but not for long", full, "", time.Second, codeNearlyFull, "80%"},
		{"more, soon after", full, "85%", time.Second, codeNearlyFull, "80%"},
		{"more", full, "85%", time.Minute, codeNearlyFull, "85%"},
		{"better", full, "", time.Minute, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := withWarning(tt.have, tt.warning, tt.since)
			if s.Code != tt.code || s.Message != tt.text || s.State != federationv1.PartStatus_APPLIED {
				t.Errorf("got %v", s)
			}
		})
	}
}
