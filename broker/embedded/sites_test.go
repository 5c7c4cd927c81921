package embedded

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

// sites are members that share their links to west, as the planner has it: berlin
// dials west, too, by a link of its own. They send "up" to west and berlin and ask
// berlin "ask"; berlin sends them "down" and asks them "poll".
type sites struct {
	t            *testing.T
	west, berlin *member
	sites        []*member
}

const sitesGroup, sitesOrigin = "edge", "edge@west"

func startSites(t *testing.T, names ...string) *sites {
	t.Helper()
	ms := startAll(t, append([]string{"west", "berlin"}, names...)...)
	s := &sites{t: t, west: ms["west"], berlin: ms["berlin"]}
	link(t, s.berlin, s.west)
	for _, name := range names {
		s.sites = append(s.sites, ms[name])
	}
	s.flow("up", "down")
	s.west.imports("tx_berlin", "rx_@edge", "fo.edge@west.app.ask.>", "")
	s.berlin.imports("app", "rx_west", "fo.edge@west.app.ask.>", "ask.>")
	s.berlin.imports("rx_west", "app", "_INBOX.@edge.>", "re.berlin.app._INBOX.@edge.>")
	s.west.imports("rx_@edge", "tx_berlin", "re.berlin.app._INBOX.@edge.>", "")
	s.berlin.imports("tx_west", "app", "poll.>", "fo.berlin.app.poll.>")
	s.west.imports("tx_@edge", "rx_berlin", "fo.berlin.app.poll.>", "")
	s.west.imports("rx_berlin", "tx_@edge", "re.edge@west.app._INBOX.berlin.>", "")
	s.berlin.imports("app", "tx_west", "re.edge@west.app._INBOX.berlin.>", "_INBOX.berlin.>")
	for _, m := range s.sites {
		m.imports("tx_west", "app", "ask.>", "fo.edge@west.app.ask.>")
		m.imports("app", "tx_west", "re.berlin.app._INBOX.@edge.>", "_INBOX.@edge.>")
		m.imports("app", "rx_west", "fo.berlin.app.poll.>", "poll.>")
		m.imports("rx_west", "app", "_INBOX.berlin.>", "re.edge@west.app._INBOX.berlin.>")
		s.join(m)
	}
	s.set()
	s.west.waitLinks(2 + 2*len(names))
	return s
}

// join lets a site dial.
func (s *sites) join(m *member) {
	s.t.Helper()
	accept := &federationv1.LinkSpec{
		Peer: m.name, Role: federationv1.LinkSpec_ACCEPT, PeerKey: m.keyring.LinkUser().Public,
		Group: &federationv1.LinkGroup{Name: sitesGroup, Origins: []string{sitesOrigin, m.name}},
	}
	grant, err := broker.IssueLinkGrant(s.west.keyring, accept, time.Now().Add(-time.Minute))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := broker.VerifyGrant(grant, accept.PeerKey); err != nil {
		s.t.Fatal(err)
	}
	addLinkPart(s.west, accept)
	s.west.setAccounts()
	addLinkPart(m, &federationv1.LinkSpec{Peer: "west", Role: federationv1.LinkSpec_DIAL, Grant: grant, Group: accept.Group, Spoke: true})
	m.setAccounts()
	for _, out := range []bool{true, false} {
		r := broker.Remote{Peer: "west", Out: out, Endpoints: []string{s.west.linkAddr()}, JWT: grant.In, Spoke: true, Shared: true}
		if out {
			r.JWT = grant.Out
		}
		m.config.Remotes = append(m.config.Remotes, r)
	}
	m.configure()
}

// flow lets a subject flow up, and another one down.
func (s *sites) flow(up, down string) {
	up, down = up+".>", down+".>"
	s.west.imports("app", "rx_@edge", "fo.edge@west.app."+up, up)
	s.west.imports("tx_berlin", "rx_@edge", "fo.edge@west.app."+up, "")
	s.west.imports("tx_@edge", "rx_berlin", "fo.berlin.app."+down, "")
	s.berlin.imports("app", "rx_west", "fo.edge@west.app."+up, up)
	s.berlin.imports("tx_west", "app", down, "fo.berlin.app."+down)
	for _, m := range s.sites {
		m.imports("tx_west", "app", up, "fo.edge@west.app."+up)
		m.imports("app", "rx_west", "fo.berlin.app."+down, down)
	}
}

// set has all members have their accounts, those of the links at last.
func (s *sites) set() {
	for _, m := range append([]*member{s.west, s.berlin}, s.sites...) {
		m.setAccounts()
	}
}

