package hub

import (
	"sync"
	"time"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// session is one agent's open Sync stream. Its fields are guarded by the
// fleet's mu, but for the channels.
type session struct {
	cluster string
	last    time.Time // of the last message
	// inflight is the update that the agent has not answered yet.
	inflight *federationv1.Update
	// refused is the desired hash on the way to which the agent refused an
	// update: nothing more is sent until the plan is another.
	refused string

	wake chan struct{} // one slot

	endOnce sync.Once
	ended   chan struct{}
	err     error // why it ended; read after ended is closed
}

func newSession(cluster string) *session {
	return &session{cluster: cluster, wake: make(chan struct{}, 1), ended: make(chan struct{})}
}

// nudge makes the session look for something to send. It never blocks.
func (s *session) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// end ends the session; the agent is told err. Only the first call counts.
func (s *session) end(err error) {
	s.endOnce.Do(func() {
		s.err = err
		close(s.ended)
	})
}
