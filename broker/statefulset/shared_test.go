package statefulset

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

// balance is one address in front of several, as a Service is: each connection goes
// to the next that takes it.
func balance(t *testing.T, to []string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	pass := func(front, back net.Conn) {
		var both sync.WaitGroup
		for _, way := range [][2]net.Conn{{front, back}, {back, front}} {
			both.Go(func() {
				_, _ = io.Copy(way[0], way[1])
				way[0].Close()
				way[1].Close()
			})
		}
		both.Wait()
		mu.Lock()
		defer mu.Unlock()
		delete(open, front)
		delete(open, back)
	}
	all.Go(func() {
		for next := 0; ; next++ {
			front, err := ln.Accept()
			if err != nil {
				return
			}
			var back net.Conn
			for i := range to {
				if back, err = net.DialTimeout("tcp", to[(next+i)%len(to)], time.Second); err == nil {
					break
				}
			}
			if err != nil {
				front.Close()
				continue
			}
			mu.Lock()
			open[front], open[back] = true, true
			mu.Unlock()
			all.Go(func() { pass(front, back) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return ln.Addr().String()
}

func (w *world) spec(account string) *federationv1.AccountSpec {
	for _, p := range w.parts {
		if a := p.GetAccount(); a != nil && a.Name == account {
			return a
		}
	}
	a := &federationv1.AccountSpec{Name: account, Application: !strings.Contains(account, "_")}
	w.parts = append(w.parts, &federationv1.Part{Id: federationv1.AccountID(account), Spec: &federationv1.Part_Account{Account: a}})
	return a
}

func (w *world) imports(into, from, subject, to string, service bool) {
	a := w.spec(into)
	a.Imports = append(a.Imports, &federationv1.Import{Account: from, Subject: subject, To: to, Service: service})
}

// way is from the one member to the other, over their link.
type way struct{ from, to *world }

func (p way) forward(subject string) {
	tagged := "fo." + p.from.name + ".app." + subject
	p.from.imports("tx_"+p.to.name, "app", subject, tagged, false)
	p.to.imports("app", "rx_"+p.from.name, tagged, subject, false)
}

func (p way) reply(subject string) {
	tagged := "re." + p.to.name + ".app." + subject
	p.to.imports("rx_"+p.from.name, "app", subject, tagged, false)
	p.from.imports("app", "tx_"+p.to.name, tagged, subject, false)
}

func (p way) durable() {
	p.forward(p.deliver())
	p.reply("$JS.FC." + p.stream() + "." + p.consumer() + ".>")
	op := "CONSUMER.RESET." + p.stream() + "." + p.consumer()
	tagged := "fedjs." + p.from.name + ".app." + op
	p.from.imports("tx_"+p.to.name, "app", federationv1.ResetPrefix+op, tagged, true)
	p.to.imports("app", "rx_"+p.from.name, tagged, "fedjs."+p.from.name+"."+op, true)
}

func (p way) stream() string   { return strings.ToUpper(p.from.name + p.to.name) }
func (p way) consumer() string { return "fed-" + p.to.name + "-00000000" }
func (p way) deliver() string {
	return "fedjd." + p.to.name + "." + p.from.name + "." + p.stream() + ".00000000"
}

// client connects in the account with an inbox that is the member's.
func (w *world) client() *nats.Conn {
	w.t.Helper()
	return w.app("app", -1, nats.CustomInboxPrefix("_INBOX."+w.name))
}

// passResets passes on resets of other members, with the position that the reset
// went to, as the agents do.
func (w *world) passResets() {
	w.t.Helper()
	nc, err := w.rt.Connect("app")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(nc.Close)
	if _, err := nc.Subscribe(federationv1.ResetPrefix+"CONSUMER.RESET.*.*", func(m *nats.Msg) {
		reset(nc, m, strings.TrimPrefix(m.Subject, federationv1.ResetPrefix))
	}); err != nil {
		w.t.Fatal(err)
	}
}

// reset answers m with what came of a reset, and the position that it went to.
func reset(nc *nats.Conn, m *nats.Msg, api string) {
	answer, err := nc.Request("$JS.API."+api, m.Data, 5*time.Second)
	if err != nil {
		return
	}
	var info map[string]json.RawMessage
	var seq uint64
	if json.Unmarshal(answer.Data, &info) == nil && json.Unmarshal(info["reset_seq"], &seq) == nil && seq > 0 {
		info["delivered"] = fmt.Appendf(nil, `{"consumer_seq":0,"stream_seq":%d}`, seq-1)
		answer.Data, _ = json.Marshal(info)
	}
	_ = m.RespondMsg(&nats.Msg{Header: answer.Header, Data: answer.Data})
}

func (p way) create(from, to *nats.Conn) {
	t := p.from.t
	t.Helper()
	eventually(t, "durable flow "+p.stream(), func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		js := jsOf(t, from)
		if _, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: p.stream(), Subjects: []string{p.stream() + ".>"}, Replicas: len(p.from.rt.pods())}); err != nil {
			return err
		}
		if _, err := js.CreateOrUpdatePushConsumer(ctx, p.stream(), jetstream.ConsumerConfig{
			Durable: p.consumer(), DeliverSubject: p.deliver(), AckPolicy: jetstream.AckFlowControlPolicy,
			FlowControl: true, IdleHeartbeat: time.Second, MaxAckPending: 4096,
		}); err != nil {
			return err
		}
		_, err := jsOf(t, to).CreateOrUpdateStream(ctx, jetstream.StreamConfig{
			Name: p.stream() + "_COPY", Replicas: len(p.to.rt.pods()), Sources: []*jetstream.StreamSource{{
				Name: p.stream(), External: &jetstream.ExternalStream{APIPrefix: "fedjs." + p.from.name},
				Consumer: &jetstream.StreamConsumerSource{Name: p.consumer(), DeliverSubject: p.deliver()},
			}},
		})
		return err
	})
}

// publish stores messages from to to-1 at the origin, whatever comes and goes.
func (p way) publish(nc *nats.Conn, from, to int) {
	t := p.from.t
	t.Helper()
	js := jsOf(t, nc)
	for i := from; i < to; i++ {
		eventually(t, "publish", func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			defer cancel()
			_, err := js.Publish(ctx, p.stream()+".x", []byte(strconv.Itoa(i)), jetstream.WithMsgID(strconv.Itoa(i)))
			return err
		})
	}
}

// verify waits for n messages at the destination, which shall be all, once, in order.
func (p way) verify(nc *nats.Conn, n int) {
	t := p.from.t
	t.Helper()
	js := jsOf(t, nc)
	eventually(t, p.stream()+" is copied", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s, err := js.Stream(ctx, p.stream()+"_COPY")
		if err != nil {
			return err
		}
		switch got := s.CachedInfo().State; {
		case got.Msgs < uint64(n):
			return fmt.Errorf("%d messages of %d", got.Msgs, n)
		case got.Msgs > uint64(n):
			t.Fatalf("%s: %d messages, want %d", p.stream(), got.Msgs, n)
		}
		for i := range n {
			m, err := s.GetMsg(ctx, uint64(i+1))
			if err != nil {
				return err
			}
			if string(m.Data) != strconv.Itoa(i) {
				t.Fatalf("%s: message %d is %s", p.stream(), i, m.Data)
			}
		}
		return nil
	})
}

