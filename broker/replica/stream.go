package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// Timeout bounds the way of a stream to one replica, in which its account rests.
	Timeout = 25 * time.Second
	// tick is how often the stream is looked at on its way.
	tick = 50 * time.Millisecond
	// lookTimeout bounds one look: a stream that has no leader does not answer.
	lookTimeout = time.Second
	// leadTimeout is how long a leader is waited for before it is asked for again.
	leadTimeout = 3 * time.Second
)

// Stream is one stream of the account that Conn is in.
type Stream struct {
	Conn *nats.Conn
	Name string
}

// ToOne leaves the stream one replica, on a server of stays if it has one there, its
// leader's before others. A stream that takes from others has its account rest meanwhile:
// rest begins that, and returns what ends it.
func (s Stream) ToOne(ctx context.Context, stays []string, rest func() (end func())) (err error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	i, err := s.look(ctx)
	switch {
	case err != nil:
		return err
	case i.replicas() <= 1:
		return nil
	case len(i.Sources) == 0:
		return s.Replicate(ctx, 1)
	}
	last, err := i.last(stays)
	if err != nil {
		return fmt.Errorf("stream %s: %w", s.Name, err)
	}
	defer rest()()
	if i.Cluster.Leader == last {
		if err := s.led(ctx, "", func(leader string) bool { return leader != last }); err != nil {
			return err
		}
	}
	if err := s.led(ctx, last, func(leader string) bool { return leader == last }); err != nil {
		return err
	}
	held, err := s.updateHeld(ctx)
	if err != nil {
		return err
	}
	if held {
		defer func() { err = errors.Join(err, s.Release(context.WithoutCancel(ctx))) }()
	}
	return s.await(ctx, "one replica", func(i *info) bool {
		return i.replicas() == 1 && i.Cluster.Desired == nil && len(i.Cluster.Replicas) == 0
	})
}

// Lead has another server lead the stream; empty: any other.
func (s Stream) Lead(ctx context.Context, server string) error {
	var body any
	if server != "" {
		body = map[string]any{"placement": map[string]string{"preferred": server}}
	}
	_, err := Request(ctx, s.Conn, "$JS.API.STREAM.LEADER.STEPDOWN."+s.Name, body)
	return err
}

// led has another server lead the stream, and waits until one does that will do. A
// replica that is behind does not get to lead it, so it is asked for again.
func (s Stream) led(ctx context.Context, server string, will func(leader string) bool) error {
	for {
		asked := s.Lead(ctx, server) // which fails if that has just come to lead it
		try, cancel := context.WithTimeout(ctx, leadTimeout)
		err := s.await(try, "the leader that it shall have", func(i *info) bool { return i.Cluster.Leader != "" && will(i.Cluster.Leader) })
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(err, asked)
		}
	}
}

// Replicate gives the stream so many replicas and leaves the rest of its configuration,
// also what this program does not know of.
func (s Stream) Replicate(ctx context.Context, replicas int) error {
	i, err := s.look(ctx)
	if err != nil {
		return err
	}
	i.Config["num_replicas"] = replicas
	_, err = Request(ctx, s.Conn, "$JS.API.STREAM.UPDATE."+s.Name, i.Config)
	return err
}

// Range returns the sequences of the first and the last message of the stream; the first
// is behind the last if there are none.
func (s Stream) Range(ctx context.Context) (first, last uint64, err error) {
	i, err := s.look(ctx)
	if err != nil {
		return 0, 0, err
	}
	return i.State.First, i.State.Last, nil
}

// info is what there is to know of a stream.
type info struct {
	Config  map[string]any `json:"config"`
	Cluster struct {
		Leader   string `json:"leader"`
		Replicas []struct {
			Name    string `json:"name"`
			Current bool   `json:"current"`
			Offline bool   `json:"offline"`
		} `json:"replicas"`
		// Desired is what its group is being changed to.
		Desired json.RawMessage `json:"desired"`
	} `json:"cluster"`
	State struct {
		First uint64 `json:"first_seq"`
		Last  uint64 `json:"last_seq"`
	} `json:"state"`
	Sources []struct {
		External *struct {
			API string `json:"api"`
		} `json:"external"`
	} `json:"sources"`
}

func (i *info) replicas() int {
	n, _ := i.Config["num_replicas"].(json.Number)
	r, err := n.Int64()
	if err != nil {
		return 1
	}
	return int(r)
}

// last is the server that leads the stream in the end.
func (i *info) last(stays []string) (string, error) {
	has := []string{i.Cluster.Leader}
	for _, p := range i.Cluster.Replicas {
		if p.Current && !p.Offline {
			has = append(has, p.Name)
		}
	}
	if i.Cluster.Leader == "" || len(has) < 2 {
		return "", errors.New("no other replica is current")
	}
	for _, name := range has {
		if slices.Contains(stays, name) {
			return name, nil
		}
	}
	return i.Cluster.Leader, nil
}

func (s Stream) look(ctx context.Context) (*info, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	reply, err := Request(ctx, s.Conn, "$JS.API.STREAM.INFO."+s.Name, nil)
	if err != nil {
		return nil, err
	}
	i := &info{}
	d := json.NewDecoder(bytes.NewReader(reply))
	d.UseNumber() // limits do not fit into what JSON numbers are by default
	return i, d.Decode(i)
}

// await looks at the stream until it is as it shall be.
func (s Stream) await(ctx context.Context, what string, is func(*info) bool) error {
	poll := time.NewTicker(tick)
	defer poll.Stop()
	for {
		i, err := s.look(ctx)
		if err == nil && is(i) {
			return nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return fmt.Errorf("stream %s has not got %s: %w", s.Name, what, errors.Join(ctx.Err(), err))
		}
	}
}

// Request asks something of the JetStream API.
func Request(ctx context.Context, nc *nats.Conn, subject string, body any) ([]byte, error) {
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
