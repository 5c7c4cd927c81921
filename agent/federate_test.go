package agent

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// fed is a hand-made plan for a few members with one application account: who
// dials whom, events in both directions of each link, and durable bridges over
// one link.
type fed struct {
	t   testing.TB
	hub *testHub
	// parts of each member, as far as they are planned.
	imports map[string]map[string][]*federationv1.Import // by member, account
	links   map[string]map[string]*federationv1.Part     // by member, peer
	extra   map[string][]*federationv1.Part
}

func newFed(t testing.TB, hub *testHub, members ...string) *fed {
	f := &fed{t: t, hub: hub, imports: map[string]map[string][]*federationv1.Import{}, links: map[string]map[string]*federationv1.Part{}, extra: map[string][]*federationv1.Part{}}
	for _, m := range members {
		f.imports[m] = map[string][]*federationv1.Import{"app": nil}
		f.links[m] = map[string]*federationv1.Part{}
	}
	return f
}

// push sends every member its state.
func (f *fed) push() {
	for m, accounts := range f.imports {
		var parts []*federationv1.Part
		for name, imports := range accounts {
			parts = append(parts, accountPart(name, imports...))
		}
		for _, l := range f.links[m] {
			parts = append(parts, l)
		}
		f.hub.want(m, append(parts, f.extra[m]...)...)
	}
}

func (f *fed) importInto(member, account string, im ...*federationv1.Import) {
	f.imports[member][account] = append(f.imports[member][account], im...)
}

// accept plans the acceptor's end of a link, and the accounts of both.
func (f *fed) accept(dialer, acceptor string) {
	f.t.Helper()
	f.links[acceptor][dialer] = acceptPart(dialer, f.hub.linkKey(dialer))
	for _, e := range [][2]string{{dialer, acceptor}, {acceptor, dialer}} {
		f.importInto(e[0], federationv1.OutAccount(e[1]))
		f.importInto(e[0], federationv1.InAccount(e[1]))
	}
}

// dial plans the dialer's end, with the grant that the acceptor reported.
func (f *fed) dial(dialer, acceptor, endpoint, group string, priority int32) {
	f.t.Helper()
	f.links[dialer][acceptor] = linkPart(&federationv1.LinkSpec{
		Peer: acceptor, Role: federationv1.LinkSpec_DIAL, Grant: f.hub.grant(acceptor, dialer),
		Endpoints: []string{endpoint}, FailoverGroup: group, Priority: priority,
	})
}

// events plans a subject from one member to a neighbour.
func (f *fed) events(from, to, subject string) {
	tagged := "fo." + from + ".app." + subject
	f.importInto(from, federationv1.OutAccount(to), imp("app", subject, tagged))
	f.importInto(to, "app", imp(federationv1.InAccount(from), tagged, subject))
}

// durable plans a durable bridge between neighbours and returns its parts: the
// outlet at the origin and the source at the destination.
func (f *fed) durable(bridge, from, to, stream string) (*federationv1.OutletSpec, *federationv1.Source) {
	consumer := "fed-" + to + "-0a1b2c3d"
	deliver := fmt.Sprintf("fedjd.%s.%s.%s.0a1b2c3d", to, from, stream)
	f.events(from, to, deliver)
	fc := fmt.Sprintf("$JS.FC.%s.%s.>", stream, consumer)
	f.importInto(to, federationv1.InAccount(from), imp("app", fc, "re."+to+".app."+fc))
	f.importInto(from, "app", imp(federationv1.OutAccount(to), "re."+to+".app."+fc, fc))
	reset := fmt.Sprintf("CONSUMER.RESET.%s.%s", stream, consumer)
	f.importInto(from, federationv1.OutAccount(to), svc("app", federationv1.ResetPrefix+reset, "fedjs."+from+".app."+reset))
	f.importInto(to, "app", svc(federationv1.InAccount(from), "fedjs."+from+".app."+reset, "fedjs."+from+"."+reset))
	return &federationv1.OutletSpec{Bridge: bridge, Destination: to, Account: "app", Stream: stream, Consumer: consumer, DeliverSubject: deliver},
		&federationv1.Source{Bridge: bridge, Origin: from, Stream: stream, Consumer: consumer, DeliverSubject: deliver, ApiPrefix: "fedjs." + from}
}

// publish has a stream acknowledge messages from first to last.
func publish(t testing.TB, nc *nats.Conn, subject string, first, last int) {
	t.Helper()
	js := mustJS(t, nc)
	for n := first; n <= last; n++ {
		_, err := js.Publish(t.Context(), subject, fmt.Appendf(nil, "%d", n))
		check(t, err)
	}
}

