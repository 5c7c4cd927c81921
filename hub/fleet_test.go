package hub

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/topology"
)

func quietFleet() *Fleet { return NewFleet(1, slog.New(slog.DiscardHandler)) }

// connect opens a session without a network.
func connect(t testing.TB, f *Fleet, name, held string) *session {
	t.Helper()
	id := identity{cluster: name, cert: &x509.Certificate{NotAfter: time.Now().Add(time.Hour)}}
	s, _, err := f.open(id, hello(held))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// woken tells whether a session is to be looked at, awake also takes note of that.
func woken(s *session) bool { return s.turn == turnAgain || s.turn == turnQueued }

func awake(s *session) bool {
	was := woken(s)
	s.turn = turnTaken // whoever sends is at it
	return was
}

func tell(t testing.TB, f *Fleet, s *session, r *federationv1.Report) {
	t.Helper()
	if err := f.handle(s, &federationv1.AgentMessage{Body: &federationv1.AgentMessage_Report{Report: r}}); err != nil {
		t.Fatal(err)
	}
}

func done(u *federationv1.Update) *federationv1.Report {
	r := &federationv1.Report{HeldHash: u.TargetHash}
	for _, p := range u.Upserts {
		r.Parts = append(r.Parts, &federationv1.PartStatus{Id: p.Id, Hash: p.Hash, State: federationv1.PartStatus_APPLIED})
	}
	return r
}

func changedNow(f *Fleet) bool {
	select {
	case <-f.Changes():
		return true
	default:
		return false
	}
}

func TestFleetWakesOnlyWhoHasSomethingToDo(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	f := quietFleet()
	a, b, c := state("a", account("x")), state("b", account("x")), state("c", account("x"))
	f.Publish(plan(a, b, c))
	sa, sb := connect(t, f, "a", a.Hash), connect(t, f, "b", b.Hash)
	if awake(sa) || awake(sb) {
		t.Error("awake though they hold what they shall")
	}
	changedNow(f)
	f.Publish(plan(state("a", account("y")), b, c))
	if !awake(sa) || awake(sb) {
		t.Error("want a awake and b asleep")
	}
	f.Publish(plan(a, b, c)) // back, before anything was sent
	if u := f.next(sa); u != nil {
		t.Errorf("sent %v", u)
	}
	if changedNow(f) {
		t.Error("a Publish that nobody reported on changed the observation")
	}
}

func TestFleetGrants(t *testing.T) {
	f := quietFleet()
	key, other := "U"+keyBody('A'), "U"+keyBody('B')
	accept := state("hub", link("spoke", federationv1.LinkSpec_ACCEPT, key), link("up", federationv1.LinkSpec_DIAL, ""))
	without := state("hub")
	f.Publish(plan(accept, state("spoke"), state("up"), state("stranger")))
	s := connect(t, f, "hub", accept.Hash)
	grant := func(peer, key string) *federationv1.Grant {
		return &federationv1.Grant{Peer: peer, Key: key, Out: "a.b.c", In: "d.e.f"}
	}
	tell(t, f, s, &federationv1.Report{HeldHash: accept.Hash, Grants: []*federationv1.Grant{
		grant("spoke", key), grant("up", key), grant("stranger", key), grant("nobody", key), grant("hub", key),
	}})
	dialers := func() []string { return slices.Sorted(maps.Keys(f.Observe().Grants["hub"])) }
	equal(t, "grants", dialers(), []string{"spoke"})
	if n := len(f.members["hub"].grants); n > 3 {
		t.Errorf("%d grants are kept, some of them for members that do not exist", n)
	}

	// The plan goes and comes back before the agent knows: it has nothing to repeat.
	f.Publish(plan(without, state("spoke")))
	equal(t, "grants without a link", dialers(), nil)
	changedNow(f)
	f.Publish(plan(accept, state("spoke")))
	equal(t, "grants", dialers(), []string{"spoke"})
	if !changedNow(f) {
		t.Error("nobody is told that the grant counts again")
	}
	tell(t, f, s, &federationv1.Report{HeldHash: accept.Hash, Grants: []*federationv1.Grant{grant("spoke", other)}})
	equal(t, "grants for another key", dialers(), nil)

	// The first report of a session is complete.
	f.close(s)
	s = connect(t, f, "hub", accept.Hash)
	tell(t, f, s, &federationv1.Report{HeldHash: accept.Hash, Grants: []*federationv1.Grant{grant("spoke", key)}})
	equal(t, "grants", dialers(), []string{"spoke"})
	f.close(s)
	s = connect(t, f, "hub", accept.Hash)
	tell(t, f, s, &federationv1.Report{HeldHash: accept.Hash})
	equal(t, "grants after a report without any", dialers(), nil)
}

func keyBody(c byte) string { return string(slices.Repeat([]byte{c}, 55)) }

func TestFleetHealth(t *testing.T) {
	f := quietFleet()
	stream := &topology.PlannedPart{Part: federationv1.Seal(&federationv1.Part{
		Id: federationv1.StreamID("app", "COPY"),
		Spec: &federationv1.Part_Stream{Stream: &federationv1.StreamSpec{Account: "app", Name: "COPY", Sources: []*federationv1.Source{
			{Bridge: "ns/b", Origin: "o", Stream: "ORDERS"},
		}}},
	})}
	desired := state("m", link("peer", federationv1.LinkSpec_DIAL, ""), stream)
	f.Publish(plan(desired))
	s := connect(t, f, "m", desired.Hash)
	up := federationv1.Health_UP
	key := topology.FlowKey{Origin: "o", Account: "app", Stream: "COPY", Bridge: "ns/b"}
	flow := func(origin string) *federationv1.FlowHealth {
		return &federationv1.FlowHealth{Bridge: "ns/b", Origin: origin, Account: "app", Stream: "COPY", State: up, Since: 2, Lag: 3}
	}
	tell(t, f, s, &federationv1.Report{
		HeldHash: desired.Hash,
		Links:    []*federationv1.LinkHealth{{Peer: "peer", State: up, Since: 1, RttMicros: 250}, {Peer: "stranger", State: up}},
		Flows:    []*federationv1.FlowHealth{flow("o"), flow("invented")},
	})
	p := f.Observe().Progress["m"]
	equal(t, "links", p.Links, map[string]topology.LinkReport{"peer": {State: "Up", SinceMillis: 1, RTTMicros: 250}})
	equal(t, "flows", p.Flows, map[topology.FlowKey]topology.FlowReport{key: {State: "Up", SinceMillis: 2, Lag: 3}})

	// Later reports say what changed; a snapshot does not.
	tell(t, f, s, &federationv1.Report{HeldHash: desired.Hash, Links: []*federationv1.LinkHealth{{Peer: "peer", State: federationv1.Health_DOWN, Since: 5, Message: "no\nanswer"}}})
	now := f.Observe().Progress["m"]
	equal(t, "link", now.Links["peer"], topology.LinkReport{State: "Down", SinceMillis: 5, Message: "no answer"})
	equal(t, "flows", len(now.Flows), 1)
	equal(t, "snapshot", p.Links["peer"].State, "Up")
	tell(t, f, s, &federationv1.Report{HeldHash: desired.Hash, Flows: []*federationv1.FlowHealth{{Bridge: "ns/b", Origin: "o", Account: "app", Stream: "COPY", Removed: true}}})
	equal(t, "flows", len(f.Observe().Progress["m"].Flows), 0)

	// A session without any: the first report is complete.
	f.close(s)
	s = connect(t, f, "m", desired.Hash)
	equal(t, "links until then", len(f.Observe().Progress["m"].Links), 1)
	tell(t, f, s, &federationv1.Report{HeldHash: desired.Hash})
	equal(t, "links", len(f.Observe().Progress["m"].Links), 0)

	// What the member has no more is forgotten, even if its agent does not say so.
	tell(t, f, s, &federationv1.Report{HeldHash: desired.Hash, Links: []*federationv1.LinkHealth{{Peer: "peer", State: up}}, Flows: []*federationv1.FlowHealth{flow("o")}})
	f.Publish(plan(state("m")))
	u := f.next(s)
	tell(t, f, s, done(u))
	p = f.Observe().Progress["m"]
	equal(t, "links and flows", len(p.Links)+len(p.Flows), 0)
}

// TestFleetWarnings: what is said of a part that is applied is known until it is
// taken back, or the part is gone; also over sessions and inventories.
func TestFleetWarnings(t *testing.T) {
	f := quietFleet()
	broker := &topology.PlannedPart{Part: federationv1.Seal(&federationv1.Part{
		Id: federationv1.BrokerID, Spec: &federationv1.Part_Broker{Broker: &federationv1.BrokerSpec{MaxStorage: 1}},
	})}
	desired := state("m", broker)
	f.Publish(plan(desired))
	says := func(code string) *federationv1.Report {
		return &federationv1.Report{HeldHash: desired.Hash, Parts: []*federationv1.PartStatus{{
			Id: federationv1.BrokerID, Hash: broker.Part.Hash, State: federationv1.PartStatus_APPLIED, Code: code, Message: code,
		}}}
	}
	s := connect(t, f, "m", desired.Hash)
	equal(t, "before a report", f.Observe().Progress["m"].Warnings == nil, true)
	full := map[string]topology.PartFailure{federationv1.BrokerID: {Code: "StorageNearlyFull", Message: "StorageNearlyFull"}}
	tell(t, f, s, says("StorageNearlyFull"))
	p := f.Observe().Progress["m"]
	equal(t, "nearly full", p.Warnings, full)
	equal(t, "it is applied", len(p.Unapplied), 0)
	f.close(s)
	s = connect(t, f, "m", desired.Hash)
	equal(t, "another session", f.Observe().Progress["m"].Warnings, full)
	tell(t, f, s, says(""))
	equal(t, "taken back", f.Observe().Progress["m"].Warnings, map[string]topology.PartFailure{})
	tell(t, f, s, says("StorageNearlyFull"))
	f.Publish(plan(state("m")))
	u := f.next(s)
	tell(t, f, s, done(u))
	equal(t, "the part is gone", len(f.Observe().Progress["m"].Warnings), 0)
}

func TestFleetForgetsWhoIsNotPlanned(t *testing.T) {
	f := quietFleet()
	f.Publish(plan())
	s := connect(t, f, "fresh", federationv1.EmptyHash) // enrolled, not planned yet
	f.Publish(plan(state("other")))
	if f.Observe().Progress["fresh"] == nil {
		t.Error("a member that is not planned yet was taken for a removed one")
	}
	f.close(s)
	if o := f.Observe(); o.Progress["fresh"] != nil || len(f.members) != 1 {
		t.Errorf("kept: %v", o.Progress)
	}
	select {
	case <-s.ended:
		t.Error("ended by the hub")
	default:
	}
}

// An inventory in the midst of a session restarts from what is there.
func TestFleetInventoryMidSession(t *testing.T) {
	f := quietFleet()
	desired := state("m", account("a"), account("b"))
	f.Publish(plan(desired))
	s := connect(t, f, "m", federationv1.EmptyHash)
	first := f.next(s)
	if first == nil || f.next(s) != nil {
		t.Fatal("want one update in flight")
	}
	a := desired.Part("account/a").Part
	held := map[string]string{"account/a": a.Hash, "account/z": hashOf("z")}
	inv := &federationv1.Inventory{HeldHash: federationv1.StateHash(held)}
	for id, hash := range held {
		inv.Parts = append(inv.Parts, &federationv1.HeldPart{Id: id, Hash: hash})
	}
	tell(t, f, s, &federationv1.Report{HeldHash: federationv1.EmptyHash, Parts: []*federationv1.PartStatus{
		{Id: "account/a", Hash: a.Hash, State: federationv1.PartStatus_APPLIED},
	}})
	if err := f.handle(s, &federationv1.AgentMessage{Body: &federationv1.AgentMessage_Inventory{Inventory: inv}}); err != nil {
		t.Fatal(err)
	}
	p := f.Observe().Progress["m"]
	equal(t, "held", holding(p), held)
	equal(t, "unapplied", p.Unapplied, map[string]topology.PartFailure{"account/z": {}})
	u := f.next(s)
	equal(t, "upserts", upserted(u), []string{"account/b"})
	equal(t, "removals", u.Removals, []string{"account/z"})
	if u.TargetHash != desired.Hash {
		t.Errorf("target %s, want %s", u.TargetHash, desired.Hash)
	}
}

// Whatever members wait for, being woken is enough to get there: no session
// depends on the second look that heartbeats bring.
func TestFleetConvergesByWakesAlone(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := quietFleet()
		n := rapid.IntRange(2, 7).Draw(rt, "members")
		name := func(i int) string { return fmt.Sprintf("m%d", i) }
		draw := func(round string) *topology.Plan {
			states := make([]*topology.MemberState, n)
			for i := range n {
				parts := []*topology.PlannedPart{account("app", round)}
				for j := range n {
					if i == j || !rapid.Bool().Draw(rt, "linked") {
						continue
					}
					l := link(name(j), federationv1.LinkSpec_ACCEPT, round)
					if j < i { // no cycles
						l = after(l, name(j), "account/app")
						if rapid.Bool().Draw(rt, "chain") && j > 0 {
							l = after(l, name(j), federationv1.LinkID(name(j-1)))
						}
					}
					parts = append(parts, l)
				}
				states[i] = state(name(i), parts...)
			}
			return plan(states...)
		}
		now := draw("one")
		f.Publish(now)
		sessions := make([]*session, n)
		pending := make([]*federationv1.Update, n)
		held := make([]*federationv1.Update, n)
		for i := range n {
			sessions[i] = connect(t, f, name(i), federationv1.EmptyHash)
		}
		again := rapid.IntRange(0, 20).Draw(rt, "publish again after")
		for step := 0; ; step++ {
			if step == again {
				now = draw("two")
				f.Publish(now)
			}
			var can []func()
			for i, s := range sessions {
				switch {
				case held[i] != nil:
					can = append(can, func() {
						tell(t, f, s, done(held[i]))
						held[i] = nil
					})
				case pending[i] != nil:
					can = append(can, func() {
						held[i], pending[i] = pending[i], nil
						tell(t, f, s, &federationv1.Report{HeldHash: held[i].TargetHash})
					})
				case woken(s):
					can = append(can, func() {
						awake(s)
						pending[i] = f.next(s)
					})
				}
			}
			if len(can) == 0 {
				if step < again {
					continue
				}
				break
			}
			can[rapid.IntRange(0, len(can)-1).Draw(rt, "next")]()
		}
		for i, s := range sessions {
			if got, want := f.members[s.cluster].heldHash, now.Members[name(i)].Hash; got != want {
				step := topology.Next(f.plan, f.progress, s.cluster)
				rt.Fatalf("%s stays behind, and could be sent %v - %v", s.cluster, upserted(&federationv1.Update{Upserts: step.Upserts}), step.Removals)
			}
		}
	})
}

