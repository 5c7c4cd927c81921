package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
)

// region is a federation in which sites share their links to west, which is linked
// with berlin. Requests are in the account desk, all else is in app.
type region struct {
	*federation
	sites []string
	conns map[string]*nats.Conn // by member, in app
}

func newRegion(t *testing.T, sites ...string) *region {
	t.Helper()
	f := newFederation(t)
	f.join("berlin", "west")
	f.joinDialing(sites...)
	world := topology([]v1alpha1.LinkRule{
		{Name: "core", Type: v1alpha1.LinkMesh, Groups: []string{"core"}},
		{Name: "edge", Type: v1alpha1.LinkHubAndSpoke, HubAndSpoke: &v1alpha1.HubAndSpoke{
			Hubs: "core", Spokes: "sites", MaxParents: 1, Order: []string{"west"}, Links: v1alpha1.SpokeLinksShared,
		}},
	})
	world.Spec.Groups = []v1alpha1.Group{{Name: "core", Clusters: []string{"berlin", "west"}}, {Name: "sites", Clusters: sites}}
	world.Spec.Accounts = append(world.Spec.Accounts, v1alpha1.Account{Name: "desk", Namespaces: []string{"*"}, Replies: v1alpha1.RepliesPerCluster})
	r := &region{federation: f, sites: sites, conns: map[string]*nats.Conn{}}
	f.create(world)
	f.ready(world)
	for _, name := range append([]string{"berlin", "west"}, sites...) {
		r.conns[name] = f.connect(name, "app")
	}
	return r
}

// live makes a bridge of events or requests.
func (r *region) live(kind v1alpha1.BridgeType, name, account, subject string, from, to v1alpha1.Placement) client.Object {
	return &v1alpha1.Bridge{ObjectMeta: named(name), Spec: v1alpha1.BridgeSpec{
		Account: account, Type: kind, From: from, To: to, Subjects: []string{subject},
	}}
}

func group(name string) v1alpha1.Placement { return v1alpha1.Placement{Group: name} }

// spreads publishes events on a subject at a member and looks that each of the
// members hears each of them once, and no other one does.
func (r *region) spreads(from, subject string, to ...string) {
	r.t.Helper()
	inboxes := map[string]*inbox{}
	for name, nc := range r.conns {
		if nc.IsConnected() {
			inboxes[name] = listen(r.t, nc, name, subject)
		}
	}
	publish := func(payload string) {
		if err := r.conns[from].Publish(subject, []byte(payload)); err != nil {
			r.t.Fatal(err)
		}
	}
	eventually(r.t, 30*time.Second, subject+" of "+from+" spreads", func() error {
		publish(warmUp)
		var errs []error
		for _, name := range to {
			errs = append(errs, inboxes[name].saw(warmUp))
		}
		return errors.Join(errs...)
	})
	want := map[string]bool{}
	for i := range 50 {
		id := fmt.Sprintf("%s-%d", from, i)
		want[id] = true
		publish(id)
	}
	for name, in := range inboxes {
		expected := want
		if name != from && !slices.Contains(to, name) {
			expected = map[string]bool{}
			if in.saw(warmUp) == nil {
				r.t.Errorf("%s of %s came to %s", subject, from, name)
			}
		}
		eventually(r.t, 30*time.Second, "each event once at "+name, func() error { return in.differs(expected) })
	}
}

// asks sends requests on a subject from one member, as its account's inboxes must be,
// until the responders on all of the others have answered.
func (r *region) asks(from, inboxes, subject string, to ...string) {
	r.t.Helper()
	for _, name := range to {
		nc := r.connect(name, "desk")
		defer nc.Close()
		if _, err := nc.QueueSubscribe(subject, "all", func(m *nats.Msg) {
			_ = m.Respond([]byte(name)) // who asks gets no answer, then
		}); err != nil {
			r.t.Fatal(err)
		}
	}
	asker := r.connect(from, "desk", nats.CustomInboxPrefix(inboxes))
	answered := map[string]bool{}
	eventually(r.t, 60*time.Second, "all answer "+from, func() error {
		m, err := asker.Request(subject, nil, time.Second)
		if err != nil {
			return err
		}
		if answered[string(m.Data)] = true; len(answered) < len(to) {
			return fmt.Errorf("only %v", answered)
		}
		return nil
	})
}

