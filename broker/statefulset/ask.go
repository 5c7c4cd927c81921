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
		Config map[string]any `json:"config"`
	}
	d := json.NewDecoder(bytes.NewReader(reply))
	d.UseNumber() // limits do not fit into what JSON numbers are by default
	if err := d.Decode(&info); err != nil {
		return err
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