// check sends on all ways.
func (s *sites) check(label, up, down string) {
	t := s.t
	t.Helper()
	conns := map[string]*nats.Conn{}
	boxes := map[string]*inbox{}
	for _, m := range append([]*member{s.west, s.berlin}, s.sites...) {
		conns[m.name] = m.app("app")
		defer conns[m.name].Close()
		boxes[m.name] = listen(t, conns[m.name], up+".>")
	}
	for _, m := range s.sites {
		label := label + " up from " + m.name
		exactlyOnce(t, label, conns[m.name], up+".x", map[string]*inbox{"west": boxes["west"], "berlin": boxes["berlin"], m.name: boxes[m.name]})
		for _, o := range s.sites {
			if o != m && boxes[o.name].count(label+"/end") != 0 {
				t.Errorf("%s: %s hears it", label, o.name)
			}
		}
	}
	below := map[string]*inbox{}
	for _, m := range s.sites {
		below[m.name] = listen(t, conns[m.name], down+".>")
	}
	exactlyOnce(t, label+" down", conns["berlin"], down+".x", below)

	if _, err := conns["berlin"].Subscribe("ask.>", func(m *nats.Msg) { _ = m.Respond([]byte("yes")) }); err != nil {
		t.Fatal(err)
	}
	for _, m := range s.sites {
		asker := m.app("app", nats.CustomInboxPrefix(federationv1.GroupInbox(sitesGroup, m.name)))
		defer asker.Close()
		eventually(t, label+": "+m.name+" is answered", func() error {
			_, err := asker.Request("ask.x", nil, time.Second)
			return err
		})
		if _, err := conns[m.name].Subscribe("poll."+m.name, func(q *nats.Msg) { _ = q.Respond([]byte(m.name)) }); err != nil {
			t.Fatal(err)
		}
		eventually(t, label+": "+m.name+" answers", func() error {
			_, err := conns["berlin"].Request("poll."+m.name, nil, time.Second)
			return err
		})
	}
}

// probes has the agents of the sites and of west probe each other.
func (s *sites) probes() {
	for _, m := range s.sites {
		for _, way := range [][2]*member{{m, s.west}, {s.west, m}} {
			self, peer := way[0].agent(broker.AgentAccount), way[1].agent(broker.AgentAccount)
			if _, err := peer.Subscribe("pi."+way[0].name, func(q *nats.Msg) { _ = peer.Publish("po."+way[0].name, q.Data) }); err != nil {
				s.t.Fatal(err)
			}
			echoes, err := self.SubscribeSync("pa.*")
			if err != nil {
				s.t.Fatal(err)
			}
			eventually(s.t, way[0].name+" probes "+way[1].name, func() error {
				if err := errors.Join(peer.Flush(), self.Publish("pq."+way[1].name, []byte(way[0].name))); err != nil {
					return err
				}
				echo, err := echoes.NextMsg(100 * time.Millisecond)
				if err == nil && (echo.Subject != "pa."+way[1].name || string(echo.Data) != way[0].name) {
					s.t.Errorf("%s got the echo %s of %s", way[0].name, echo.Data, echo.Subject)
				}
				return err
			})
			self.Close()
			peer.Close()
		}
	}
}

// Sites that share the accounts of their links at a parent send and are sent what they
// would over links of their own, before and after the accounts change at both ends.
func TestSharedLinks(t *testing.T) {
	s := startSites(t, "site1", "site2", "site3")
	s.probes()
	s.check("first", "up", "down")
	// Who listens all the time: interest that gets lost does not come back.
	s.flow("steady", "constant")
	s.set()
	steady, constant := map[string]*inbox{}, map[string]*inbox{}
	for _, m := range []*member{s.west, s.berlin} {
		steady[m.name] = listen(t, m.app("app"), "steady.>")
	}
	for _, m := range s.sites {
		constant[m.name] = listen(t, m.app("app"), "constant.>")
	}
	berlin, site := s.berlin.app("app"), s.sites[0].app("app")
	if _, err := site.Subscribe("poll.steady", func(q *nats.Msg) { _ = q.Respond(nil) }); err != nil {
		t.Fatal(err)
	}
	listening := func(label string) {
		t.Helper()
		exactlyOnce(t, label+" up", site, "steady.x", steady)
		exactlyOnce(t, label+" down", berlin, "constant.x", constant)
		eventually(t, label+": an answer", func() error {
			_, err := berlin.Request("poll.steady", nil, time.Second)
			return err
		})
	}
	listening("before")
	before, err := s.west.rt.LeafConns()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		up, down := fmt.Sprint("more", i), fmt.Sprint("less", i)
		s.flow(up, down)
		s.set()
		s.check(up, up, down)
	}
	listening("after")
	s.check("again", "up", "down")
	s.probes()
	after, err := s.west.rt.LeafConns()
	byID := func(a, b broker.LeafConn) int { return int(a.ID) - int(b.ID) }
	slices.SortFunc(before, byID)
	slices.SortFunc(after, byID)
	if err != nil || !slices.Equal(before, after) {
		t.Errorf("the connections changed from %v to %v (%v)", before, after, err)
	}
	// The restart of one of them, and of the parent.
	s.sites[0].shutdown()
	s.sites[0].newRuntime()
	s.sites[0].start()
	s.west.waitLinks(8)
	s.check("restarted", "up", "down")
}

