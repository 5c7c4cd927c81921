package agent

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

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

// The hub hears of nearly full storage while messages are still taken.
func TestNearlyFullIsReported(t *testing.T) {
	t.Parallel()
	hub := startHub(t, newCA(t))
	brokerPart := part(federationv1.BrokerID, func(p *federationv1.Part) {
		p.Spec = &federationv1.Part_Broker{Broker: &federationv1.BrokerSpec{MaxStorage: 8 << 20, MaxMemory: 8 << 20}}
	})
	hub.want("tokyo", brokerPart, accountPart("app"))
	a := startAgent(t, hub, "tokyo")
	hub.applied("tokyo")
	js := a.js("app")
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	check(t, err)
	data := make([]byte, 128<<10)
	for range 54 { // 6.75 MiB and more
		_, err := js.Publish(t.Context(), "s", data)
		check(t, err)
	}
	st := hub.status("tokyo", federationv1.BrokerID, func(s *federationv1.PartStatus) bool { return s.Code == codeNearlyFull })
	if st.State != federationv1.PartStatus_APPLIED || st.Message == "" {
		t.Errorf("got %v", st)
	}
	_, err = js.Publish(t.Context(), "s", data)
	check(t, err)
}
