package hub

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// floods are sent by members that do nothing else. Each is slowed down, by the number
// of its messages or by their size.
func (a *arena) floods(t *testing.T) {
	beat := func(held string) rawMessage {
		return encode(t, &federationv1.AgentMessage{Body: &federationv1.AgentMessage_Heartbeat{Heartbeat: &federationv1.Heartbeat{HeldHash: held}}})
	}
	r := &federationv1.Report{HeldHash: federationv1.EmptyHash}
	for i := range maxTold + 1 { // of their texts little is kept
		r.Parts = append(r.Parts, &federationv1.PartStatus{Id: fmt.Sprintf("account/%d", i), Hash: hashOf("x"), State: federationv1.PartStatus_PENDING, Message: strings.Repeat("m", 3000)})
	}
	for _, f := range []struct {
		what string
		msg  rawMessage
		// most is how many of them are sent: of large ones too few to be slowed down by
		// their number, or by the size of what is kept of them.
		most int
	}{
		{"messages", beat(federationv1.EmptyHash), math.MaxInt},
		{"large reports", encode(t, reporting(r)), 40},
		{"padding", slices.Concat(beat(strings.Repeat("0", 3<<20)), beat(federationv1.EmptyHash)), 40}, // the last counts
	} {
		a.attack(t, "flood of "+f.what, []string{reasonPace}, func(t *testing.T, at *testHub) {
			was := a.count(t, reasonPace)
			_, cert := a.hostile(t)
			s, stop := at.raw(t, cert)
			first, over := encode(t, opening(federationv1.EmptyHash)), make(chan error, 1)
			go func() {
				err := s.SendMsg(first)
				for n := 0; n < f.most && err == nil; n++ {
					err = s.SendMsg(f.msg)
				}
				over <- err
			}()
			for range 3 {
				a.unharmed(t) // also while it lasts
			}
			eventuallyLong(t, "it is slowed down", func() bool { return a.count(t, reasonPace) > was })
			a.unharmed(t)
			select {
			case err := <-over:
				if err != nil {
					t.Errorf("the flood does not last: %v", endOf(s))
				}
			default:
				stop()
				<-over
			}
		})
	}
	a.reconnecting(t)
}

// reconnecting does not make a flood: each session sends less than one may have at
// once, and what they send counts together. Who connects twice is not slowed down.
func (a *arena) reconnecting(t *testing.T) {
	padded := slices.Concat(encode(t, &federationv1.AgentMessage{Body: &federationv1.AgentMessage_Heartbeat{Heartbeat: &federationv1.Heartbeat{HeldHash: strings.Repeat("0", 3<<20)}}}),
		encode(t, &federationv1.AgentMessage{Body: &federationv1.AgentMessage_Heartbeat{Heartbeat: &federationv1.Heartbeat{HeldHash: federationv1.EmptyHash}}}))
	session := func(t *testing.T, at *testHub, cert tls.Certificate) {
		t.Helper()
		s, stop := at.raw(t, cert)
		defer stop()
		for _, m := range []rawMessage{encode(t, opening(federationv1.EmptyHash)), padded, padded} {
			if err := s.SendMsg(m); err != nil {
				t.Fatalf("%v: %v", err, endOf(s))
			}
		}
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if err := endOf(s); !errors.Is(err, io.EOF) { // all was taken
			t.Fatal(err)
		}
	}
	a.attack(t, "flood of sessions", []string{reasonPace}, func(t *testing.T, at *testHub) {
		was := a.count(t, reasonPace)
		_, honest := a.hostile(t)
		for range 2 {
			session(t, at, honest)
		}
		if a.count(t, reasonPace) > was {
			t.Error("who connects twice is slowed down")
		}
		_, cert := a.hostile(t)
		for n := 0; a.count(t, reasonPace) == was; n++ {
			if n == 25 {
				t.Fatalf("%d sessions of 6 MiB are not slowed down", n)
			}
			session(t, at, cert)
		}
	})
}
