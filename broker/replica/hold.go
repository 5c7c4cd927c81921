package replica

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

// releaseTimeout bounds the end of a hold.
const releaseTimeout = 10 * time.Second

// local tells whether the stream takes from others without the agent.
func (i *info) local() bool {
	for _, src := range i.Sources {
		if src.External == nil || !strings.HasPrefix(src.External.API, federationv1.ResetPrefix) {
			return true
		}
	}
	return false
}

// updateHeld gives the stream one replica. What it takes from others of its member does
// not wait for the agent, so the stream is held: it refuses what is larger than a byte
// until its group has ended. Sources try again what is refused, also by a group.
func (s Stream) updateHeld(ctx context.Context) (held bool, err error) {
	i, err := s.look(ctx)
	if err != nil {
		return false, err
	}
	if !i.local() {
		return false, s.Replicate(ctx, 1)
	}
	limited, err := s.limited(ctx)
	if err != nil {
		return false, err
	}
	// A consumer with a rate limit that begins meanwhile would never deliver.
	if limited {
		return false, s.Replicate(ctx, 1)
	}
	meta, _ := i.Config["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
	}
	if meta[broker.Held] == nil {
		meta[broker.Held] = fmt.Sprint(i.Config["max_msg_size"])
	}
	i.Config["metadata"], i.Config["max_msg_size"], i.Config["num_replicas"] = meta, 1, 1
	if _, err := Request(ctx, s.Conn, "$JS.API.STREAM.UPDATE."+s.Name, i.Config); err != nil {
		// NATS refuses it where what it takes from has a limit itself.
		return false, s.Replicate(ctx, 1)
	}
	return true, nil
}

// Release has a stream that is held take again.
func (s Stream) Release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	poll := time.NewTicker(tick)
	defer poll.Stop()
	for {
		err := s.release(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return fmt.Errorf("stream %s takes nothing: %w", s.Name, err)
		}
	}
}

func (s Stream) release(ctx context.Context) error {
	i, err := s.look(ctx)
	if err != nil {
		return err
	}
	meta, _ := i.Config["metadata"].(map[string]any)
	was, ok := meta[broker.Held].(string)
	if !ok {
		return nil
	}
	delete(meta, broker.Held)
	size, err := strconv.Atoi(was)
	if err != nil {
		size = -1
	}
	i.Config["max_msg_size"] = size
	_, err = Request(ctx, s.Conn, "$JS.API.STREAM.UPDATE."+s.Name, i.Config)
	return err
}

// limited tells whether a consumer of the stream has a rate limit.
func (s Stream) limited(ctx context.Context) (bool, error) {
	for offset := 0; ; {
		reply, err := Request(ctx, s.Conn, "$JS.API.CONSUMER.LIST."+s.Name, map[string]int{"offset": offset})
		if err != nil {
			return false, err
		}
		var list struct {
			Total     int `json:"total"`
			Consumers []struct {
				Config struct {
					RateLimit uint64 `json:"rate_limit_bps"`
				} `json:"config"`
			} `json:"consumers"`
		}
		if err := json.Unmarshal(reply, &list); err != nil {
			return false, err
		}
		for _, c := range list.Consumers {
			if c.Config.RateLimit > 0 {
				return true, nil
			}
		}
		if offset += len(list.Consumers); len(list.Consumers) == 0 || offset >= list.Total {
			return false, nil
		}
	}
}
