package embedded

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// startAll makes running members that are not linked.
func startAll(t *testing.T, names ...string) map[string]*member {
	t.Helper()
	ca := newAuthority(t)
	ms := map[string]*member{}
	for _, n := range names {
		ms[n] = newMember(t, ca, n)
		ms[n].account("app")
		ms[n].start()
	}
	return ms
}

func setAll(ms map[string]*member) {
	for _, m := range ms {
		m.setAccounts()
	}
}

// ask sends one request and collects the answers that come before quiet.
func ask(t *testing.T, nc *nats.Conn, subject string, quiet time.Duration) (answers []string, err error) {
	t.Helper()
	sub, serr := nc.SubscribeSync(nc.NewInbox())
	if serr != nil {
		t.Fatal(serr)
	}
	defer sub.Unsubscribe()
	if err := nc.PublishRequest(subject, sub.Subject, nil); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := sub.NextMsg(quiet)
		if errors.Is(err, nats.ErrTimeout) {
			return answers, nil
		}
		if err != nil {
			return answers, err
		}
		answers = append(answers, string(m.Data))
	}
}

// respond answers requests with text.
func respond(t *testing.T, nc *nats.Conn, subject, queue, text string) *nats.Subscription {
	t.Helper()
	sub, err := nc.QueueSubscribe(subject, queue, func(m *nats.Msg) { _ = m.Respond([]byte(text)) })
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return sub
}

// A member with a choice of parents imports the reset of one consumer twice,
// under one local subject, from each of its ways to the origin. Of the ways, only
// one is open at a time: a request then has exactly one answer, whichever it is,
// and the closed way neither answers nor fails the request.
func TestTwoWaysToOneService(t *testing.T) {
	ms := startAll(t, "e", "p", "q", "o")
	e, p, q, o := ms["e"], ms["p"], ms["q"], ms["o"]
	link(t, e, p)
	link(t, e, q)
	link(t, p, o)
	link(t, q, o)
	path{o, p, e}.reset("app", "S", "c")
	path{o, q, e}.reset("app", "S", "c")
	setAll(ms)
	o.waitLinks(4)
	respond(t, o.app("app"), federationv1.ResetPrefix+"CONSUMER.RESET.S.c", "", "done")
	enc := e.app("app")
	const subject = "fedjs.o.CONSUMER.RESET.S.c"

	for _, tc := range []struct {
		open    []string
		answers int
	}{
		{[]string{"p", "q"}, 2}, // for a moment, when the way changes: the agent at the origin drops the second
		{[]string{"p"}, 1},
		{[]string{"q"}, 1},
		{nil, 0},
		{[]string{"p"}, 1},
	} {
		for i, r := range e.config.Remotes {
			e.config.Remotes[i].Disabled = true
			for _, o := range tc.open {
				if r.Peer == o {
					e.config.Remotes[i].Disabled = false
				}
			}
		}
		if e.configure() {
			t.Fatal("disabling a remote restarted the broker")
		}
		e.waitLinks(2 * len(tc.open))
		eventually(t, fmt.Sprintf("open %v", tc.open), func() error {
			answers, err := ask(t, enc, subject, 200*time.Millisecond)
			if tc.answers == 0 {
				if !errors.Is(err, nats.ErrNoResponders) {
					return fmt.Errorf("got %q, %v; want no responders", answers, err)
				}
				return nil
			}
			if err != nil || len(answers) != tc.answers {
				return fmt.Errorf("got %q, %v; want %d answers", answers, err, tc.answers)
			}
			return nil
		})
	}
}

