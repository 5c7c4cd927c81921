package agent

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// updateFor is the right update from h to what h holds with these changes.
func updateFor(h *held, removals []string, upserts ...*federationv1.Part) *federationv1.Update {
	after := h.hashes()
	for _, id := range removals {
		delete(after, id)
	}
	for _, p := range upserts {
		after[p.Id] = p.Hash
	}
	return &federationv1.Update{Epoch: 1, BaseHash: h.hash, TargetHash: federationv1.StateHash(after), Upserts: upserts, Removals: removals}
}

func openTestHolder(t testing.TB) *holder {
	t.Helper()
	h, err := openHolder(&journal{dir: t.TempDir(), log: testLog(t)})
	check(t, err)
	return h
}

func TestAcceptsUpdates(t *testing.T) {
	h := openTestHolder(t)
	step := func(u *federationv1.Update) *held {
		t.Helper()
		v, reason, now := h.accept(u)
		if v != accepted || now.hash != u.TargetHash {
			t.Fatalf("verdict %v: %s", v, reason)
		}
		return now
	}
	now := step(updateFor(h.now(), nil, accountPart("app"), ordersPart()))
	now = step(updateFor(now, []string{"stream/app/ORDERS"}, accountPart("app", imp("other", "x", ""))))
	if len(now.parts) != 1 || now.doomed["stream/app/ORDERS"] == nil {
		t.Errorf("held %v, doomed %v", now.ids(), now.doomed)
	}
	// What is wanted again before it is gone is not removed.
	now = step(updateFor(now, nil, ordersPart()))
	if len(now.doomed) != 0 {
		t.Errorf("doomed %v", now.doomed)
	}
	again, err := openHolder(h.journal)
	check(t, err)
	if !maps.Equal(again.now().hashes(), now.hashes()) || again.now().epoch != 1 {
		t.Errorf("journalled %v, want %v", again.now().ids(), now.ids())
	}
}

// TestRefusesMassRemoval: what would take more than ten parts, and more than half
// of what is held, must be meant.
func TestRefusesMassRemoval(t *testing.T) {
	h := openTestHolder(t)
	var parts []*federationv1.Part
	var removals []string
	for i := range 11 {
		parts = append(parts, accountPart("app"+strconv.Itoa(i)))
		removals = append(removals, parts[i].Id)
	}
	for i := range 11 {
		parts = append(parts, accountPart("other"+strconv.Itoa(i)))
	}
	fill := func() {
		t.Helper()
		missing := slices.DeleteFunc(slices.Clone(parts), func(p *federationv1.Part) bool { return h.now().parts[p.Id] != nil })
		if v, reason, _ := h.accept(updateFor(h.now(), nil, missing...)); v != accepted {
			t.Fatal(reason)
		}
	}
	fill()
	half := updateFor(h.now(), removals)
	if v, reason, _ := h.accept(half); v != accepted {
		t.Fatalf("half of it: %s", reason)
	}
	fill()
	most := updateFor(h.now(), append(removals, parts[11].Id))
	v, reason, now := h.accept(most)
	if v != refused || !strings.Contains(reason, "removes 12 of 22 parts") || len(now.parts) != 22 {
		t.Errorf("more than half: %v, %q, %d parts left", v, reason, len(now.parts))
	}
	most.RemovalMeant = true
	if v, reason, _ := h.accept(most); v != accepted {
		t.Errorf("meant: %s", reason)
	}
	rest := updateFor(h.now(), h.now().ids())
	if v, reason, _ := h.accept(rest); v != accepted {
		t.Errorf("the last ten: %s", reason)
	}
}

// TestRemembersRevisions: they only grow, but in a new epoch.
func TestRemembersRevisions(t *testing.T) {
	h := openTestHolder(t)
	step := func(epoch, revision, want uint64) {
		t.Helper()
		u := updateFor(h.now(), nil, accountPart("app", imp("other", "x"+strconv.Itoa(int(epoch*1000+revision)), "")))
		u.Epoch, u.Revision = epoch, revision
		v, reason, now := h.accept(u)
		again, err := openHolder(h.journal)
		check(t, err)
		if v != accepted || now.revision != want || again.now().revision != want {
			t.Errorf("epoch %d, revision %d: %s; remembers %d, journalled %d, want %d", epoch, revision, reason, now.revision, again.now().revision, want)
		}
	}
	step(1, 7, 7)
	step(1, 9, 9)
	step(1, 8, 9) // of a replica whose watch is behind
	step(2, 3, 3)
	if ok, err := h.sawEpoch(3); !ok || err != nil || h.now().revision != 0 {
		t.Errorf("after a welcome of epoch 3: %t, %v, revision %d", ok, err, h.now().revision)
	}
}

