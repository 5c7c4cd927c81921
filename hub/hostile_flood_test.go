package hub

import (
	"fmt"
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
}