// live checks that events reach a listener on each server of the other member once,
// and that requests are answered from there.
func (p way) live(label string) {
	t := p.from.t
	t.Helper()
	from := p.from.client()
	var mu sync.Mutex
	got := map[string]int{}
	servers := len(p.to.rt.pods())
	for n := range servers {
		nc := p.to.app("app", n)
		if _, err := nc.Subscribe("ev.>", func(m *nats.Msg) {
			mu.Lock()
			defer mu.Unlock()
			got[fmt.Sprintf("%s at %d", m.Data, n)]++
		}); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	say := func(what string) {
		if err := from.Publish("ev.x", []byte(label+what)); err != nil {
			t.Fatal(err)
		}
	}
	arrived := func(what string) error {
		mu.Lock()
		defer mu.Unlock()
		for n := range servers {
			if got[fmt.Sprintf("%s at %d", label+what, n)] == 0 {
				return fmt.Errorf("nothing from %s at server %d of %s", p.from.name, n, p.to.name)
			}
		}
		return nil
	}
	eventually(t, label+": the way opens", func() error {
		say("open")
		return arrived("open")
	})
	const n = 50
	for i := range n {
		say(strconv.Itoa(i))
	}
	say("end")
	eventually(t, label+": all arrive", func() error { return arrived("end") })
	mu.Lock()
	defer mu.Unlock()
	for i := range n {
		for s := range servers {
			if c := got[fmt.Sprintf("%s%d at %d", label, i, s)]; c != 1 {
				t.Fatalf("%s: event %d of %s arrived %d times at server %d of %s", label, i, p.from.name, c, s, p.to.name)
			}
		}
	}
	to := p.to.client()
	if _, err := to.Subscribe("svc."+p.to.name, func(m *nats.Msg) { _ = m.Respond([]byte(p.to.name)) }); err != nil {
		t.Fatal(err)
	}
	eventually(t, label+": a request", func() error {
		m, err := from.Request("svc."+p.to.name, nil, time.Second)
		if err == nil && string(m.Data) != p.to.name {
			t.Fatalf("%s answered", m.Data)
		}
		return err
	})
	to.Close()
}

// linkVia has d dial a at an address.
func linkVia(t *testing.T, d, a *world, addr string) {
	t.Helper()
	grant, err := broker.IssueGrant(a.keyring, d.name, d.keyring.LinkUser().Public, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a.parts = append(a.parts, &federationv1.Part{Id: federationv1.LinkID(d.name), Spec: &federationv1.Part_Link{
		Link: &federationv1.LinkSpec{Peer: d.name, Role: federationv1.LinkSpec_ACCEPT, PeerKey: grant.Key},
	}})
	d.parts = append(d.parts, &federationv1.Part{Id: federationv1.LinkID(a.name), Spec: &federationv1.Part_Link{
		Link: &federationv1.LinkSpec{Peer: a.name, Role: federationv1.LinkSpec_DIAL, Grant: grant, Spoke: true},
	}})
	for _, out := range []bool{true, false} {
		token := map[bool]string{true: grant.Out, false: grant.In}[out]
		d.config.Remotes = append(d.config.Remotes, broker.Remote{Peer: a.name, Out: out, Endpoints: []string{addr}, JWT: token, Spoke: true})
	}
}

func (w *world) leafs(n int) []broker.LeafConn {
	w.t.Helper()
	var conns []broker.LeafConn
	eventually(w.t, fmt.Sprintf("%d links at %s", n, w.name), func() (err error) {
		if conns, err = w.rt.LeafConns(); err == nil && len(conns) != n {
			err = fmt.Errorf("%d", len(conns))
		}
		return err
	})
	return conns
}

// Three servers accept links at one shared address, from a broker of one server and
// from one of three: what is live arrives once everywhere, what is durable exactly
// once, also while a server is lost; a renewed certificate reaches all of them and
// disturbs nobody.
func TestSharedLinkAddress(t *testing.T) {
	t.Parallel()
	ca := newFederation(t)
	a, d, e := newMember(t, ca, "a", 3), newMember(t, ca, "d", 1), newMember(t, ca, "e", 3)
	addr := balance(t, a.place.links)
	ways := []way{{a, d}, {d, a}, {a, e}, {e, a}}
	durable := []way{{d, a}, {a, e}}
	for _, w := range []*world{a, d, e} {
		w.account("app")
	}
	linkVia(t, d, a, addr)
	linkVia(t, e, a, addr)
	for _, p := range ways {
		p.forward("ev.>")
		p.forward("svc." + p.to.name)
		p.reply("_INBOX." + p.from.name + ".>")
	}
	for _, p := range durable {
		p.durable()
	}
	var all sync.WaitGroup
	for _, w := range []*world{a, d, e} {
		all.Go(w.start)
	}
	all.Wait()
	a.settled(3)
	d.settled(1)
	e.settled(3)
	a.leafs(2 + 6)
	for _, p := range ways {
		p.live(fmt.Sprintf("%s to %s ", p.from.name, p.to.name))
	}
	clients := map[*world]*nats.Conn{}
	for _, w := range []*world{a, d, e} {
		clients[w] = w.client()
		w.passResets()
	}
	for _, p := range durable {
		p.create(clients[p.from], clients[p.to])
		p.publish(clients[p.from], 0, 50)
		p.verify(clients[p.to], 50)
	}

	// A certificate is renewed: every server shows the new one, no link goes.
	before := a.leafs(8)
	a.config.TLS = ca.issue(t, "a")
	a.configure()
	mine := d.config.TLS.Clone()
	mine.ServerName, mine.MinVersion = federationv1.MemberDNSName(testDomain, "a"), tls.VersionTLS13
	for n, port := range a.place.links {
		c, err := tls.Dial("tcp", port, mine)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.ConnectionState().PeerCertificates[0].Raw; !cmp.Equal(got, a.config.TLS.Certificates[0].Certificate[0]) {
			t.Errorf("server %d shows the old certificate", n)
		}
		c.Close()
	}
	if diff := cmp.Diff(leafSet(before), leafSet(a.leafs(8))); diff != "" {
		t.Errorf("links were dropped (-before +after):\n%s", diff)
	}

	// A server is lost and comes back.
	a.place.kill(1)
	for _, p := range durable {
		p.publish(clients[p.from], 50, 100)
	}
	for _, p := range durable {
		p.verify(clients[p.to], 100)
	}
	a.leafs(8) // with the two that are left
	a.place.revive(1)
	a.settled(3)
	for _, p := range durable {
		p.publish(clients[p.from], 100, 150)
		p.verify(clients[p.to], 150)
	}
	for _, p := range ways {
		p.live(fmt.Sprintf("%s to %s again ", p.from.name, p.to.name))
	}
	if n := clients[d].Stats().Reconnects; n > 0 {
		t.Error("a client of a dialer was disconnected")
	}
}

func leafSet(l []broker.LeafConn) map[broker.LeafConn]bool {
	set := map[broker.LeafConn]bool{}
	for _, c := range l {
		set[c] = true
	}
	return set
}
