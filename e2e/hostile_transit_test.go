package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"sigs.k8s.io/controller-runtime/pkg/client"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// passage is a federation in which what goes from berlin to tokyo passes evil, and
// what goes from oslo to tokyo does not. Replies are shared in the account app, and
// are not in desk.
type passage struct {
	*federation
	conns map[string]*nats.Conn // by member/account
}

func newPassage(t *testing.T) *passage {
	t.Helper()
	f := newFederation(t)
	f.join("berlin", "tokyo")
	f.joinDialing("evil", "oslo")
	members := []string{"berlin", "evil", "tokyo", "oslo"}
	world := topology([]v1alpha1.LinkRule{{Name: "edges", Type: v1alpha1.LinkEdges, Edges: []v1alpha1.Edge{
		{A: "berlin", B: "evil"}, {A: "evil", B: "tokyo"}, {A: "tokyo", B: "oslo"},
	}}}, members...)
	world.Spec.Accounts = append(world.Spec.Accounts, v1alpha1.Account{Name: "bank", Namespaces: []string{"*"}},
		v1alpha1.Account{Name: "desk", Namespaces: []string{"*"}, Replies: v1alpha1.RepliesPerCluster})
	f.create(world)
	objects := []client.Object{world}
	for _, b := range []struct {
		name, account string
		kind          v1alpha1.BridgeType
		from, to      string
		subject       string
	}{
		{"orders", "app", v1alpha1.BridgeEvents, "berlin", "tokyo", "orders.>"},
		{"stock", "app", v1alpha1.BridgeRequests, "berlin", "tokyo", "stock.>"},
		{"till", "desk", v1alpha1.BridgeRequests, "berlin", "tokyo", "till.>"},
		{"secret", "app", v1alpha1.BridgeEvents, "oslo", "tokyo", "secret.>"},
		{"price", "app", v1alpha1.BridgeRequests, "oslo", "tokyo", "price.>"},
		{"shift", "desk", v1alpha1.BridgeRequests, "oslo", "tokyo", "shift.>"},
		{"payments", "bank", v1alpha1.BridgeEvents, "oslo", "tokyo", "payments.>"},
	} {
		bridge := &v1alpha1.Bridge{ObjectMeta: named(b.name), Spec: v1alpha1.BridgeSpec{
			Account: b.account, Type: b.kind, From: at(b.from), To: at(b.to), Subjects: []string{b.subject},
		}}
		f.create(bridge)
		objects = append(objects, bridge)
	}
	f.ready(objects...)
	p := &passage{federation: f, conns: map[string]*nats.Conn{}}
	for _, m := range members {
		if m == "evil" {
			continue
		}
		for _, account := range []string{"app", "bank", "desk"} {
			p.conns[m+"/"+account] = f.connect(m, account)
		}
	}
	for account, subjects := range map[string][]string{"app": {"stock.>", "price.>", "local.>"}, "desk": {"till.>", "shift.>", "local.>"}, "bank": {"local.>"}} {
		for _, s := range subjects {
			if _, err := p.conns["tokyo/"+account].QueueSubscribe(s, "all", func(m *nats.Msg) {
				_ = m.Respond([]byte("re " + m.Subject)) // who asks gets no answer, then
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return p
}

// usurp stops a member and opens the links to a peer with what was stolen from it.
func (p *passage) usurp(name string) map[string]*rawLeaf {
	t := p.t
	t.Helper()
	p.members[name].stop()
	thief := steal(t, p.federation, copyFolder(t, p.members[name].dir))
	own := &v1alpha1.MemberCluster{}
	if err := p.kube.Get(t.Context(), client.ObjectKey{Name: name}, own); err != nil {
		t.Fatal(err)
	}
	leaves := map[string]*rawLeaf{}
	for _, g := range own.Status.Grants {
		config := thief.config.Clone()
		config.ServerName = federationv1.MemberDNSName("sealane.local", g.Peer)
		for side, token := range map[string]string{"out": g.Out, "in": g.In} {
			r, err := dialLeaf(p.members[g.Peer].links, config, thief.keyring.LinkUser(), token, "")
			if err != nil {
				t.Fatalf("%s side to %s: %v", side, g.Peer, err)
			}
			t.Cleanup(func() { r.conn.Close() })
			r.mu.Lock()
			r.alive = true
			r.mu.Unlock()
			r.send("LS+ >")
			leaves[g.Peer+"/"+side] = r
		}
	}
	return leaves
}

// ask sends a request, with the default inbox or one of a prefix, and says what was
// answered, "" if nothing was.
func (p *passage) ask(where, prefix, subject string) string {
	p.t.Helper()
	member, account, _ := strings.Cut(where, "/")
	nc := p.conns[where]
	if prefix != "" {
		nc = p.connect(member, account, nats.CustomInboxPrefix(prefix))
		defer nc.Close()
	}
	m, err := nc.Request(subject, nil, time.Second)
	if err != nil {
		return ""
	}
	return string(m.Data)
}

// only checks that all of what was learnt begins with one of the prefixes.
func only(t testing.TB, what string, learnt []string, prefixes ...string) {
	t.Helper()
	for _, l := range learnt {
		if !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(l, p) }) {
			t.Errorf("%s: %q", what, l)
		}
	}
}

// TestHostileTransit: who passes messages on reads what passes, and can send it in
// the name of its origin; it can answer requests that pass it, and with shared replies
// read and forge others of that account there. Nothing else.
func TestHostileTransit(t *testing.T) {
	t.Parallel()
	p := newPassage(t)
	eventually(t, 60*time.Second, "evil passes on what it shall", func() error {
		if got := p.ask("berlin/app", "", "stock.tea"); got != "re stock.tea" {
			return fmt.Errorf("app: answer %q", got)
		}
		if got := p.ask("berlin/desk", "_INBOX.berlin", "till.open"); got != "re till.open" {
			return fmt.Errorf("desk: answer %q", got)
		}
		return nil
	})
	leaves := p.usurp("evil")
	if len(leaves) != 4 {
		t.Fatalf("evil has links %v", leaves)
	}
	inboxes := map[string]*inbox{}
	for where, nc := range p.conns {
		inboxes[where] = listen(t, nc, where, ">")
	}

	// What it reads.
	publish := func(where, subject string) {
		if err := p.conns[where].Publish(subject, []byte("told")); err != nil {
			t.Fatal(err)
		}
	}
	read := func(leaf, prefix string) error {
		_, msgs, err := leaves[leaf].learnt()
		if !slices.ContainsFunc(msgs, func(m string) bool { return strings.HasPrefix(m, prefix) }) {
			return errors.Join(fmt.Errorf("%s: no %s in %q", leaf, prefix, msgs[max(0, len(msgs)-5):]), err)
		}
		return nil
	}
	eventually(t, 60*time.Second, "it reads what passes, and replies in an account that shares them", func() error {
		for where := range p.conns {
			for _, s := range []string{"orders.1", "secret.1", "payments.1", "other.1"} {
				publish(where, s)
			}
		}
		for _, account := range []string{"app", "desk", "bank"} {
			if got := p.ask("tokyo/"+account, "", "local.1"); got == "" {
				return errors.New("a request at tokyo is not answered")
			}
		}
		if p.ask("oslo/app", "", "price.1") == "" || p.ask("oslo/desk", "_INBOX.oslo", "shift.1") == "" {
			return errors.New("a request of oslo is not answered")
		}
		p.ask("berlin/app", "", "stock.1")
		p.ask("berlin/desk", "_INBOX.berlin", "till.1")
		leaves["tokyo/out"].ask("fo.berlin.desk.till.2", "_INBOX.berlin.mine")
		return errors.Join(read("berlin/in", "fo.berlin.app.orders.1 told"), read("berlin/in", "fo.berlin.app.stock.1 "), read("berlin/in", "fo.berlin.desk.till.1 "),
			read("tokyo/out", "re.tokyo.desk._INBOX.berlin.mine re till.2"), read("tokyo/out", "re.tokyo.app._INBOX."))
	})
	for _, want := range []string{"re local.1", "re price.1"} { // in app, of tokyo itself and of oslo
		if _, msgs, _ := leaves["tokyo/out"].learnt(); !slices.ContainsFunc(msgs, func(m string) bool {
			return strings.HasPrefix(m, "re.tokyo.app._INBOX.") && strings.HasSuffix(m, want)
		}) {
			t.Errorf("it does not read %q, which shared replies let it: mend docs/security.md", want)
		}
	}

	// What it can send: more than that is in no inbox.
	for leaf, subjects := range map[string][]string{
		"tokyo/out": {"fo.berlin.app.orders.2", "fo.berlin.app.stock.2"},
		"berlin/in": {"re.tokyo.app._INBOX.any", "re.tokyo.desk._INBOX.berlin.any"},
	} {
		for _, s := range subjects {
			leaves[leaf].publish(s, "", "forged "+s)
		}
		leaves[leaf].settle(t)
	}
	for leaf, r := range leaves {
		for _, s := range p.forbidden(leaf) {
			r.publish(s, "_INBOX.berlin.mine", "injected "+s)
		}
		r.settle(t)
	}
	for where, nc := range p.conns {
		if err := nc.Flush(); err != nil {
			t.Fatalf("%s: %v", where, err)
		}
	}
	forged := map[string][]string{
		"tokyo/app":   {"forged fo.berlin.app.orders.2", "forged fo.berlin.app.stock.2"},
		"berlin/app":  {"forged re.tokyo.app._INBOX.any"},
		"berlin/desk": {"forged re.tokyo.desk._INBOX.berlin.any"},
	}
	for where, in := range inboxes {
		eventually(t, 30*time.Second, "what it can forge is there", func() error {
			var errs []error
			for _, payload := range forged[where] {
				errs = append(errs, in.saw(payload))
			}
			return errors.Join(errs...)
		})
		for payload := range in.all() {
			if strings.HasPrefix(payload, "injected") || strings.HasPrefix(payload, "forged") && !slices.Contains(forged[where], payload) {
				t.Errorf("at %s: %s", where, payload)
			}
		}
	}

	// What it was told and sent in all this time.
	reads := map[string][]string{
		"berlin/in":  {"fo.berlin.app.orders.", "fo.berlin.app.stock.", "fo.berlin.desk.till.", "pq "},
		"berlin/out": {"pr "}, "tokyo/in": {"pq "},
		"tokyo/out": {"re.tokyo.app._INBOX.", "re.tokyo.desk._INBOX.berlin.", "pr "},
	}
	interest := map[string][]string{
		"berlin/in": {"re.tokyo.app._INBOX.", "re.tokyo.desk._INBOX.berlin.", "pr", "$"},
		"tokyo/in":  {"pr", "$"}, "berlin/out": {"pq", "$"},
		"tokyo/out": {"fo.berlin.app.orders.", "fo.berlin.app.stock.", "fo.berlin.desk.till.", "pq", "$"},
	}
	for leaf, r := range leaves {
		subs, msgs, err := r.learnt()
		if err != nil {
			t.Errorf("%s: %v", leaf, err)
		}
		only(t, leaf+" is told of the interest", subs, interest[leaf]...)
		only(t, leaf+" reads", msgs, reads[leaf]...)
	}
}

// forbidden are subjects that evil may not use on a side of a link, among them those
// that it may use on another.
func (p *passage) forbidden(leaf string) []string {
	all := []string{
		"orders.3", "secret.3", "payments.3", "_INBOX.any", "_INBOX.berlin.any",
		"fo.evil.app.orders.3", "fo.evil.app.stock.3", "fo.evil.bank.payments.3", "fo.berlin.app.secret.3", "fo.berlin.app.price.3",
		"fo.berlin.bank.orders.3", "fo.berlin.bank.payments.3", "fo.berlin.desk.orders.3", "fo.berlin.desk.shift.3",
		"fo.oslo.app.secret.3", "fo.oslo.app.price.3", "fo.oslo.app.orders.3", "fo.oslo.desk.shift.3", "fo.oslo.bank.payments.3",
		"fo.tokyo.app.orders.3", "fo.tokyo.app.secret.3", "fo.berlin:evil.app.orders.3",
		"re.evil.app._INBOX.any", "re.oslo.app._INBOX.any", "re.berlin.app._INBOX.any", "re.tokyo.bank._INBOX.any",
		"re.tokyo.desk._INBOX.any", "re.tokyo.desk._INBOX.oslo.any", "re.tokyo.app.orders.3", "re.oslo.desk._INBOX.oslo.any",
		"pi.berlin", "pi.tokyo", "pa.tokyo", "po.tokyo", "fedjs.berlin.app.CONSUMER.RESET.x.y", "fedjs.tokyo.app.CONSUMER.RESET.x.y",
	}
	if leaf != "tokyo/out" {
		all = append(all, "fo.berlin.app.orders.3", "fo.berlin.app.stock.3", "fo.berlin.desk.till.3")
	}
	if leaf != "berlin/in" {
		all = append(all, "re.tokyo.app._INBOX.any", "re.tokyo.desk._INBOX.berlin.any")
	}
	return all
}

// TestHostileRequester: who sends requests reads others' replies where these are
// shared, and forges none; where they are not, it reads its own only.
func TestHostileRequester(t *testing.T) {
	t.Parallel()
	p := newPassage(t)
	leaves := p.usurp("oslo")
	inboxes := map[string]*inbox{}
	for where, nc := range p.conns {
		if !strings.HasPrefix(where, "oslo/") {
			inboxes[where] = listen(t, nc, where, ">")
		}
	}
	out := leaves["tokyo/out"]
	reads := func(prefix, text string) error {
		_, msgs, err := out.learnt()
		if !slices.ContainsFunc(msgs, func(m string) bool { return strings.HasPrefix(m, prefix) && strings.HasSuffix(m, text) }) {
			return errors.Join(fmt.Errorf("no %q under %s in %q", text, prefix, msgs[max(0, len(msgs)-5):]), err)
		}
		return nil
	}
	eventually(t, 60*time.Second, "requests are answered, and it reads what it may", func() error {
		for _, answered := range []string{
			p.ask("berlin/app", "", "stock.1"), p.ask("berlin/desk", "_INBOX.berlin", "till.1"),
			p.ask("tokyo/app", "", "local.1"), p.ask("tokyo/desk", "", "local.1"), p.ask("tokyo/bank", "", "local.1"),
		} {
			if answered == "" {
				return errors.New("a request is not answered")
			}
		}
		out.ask("fo.oslo.desk.shift.1", "_INBOX.oslo.mine")
		out.ask("fo.oslo.app.price.1", "_INBOX.mine")
		return errors.Join(reads("re.tokyo.app._INBOX.mine", "re price.1"), reads("re.tokyo.desk._INBOX.oslo.mine", "re shift.1"),
			reads("re.tokyo.app._INBOX.", "re stock.1"), reads("re.tokyo.app._INBOX.", "re local.1"))
	})
	for _, r := range leaves {
		for _, s := range []string{
			"re.tokyo.app._INBOX.any", "re.oslo.app._INBOX.any", "re.berlin.app._INBOX.any", "_INBOX.any", "re.oslo.desk._INBOX.berlin.any",
			"re.tokyo.desk._INBOX.berlin.any", "re.oslo.desk._INBOX.tokyo.any", "fo.oslo.app._INBOX.any", "fo.oslo.desk._INBOX.tokyo.any",
			"fo.oslo.app.stock.1", "fo.berlin.app.stock.1", "fo.berlin.app.orders.1", "fo.oslo.bank.local.1",
		} {
			r.publish(s, "", "injected")
		}
		r.settle(t)
	}
	for where, in := range inboxes {
		if err := p.conns[where].Flush(); err != nil {
			t.Fatal(err)
		}
		if in.saw("injected") == nil {
			t.Errorf("something was injected at %s", where)
		}
	}
	for side, r := range leaves {
		_, msgs, err := r.learnt()
		if err != nil {
			t.Errorf("%s: %v", side, err)
		}
		only(t, side+" reads", msgs, "pq ", "pr ", "re.tokyo.app._INBOX.", "re.tokyo.desk._INBOX.oslo.")
	}
}