// TestSites runs all kinds of bridges to and from sites that share their links, and
// changes what flows; then one of them is stolen, and shut out.
func TestSites(t *testing.T) {
	t.Parallel()
	r := newRegion(t, "site1", "site2", "site3")
	objects := []client.Object{
		r.live(v1alpha1.BridgeEvents, "up", "app", "orders.>", group("sites"), group("core")),
		r.live(v1alpha1.BridgeEvents, "down", "app", "news.>", at("berlin"), group("sites")),
		r.live(v1alpha1.BridgeRequests, "ask", "desk", "stock.>", group("sites"), at("berlin")),
		r.live(v1alpha1.BridgeRequests, "poll", "desk", "till.>", at("berlin"), group("sites")),
		stream("sales", v1alpha1.StreamSpec{Placement: group("sites"), Subjects: []string{"sales.>"}}),
		stream("prices", v1alpha1.StreamSpec{Placement: at("berlin"), Subjects: []string{"prices.>"}}),
		streamBridge("sales", group("sites"), at("berlin"), "sales", "all"),
		streamBridge("prices", at("berlin"), at("site2"), "prices", ""),
	}
	r.create(objects...)
	r.ready(objects...)
	for _, s := range r.sites {
		r.spreads(s, "orders."+s, "berlin", "west")
	}
	r.spreads("berlin", "news.all", r.sites...)
	r.asks("site1", "_INBOX.@edge.site1", "stock.tea", "berlin")
	r.asks("berlin", "_INBOX.berlin", "till.open", r.sites...)
	counts := map[string]int{}
	for i, s := range r.sites {
		w := writer{subject: "sales.x", origin: s}
		for range 20 * (i + 1) {
			if err := w.write(t.Context(), r.conns[s]); err != nil {
				t.Fatal(err)
			}
		}
		counts[s] = 20 * (i + 1)
	}
	prices := writer{subject: "prices.x", origin: "berlin"}
	for range 30 {
		if err := prices.write(t.Context(), r.conns["berlin"]); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 60*time.Second, "all sales are in berlin", func() error { return holds(t.Context(), r.conns["berlin"], "all", counts) })
	eventually(t, 60*time.Second, "all prices are at site2", func() error {
		return holds(t.Context(), r.conns["site2"], "prices", map[string]int{"berlin": 30})
	})

	// The parent's accounts change, and no connection to it.
	before := r.since("west")
	more := r.live(v1alpha1.BridgeEvents, "more", "app", "alarms.>", at("berlin"), group("sites"))
	r.create(more)
	r.ready(more)
	r.spreads("berlin", "alarms.1", r.sites...)
	r.spreads("berlin", "news.more", r.sites...)
	r.spreads("site1", "orders.more", "berlin", "west")
	r.asks("site2", "_INBOX.@edge.site2", "stock.more", "berlin")
	r.asks("berlin", "_INBOX.berlin", "till.more", r.sites...)
	if after := r.since("west"); len(after) != 4 || !sameTimes(before, after) {
		t.Errorf("links of west were up since %v, and are since %v", before, after)
	}
	journal, err := os.ReadFile(filepath.Join(r.members["west"].dir, "journal", "current"))
	if err != nil || !strings.Contains(string(journal), "tx_@edge") || strings.Contains(string(journal), "tx_site") {
		t.Errorf("west does not hold one pair of accounts for all sites (%v)", err)
	}
	r.stolen("site3")
}