func TestFederatesTwoMembers(t *testing.T) {
	t.Parallel()
	hub := startHub(t, newCA(t))
	a, b := startAgent(t, hub, "tokyo"), newAgent(t, hub, "osaka")
	b.opts.LinkListen = "" // only dials
	b.start()
	f := newFed(t, hub, "tokyo", "osaka")
	f.accept("osaka", "tokyo")
	f.push()
	hub.applied("tokyo")
	wire := newProxy(t, a.linkAddr())
	f.dial("osaka", "tokyo", wire.addr(), "", 0)
	f.events("tokyo", "osaka", "news.>")
	outlet, source := f.durable("demo/orders", "tokyo", "osaka", "ORDERS")
	f.extra["tokyo"] = []*federationv1.Part{ordersPart(), outletPart(outlet)}
	f.push()
	hub.applied("tokyo")
	f.extra["osaka"] = []*federationv1.Part{streamPart(&federationv1.StreamSpec{
		Account: "app", Name: "ALL", Sources: []*federationv1.Source{source}, DuplicateWindow: int64(time.Minute),
	})}
	f.push()
	hub.applied("osaka")
	for _, e := range [][2]string{{"tokyo", "osaka"}, {"osaka", "tokyo"}} {
		if l := hub.link(e[0], e[1], federationv1.Health_UP); l.RttMicros <= 0 || l.Message != "" {
			t.Errorf("link of %s to %s: %v", e[0], e[1], l)
		}
	}

	// Events and the stream flow.
	ta, tb := a.connect("app"), b.connect("app")
	sub, err := tb.SubscribeSync("news.>")
	check(t, err)
	check(t, tb.Flush())
	eventually(t, "an event arrives", func() error {
		check(t, ta.Publish("news.1", nil))
		_, err := sub.NextMsg(100 * time.Millisecond)
		return err
	})
	jb := mustJS(t, tb)
	publish(t, ta, "orders.1", 1, 100)
	messages := func(want uint64) func() error {
		return func() error {
			info, err := streamInfo(jb, "ALL")
			if err == nil && info.State.Msgs != want {
				err = fmt.Errorf("%d messages, source %+v", info.State.Msgs, info.Sources[0])
			}
			return err
		}
	}
	eventually(t, "all messages arrive", messages(100))
	flow := flowKey{"demo/orders", "tokyo", "app", "ALL"}
	flowIs := func(state federationv1.Health) *federationv1.FlowHealth {
		t.Helper()
		var got *federationv1.FlowHealth
		eventually(t, "flow is "+state.String(), func() (err error) {
			hub.look("osaka", func(m *hubMember) {
				if got = m.flows[flow]; got.GetState() != state {
					err = fmt.Errorf("%v", m.flows)
				}
			})
			return err
		})
		return got
	}
	flowIs(federationv1.Health_UP)
	ja := mustJS(t, ta)
	acked := func() {
		t.Helper()
		eventually(t, "everything is acknowledged to the consumer", func() error {
			c, err := ja.PushConsumer(t.Context(), "ORDERS", outlet.Consumer)
			if err == nil && c.CachedInfo().NumAckPending != 0 {
				err = fmt.Errorf("%d are not: %+v", c.CachedInfo().NumAckPending, c.CachedInfo())
			}
			return err
		})
	}
	acked()

	// The link is cut: both ends and the flow say so, within 15 s.
	cut := time.Now()
	wire.setCut(true)
	publish(t, ta, "orders.2", 101, 300)
	down := hub.link("osaka", "tokyo", federationv1.Health_DOWN)
	hub.link("tokyo", "osaka", federationv1.Health_DOWN)
	f2 := flowIs(federationv1.Health_DOWN)
	if d := time.Since(cut); d > 15*time.Second {
		t.Errorf("the cut was reported after %v", d)
	}
	if time.UnixMilli(down.Since).Before(cut.Add(-time.Second)) || f2.Message == "" {
		t.Errorf("link %v, flow %v", down, f2)
	}
	eventually(t, "the link's message says why", func() (err error) {
		hub.look("osaka", func(m *hubMember) {
			want := "no leaf connection to tokyo (" + wire.addr() + ": the port answers, but no link comes about (see the log of this member's agent and of the peer's))"
			if got := m.links["tokyo"].GetMessage(); got != want {
				err = fmt.Errorf("%q", got)
			}
		})
		return err
	})

	// It heals: nothing was lost or doubled.
	wire.setCut(false)
	hub.link("osaka", "tokyo", federationv1.Health_UP)
	hub.link("tokyo", "osaka", federationv1.Health_UP)
	eventually(t, "what was published meanwhile arrives", messages(300))
	flowIs(federationv1.Health_UP)

	// The consumer is deleted behind the agent's back: it comes back, and nothing
	// arrives twice.
	acked()
	check(t, ja.DeleteConsumer(t.Context(), "ORDERS", outlet.Consumer))
	publish(t, ta, "orders.3", 301, 320)
	eventually(t, "the flow goes on", messages(320))
	seen := map[string]bool{}
	st, err := jb.Stream(t.Context(), "ALL")
	check(t, err)
	for seq := uint64(1); seq <= 320; seq++ {
		m, err := st.GetMsg(t.Context(), seq)
		check(t, err)
		if want := fmt.Sprint(seq); string(m.Data) != want {
			t.Fatalf("message %d is %q", seq, m.Data)
		}
		seen[string(m.Data)] = true
	}
	if len(seen) != 320 {
		t.Errorf("%d different messages", len(seen))
	}

	acked()

	// Paused, nothing flows; resumed, it does.
	outlet.Paused = true
	f.extra["tokyo"][1] = outletPart(outlet)
	f.push()
	hub.applied("tokyo")
	publish(t, ta, "orders.4", 321, 330)
	eventually(t, "the consumer is paused", func() error {
		c, err := ja.PushConsumer(t.Context(), "ORDERS", outlet.Consumer)
		if err == nil && !c.CachedInfo().Paused {
			err = fmt.Errorf("not paused")
		}
		return err
	})
	check(t, messages(320)())
	flowIs(federationv1.Health_UP)
	outlet.Paused = false
	f.extra["tokyo"][1] = outletPart(outlet)
	f.push()
	eventually(t, "what was held back arrives", messages(330))

	// The link goes.
	f.links["osaka"], f.links["tokyo"] = nil, nil
	f.imports["osaka"], f.imports["tokyo"] = map[string][]*federationv1.Import{"app": nil}, map[string][]*federationv1.Import{"app": nil}
	f.extra["osaka"], f.extra["tokyo"] = nil, []*federationv1.Part{ordersPart()}
	f.push()
	hub.applied("osaka")
	hub.applied("tokyo")
	eventually(t, "nobody speaks of the link and the flow any more", func() (err error) {
		for _, m := range []string{"tokyo", "osaka"} {
			hub.look(m, func(m *hubMember) {
				if len(m.links)+len(m.flows) > 0 {
					err = fmt.Errorf("%v %v", m.links, m.flows)
				}
			})
		}
		return err
	})
	info, err := streamInfo(ja, "ORDERS")
	check(t, err)
	eventually(t, "the consumer goes", func() error {
		if info, err = streamInfo(ja, "ORDERS"); err == nil && info.State.Consumers != 0 {
			err = fmt.Errorf("%d consumers", info.State.Consumers)
		}
		return err
	})
}

