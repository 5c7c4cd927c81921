package agent

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// mirror is what a hub makes of reports.
type mirror struct {
	parts  map[string]*federationv1.PartStatus
	links  map[string]*federationv1.LinkHealth
	flows  map[flowKey]*federationv1.FlowHealth
	grants map[string]*federationv1.Grant
	held   string
}

func (m *mirror) take(r *federationv1.Report, v *view) {
	m.held = r.HeldHash
	for _, p := range r.Parts {
		m.parts[p.Id] = p
	}
	for id := range m.parts {
		if v.parts[id] == nil {
			delete(m.parts, id) // a hub knows what it had removed
		}
	}
	for _, l := range r.Links {
		if m.links[l.Peer] = l; l.Removed {
			delete(m.links, l.Peer)
		}
	}
	for _, f := range r.Flows {
		k := flowKey{f.Bridge, f.Origin, f.Account, f.Stream}
		if m.flows[k] = f; f.Removed {
			delete(m.flows, k)
		}
	}
	for _, g := range r.Grants {
		m.grants[g.Peer] = g
	}
}

// However the picture changes and however seldom it is reported, what a hub has
// put together from the reports is the present picture; and nothing is sent
// when nothing changed.
func TestReportsAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPicture(&federationv1.Facts{LinkKey: "k"})
		m := &mirror{map[string]*federationv1.PartStatus{}, map[string]*federationv1.LinkHealth{}, map[flowKey]*federationv1.FlowHealth{}, map[string]*federationv1.Grant{}, ""}
		var sent *view
		now := time.Unix(0, 0)
		small := rapid.IntRange(0, 3)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(time.Second)
			n := small.Draw(t, "n")
			switch small.Draw(t, "what") {
			case 0:
				h := heldFrom(stateOf(nil))
				for i := range n {
					part := accountPart(fmt.Sprintf("a%d", i))
					h.parts[part.Id] = part
				}
				h.rehash()
				p.hold(h)
			case 1:
				part := accountPart(fmt.Sprintf("a%d", n))
				p.setParts([]*federationv1.PartStatus{{Id: part.Id, Hash: part.Hash, State: federationv1.PartStatus_State(1 + small.Draw(t, "state")%3)}})
			case 2:
				links := map[string]*federationv1.LinkHealth{}
				for i := range n {
					peer := fmt.Sprint("m", i)
					links[peer] = &federationv1.LinkHealth{Peer: peer, State: federationv1.Health(1 + small.Draw(t, "health")), RttMicros: 100}
				}
				p.setLinks(now, links)
			case 3:
				flows := map[flowKey]*federationv1.FlowHealth{}
				for i := range n {
					k := flowKey{"ns/b", fmt.Sprint(i), "app", "S"}
					flows[k] = &federationv1.FlowHealth{Bridge: k.bridge, Origin: k.origin, Account: k.account, Stream: k.stream, Lag: int64(small.Draw(t, "lag"))}
				}
				p.setFlows(flows)
			}
			if rapid.Bool().Draw(t, "report") {
				v := p.now()
				if r := v.report(sent); r != nil {
					m.take(r, v)
				}
				sent = v
			}
		}
		v := p.now()
		if r := v.report(sent); r != nil {
			m.take(r, v)
		}
		if r := v.report(v); r != nil {
			t.Fatalf("reported again: %v", r)
		}
		same := func(a, b proto.Message) bool { return proto.Equal(a, b) }
		if m.held != v.heldHash ||
			!maps.EqualFunc(m.parts, v.parts, func(a, b *federationv1.PartStatus) bool { return same(a, b) }) ||
			!maps.EqualFunc(m.links, v.links, func(a, b *federationv1.LinkHealth) bool { return same(a, b) }) ||
			!maps.EqualFunc(m.flows, v.flows, func(a, b *federationv1.FlowHealth) bool { return same(a, b) }) {
			t.Fatalf("the hub has %v, there is %v", m, v)
		}
	})
}

func TestRoundTripsAreNoNews(t *testing.T) {
	p := newPicture(&federationv1.Facts{})
	now := time.Unix(0, 0)
	show := func(after time.Duration, rtt int64) int64 {
		now = now.Add(after)
		p.setLinks(now, map[string]*federationv1.LinkHealth{"osaka": {Peer: "osaka", State: federationv1.Health_UP, RttMicros: rtt}})
		return p.now().links["osaka"].RttMicros
	}
	for _, tc := range []struct {
		after     time.Duration
		rtt, want int64
	}{{0, 1000, 1000}, {2 * time.Second, 1100, 1000}, {2 * time.Second, 2000, 2000}, {2 * time.Second, 1900, 2000}, {time.Minute, 1900, 1900}} {
		if got := show(tc.after, tc.rtt); got != tc.want {
			t.Errorf("%d µs after %v: shown as %d, want %d", tc.rtt, tc.after, got, tc.want)
		}
	}
}