// since is from when on the links of a member are in their states.
func (r *region) since(member string) map[string]metav1.Time {
	r.t.Helper()
	m := &v1alpha1.MemberCluster{}
	if err := r.kube.Get(r.t.Context(), client.ObjectKey{Name: member}, m); err != nil {
		r.t.Fatal(err)
	}
	out := map[string]metav1.Time{}
	for _, l := range m.Status.Links {
		if l.State == v1alpha1.LinkUp {
			out[l.Peer] = l.Since
		}
	}
	return out
}

func sameTimes(a, b map[string]metav1.Time) bool {
	for peer, at := range a {
		if other := b[peer]; !at.Equal(&other) {
			return false
		}
	}
	return len(a) == len(b)
}

// stolen attacks with the links of one site, and revokes it.
func (r *region) stolen(name string) {
	t := r.t
	r.members[name].stop()
	dir := copyFolder(t, r.members[name].dir)
	thief := steal(t, r.federation, dir)
	thief.config.ServerName = strings.Replace(thief.config.ServerName, "berlin", "west", 1)
	var own v1alpha1.MemberCluster
	if err := r.kube.Get(t.Context(), client.ObjectKey{Name: name}, &own); err != nil {
		t.Fatal(err)
	}
	if len(own.Status.Grants) != 1 {
		t.Fatalf("grants of %s: %+v", name, own.Status.Grants)
	}
	tokens := map[string]string{"out": own.Status.Grants[0].Out, "in": own.Status.Grants[0].In}
	dial := func(side string) *rawLeaf {
		t.Helper()
		leaf, err := dialLeaf(r.members["west"].links, thief.config, thief.keyring.LinkUser(), tokens[side], "")
		if err != nil {
			t.Fatalf("%s side: %v", side, err)
		}
		t.Cleanup(func() { leaf.conn.Close() })
		for _, s := range []string{">", "fo.>", "fs.site2.>", "rs.site1.>", "fedjs.>", "re.*.*._INBOX.@edge.site1.>", "pr.*"} {
			leaf.send("LS+ " + s)
		}
		return leaf
	}
	leaves := map[string]*rawLeaf{"out": dial("out"), "in": dial("in")}
	inboxes := map[string]*inbox{}
	for _, m := range []string{"site1", "site2", "west", "berlin"} {
		inboxes[m] = listen(t, r.conns[m], m, ">")
	}
	asker := r.connect("site1", "desk", nats.CustomInboxPrefix("_INBOX.@edge.site1"))
	responder := r.connect("berlin", "desk")
	if _, err := responder.Subscribe("stock.>", func(m *nats.Msg) { _ = m.Respond([]byte("secret")) }); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "a request is answered", func() error {
		_, err := asker.Request("stock.secret", nil, time.Second)
		return err
	})
	for side := range tokens { // what is not allowed may end the connection
		for _, subject := range []string{
			"fo.berlin.app.news.x", "fo.site1.app.orders.x", "fs.site2.berlin.app.fedjd.x", "news.x", "orders.x",
			"fo.site1.app.fedjd.berlin.site1.sales.x", "re.site2.app.x", "pr.site1", "pq.site1", "fo.edge@west.app.news.x",
		} {
			dial(side).publish(subject, "", "injected")
		}
	}
	// What it may do shows that what it sent before has been looked at.
	eventually(t, 30*time.Second, "what is allowed works", func() error {
		leaves["out"].publish("fo.edge@west.app.orders.mine", "", "allowed")
		return inboxes["berlin"].saw("allowed")
	})
	eventually(t, 30*time.Second, "what is sent to all sites comes", func() error {
		if err := r.conns["berlin"].Publish("news.y", []byte("for all")); err != nil {
			return err
		}
		if _, msgs, _ := leaves["in"].learnt(); !slices.Contains(msgs, "fo.berlin.app.news.y for all") {
			return fmt.Errorf("only %v", msgs)
		}
		return nil
	})
	for m, in := range inboxes {
		if in.saw("injected") == nil {
			t.Errorf("what was injected arrived at %s", m)
		}
	}
	for side, leaf := range leaves {
		_, msgs, err := leaf.learnt()
		if err != nil {
			t.Errorf("%s side: %v", side, err)
		}
		for _, m := range msgs {
			if !strings.HasPrefix(m, "fo.berlin.app.") && !strings.HasPrefix(m, "fo.edge@west.") && !strings.HasPrefix(m, "re.edge@west.") && !strings.HasPrefix(m, "pq."+name+" ") && !strings.HasPrefix(m, "pr."+name+" ") {
				t.Errorf("%s side: read %q", side, m)
			}
		}
	}

	before := r.since("west")
	r.edit(name, func(m *v1alpha1.MemberCluster) {
		m.Spec.RevokedKeys = []string{m.Status.Identity.KeyHash, m.Status.LinkKey}
	})
	began := time.Now()
	for side, leaf := range leaves {
		eventually(t, 30*time.Second, "the "+side+" side of the link ends", func() error {
			if _, _, err := leaf.learnt(); err != nil {
				return nil
			}
			return errors.New("it goes on")
		})
	}
	t.Logf("links ended after %v", time.Since(began).Round(time.Millisecond))
	for side, token := range tokens {
		if leaf, err := dialLeaf(r.members["west"].links, thief.config, thief.keyring.LinkUser(), token, ""); err == nil {
			leaf.conn.Close()
			t.Errorf("the %s side of the link can be opened again", side)
		}
	}
	r.spreads("site1", "orders.after", "berlin", "west")
	after := r.since("west")
	for _, peer := range []string{"berlin", "site1", "site2"} {
		if was, is := before[peer], after[peer]; !was.Equal(&is) {
			t.Errorf("the link to %s was up since %v, and is since %v", peer, was, is)
		}
	}

	// Also when the parent comes back, which remembers it.
	r.members["west"].stop()
	r.members["west"].restart()
	r.linkState("west", "site1", v1alpha1.LinkUp)
	r.linkState("west", "site2", v1alpha1.LinkUp)
	for side, token := range tokens {
		if leaf, err := dialLeaf(r.members["west"].links, thief.config, thief.keyring.LinkUser(), token, ""); err == nil {
			leaf.conn.Close()
			t.Errorf("the %s side of the link can be opened again after a restart", side)
		}
	}
}

