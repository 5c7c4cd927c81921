package statefulset

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	"github.com/sealane/sealane/broker"
	"github.com/sealane/sealane/broker/replica"
)

const askTimeout = 10 * time.Second

// ask has the cluster do something about its peers and streams.
func (s *steward) ask(ctx context.Context, a action) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	nc, err := s.Connect(broker.SystemAccount, nats.Timeout(dialTime))
	if err != nil {
		return err
	}
	defer nc.Close()
	switch a.kind {
	case forget:
		body := map[string]string{"peer": a.peer}
		if a.peerID != "" {
			body = map[string]string{"peer": "", "peer_id": a.peerID}
		}
		_, err := replica.Request(ctx, nc, "$JS.API.SERVER.REMOVE", body)
		return err
	case stepDown:
		_, err := replica.Request(ctx, nc, "$JS.API.META.LEADER.STEPDOWN", nil)
		return err
	case raise:
		if _, err := s.accountOf(a.stream); err != nil {
			// Nothing arrives in an account that was removed.
			return moveOff(ctx, nc, a)
		}
		s.draining[a.stream.Account+"/"+a.stream.Name] = &draining{raised: true}
		return s.withStream(a, func(st replica.Stream) error { return st.Replicate(ctx, a.replicas) })
	case lead:
		return s.withStream(a, func(st replica.Stream) error {
			if ok, err := s.drained(ctx, a, st); err != nil || !ok {
				return err
			}
			return st.Lead(ctx, a.peer)
		})
	case release:
		return s.withStream(a, func(st replica.Stream) error { return st.Release(ctx) })
	case move:
		if name, err := s.accountOf(a.stream); err == nil && a.stream.Replicas <= 1 {
			s.rests.Hold(name, restMoves, askTimeout)
		}
		return moveOff(ctx, nc, a)
	case reduce:
		return s.reduce(ctx, a)
	}
	return fmt.Errorf("%s is nothing to ask for", a.kind)
}

// moveOff has NATS move a stream off a server.
func moveOff(ctx context.Context, nc *nats.Conn, a action) error {
	_, err := replica.Request(ctx, nc, "$JS.API.ACCOUNT.STREAM.MOVE."+a.stream.Account+"."+a.stream.Name, map[string]string{"server": a.peer})
	return err
}

// reduce gives a stream fewer replicas and leaves the rest of its configuration.
func (s *steward) reduce(ctx context.Context, a action) error {
	if a.replicas > 1 {
		return s.withStream(a, func(st replica.Stream) error { return st.Replicate(ctx, a.replicas) })
	}
	name, err := s.accountOf(a.stream)
	if err != nil {
		return err
	}
	return s.ToOneReplica(ctx, name, a.stream.Name)
}

// withStream calls f with the stream that a is about.
func (s *steward) withStream(a action, f func(replica.Stream) error) error {
	name, err := s.accountOf(a.stream)
	if err != nil {
		return err
	}
	nc, err := s.Connect(name, nats.Timeout(dialTime))
	if err != nil {
		return err
	}
	defer nc.Close()
	return f(replica.Stream{Conn: nc, Name: a.stream.Name})
}

// accountOf is the name of a stream's account.
func (s *steward) accountOf(st *brokerv1.Stream) (string, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if name, ok := s.names[st.Account]; ok {
		return name, nil
	}
	return "", fmt.Errorf("stream %s is in an account that was removed: its replicas cannot be changed; bring the account back, or remove the stream", st.Name)
}
