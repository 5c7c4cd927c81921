package embedded

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// serveGroup has a member of a queue group answer with a name.
func serveGroup(t *testing.T, nc *nats.Conn, subject, name string) *nats.Subscription {
	t.Helper()
	sub, err := nc.QueueSubscribe(subject, "q", func(m *nats.Msg) { _ = m.Respond([]byte(name)) })
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return sub
}

// answered sends requests until each of many in a row is answered by one of names, and
// every one of them has answered.
func answered(t *testing.T, nc *nats.Conn, subject string, by *member, names ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("answers of %v", names), func() error {
		if _, err := by.rt.LeafConns(); err != nil { // agents look all the time
			return err
		}
		missing := map[string]bool{}
		for _, n := range names {
			missing[n] = true
		}
		for range 50 {
			m, err := nc.Request(subject, nil, 200*time.Millisecond)
			if err != nil {
				return err
			}
			delete(missing, string(m.Data))
		}
		if len(missing) > 0 {
			return fmt.Errorf("%v did not answer", missing)
		}
		return nil
	})
}

// Responders leave one member after its imports changed, with others elsewhere: requests
// go to those, and when they leave too, the requester hears that there are none.
func TestRespondersLeaveAfterChange(t *testing.T) {
	t.Parallel()
	ms := startAll(t, "u", "v", "w")
	u, v, w := ms["u"], ms["v"], ms["w"]
	link(t, v, u)
	link(t, w, u)
	u.waitLinks(4)
	for _, m := range []*member{v, w} {
		p := path{u, m}
		p.forward("app", "svc")
		p.reply("app", "_INBOX.u.>")
	}
	for _, m := range ms {
		m.setAccounts()
	}
	cu, cv, cw := u.app("app"), v.app("app"), w.app("app")
	sv, sw := serveGroup(t, cv, "svc", "v"), serveGroup(t, cw, "svc", "w")
	answered(t, cu, "svc", v, "v", "w")
	for i := range 3 {
		path{u, v}.forward("app", fmt.Sprintf("more%d", i))
		v.setAccounts()
	}
	answered(t, cu, "svc", v, "v", "w")
	if err := sv.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	answered(t, cu, "svc", v, "w")
	if err := sw.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nobody answers", func() error {
		if _, err := cu.Request("svc", nil, 200*time.Millisecond); !errors.Is(err, nats.ErrNoResponders) {
			return fmt.Errorf("%w", err)
		}
		return nil
	})
	// The links of w were left alone, and so is everything from now on.
	before := leafIDs(t, u)
	for range 10 {
		if kick, _ := v.rt.book.stale.look(v.rt.server(), time.Now().Add(time.Hour)); len(kick) > 0 {
			t.Errorf("connections %v would be closed again", kick)
		}
	}
	if after := leafIDs(t, u); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("links changed from %v to %v", before, after)
	}
}

// In a cluster what servers tell each other is forgotten when one restarts.
func TestNodeRestartsForGroupsThatLeft(t *testing.T) {
	t.Parallel()
	w := newNodeWorld(t)
	app := func(subjects ...string) *federationv1.Part {
		p := appPart("app")
		for _, s := range subjects {
			p.GetAccount().Imports = append(p.GetAccount().Imports, &federationv1.Import{Account: "other", Subject: s, To: s})
		}
		return p
	}
	other := appPart("other")
	w.accounts(app("svc"), other)
	n := w.grow()
	w.grow()
	nc, requester := w.connectTo("app", w.clients[0]), w.connectTo("other", w.clients[1])
	sub := serveGroup(t, nc, "svc", "here")
	w.accounts(app("svc", "more"), other)
	w.push()
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := requester.Request("svc", nil, 200*time.Millisecond); !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("NATS does not count on those that left (%v): is this still needed?", err)
	}
	look := func(after time.Duration) (restart bool) {
		_, restart = n.accounts.stale.look(n.server(), time.Now().Add(after))
		return restart
	}
	if look(0) || look(staleRestart-time.Second) {
		t.Error("the server is to restart at once")
	}
	if !look(staleRestart + time.Minute) {
		t.Fatal("the server is not to restart")
	}
	if err := n.Restart(ctxFor(t)); err != nil {
		t.Fatal(err)
	}
	w.waitHealthy(2)
	eventually(t, "nobody answers", func() error {
		if _, err := requester.Request("svc", nil, 200*time.Millisecond); !errors.Is(err, nats.ErrNoResponders) {
			return fmt.Errorf("%w", err)
		}
		return nil
	})
	if look(0) || look(time.Hour) {
		t.Error("the server is to restart again")
	}
}