// A link whose connections are open but dead is made to connect again.
func TestStalledLink(t *testing.T) {
	t.Parallel()
	hub := startHub(t, newCA(t))
	a, b := startAgent(t, hub, "tokyo"), newAgent(t, hub, "osaka")
	b.opts.LinkListen = ""
	b.start()
	f := newFed(t, hub, "tokyo", "osaka")
	f.accept("osaka", "tokyo")
	f.push()
	wire := newProxy(t, a.linkAddr())
	f.dial("osaka", "tokyo", wire.addr(), "", 0)
	f.push()
	both := func(state federationv1.Health) {
		t.Helper()
		hub.link("osaka", "tokyo", state)
		hub.link("tokyo", "osaka", state)
	}
	both(federationv1.Health_UP)
	start := time.Now()
	wire.stall()
	// The end that notices first mends it for both.
	eventually(t, "one end notices", func() error {
		for member, peer := range map[string]string{"osaka": "tokyo", "tokyo": "osaka"} {
			down := false
			hub.look(member, func(m *hubMember) {
				down = slices.ContainsFunc(m.linkLog, func(l *federationv1.LinkHealth) bool {
					return l.Peer == peer && l.State == federationv1.Health_DOWN
				})
			})
			if down {
				return nil
			}
		}
		return errors.New("both ends find it up")
	})
	both(federationv1.Health_UP)
	t.Logf("up again after %v", time.Since(start).Round(time.Millisecond))
}