// A full triangle with everything that a link can carry, in both directions and
// for two accounts, on the static public exports: no import is refused (setAccounts
// verifies each), events arrive exactly once, requests are answered by the local
// responder first, and nothing passes between accounts.
func TestTriangle(t *testing.T) {
	ms := startAll(t, "a", "b", "c")
	a, b, c := ms["a"], ms["b"], ms["c"]
	link(t, a, b)
	link(t, b, c)
	link(t, c, a)
	for _, p := range []path{{a, b}, {b, c}, {c, a}} {
		for _, d := range []path{p, p.reversed()} {
			for _, account := range []string{"app", "other"} {
				d.forward(account, "orders.>")
				d.forward(account, "svc.>")
				d.reply(account, "_INBOX.>")
				d.forward(account, "fedjd."+d[1].name+"."+d[0].name+".S.00000000")
				d.reply(account, "$JS.FC.S.fed-"+d[1].name+"-00000000.>")
				d.reset(account, "S", "fed-"+d[1].name+"-00000000")
			}
		}
	}
	setAll(ms)
	for _, m := range ms {
		m.waitLinks(4)
	}

	others := map[string]*inbox{}
	for n, m := range ms {
		others[n] = listen(t, m.app("other"), ">")
	}
	boxes := map[string]*inbox{}
	conns := map[string]*nats.Conn{}
	for n, m := range ms {
		conns[n] = m.app("app")
		boxes[n] = listen(t, conns[n], "orders.>")
	}
	for n := range ms {
		exactlyOnce(t, "from "+n, conns[n], "orders.eu.1", boxes)
	}

	respond(t, conns["a"], "svc.x", "q", "a")
	subC := respond(t, conns["c"], "svc.x", "q", "c")
	eventually(t, "both responders are seen at b", func() error {
		seen := map[string]bool{}
		for range 20 {
			m, err := conns["b"].Request("svc.x", nil, time.Second)
			if err != nil {
				return err
			}
			seen[string(m.Data)] = true
		}
		if len(seen) != 2 {
			return fmt.Errorf("seen only %v", seen)
		}
		return nil
	})
	subB := respond(t, conns["b"], "svc.x", "q", "b")
	for range 100 {
		m, err := conns["b"].Request("svc.x", nil, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if string(m.Data) != "b" {
			t.Fatalf("answered by %s while there is a local responder", m.Data)
		}
	}
	if answers, err := ask(t, conns["b"], "svc.x", 200*time.Millisecond); err != nil || len(answers) != 1 {
		t.Fatalf("a request had the answers %q, %v", answers, err)
	}
	_ = subB.Unsubscribe()
	_ = subC.Unsubscribe()
	eventually(t, "the remote responder takes over", func() error {
		answers, err := ask(t, conns["b"], "svc.x", 100*time.Millisecond)
		if err != nil || len(answers) != 1 || answers[0] != "a" {
			return fmt.Errorf("got %q, %v", answers, err)
		}
		return nil
	})
	for n, box := range others {
		box.mu.Lock()
		if len(box.got) != 0 {
			t.Errorf("account other at %s got %v", n, box.got)
		}
		box.mu.Unlock()
	}
}

// Everything crosses three links of which the first is dialled forwards, the
// second backwards and the third forwards again: a -> b <- c -> d. So b joins two
// connections that it accepted and c two that it dialled.
func TestTransit(t *testing.T) {
	ms := startAll(t, "a", "b", "c", "d")
	a, b, c, d := ms["a"], ms["b"], ms["c"], ms["d"]
	link(t, a, b)
	link(t, c, b)
	link(t, c, d)
	chain := path{a, b, c, d}
	for i := range chain {
		for j := i + 1; j < len(chain); j++ {
			for _, p := range []path{chain[i : j+1], chain[i : j+1].reversed()} {
				p.forward("app", "orders.>")
				p.forward("app", "svc.>")
				p.reply("app", "_INBOX.>")
			}
		}
	}
	bridges := []*bridge{
		{way: chain, stream: "ORDERS", subject: "src.a.>", hash: "0a0a0a0a"},
		{way: chain.reversed(), stream: "BACK", subject: "src.d.>", hash: "0b0b0b0b"},
		{way: chain[1:3], stream: "MIDDLE", subject: "src.b.>", hash: "0c0c0c0c"},
	}
	for _, br := range bridges {
		br.plan()
	}
	setAll(ms)
	for n, want := range map[string]int{"a": 2, "b": 4, "c": 4, "d": 2} {
		ms[n].waitLinks(want)
	}
	boxes := map[string]*inbox{}
	conns := map[string]*nats.Conn{}
	for n, m := range ms {
		conns[n] = m.app("app")
		boxes[n] = listen(t, conns[n], "orders.>")
	}
	for n := range ms {
		exactlyOnce(t, "from "+n, conns[n], "orders.1", boxes)
	}
	for _, p := range []path{chain, chain.reversed()} {
		far, near := p[len(p)-1], p[0]
		subject := "svc." + far.name
		sub := respond(t, conns[far.name], subject, "q", far.name)
		eventually(t, "far responder", func() error {
			answers, err := ask(t, conns[near.name], subject, 100*time.Millisecond)
			if err != nil || len(answers) != 1 {
				return fmt.Errorf("got %q, %v", answers, err)
			}
			return nil
		})
		respond(t, conns[near.name], subject, "q", near.name)
		for range 50 {
			m, err := conns[near.name].Request(subject, nil, time.Second)
			if err != nil || string(m.Data) != near.name {
				t.Fatalf("answered by %v, %v while there is a local responder", m, err)
			}
		}
		_ = sub.Unsubscribe()
	}
	for _, br := range bridges {
		br.create(t)
		br.publish(t, 0, 500)
		br.verify(t, 500)
	}
}

// bridge is a durable bridge made by hand.
type bridge struct {
	way                   path
	stream, subject, hash string
}

func (b *bridge) consumer() string { return "fed-" + b.way[len(b.way)-1].name + "-" + b.hash }
func (b *bridge) deliver() string {
	return "fedjd." + b.way[len(b.way)-1].name + "." + b.way[0].name + "." + b.stream + "." + b.hash
}

func (b *bridge) plan() {
	b.way.forward("app", b.deliver())
	b.way.reply("app", "$JS.FC."+b.stream+"."+b.consumer()+".>")
	b.way.reset("app", b.stream, b.consumer())
}

func (b *bridge) js(t *testing.T, m *member) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(m.agent("app"))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// create makes stream and consumer at the origin, then the destination's stream.
func (b *bridge) create(t *testing.T) {
	t.Helper()
	ctx := ctxFor(t)
	origin, dest := b.way[0], b.way[len(b.way)-1]
	origin.passResets("app")
	js := b.js(t, origin)
	if _, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: b.stream, Subjects: []string{b.subject}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateOrUpdatePushConsumer(ctx, b.stream, jetstream.ConsumerConfig{
		Durable: b.consumer(), DeliverSubject: b.deliver(), AckPolicy: jetstream.AckFlowControlPolicy,
		FlowControl: true, IdleHeartbeat: time.Second, MaxAckPending: 4096,
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.js(t, dest).CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: b.stream + "_COPY",
		Sources: []*jetstream.StreamSource{{
			Name:     b.stream,
			External: &jetstream.ExternalStream{APIPrefix: "fedjs." + origin.name},
			Consumer: &jetstream.StreamConsumerSource{Name: b.consumer(), DeliverSubject: b.deliver()},
		}},
	}); err != nil {
		t.Fatal(err)
	}
}

// publish stores messages from to to-1 at the origin.
func (b *bridge) publish(t *testing.T, from, to int) {
	t.Helper()
	js := b.js(t, b.way[0])
	for i := from; i < to; i++ {
		if _, err := js.PublishMsgAsync(&nats.Msg{Subject: b.subject[:len(b.subject)-1] + strconv.Itoa(i%7), Data: []byte(strconv.Itoa(i))}); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(20 * time.Second):
		t.Fatal("publishing does not complete")
	}
}

// verify waits for n messages at the destination and checks that they are all of
// them, once, in order.
func (b *bridge) verify(t *testing.T, n int) {
	t.Helper()
	ctx := ctxFor(t)
	s, err := b.js(t, b.way[len(b.way)-1]).Stream(ctx, b.stream+"_COPY")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, b.stream+": copied", func() error {
		info, err := s.Info(ctx)
		if err != nil {
			return err
		}
		if info.State.Msgs < uint64(n) {
			return fmt.Errorf("%d messages, want %d", info.State.Msgs, n)
		}
		return nil
	})
	b.checkOrder(ctx, t, s, n)
}

func (b *bridge) checkOrder(ctx context.Context, t *testing.T, s jetstream.Stream, n int) {
	t.Helper()
	for i := range n {
		m, err := s.GetMsg(ctx, uint64(i+1))
		if err != nil {
			t.Fatalf("%s: message %d: %v", b.stream, i, err)
		}
		if string(m.Data) != strconv.Itoa(i) {
			t.Fatalf("%s: message %d is %s", b.stream, i, m.Data)
		}
	}
	if info, err := s.Info(ctx); err != nil || info.State.Msgs != uint64(n) {
		t.Fatalf("%s: %d messages, want %d (%v)", b.stream, info.State.Msgs, n, err)
	}
}
