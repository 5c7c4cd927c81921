package demo

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/cmd/sealane/hubapi"
)

const (
	// cutFor is how long the link is cut at least.
	cutFor = 10 * time.Second
	// shownWithin is how soon status must show a dead link, and a healed one.
	shownWithin = 15 * time.Second
	// orderEvery is the pace of orders at each member.
	orderEvery = 20 * time.Millisecond
)

// taking starts to take orders at members. stop ends it and returns what went
// wrong with the last ones.
func (s *story) taking(ctx context.Context, members ...*member) (stop func() error, err error) {
	conns := make([]*nats.Conn, len(members))
	for i, m := range members {
		if conns[i], err = s.fed.connect(ctx, m, account); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan error, len(members))
	for i, m := range members {
		go func() { results <- s.orders.take(ctx, conns[i], m.name, orderEvery) }()
	}
	return func() error {
		cancel()
		var errs []error
		for range members {
			errs = append(errs, <-results)
		}
		return errors.Join(errs...)
	}, nil
}

// cut takes orders at every member while the link over which denver's reach
// tokyo is dead for a while.
func (s *story) cut(ctx context.Context) (string, error) {
	stop, err := s.taking(ctx, s.fed.members...)
	if err != nil {
		return "", err
	}
	err = s.cutAndHeal(ctx)
	if err := errors.Join(err, stop()); err != nil {
		return "", err
	}
	caughtUp, err := s.checkOrders(ctx, 60*time.Second)
	if err != nil {
		return "", err
	}
	n := s.orders.total("")
	return fmt.Sprintf("%d of %d orders are in tokyo %s after the last was taken: none lost, none doubled, those of each city in order", n, n, seconds(caughtUp)), nil
}

func (s *story) cutAndHeal(ctx context.Context) error {
	link := s.fed.member(denver).link
	before, denverBefore := s.orders.total(""), s.orders.total(denver)
	at := time.Now()
	link.set(blackhole)
	defer link.set(pass)
	s.say("cut: nothing gets through to or from denver's address %s any more, and nobody is told", link.addr())
	err := s.fed.await(ctx, shownWithin, "status shows the link denver and tokyo down, by name", func(ctx context.Context) error {
		snap, r, err := s.judgement(ctx)
		if err != nil {
			return err
		}
		l := linkOf(snap, denver, tokyo)
		if len(snap.Topologies) == 0 || l == nil || l.State != v1alpha1.LinkDown || r.Fine {
			return errors.New(r.Summary)
		}
		for _, blames := range []string{blame(snap.Topologies[0].Status.Conditions), blame(bridge(snap, "orders").Status.Conditions)} {
			if !strings.Contains(blames, denver) || !strings.Contains(blames, tokyo) {
				return fmt.Errorf("the link is Down, but the topology or the bridge says %s", blames)
			}
		}
		s.say("%s after the cut: link %s %s since %s", seconds(time.Since(at)), l.Name(), l.State, l.Since.Local().Format(time.TimeOnly))
		s.say("  topology demo: %s", blame(snap.Topologies[0].Status.Conditions))
		s.say("  bridge orders: %s", blame(bridge(snap, "orders").Status.Conditions))
		return nil
	})
	if err != nil {
		return err
	}
	if err := pause(ctx, cutFor-time.Since(at)); err != nil {
		return err
	}
	s.say("%s after the cut: %d orders taken meanwhile, %d of them in denver", seconds(time.Since(at)), s.orders.total("")-before, s.orders.total(denver)-denverBefore)

	at = time.Now()
	link.set(pass)
	if _, err := s.fed.awaitFine(ctx, shownWithin); err != nil {
		return fmt.Errorf("after the link was healed: %w", err)
	}
	s.say("healed: link, bridge and topology shown Ready again %s later", seconds(time.Since(at)))
	return nil
}

// linkOf is the link between two members.
func linkOf(s *hubapi.Snapshot, a, b string) *hubapi.Link {
	for _, l := range s.Links() {
		if l.Dialer == a && l.Acceptor == b || l.Dialer == b && l.Acceptor == a {
			return &l
		}
	}
	return nil
}

// bridge is the bridge of that name, or an empty one.
func bridge(s *hubapi.Snapshot, name string) *v1alpha1.Bridge {
	for i := range s.Bridges {
		if s.Bridges[i].Name == name {
			return &s.Bridges[i]
		}
	}
	return &v1alpha1.Bridge{}
}

// blame is why an object is not Ready.
func blame(conditions []condition) string {
	c := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady)
	if c == nil || c.Status == "True" {
		return "Ready"
	}
	return c.Reason + ": " + c.Message
}

// queue puts jobs down in berlin and does them in tokyo.
func (s *story) queue(ctx context.Context) (string, error) {
	const n = 200
	var js [2]jetstream.JetStream
	for i, name := range []string{berlin, tokyo} {
		nc, err := s.fed.connect(ctx, s.fed.member(name), account)
		if err != nil {
			return "", err
		}
		if js[i], err = jetstream.New(nc); err != nil {
			return "", err
		}
	}
	at := time.Now()
	for i := range n {
		if _, err := js[0].Publish(ctx, "jobs.pack", []byte(strconv.Itoa(i))); err != nil {
			return "", fmt.Errorf("put down job %d in berlin: %w", i, err)
		}
	}
	s.say("%d jobs put down in berlin in %s", n, seconds(time.Since(at)))
	worker, err := js[1].CreateOrUpdateConsumer(ctx, "JOBS", jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		return "", fmt.Errorf("a worker in tokyo: %w", err)
	}
	done := map[string]int{}
	last := time.Now()
	for len(done) < n && time.Since(last) < 15*time.Second {
		batch, err := worker.Fetch(n, jetstream.FetchMaxWait(time.Second))
		if err != nil {
			return "", err
		}
		for m := range batch.Messages() {
			if err := m.DoubleAck(ctx); err != nil {
				return "", fmt.Errorf("acknowledge a job: %w", err)
			}
			done[string(m.Data())]++
			last = time.Now()
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
	}
	all := time.Since(at)
	if len(done) < n {
		return "", fmt.Errorf("only %d of %d jobs reached tokyo", len(done), n)
	}
	for job, times := range done {
		if times != 1 {
			return "", fmt.Errorf("job %s was done %d times", job, times)
		}
	}
	err = s.fed.await(ctx, 10*time.Second, "both queues are empty", func(ctx context.Context) error {
		left := [2]int{}
		for i := range js {
			var err error
			if left[i], err = stored(ctx, js[i], "JOBS"); err != nil {
				return err
			}
		}
		if left != [2]int{} {
			return fmt.Errorf("%d left in berlin, %d in tokyo", left[0], left[1])
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d of %d jobs were done in tokyo, each once, in %s; both queues are empty", len(done), n, seconds(all)), nil
}