// TestSitesSwitch lets sites share their links that had separate ones, and gives them
// separate ones again.
func TestSitesSwitch(t *testing.T) {
	t.Parallel()
	r := newRegion(t, "site1", "site2")
	up := r.live(v1alpha1.BridgeEvents, "up", "app", "orders.>", group("sites"), group("core"))
	down := r.live(v1alpha1.BridgeEvents, "down", "app", "news.>", at("berlin"), group("sites"))
	r.create(up, down)
	r.ready(up, down)
	for n, links := range []v1alpha1.SpokeLinks{v1alpha1.SpokeLinksShared, v1alpha1.SpokeLinksSeparate, v1alpha1.SpokeLinksShared} {
		world := &v1alpha1.MessagingTopology{ObjectMeta: metav1.ObjectMeta{Name: "world"}}
		eventually(t, 30*time.Second, "the topology is changed", func() error {
			if err := r.kube.Get(t.Context(), client.ObjectKeyFromObject(world), world); err != nil {
				return err
			}
			world.Spec.Links[1].HubAndSpoke.Links = links
			return r.kube.Update(t.Context(), world)
		})
		r.ready(world, up, down)
		r.spreads("site1", fmt.Sprint("orders.", n), "berlin", "west")
		r.spreads("berlin", fmt.Sprint("news.", n), "site1", "site2")
		journal, err := os.ReadFile(filepath.Join(r.members["west"].dir, "journal", "current"))
		if shared := links == v1alpha1.SpokeLinksShared; err != nil || strings.Contains(string(journal), "tx_@edge") != shared || strings.Contains(string(journal), "tx_site1") == shared {
			t.Errorf("with links %s west holds other accounts (%v)", links, err)
		}
	}
}
