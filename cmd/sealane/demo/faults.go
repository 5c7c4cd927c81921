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
	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/cmd/sealane/hubapi"
)

type condition = metav1.Condition

// cycle applies the wrong manifest, shows how it is refused, checks that nothing
// goes round and that the rest is unharmed, and removes it.
func (s *story) cycle(ctx context.Context) (string, error) {
	if err := apply(ctx, s.fed.api, s.wrong); err != nil {
		return "", err
	}
	err := errors.Join(s.refusal(ctx), s.notRound(ctx))
	for _, r := range slices.Backward(s.wrong) {
		err = errors.Join(err, client.IgnoreNotFound(s.fed.api.Delete(ctx, r.DeepCopy())))
	}
	if err != nil {
		return "", err
	}
	at := time.Now()
	for _, name := range []string{berlin, denver} {
		if err := s.ticksGone(ctx, s.fed.member(name)); err != nil {
			return "", err
		}
	}
	if _, err := s.fed.awaitFine(ctx, 20*time.Second); err != nil {
		return "", fmt.Errorf("after %s was deleted: %w", cycleFile, err)
	}
	s.say("the resources of %s deleted: TICKS is gone from berlin and denver %s later", cycleFile, seconds(time.Since(at)))
	return "the cycle was refused with its way spelled out, and nothing else was touched", nil
}

func (s *story) ticksGone(ctx context.Context, m *member) error {
	nc, err := s.fed.connect(ctx, m, account)
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	return s.fed.await(ctx, 20*time.Second, "the stream TICKS is removed from "+m.name, func(ctx context.Context) error {
		switch n, err := stored(ctx, js, "TICKS"); {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return nil
		case err != nil:
			return err
		default:
			return fmt.Errorf("it is there, with %d messages", n)
		}
	})
}

func (s *story) refusal(ctx context.Context) error {
	return s.fed.await(ctx, 10*time.Second, "a bridge of "+cycleFile+" is refused", func(ctx context.Context) error {
		snap, r, err := s.judgement(ctx)
		if err != nil {
			return err
		}
		var told []string
		for i := range snap.Bridges {
			b := &snap.Bridges[i]
			c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionAccepted)
			if c == nil || c.Status != metav1.ConditionFalse {
				continue
			}
			if !s.isWrong("Bridge", b.Name) || c.Reason != v1alpha1.ReasonStreamCycle {
				return hopeless{fmt.Errorf("bridge %s is refused for another reason: %s: %s", b.Name, c.Reason, c.Message)}
			}
			told = append(told, fmt.Sprintf("bridge %s: Accepted=%s, %s: %s", b.Name, c.Status, c.Reason, c.Message))
		}
		if len(told) == 0 {
			return errors.New(r.Summary)
		}
		s.say("%s", strings.Join(told, "\n"))
		return nil
	})
}

func (s *story) isWrong(kind, name string) bool {
	return slices.ContainsFunc(s.wrong, func(m manifest) bool { return m.GetKind() == kind && m.GetName() == name })
}