// A stolen site can speak for its group and hear what its group says and hears live,
// and nothing else; and it alone can be shut out.
func TestHostileSite(t *testing.T) {
	s := startSites(t, "site1", "site2", "evil")
	evil := s.sites[2]
	s.sites = s.sites[:2]
	grant := evil.parts[federationv1.LinkID("west")].GetLink().GetGrant()
	evil.shutdown()
	s.west.waitLinks(6)
	dial := func(token string, interest ...string) *rawLeaf {
		r, err := dialRaw(s.west, evil.config.TLS, evil.keyring.LinkUser(), token, "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.conn.Close() })
		for _, i := range interest {
			r.send("LS+ %s", i)
		}
		return r
	}
	boxes := map[string]*inbox{}
	for _, m := range append([]*member{s.west, s.berlin}, s.sites...) {
		boxes[m.name] = listen(t, m.app("app"), ">")
	}
	// What is not allowed ends the connection, or is not heard.
	for _, token := range []string{grant.Out, grant.In} {
		for _, subject := range []string{
			"up.x", "down.x", "fo.berlin.app.down.x", "fo.site1.app.fedjd.berlin.site1.S.x", "fs.site1.berlin.app.fedjd.x", "rs.site1.app.$JS.FC.S.c.x",
			"re.berlin.app._INBOX.@edge.site1.x", "re.site1.app.$JS.FC.S.c.x", "fedjs.site1.app.CONSUMER.RESET.S.c", "pq.site1", "pr.site1", "void.fo.x",
		} {
			dial(token, ">").publish(subject, "", "injected")
		}
	}
	out, in := dial(grant.Out, ">", "rs.site1.>", "fo.site1.>", "re.>", "fedjs.>"), dial(grant.In, ">", "fs.site1.>", "fs.>")
	s.check("beside it", "up", "down")
	allowed := []string{"fo.edge@west.app.", "fo.berlin.app.", "re.edge@west.app.", "pq.evil ", "pr.evil "}
	eventually(t, "it hears what its group is sent", func() error {
		_, msgs, err := in.snapshot()
		if err == nil && !slices.ContainsFunc(msgs, func(m string) bool { return strings.HasPrefix(m, "LMSG fo.berlin.app.down.x ") }) {
			err = errors.New("nothing yet")
		}
		return err
	})
	for side, r := range map[string]*rawLeaf{"out": out, "in": in} {
		_, msgs, err := r.snapshot()
		if err != nil {
			t.Errorf("%s: %v", side, err)
		}
		for _, m := range msgs {
			_, subject, _ := strings.Cut(m, " ")
			if !slices.ContainsFunc(allowed, func(p string) bool { return strings.HasPrefix(subject, p) }) {
				t.Errorf("%s: it hears %q", side, m)
			}
		}
	}
	out.publish("fo.edge@west.app.up.x", "", "allowed")
	eventually(t, "it speaks for its group", func() error {
		if boxes["berlin"].count("allowed") == 0 {
			return errors.New("nothing yet")
		}
		return nil
	})
	for name, b := range boxes {
		if b.count("injected") != 0 {
			t.Errorf("what was injected is heard at %s", name)
		}
	}

	ids := func() []uint64 {
		conns, err := s.west.rt.LeafConns()
		if err != nil {
			t.Fatal(err)
		}
		var out []uint64
		for _, c := range conns {
			if c.Server != "evil" {
				out = append(out, c.ID)
			}
		}
		slices.Sort(out)
		return out
	}
	before := ids()
	delete(s.west.parts, federationv1.LinkID("evil"))
	claims, errs := s.west.keyring.Accounts("west", slices.Collect(maps.Values(s.west.parts)))
	for _, name := range []string{"tx_@edge", "rx_@edge"} {
		claims[name].Revocations = jwt.RevocationList{evil.keyring.LinkUser().Public: time.Now().Unix()}
	}
	maps.Copy(errs, s.west.rt.SetAccounts(ctxFor(t), claims))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	for side, r := range map[string]*rawLeaf{"out": out, "in": in} {
		eventually(t, side+" ends", func() error {
			if _, _, err := r.snapshot(); err != nil {
				return nil
			}
			return errors.New("it goes on")
		})
	}
	for _, token := range []string{grant.Out, grant.In} {
		if _, err := dialRaw(s.west, evil.config.TLS, evil.keyring.LinkUser(), token, ""); err == nil {
			t.Error("it can connect again")
		}
	}
	if after := ids(); !slices.Equal(before, after) {
		t.Errorf("the connections of others changed from %v to %v", before, after)
	}
}