func TestRefusesUpdates(t *testing.T) {
	h := openTestHolder(t)
	start := updateFor(h.now(), nil, accountPart("app"))
	start.Epoch = 5
	if v, reason, _ := h.accept(start); v != accepted {
		t.Fatal(reason)
	}
	now := h.now()
	good := func() *federationv1.Update {
		u := updateFor(now, nil, ordersPart())
		u.Epoch = 5
		return proto.CloneOf(u)
	}
	for _, tc := range []struct {
		name   string
		change func(*federationv1.Update)
		want   verdict
		reason string
	}{
		{"old epoch", func(u *federationv1.Update) { u.Epoch = 4 }, refused, "epoch 5"},
		{"other base", func(u *federationv1.Update) { u.BaseHash = federationv1.EmptyHash }, unknownBase, ""},
		{"other target", func(u *federationv1.Update) { u.TargetHash = federationv1.EmptyHash }, refused, "target hash"},
		{"part twice", func(u *federationv1.Update) { u.Upserts = append(u.Upserts, u.Upserts[0]) }, refused, "twice"},
		{"added and removed", func(u *federationv1.Update) { u.Removals = []string{u.Upserts[0].Id} }, refused, "twice"},
		{"removes what is not held", func(u *federationv1.Update) { u.Removals = []string{"account/x"} }, refused, "does not hold"},
		{"content of another part", func(u *federationv1.Update) {
			u.Upserts[0].Id = "stream/app/OTHER"
			federationv1.Seal(u.Upserts[0])
		}, refused, `the content is that of "stream/app/ORDERS"`},
		{"content with another hash", func(u *federationv1.Update) { u.Upserts[0].GetStream().MaxBytes++ }, refused, "has hash"},
		{"no hash", func(u *federationv1.Update) { u.Upserts[0].Hash = "" }, refused, "no hash"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u := good()
			tc.change(u)
			v, reason, after := h.accept(u)
			if v != tc.want || !strings.Contains(reason, tc.reason) {
				t.Errorf("verdict %v, %q", v, reason)
			}
			if after != now || h.now() != now {
				t.Error("something was changed")
			}
		})
	}
	if ok, err := h.sawEpoch(4); ok || err != nil {
		t.Errorf("epoch 4 after 5: %v %v", ok, err)
	}
	if ok, err := h.sawEpoch(6); !ok || err != nil || h.now().epoch != 6 {
		t.Errorf("epoch 6: %v %v", ok, err)
	}
}