// notRound waits until what is right of the wrong manifest is in effect, sends
// one message and sees that it is not copied back.
func (s *story) notRound(ctx context.Context) error {
	err := s.fed.await(ctx, 20*time.Second, "all but the refused is Ready", func(ctx context.Context) error {
		_, r, err := s.judgement(ctx)
		if err != nil {
			return err
		}
		for _, f := range r.Findings {
			if f.Area != hubapi.AreaRefused && f.Area != hubapi.AreaNotes {
				return errors.New(spell(r, 4))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	nc, err := s.fed.connect(ctx, s.fed.member(berlin), account)
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	if _, err := js.Publish(ctx, "ticks.one", []byte("tick")); err != nil {
		return fmt.Errorf("publish to TICKS in berlin: %w", err)
	}
	if err := pause(ctx, 2*settle); err != nil {
		return err
	}
	n, err := stored(ctx, js, "TICKS")
	if err != nil {
		return err
	}
	if n != 1 {
		return fmt.Errorf("TICKS in berlin holds %d messages after one was published", n)
	}
	s.say("one message published to TICKS in berlin: TICKS still holds 1 message %s later, and all else is Ready", seconds(2*settle))
	return nil
}

// pulse is a stream of numbered events from one member to another.
type pulse struct {
	mu    sync.Mutex
	sent  int
	times map[int][]time.Time
}

// beat sends events from one member until ctx ends, and counts them at another.
func (p *pulse) beat(ctx context.Context, from, to *nats.Conn, subject string) (stop func(), err error) {
	p.times = map[int][]time.Time{}
	sub, err := to.Subscribe(subject, func(m *nats.Msg) {
		n, err := strconv.Atoi(string(m.Data))
		p.mu.Lock()
		defer p.mu.Unlock()
		if err == nil {
			p.times[n] = append(p.times[n], time.Now())
		}
	})
	if err != nil {
		return nil, err
	}
	beating, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-beating.Done():
				return
			case <-tick.C:
			}
			p.mu.Lock()
			n := p.sent + 1
			if from.Publish(subject, []byte(strconv.Itoa(n))) == nil {
				p.sent = n
			}
			p.mu.Unlock()
		}
	}()
	return func() {
		cancel()
		<-ended
		_ = from.Flush() // what did not leave is missing in the end
		late, cancel := context.WithTimeout(ctx, arriveWithin)
		defer cancel()
		_ = hubapi.Poll(late, look, func() (bool, error) { return p.last(), nil }) // what is late is missing in the end
		_ = pause(ctx, settle)                                                     // what is doubled may come late
		_ = sub.Unsubscribe()                                                      // it may be closed
	}, nil
}

// last tells whether the last event that was sent has arrived.
func (p *pulse) last() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.times[p.sent]) > 0
}

// heard judges what arrived from the first event that did on: interest takes a
// moment to travel.
func (p *pulse) heard() (events int, gap time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	first := 1
	for first <= p.sent && len(p.times[first]) == 0 {
		first++
	}
	if first > p.sent {
		return 0, 0, fmt.Errorf("none of %d events arrived", p.sent)
	}
	lost, doubled := 0, 0
	var last time.Time
	for n := first; n <= p.sent; n++ {
		switch t := p.times[n]; len(t) {
		case 0:
			lost++
		default:
			if len(t) > 1 {
				doubled++
			}
			if !last.IsZero() {
				gap = max(gap, t[0].Sub(last))
			}
			last = t[0]
		}
	}
	events = p.sent - first + 1
	if lost+doubled > 0 {
		return events, gap, fmt.Errorf("of %d events from berlin to tokyo %d were lost and %d doubled", events, lost, doubled)
	}
	return events, gap, nil
}

