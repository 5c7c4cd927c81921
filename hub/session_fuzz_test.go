package hub

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/topology"
)

// dice makes choices of bytes, so that a fuzzer steers what is generated.
type dice struct{ bytes []byte }

func (d *dice) n(n int) int {
	if len(d.bytes) == 0 {
		return 0
	}
	b := d.bytes[0]
	d.bytes = d.bytes[1:]
	return int(b) % n
}

func pickOf[T any](d *dice, l ...T) T { return l[d.n(len(l))] }

func anyOf[T any](d *dice, limit int, one func() T) (l []T) {
	for range d.n(limit + 1) {
		l = append(l, one())
	}
	return l
}

// talker is an agent that says anything, most of it nearly right.
type talker struct {
	*dice
	plans []*topology.Plan
	told  *federationv1.Update // the last one it was sent
}

func (d *talker) id() string {
	return pickOf(d.dice, "account/app", "account/two", "link/b", "link/c", "link/a", "stream/app/S", "outlet/b/app/S/c", "broker", "", "x\x00", "link/", strings.Repeat("i", 700))
}

func (d *talker) hash() string {
	p := pickOf(d.dice, d.plans...).Members["a"]
	return pickOf(d.dice, p.Hash, p.Parts[d.n(len(p.Parts))].Part.Hash, federationv1.EmptyHash, hashOf("x"), "", "zz")
}

func (d *talker) text() string {
	return pickOf(d.dice, "", "no", "\x1b[31m", strings.Repeat("é", 2000), "a\nb")
}

func (d *talker) peer() string { return pickOf(d.dice, "a", "b", "c", "nobody", "", "B", "b.") }
func (d *talker) key() string {
	return pickOf(d.dice, "U"+keyBody('A'), "U"+keyBody('B'), "", "SU"+keyBody('A'))
}
func (d *talker) number() int64 {
	return pickOf[int64](d.dice, 0, 1, -1, maxMillis, maxMillis+1, 1<<63-1, -1<<63)
}

func (d *talker) status() *federationv1.PartStatus {
	if d.n(30) == 29 {
		return nil
	}
	return &federationv1.PartStatus{
		Id: d.id(), Hash: d.hash(), State: federationv1.PartStatus_State(d.n(6)), Code: pickOf(d.dice, "", "NoSpace", "no space"), Message: d.text(),
	}
}

func (d *talker) facts() *federationv1.Facts {
	if d.n(2) == 0 {
		return nil
	}
	return &federationv1.Facts{
		LinkKey: d.key(), Endpoints: anyOf(d.dice, 3, func() string { return pickOf(d.dice, "a:1", "b:2", "", "c:3\n") }),
		Storage: d.number(), Memory: d.number(), Replicas: int32(d.number()), MaxReplicas: int32(d.number()),
	}
}

func (d *talker) message() *federationv1.AgentMessage {
	switch d.n(8) {
	case 0:
		return &federationv1.AgentMessage{}
	case 1:
		return &federationv1.AgentMessage{Body: &federationv1.AgentMessage_Hello{Hello: d.hello()}}
	case 2:
		return &federationv1.AgentMessage{Body: &federationv1.AgentMessage_Heartbeat{Heartbeat: &federationv1.Heartbeat{HeldHash: d.hash()}}}
	case 3:
		inv := &federationv1.Inventory{HeldHash: d.hash(), Parts: anyOf(d.dice, 4, func() *federationv1.HeldPart { return &federationv1.HeldPart{Id: d.id(), Hash: d.hash()} })}
		if d.n(2) == 0 {
			held := map[string]string{}
			for _, p := range inv.Parts {
				held[p.Id] = p.Hash
			}
			inv.HeldHash = federationv1.StateHash(held)
		}
		return &federationv1.AgentMessage{Body: &federationv1.AgentMessage_Inventory{Inventory: inv}}
	case 4:
		if d.told != nil {
			return reporting(done(d.told))
		}
	}
	held := d.hash()
	if d.told != nil {
		held = pickOf(d.dice, d.told.BaseHash, d.told.TargetHash, held)
	}
	return reporting(&federationv1.Report{
		HeldHash: held, Refusal: pickOf(d.dice, "", "", "", "no\n"), More: d.n(4) == 3, Facts: d.facts(),
		Parts: anyOf(d.dice, 3, d.status),
		Grants: anyOf(d.dice, 3, func() *federationv1.Grant {
			return &federationv1.Grant{Peer: d.peer(), Key: d.key(), Out: pickOf(d.dice, "a.b.c", "x"), In: pickOf(d.dice, "d.e.f", "..")}
		}),
		Links: anyOf(d.dice, 3, func() *federationv1.LinkHealth {
			return &federationv1.LinkHealth{Peer: d.peer(), State: federationv1.Health(d.n(7)), Since: d.number(), RttMicros: d.number(), Message: d.text(), Removed: d.n(4) == 3}
		}),
		Flows: anyOf(d.dice, 3, func() *federationv1.FlowHealth {
			return &federationv1.FlowHealth{Bridge: pickOf(d.dice, "n/b", "", "n/\x00"), Origin: d.peer(), Account: "app", Stream: pickOf(d.dice, "S", "T"), State: federationv1.Health(d.n(7)), Since: d.number(), Lag: d.number(), Message: d.text()}
		}),
	})
}