// A part that waits for an origin through another member goes on without it as
// soon as the origin is gone, not with the next heartbeat.
func TestFleetBadNewsTravelsFar(t *testing.T) {
	outlet := func(dest string) *topology.PlannedPart {
		return &topology.PlannedPart{Part: federationv1.Seal(&federationv1.Part{
			Id:   federationv1.OutletID(dest, "app", "S", "c"),
			Spec: &federationv1.Part_Outlet{Outlet: &federationv1.OutletSpec{Destination: dest, Account: "app", Stream: "S", Consumer: "c"}},
		})}
	}
	copies := func(origin string) *topology.PlannedPart {
		return &topology.PlannedPart{Part: federationv1.Seal(&federationv1.Part{
			Id: federationv1.StreamID("app", "S"),
			Spec: &federationv1.Part_Stream{Stream: &federationv1.StreamSpec{
				Account: "app", Name: "S", Subjects: []string{"s.>"},
				Sources: []*federationv1.Source{{Bridge: "ns/b", Origin: origin, Stream: "S", Consumer: "c"}},
			}},
		})}
	}
	// c copies from b, whose outlet comes after a's account.
	p := plan(
		state("a", account("app")),
		state("b", after(outlet("c"), "a", "account/app")),
		state("c", after(copies("b"), "b", federationv1.OutletID("c", "app", "S", "c"))),
	)
	for what, news := range map[string]func(*testing.T, *Fleet, *session, *federationv1.Update){
		"refused": func(t *testing.T, f *Fleet, a *session, u *federationv1.Update) {
			tell(t, f, a, &federationv1.Report{HeldHash: u.BaseHash, Refusal: "no"})
		},
		"failed": func(t *testing.T, f *Fleet, a *session, u *federationv1.Update) {
			r := done(u)
			r.Parts[0].State = federationv1.PartStatus_FAILED
			tell(t, f, a, r)
		},
		"gone": func(_ *testing.T, f *Fleet, a *session, _ *federationv1.Update) { f.close(a) },
	} {
		t.Run(what, func(t *testing.T) {
			f := quietFleet()
			f.Publish(p)
			a, b, c := connect(t, f, "a", federationv1.EmptyHash), connect(t, f, "b", federationv1.EmptyHash), connect(t, f, "c", federationv1.EmptyHash)
			for _, s := range []*session{b, c} {
				tell(t, f, s, &federationv1.Report{HeldHash: federationv1.EmptyHash})
				awake(s)
				if u := f.next(s); u != nil {
					t.Fatalf("%s was sent %v too early", s.cluster, upserted(u))
				}
			}
			awake(c)
			news(t, f, a, f.next(a))
			if !awake(c) {
				t.Fatal("c sleeps on")
			}
			u := f.next(c)
			if u == nil || len(u.Upserts) != 1 || len(u.Upserts[0].GetStream().Sources) != 0 {
				t.Errorf("c was sent %v, want its stream without the source that cannot come", u)
			}
		})
	}
}

// What a member refuses of a plan that is another by now says nothing of the new one.
func TestRefusalOfOlderPlan(t *testing.T) {
	f := quietFleet()
	f.Publish(plan(state("m", account("bad"))))
	s := connect(t, f, "m", federationv1.EmptyHash)
	awake(s)
	if u := f.next(s); u == nil {
		t.Fatal("nothing is sent")
	}
	f.Publish(plan(state("m", account("good"))))
	tell(t, f, s, &federationv1.Report{HeldHash: federationv1.EmptyHash, Refusal: "no"})
	if !awake(s) {
		t.Fatal("it sleeps on")
	}
	if u := f.next(s); u == nil || !slices.Equal(upserted(u), []string{"account/good"}) {
		t.Errorf("sent is %v", u)
	}
	if p := f.progress["m"]; p.Refusal != "" {
		t.Errorf("the refusal of another plan is kept: %q", p.Refusal)
	}
}