// hubKilled kills the hub, then a member, and starts them again, while orders
// are taken in berlin and events go from berlin to tokyo all along.
func (s *story) hubKilled(ctx context.Context) (string, error) {
	from, err := s.fed.connect(ctx, s.fed.member(berlin), account)
	if err != nil {
		return "", err
	}
	to, err := s.fed.connect(ctx, s.fed.member(tokyo), account)
	if err != nil {
		return "", err
	}
	stopOrders, err := s.taking(ctx, s.fed.member(berlin))
	if err != nil {
		return "", err
	}
	var p pulse
	stopPulse, err := p.beat(ctx, from, to, "news.pulse")
	if err != nil {
		return "", errors.Join(err, stopOrders())
	}
	err = s.killHubAndMember(ctx)
	stopPulse()
	if err := errors.Join(err, stopOrders()); err != nil {
		return "", err
	}
	events, gap, err := p.heard()
	if err != nil {
		return "", err
	}
	s.say("all along, %d events from berlin arrived in tokyo exactly once, never more than %s apart", events, seconds(gap))
	if _, err := s.checkOrders(ctx, 30*time.Second); err != nil {
		return "", err
	}
	s.say("orders: %d of %d in tokyo, none lost or doubled", s.orders.total(""), s.orders.total(""))

	at := time.Now()
	if err := s.fed.startHub(ctx); err != nil {
		return "", err
	}
	if err := s.inCharge(ctx); err != nil {
		return "", fmt.Errorf("after the hub came back: %w", err)
	}
	r, err := s.fed.awaitFine(ctx, 40*time.Second)
	if err != nil {
		return "", fmt.Errorf("after the hub came back: %w", err)
	}
	back := time.Since(at)
	s.say("hub started again (pid %d): %s A bridge changed through it was applied and reported by all members.", s.fed.hubRun.pid(), r.Summary)
	_, slowest, err := s.fanOut(ctx, afterPrefix, 10*time.Second)
	if err != nil {
		return "", fmt.Errorf("on the subject that was added after the hub came back: %w", err)
	}
	s.say("on the subject that was added, an event from each member arrived exactly once at every other, the slowest after %s", seconds(slowest))
	return fmt.Sprintf("messages flowed without the hub and with a member away; %s after its start the hub was in charge of all members again and everything Ready", seconds(back)), nil
}

// inCharge changes a bridge between all members and waits until it is Ready as
// changed. What the statuses said before the hub was killed still stands for a
// while when it is back; this generation of the bridge only members can have
// reported that have a session with the hub as it runs now.
func (s *story) inCharge(ctx context.Context) error {
	key := client.ObjectKey{Namespace: "default", Name: "news"}
	changed := false
	return s.fed.await(ctx, 40*time.Second, "a change made now is Ready on all members", func(ctx context.Context) error {
		var b v1alpha1.Bridge
		if err := s.fed.api.Get(ctx, key, &b); err != nil {
			return err // the hub may be starting
		}
		if !changed {
			if subject := afterPrefix + ">"; !slices.Contains(b.Spec.Subjects, subject) {
				b.Spec.Subjects = append(b.Spec.Subjects, subject)
				if err := s.fed.api.Update(ctx, &b); err != nil {
					return err
				}
			}
			changed = true
		}
		return readyAsIs(&b)
	})
}

// readyAsIs complains unless the bridge is Ready in its present generation.
func readyAsIs(b *v1alpha1.Bridge) error {
	switch c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionReady); {
	case c == nil:
		return fmt.Errorf("bridge %s: nothing is said of it yet", b.Name)
	case c.ObservedGeneration != b.Generation:
		return fmt.Errorf("bridge %s: generation %d was judged, not %d yet", b.Name, c.ObservedGeneration, b.Generation)
	case c.Status != metav1.ConditionTrue:
		return fmt.Errorf("bridge %s: %s: %s", b.Name, c.Reason, c.Message)
	}
	return nil
}

func (s *story) killHubAndMember(ctx context.Context) error {
	pid := s.fed.hubRun.pid()
	s.fed.hubRun.kill()
	s.say("hub killed (kill -9 %d)", pid)
	_, slowest, err := s.fanOut(ctx, newsPrefix, 10*time.Second)
	if err != nil {
		return fmt.Errorf("without the hub: %w", err)
	}
	s.say("without the hub: an event from each member arrived exactly once at every other, the slowest after %s", seconds(slowest))
	m := s.fed.member(denver)
	pid = m.run.pid()
	m.run.kill()
	s.say("denver killed (kill -9 %d)", pid)
	at := time.Now()
	if err := m.run.start(); err != nil {
		return err
	}
	starting := time.Since(at)
	warm, slowest, err := s.fanOut(ctx, newsPrefix, 20*time.Second)
	if err != nil {
		return fmt.Errorf("after denver was started again without the hub: %w", err)
	}
	s.say("denver started again from its own journal (pid %d): events to and from it flow again %s later, exactly once, the slowest after %s",
		m.run.pid(), seconds(starting+warm), seconds(slowest))
	return nil
}
