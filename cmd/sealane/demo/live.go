package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// arriveWithin is how long a live message may take on a busy machine.
	arriveWithin = 5 * time.Second
	// settle is how long nothing more must arrive before "exactly once" is said.
	settle = 500 * time.Millisecond
	// newsPrefix begins the subjects that the bridge news carries, and afterPrefix
	// those that it carries after the hub came back.
	newsPrefix  = "news."
	afterPrefix = "after."
)

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// tally counts what one member heard, by the text of the message.
type tally struct {
	mu   sync.Mutex
	seen map[string][]time.Time
}

func (t *tally) add(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen[text] = append(t.seen[text], time.Now())
}

func (t *tally) times(text string) []time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.seen[text])
}

// listen counts what a member's client hears on a subject, until stop is called.
func listen(nc *nats.Conn, subject string) (t *tally, stop func(), err error) {
	t = &tally{seen: map[string][]time.Time{}}
	sub, err := nc.Subscribe(subject, func(m *nats.Msg) { t.add(string(m.Data)) })
	if err != nil {
		return nil, nil, err
	}
	if err := nc.Flush(); err != nil {
		return nil, nil, err
	}
	return t, func() { _ = sub.Unsubscribe() }, nil // fails only when the connection is closed
}

// fanOut publishes one event at each member and checks that each member heard
// each event exactly once. Interest in a subject takes a moment to travel, so
// before that it publishes others until all have heard from all. The prefix of the
// subject ends in a dot.
func (s *story) fanOut(ctx context.Context, prefix string, limit time.Duration) (warm, slowest time.Duration, err error) {
	subject := prefix + nats.NewInbox()[len("_INBOX."):]
	heard := map[string]*tally{}
	conns := map[string]*nats.Conn{}
	for _, m := range s.fed.members {
		nc, err := s.fed.connect(ctx, m, account)
		if err != nil {
			return 0, 0, err
		}
		t, stop, err := listen(nc, subject)
		if err != nil {
			return 0, 0, fmt.Errorf("subscribe at %s: %w", m.name, err)
		}
		defer stop()
		heard[m.name], conns[m.name] = t, nc
	}
	at := time.Now()
	err = s.fed.await(ctx, limit, "events travel between all members", func(context.Context) error {
		var missing []string
		for from, nc := range conns {
			if err := nc.Publish(subject, []byte("first "+from)); err != nil {
				return err // reconnecting
			}
			for to, t := range heard {
				if len(t.times("first "+from)) == 0 {
					missing = append(missing, from+" to "+to)
				}
			}
		}
		if len(missing) > 0 {
			slices.Sort(missing)
			return errors.New("none yet from " + strings.Join(missing, ", "))
		}
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	warm = time.Since(at)

	sent := map[string]time.Time{}
	for from, nc := range conns {
		sent[from] = time.Now()
		if err := errors.Join(nc.Publish(subject, []byte("news of "+from)), nc.Flush()); err != nil {
			return 0, 0, fmt.Errorf("publish at %s: %w", from, err)
		}
	}
	err = s.fed.await(ctx, arriveWithin, "every event arrives everywhere", func(context.Context) error {
		for from := range conns {
			for to, t := range heard {
				if len(t.times("news of "+from)) == 0 {
					return fmt.Errorf("none from %s to %s", from, to)
				}
			}
		}
		return nil
	})
	if err != nil && !errors.As(err, new(*timeoutError)) {
		return 0, 0, err
	}
	if err := pause(ctx, settle); err != nil {
		return 0, 0, err
	}
	var wrong []string
	for from := range conns {
		for to, t := range heard {
			times := t.times("news of " + from)
			if len(times) != 1 {
				wrong = append(wrong, fmt.Sprintf("%s heard the event of %s %d times", to, from, len(times)))
				continue
			}
			slowest = max(slowest, times[0].Sub(sent[from]))
		}
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		return warm, 0, errors.New(strings.Join(wrong, "; "))
	}
	return warm, slowest, nil
}

func (s *story) events(ctx context.Context) (string, error) {
	warm, slowest, err := s.fanOut(ctx, newsPrefix, 10*time.Second)
	if err != nil {
		return "", err
	}
	n := len(s.fed.members)
	s.say("%d clients subscribed, one at each member; all heard from all %s later", n, seconds(warm))
	return fmt.Sprintf("%d events, %d deliveries: each member heard each event exactly once, the slowest after %s", n, n*n, seconds(slowest)), nil
}

// respond answers requests with the member's name, until stop is called.
func respond(nc *nats.Conn, subject, name string) (stop func() error, err error) {
	sub, err := nc.QueueSubscribe(subject, "pricing", func(m *nats.Msg) {
		_ = m.Respond([]byte(name)) // a requester that hears nothing says so
	})
	if err != nil {
		return nil, err
	}
	return func() error { return errors.Join(sub.Unsubscribe(), nc.Flush()) }, nc.Flush()
}

// ask sends requests and counts who answered.
func ask(ctx context.Context, nc *nats.Conn, subject string, n int) (map[string]int, error) {
	by := map[string]int{}
	for i := range n {
		within, cancel := context.WithTimeout(ctx, 2*time.Second)
		m, err := nc.RequestWithContext(within, subject, []byte(strconv.Itoa(i)))
		cancel()
		if err != nil {
			return by, fmt.Errorf("request %d of %d: %w", i+1, n, err)
		}
		by[string(m.Data)]++
	}
	return by, nil
}

// requests has responders in berlin and tokyo, and asks in berlin.
func (s *story) requests(ctx context.Context) (string, error) {
	const subject, n = "price.tea", 50
	conns := map[string]*nats.Conn{}
	for _, name := range []string{berlin, tokyo, denver} {
		nc, err := s.fed.connect(ctx, s.fed.member(name), account)
		if err != nil {
			return "", err
		}
		conns[name] = nc
	}
	stopFar, err := respond(conns[tokyo], subject, tokyo)
	if err != nil {
		return "", err
	}
	defer func() { _ = stopFar() }() // the connection may be closed
	at := time.Now()
	// The far responder must be known in berlin before the near one starts, or
	// the second half would measure how fast news of it travels.
	err = s.fed.await(ctx, 10*time.Second, "berlin hears of the responder in tokyo", func(ctx context.Context) error {
		if _, err := ask(ctx, conns[berlin], subject, 1); err != nil {
			return err
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	s.say("a responder in tokyo answers requests made in berlin %s after it started", seconds(time.Since(at)))
	stopNear, err := respond(conns[berlin], subject, berlin)
	if err != nil {
		return "", err
	}
	by, err := ask(ctx, conns[berlin], subject, n)
	if err != nil || by[berlin] != n {
		return "", errors.Join(err, stopNear(), fmt.Errorf("with a responder in berlin, of %d requests made there these were answered: %s", n, tell(by)))
	}
	s.say("with another responder in berlin, %d of %d requests made there are answered by berlin", by[berlin], n)
	if err := stopNear(); err != nil {
		return "", err
	}
	at = time.Now()
	if _, err := ask(ctx, conns[berlin], subject, 1); err != nil {
		return "", fmt.Errorf("the first request after the local responder stopped: %w", err)
	}
	first := time.Since(at)
	by, err = ask(ctx, conns[berlin], subject, n)
	if err != nil || by[tokyo] != n {
		return "", errors.Join(err, fmt.Errorf("after the responder in berlin stopped, of %d requests these were answered: %s", n, tell(by)))
	}
	return fmt.Sprintf("berlin's responder stopped: the next request was answered by tokyo after %s, and so were %d of %d more; none was lost", seconds(first), by[tokyo], n), nil
}

// tell spells a count by name.
func tell(by map[string]int) string {
	var parts []string
	for name, n := range by {
		parts = append(parts, fmt.Sprintf("%d by %s", n, name))
	}
	if len(parts) == 0 {
		return "none"
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}