func (d *talker) hello() *federationv1.Hello {
	if d.n(20) == 19 {
		return nil
	}
	h := hello(d.hash())
	h.Protocol, h.Epoch, h.Facts, h.Unapplied = pickOf[uint32](d.dice, 1, 1, 1, 0, 2), pickOf[uint64](d.dice, 0, 1, 2, 1<<64-1), d.facts(), anyOf(d.dice, 3, d.status)
	h.Revision = pickOf[uint64](d.dice, 0, 1, 1<<64-1)
	h.Features = pickOf(d.dice, allFeatures, nil, []string{"link"}, []string{"\x00"})
	return h
}

// FuzzSession has one agent say anything in any order, while plans, time and its
// sessions come and go: nothing panics, what is kept is consistent, and another
// member is as before.
func FuzzSession(f *testing.F) {
	for i := range 8 {
		seed := make([]byte, 400)
		for j := range seed {
			seed[j] = byte(j * (2*i + 1) / 3)
		}
		f.Add(seed)
	}
	key := "U" + keyBody('A')
	stream := &topology.PlannedPart{Part: federationv1.Seal(&federationv1.Part{
		Id: federationv1.StreamID("app", "S"), Spec: &federationv1.Part_Stream{Stream: &federationv1.StreamSpec{
			Account: "app", Name: "S", Subjects: []string{"s"}, Sources: []*federationv1.Source{{Bridge: "n/b", Origin: "b", Stream: "S"}},
		}},
	})}
	b := state("b", account("app"))
	plans := []*topology.Plan{
		plan(state("a", account("app"), link("b", federationv1.LinkSpec_ACCEPT, key)), b, state("c")),
		plan(state("a", account("two"), after(link("b", federationv1.LinkSpec_DIAL, ""), "b", "account/app"), stream), b),
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		fleet, clock := quietFleet(), time.Unix(1_000_000, 0)
		fleet.now = func() time.Time { return clock }
		fleet.Publish(plans[0])
		other := connect(t, fleet, "b", b.Hash)
		tell(t, fleet, other, &federationv1.Report{HeldHash: b.Hash})
		before := *fleet.progress["b"]
		d := &talker{dice: &dice{raw}, plans: plans}
		var s *session
		id := connect(t, fleet, "a", federationv1.EmptyHash).identity
		for len(d.bytes) > 0 {
			switch d.n(10) {
			case 0:
				if now, _, err := fleet.open(id, d.hello()); err == nil {
					s, d.told = now, nil
				}
			case 1:
				fleet.Publish(pickOf(d.dice, append(plans, plan(b))...))
			case 2:
				clock = clock.Add(time.Duration(d.n(50)) * time.Second)
				fleet.receive(other, func(*member) error { return nil })
				fleet.sweep()
			case 3, 4:
				if s != nil {
					if u := fleet.next(s); u != nil {
						if d.told = u; u.BaseHash != fleet.members["a"].heldHash {
							t.Fatalf("an update from %s, held is %s", u.BaseHash, fleet.members["a"].heldHash)
						}
						if fleet.next(s) != nil {
							t.Fatal("two updates in flight")
						}
					}
				}
			default:
				if s != nil {
					if err := fleet.handle(s, d.message()); err != nil {
						s.end(err)
						fleet.close(s)
						s = nil
					}
				}
			}
			consistent(t, fleet)
			if now := *fleet.progress["b"]; now.Refusal != "" || !now.Connected || !maps.Equal(holding(&now), holding(&before)) || len(now.Unapplied)+len(now.Links)+len(now.Flows) > 0 {
				t.Fatalf("another member: %+v, before %+v", now, before)
			}
		}
	})
}

// consistent checks what must be true of what the fleet keeps of member a.
func consistent(t *testing.T, f *Fleet) {
	t.Helper()
	m, p := f.members["a"], f.progress["a"]
	if m == nil || p == nil {
		return
	}
	if m.heldHash != "" && federationv1.StateHash(holding(p)) != m.heldHash {
		t.Fatalf("held is %v, its hash %s", holding(p), m.heldHash)
	}
	if p.Connected != (m.session != nil) {
		t.Fatal("connected without a session, or the reverse")
	}
	texts := []string{p.Refusal}
	for id, why := range p.Unapplied {
		if p.Hash(id) == "" {
			t.Fatalf("%q is not applied and not held", id)
		}
		texts = append(texts, id, why.Code, why.Message)
	}
	for id, why := range p.Warnings {
		if p.Hash(id) == "" {
			t.Fatalf("a warning of %q, which is not held", id)
		}
		texts = append(texts, id, why.Code, why.Message)
	}
	for peer, l := range p.Links {
		texts = append(texts, peer, l.State, l.Message)
	}
	for k, w := range p.Flows {
		texts = append(texts, k.Origin, k.Account, k.Bridge, k.Stream, w.State, w.Message)
	}
	if i := slices.IndexFunc(texts, func(s string) bool { return !plain(s, maxMessage) }); i >= 0 {
		t.Fatalf("kept: %q", texts[i])
	}
	for dialer, g := range f.Observe().Grants["a"] {
		l := f.desired("a").Part(federationv1.LinkID(dialer)).Part.GetLink()
		if l.GetRole() != federationv1.LinkSpec_ACCEPT || l.GetPeerKey() != g.Key {
			t.Fatalf("a grant for %s that nobody asked for", dialer)
		}
	}
	if m.session != nil && m.session.partialSize > maxReport {
		t.Fatalf("%d bytes of a report are kept", m.session.partialSize)
	}
}
