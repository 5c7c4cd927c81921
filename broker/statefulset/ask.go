package statefulset

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealane/sealane/broker"
)

const (
	askTimeout = 10 * time.Second
	// settleTime is how long a stream must have had its leader, and may not have heard of
	// what it takes from, to have one replica only; settlePatience is how long that is
	// waited for: what it takes from may be away.
	settleTime     = 3 * time.Second
	settlePatience = 12 * time.Second
)

// settling is since when streams are waited for, to have one replica only.
type settling map[string]time.Time

// within tells whether a stream is waited for still. Long after it was, it may be
// again.
func (s settling) within(stream string, now time.Time) bool {
	since, ok := s[stream]
	if !ok || now.Sub(since) > 10*settlePatience {
		s[stream] = now
		return true
	}
	return now.Sub(since) < settlePatience
}

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
		_, err := request(ctx, nc, "$JS.API.SERVER.REMOVE", body)
		return err
	case stepDown:
		_, err := request(ctx, nc, "$JS.API.META.LEADER.STEPDOWN", nil)
		return err
	case move:
		_, err := request(ctx, nc, "$JS.API.ACCOUNT.STREAM.MOVE."+a.stream.Account+"."+a.stream.Name, map[string]string{"server": a.peer})
		return err
	case reduce:
		return s.reduce(ctx, a)
	}
	return fmt.Errorf("%s is nothing to ask for", a.kind)
}

// reduce gives a stream fewer replicas and leaves the rest of its configuration,
// also what this program does not know of.
func (s *steward) reduce(ctx context.Context, a action) error {
	s.mu.RLock()
	name, ok := s.names[a.stream.Account]
	s.mu.RUnlock()
	if !ok {
		return fmt.Errorf("stream %s is in an account that was removed: its replicas cannot be changed; bring the account back, or remove the stream", a.stream.Name)
	}
	nc, err := s.Connect(name, nats.Timeout(dialTime))
	if err != nil {
		return err
	}
	defer nc.Close()
	reply, err := request(ctx, nc, "$JS.API.STREAM.INFO."+a.stream.Name, nil)
	if err != nil {
		return err
	}
	var info struct {
		Config  map[string]any `json:"config"`
		Cluster struct {
			LeaderSince time.Time `json:"leader_since"`
		} `json:"cluster"`
		Sources []struct {
			Active time.Duration `json:"active"`
		} `json:"sources"`
	}
	d := json.NewDecoder(bytes.NewReader(reply))
	d.UseNumber() // limits do not fit into what JSON numbers are by default
	if err := d.Decode(&info); err != nil {
		return err
	}
	// What a stream forgot to take from others as it grew (ADR 20), another leader finds;
	// a single replica does not change its leader.
	if key := a.stream.Account + "/" + a.stream.Name; a.replicas == 1 && len(info.Sources) > 0 && s.settling.within(key, time.Now()) {
		if time.Since(info.Cluster.LeaderSince) < settleTime {
			return nil
		}
		for _, src := range info.Sources {
			if src.Active < 0 || src.Active > settleTime {
				s.log.Warn("a stream takes nothing: another replica leads it before it gets one only", "stream", a.stream.Name)
				_, err = request(ctx, nc, "$JS.API.STREAM.LEADER.STEPDOWN."+a.stream.Name, nil)
				return err
			}
		}
	}
	info.Config["num_replicas"] = a.replicas
	_, err = request(ctx, nc, "$JS.API.STREAM.UPDATE."+a.stream.Name, info.Config)
	return err
}

func request(ctx context.Context, nc *nats.Conn, subject string, body any) ([]byte, error) {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	m, err := nc.RequestWithContext(ctx, subject, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", subject, err)
	}
	var answer struct {
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return nil, fmt.Errorf("%s: %w", subject, err)
	}
	if answer.Error != nil {
		return nil, fmt.Errorf("%s: %w", subject, errors.New(answer.Error.Description))
	}
	return m.Data, nil
}