func TestValidatePart(t *testing.T) {
	stream := func(f func(*federationv1.StreamSpec)) *federationv1.Part {
		s := &federationv1.StreamSpec{Account: "app", Name: "S", Subjects: []string{"s.>"}}
		f(s)
		return streamPart(s)
	}
	source := func(f func(*federationv1.Source)) *federationv1.Part {
		s := &federationv1.Source{Bridge: "ns/b", Origin: "osaka", Stream: "S", Consumer: "c", DeliverSubject: "d", ApiPrefix: "fedjs.osaka"}
		f(s)
		return stream(func(st *federationv1.StreamSpec) { st.Sources = []*federationv1.Source{s} })
	}
	outlet := func(f func(*federationv1.OutletSpec)) *federationv1.Part {
		o := &federationv1.OutletSpec{Bridge: "ns/b", Destination: "osaka", Account: "app", Stream: "S", Consumer: "c", DeliverSubject: "d"}
		f(o)
		return outletPart(o)
	}
	link := func(f func(*federationv1.LinkSpec)) *federationv1.Part {
		l := &federationv1.LinkSpec{Peer: "osaka", Role: federationv1.LinkSpec_DIAL, Endpoints: []string{"h:1"}, Grant: &federationv1.Grant{}}
		f(l)
		return linkPart(l)
	}
	for name, p := range map[string]*federationv1.Part{
		"account":          accountPart("app", imp("tx_osaka", "a.*.>", "b.$1.>")),
		"account of link":  accountPart("rx_osaka"),
		"stream":           stream(func(*federationv1.StreamSpec) {}),
		"source":           source(func(*federationv1.Source) {}),
		"outlet":           outlet(func(*federationv1.OutletSpec) {}),
		"dial":             link(func(*federationv1.LinkSpec) {}),
		"dial IPv6":        link(func(l *federationv1.LinkSpec) { l.Endpoints = []string{"[::1]:1"} }),
		"accept":           acceptPart("osaka", newUserKey(t)),
		"account of group": accountPart("rx_@edge"),
		"group": link(func(l *federationv1.LinkSpec) {
			l.Group = &federationv1.LinkGroup{Name: "edge", Origins: []string{"edge@a,b:a", "osaka"}}
		}),
	} {
		if err := validatePart(p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, p := range map[string]*federationv1.Part{
		"path in a name":        stream(func(s *federationv1.StreamSpec) { s.Name = "../../x" }),
		"dot in a name":         stream(func(s *federationv1.StreamSpec) { s.Name = "a.b" }),
		"path in an account":    accountPart("../x"),
		"agent's own account":   accountPart("_agent"),
		"system account":        accountPart("_system"),
		"link of no member":     accountPart("tx_"),
		"import from agent":     accountPart("app", imp("_agent", "pq.>", "")),
		"import from system":    accountPart("app", imp("_system", ">", "")),
		"import from itself":    accountPart("app", imp("app", "a", "b")),
		"blank in a subject":    accountPart("app", imp("other", "a b", "")),
		"line in a subject":     accountPart("app", imp("other", "a", "b\r\nPUB x 0")),
		"empty token":           accountPart("app", imp("other", "a..b", "")),
		"> inside":              accountPart("app", imp("other", "a.>.b", "")),
		"negative limit":        stream(func(s *federationv1.StreamSpec) { s.MaxAge = -1 }),
		"unknown retention":     stream(func(s *federationv1.StreamSpec) { s.Retention = 9 }),
		"stream in a link":      stream(func(s *federationv1.StreamSpec) { s.Account = "tx_osaka" }),
		"no bridge":             source(func(s *federationv1.Source) { s.Bridge = "b" }),
		"half a consumer":       source(func(s *federationv1.Source) { s.DeliverSubject = "" }),
		"remote without API":    source(func(s *federationv1.Source) { s.ApiPrefix = "" }),
		"wildcard to deliver":   source(func(s *federationv1.Source) { s.DeliverSubject = "d.>" }),
		"outlet in system":      outlet(func(o *federationv1.OutletSpec) { o.Account = "_system" }),
		"consumer with a dot":   outlet(func(o *federationv1.OutletSpec) { o.Consumer = "a.b" }),
		"negative rate":         outlet(func(o *federationv1.OutletSpec) { o.RateLimit = -1 }),
		"group without name":    link(func(l *federationv1.LinkSpec) { l.Group = &federationv1.LinkGroup{Origins: []string{"a"}} }),
		"group without origins": link(func(l *federationv1.LinkSpec) { l.Group = &federationv1.LinkGroup{Name: "edge"} }),
		"any origin": link(func(l *federationv1.LinkSpec) {
			l.Group = &federationv1.LinkGroup{Name: "edge", Origins: []string{"*"}}
		}),
		"two tokens": link(func(l *federationv1.LinkSpec) {
			l.Group = &federationv1.LinkGroup{Name: "edge", Origins: []string{"a.b"}}
		}),
		"account of no group":   accountPart("tx_@"),
		"no role":               link(func(l *federationv1.LinkSpec) { l.Role = 0 }),
		"no endpoint":           link(func(l *federationv1.LinkSpec) { l.Endpoints = nil }),
		"endpoint without port": link(func(l *federationv1.LinkSpec) { l.Endpoints = []string{"h"} }),
		"endpoint with user":    link(func(l *federationv1.LinkSpec) { l.Endpoints = []string{"u@h:1"} }),
		"endpoint in the clear": link(func(l *federationv1.LinkSpec) { l.Endpoints = []string{"ws://h:1"} }),
		"no grant":              link(func(l *federationv1.LinkSpec) { l.Grant = nil }),
		"odd incarnation":       link(func(l *federationv1.LinkSpec) { l.Incarnation = "0123.evil" }),
		"key of another kind":   acceptPart("osaka", "ABC"),
		"peer with a path":      linkPart(&federationv1.LinkSpec{Peer: "../x", Role: federationv1.LinkSpec_ACCEPT}),
	} {
		if err := validatePart(p); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func newUserKey(t testing.TB) string {
	t.Helper()
	kp, err := nkeys.CreateUser()
	check(t, err)
	pub, err := kp.PublicKey()
	check(t, err)
	return pub
}

// Nothing that comes over the wire makes the agent panic, and what is accepted
// has names that cannot be paths.
func FuzzUpdate(f *testing.F) {
	for _, p := range []*federationv1.Part{accountPart("app", imp("other", "a", "b")), ordersPart(), acceptPart("osaka", "U")} {
		b, err := proto.Marshal(&federationv1.Update{Upserts: []*federationv1.Part{p}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		u := &federationv1.Update{}
		if proto.Unmarshal(b, u) != nil {
			return
		}
		for _, p := range u.Upserts {
			federationv1.Seal(p) // so that the fuzzer need not find hashes
		}
		if validateUpdate(u) != nil {
			return
		}
		for _, p := range u.Upserts {
			if p.Spec != nil && (strings.Contains(p.Id, "..") || strings.ContainsAny(p.Id, "\x00\\")) {
				t.Fatalf("accepted %q", p.Id)
			}
			if s := p.GetStream(); s != nil {
				newStreamConfig(p)
			}
			if p.GetOutlet() != nil {
				outletConfig(newOutletBase(), p)
			}
		}
	})
}
