package topology

import (
	"fmt"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// holding is the progress of a connected member that holds and has applied
// everything that a plan has for it, but for what is left out.
func holding(p *Plan, cluster string, without ...string) *MemberProgress {
	m := &MemberProgress{Connected: true, Features: allFeatures, Held: map[string]string{}, Unapplied: map[string]PartFailure{}, Flows: map[FlowKey]FlowReport{}}
	for _, part := range p.Members[cluster].Parts {
		m.Held[part.Part.Id] = part.Part.Hash
	}
	for _, id := range without {
		delete(m.Held, id)
	}
	return m
}

// two members, linked, with a durable flow from a to b.
func pairSketch() sketch {
	return sketch{
		members: []string{"a", "b", "c"}, placed: map[string]bool{"a": true, "b": true},
		links: map[[2]string]string{{"b", "a"}: "granted"}, flows: map[[3]string]int{{"a", "b", "x"}: 0},
		retarget: map[string]bool{}, revision: map[string]int{},
	}
}

const (
	pairOutlet = "outlet/b/app/SRC/fed-b-x-DST"
	pairTarget = "stream/app/DST"
)

func TestNext(t *testing.T) {
	t.Parallel()
	plan := pairSketch().plan()
	moved := pairSketch() // the flow goes to another stream
	moved.retarget["x"] = true
	apart := pairSketch() // without link and flow
	clear(apart.links)
	clear(apart.flows)

	for _, tc := range []struct {
		name     string
		plan     *Plan
		cluster  string
		change   func(p *Plan, prog Progress)
		upserts  []string
		removals []string
	}{
		{name: "nothing to do", cluster: "b"},
		{name: "no such member", cluster: "z"},
		{name: "in no topology, and empty", cluster: "c"},
		{
			name: "not known what is held", cluster: "b",
			change: func(_ *Plan, prog Progress) { prog["b"].Held = nil },
		},
		{
			name: "never reported", cluster: "b",
			change: func(_ *Plan, prog Progress) { delete(prog, "b") },
		},
		{
			name: "another version", cluster: "b",
			change:  func(_ *Plan, prog Progress) { prog["b"].Held["account/app"] = "old" },
			upserts: []string{"account/app"},
		},
		{
			name: "failed, but held as planned", cluster: "b",
			change: func(_ *Plan, prog Progress) { prog["b"].Unapplied["account/app"] = PartFailure{Code: "Broken"} },
		},
		{
			name: "a kind that the agent cannot apply", cluster: "b",
			change: func(_ *Plan, prog Progress) {
				delete(prog["b"].Held, "account/app")
				delete(prog["b"].Held, "link/a")
				prog["b"].Features = []string{"account"}
			},
			upserts: []string{"account/app"},
		},
		{
			name: "dialer before acceptor", cluster: "b",
			change: func(_ *Plan, prog Progress) { delete(prog["b"].Held, "link/a"); delete(prog["a"].Held, "link/b") },
		},
		{
			name: "dialer while acceptor applies", cluster: "b",
			change: func(_ *Plan, prog Progress) {
				delete(prog["b"].Held, "link/a")
				prog["a"].Unapplied["link/b"] = PartFailure{}
			},
		},
		{
			name: "dialer, acceptor has an older version", cluster: "b",
			change: func(_ *Plan, prog Progress) { delete(prog["b"].Held, "link/a"); prog["a"].Held["link/b"] = "old" },
		},
		{
			name: "dialer after acceptor", cluster: "b",
			change:  func(_ *Plan, prog Progress) { delete(prog["b"].Held, "link/a") },
			upserts: []string{"link/a"},
		},
		{
			name: "what it waits for is not in the plan", cluster: "b",
			change: func(p *Plan, prog Progress) {
				delete(prog["b"].Held, "link/a")
				delete(p.Members, "a")
			},
			upserts: []string{"link/a"},
		},
		{
			name: "outlet before stream", cluster: "b",
			change: func(_ *Plan, prog Progress) { delete(prog["b"].Held, pairTarget); delete(prog["a"].Held, pairOutlet) },
		},
		{
			name: "a stream without subjects is not sent without its only source", cluster: "b",
			change: func(_ *Plan, prog Progress) { delete(prog["b"].Held, pairTarget); delete(prog, "a") },
		},
		{
			name: "running sources of a disconnected origin are kept", cluster: "b",
			change: func(_ *Plan, prog Progress) {
				prog["b"].Held[pairTarget] = "old"
				prog["b"].Flows[FlowKey{Origin: "a", Account: "app", Stream: "DST", Bridge: "x"}] = FlowReport{State: "Up"}
				delete(prog, "a")
			},
			upserts: []string{pairTarget},
		},
		{
			name: "an update was refused", cluster: "b",
			change:  func(_ *Plan, prog Progress) { delete(prog["b"].Held, "account/app"); prog["b"].Refusal = "no" },
			upserts: []string{"account/app"}, // the session decides whether to send it again
		},
		{
			name: "leftovers that nothing uses", cluster: "c",
			change: func(_ *Plan, prog Progress) {
				prog["c"].Held = map[string]string{"broker": "1", "account/app": "1", "stream/app/S": "1", "future/thing": "1"}
			},
			removals: []string{"account/app", "broker", "future/thing", "stream/app/S"},
		},
		{
			name: "leftovers of a frozen member", cluster: "c",
			change: func(p *Plan, prog Progress) {
				p.Frozen["c"] = "its topology is refused"
				prog["c"].Held = map[string]string{"broker": "1", "link/a": "1"}
			},
		},
		{
			name: "outlet, the destination still uses it", plan: moved.plan(), cluster: "a",
			change:  func(_ *Plan, prog Progress) { prog["a"] = holding(plan, "a"); prog["b"] = holding(plan, "b") },
			upserts: []string{"outlet/b/app/SRC/fed-b-x-DST2"},
		},
		{
			name: "outlet, the destination has the new stream but also the old", plan: moved.plan(), cluster: "a",
			change: func(_ *Plan, prog Progress) {
				prog["a"].Held[pairOutlet] = "1"
				prog["b"].Held[pairTarget] = "1"
			},
		},
		{
			name: "outlet, the destination moved on", plan: moved.plan(), cluster: "a",
			change:   func(_ *Plan, prog Progress) { prog["a"].Held[pairOutlet] = "1" },
			removals: []string{pairOutlet},
		},
		{
			name: "outlet, the destination is not connected", plan: moved.plan(), cluster: "a",
			change: func(_ *Plan, prog Progress) {
				prog["a"].Held[pairOutlet] = "1"
				prog["b"] = holding(plan, "b")
				prog["b"].Connected = false
			},
			removals: []string{pairOutlet},
		},
		{
			name: "outlet, the destination failed to move on", plan: moved.plan(), cluster: "a",
			change: func(_ *Plan, prog Progress) {
				prog["a"].Held[pairOutlet] = "1"
				prog["b"].Unapplied["stream/app/DST2"] = PartFailure{Code: "Broken"}
			},
		},
		{
			name: "outlet, the destination failed to move on for too long", plan: moved.plan(), cluster: "a",
			change: func(_ *Plan, prog Progress) {
				prog["a"].Held[pairOutlet] = "1"
				prog["a"].Overdue = map[string]bool{pairOutlet: true}
				prog["b"].Unapplied["stream/app/DST2"] = PartFailure{Code: "Broken"}
			},
			removals: []string{pairOutlet},
		},
		{
			name: "outlet that stands in the way of another on a work queue", plan: workQueue(moved.plan()), cluster: "a",
			change: func(_ *Plan, prog Progress) {
				prog["a"].Held[pairOutlet] = "1"
				prog["a"].Unapplied["outlet/b/app/SRC/fed-b-x-DST2"] = PartFailure{Code: "Broken"}
				prog["b"] = holding(plan, "b")
			},
			removals: []string{pairOutlet},
		},
		{
			name: "link, the dialer that sorts last goes first", plan: apart.plan(), cluster: "b",
			change:   func(_ *Plan, prog Progress) { prog["a"] = holding(plan, "a"); prog["b"] = holding(plan, "b") },
			removals: []string{"account/rx_a", "account/tx_a", "link/a", pairTarget},
		},
		{
			name: "link, the acceptor waits", plan: apart.plan(), cluster: "a",
			change:   func(_ *Plan, prog Progress) { prog["a"] = holding(plan, "a"); prog["b"] = holding(plan, "b") },
			removals: []string{pairOutlet, "stream/app/SRC"},
		},
		{
			name: "link, the acceptor follows", plan: apart.plan(), cluster: "a",
			change:   func(_ *Plan, prog Progress) { prog["a"] = holding(plan, "a", pairOutlet, "stream/app/SRC") },
			removals: []string{"account/rx_b", "account/tx_b", "link/b"},
		},
		{
			name: "link, a path of the peer is on its way", plan: apart.plan(), cluster: "b",
			change: func(_ *Plan, prog Progress) {
				prog["b"] = holding(plan, "b", pairTarget)
				prog["a"].Held["account/app"] = "old"
			},
		},
		{
			name: "link, a path of the peer failed", plan: apart.plan(), cluster: "b",
			change: func(_ *Plan, prog Progress) {
				prog["b"] = holding(plan, "b", pairTarget)
				prog["a"].Unapplied["account/app"] = PartFailure{Code: "Broken"}
			},
			removals: []string{"account/rx_a", "account/tx_a", "link/a"},
		},
		{
			name: "link that waits for its grant", plan: ungranted().plan(), cluster: "b",
			change: func(_ *Plan, prog Progress) {
				prog["b"] = holding(plan, "b")
				delete(prog, "a") // the grant will not come soon
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := tc.plan
			if p == nil {
				p = pairSketch().plan()
			}
			prog := Progress{}
			for m := range p.Members {
				prog[m] = holding(p, m)
			}
			if tc.change != nil {
				tc.change(p, prog)
			}
			got := Next(p, prog, tc.cluster)
			var upserts []string
			for _, part := range got.Upserts {
				upserts = append(upserts, part.Id)
			}
			if d := cmp.Diff(tc.upserts, upserts); d != "" {
				t.Errorf("upserts (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tc.removals, got.Removals); d != "" {
				t.Errorf("removals (-want +got):\n%s", d)
			}
			if len(upserts)+len(got.Removals) == 0 {
				if got.Target != "" {
					t.Errorf("target %s of nothing", got.Target)
				}
				return
			}
			after := maps.Clone(prog[tc.cluster].Held)
			for _, part := range got.Upserts {
				after[part.Id] = part.Hash
			}
			for _, id := range got.Removals {
				delete(after, id)
			}
			if want := federationv1.StateHash(after); got.Target != want {
				t.Errorf("target %s, want %s", got.Target, want)
			}
		})
	}
}

// TestNextWithoutDeadOrigin: of two origins one is not there; the other's
// messages flow, and the dead one's once it is back.
func TestNextWithoutDeadOrigin(t *testing.T) {
	t.Parallel()
	k := pairSketch()
	k.placed["c"] = true
	k.flows[[3]string{"c", "b", "x"}] = 0
	p := k.plan()
	prog := Progress{"a": holding(p, "a"), "b": holding(p, "b", pairTarget)}
	got := Next(p, prog, "b")
	if len(got.Upserts) != 1 || len(got.Upserts[0].GetStream().GetSources()) != 1 || got.Upserts[0].GetStream().Sources[0].Origin != "a" {
		t.Fatalf("got %v, want the stream with the source from a only", got.Upserts)
	}
	prog["b"].Held[pairTarget] = got.Upserts[0].Hash
	if again := Next(p, prog, "b"); len(again.Upserts) > 0 {
		t.Errorf("sent again: %v", again.Upserts)
	}
	prog["c"] = holding(p, "c")
	if got := Next(p, prog, "b"); len(got.Upserts) != 1 || got.Upserts[0].Hash != p.Members["b"].Part(pairTarget).Part.Hash {
		t.Errorf("got %v, want the stream as planned", got.Upserts)
	}
}

func workQueue(p *Plan) *Plan {
	part := p.Members["a"].Part("stream/app/SRC").Part
	part.GetStream().Retention = federationv1.StreamSpec_WORK_QUEUE
	federationv1.Seal(part)
	return p
}

func ungranted() sketch {
	k := pairSketch()
	k.links[[2]string{"b", "a"}] = "waits"
	return k
}

// BenchmarkNext is a wave over 1,000 members behind one hub of which each has
// something to be sent.
func BenchmarkNext(b *testing.B) {
	k := sketch{placed: map[string]bool{}, links: map[[2]string]string{}, revision: map[string]int{}}
	k.members = append(k.members, "hub")
	k.placed["hub"] = true
	for i := range 1000 {
		m := fmt.Sprintf("edge-%04d", i)
		k.members = append(k.members, m)
		k.placed[m] = true
		k.links[[2]string{m, "hub"}] = "granted"
	}
	p := k.plan()
	prog := Progress{}
	for _, m := range k.members {
		prog[m] = holding(p, m)
		prog[m].Held["account/app"] = "old"
	}
	for b.Loop() {
		for _, m := range k.members {
			if s := Next(p, prog, m); len(s.Upserts) != 1 {
				b.Fatal(m, s)
			}
		}
	}
}

// A broker that gets more servers waits for those that dial it, if they can come,
// and a link is split when the broker at its other end has one server.
func TestNextReplicas(t *testing.T) {
	t.Parallel()
	dial := func(spoke bool) *federationv1.LinkSpec {
		return &federationv1.LinkSpec{Peer: "a", Role: federationv1.LinkSpec_DIAL, Spoke: spoke}
	}
	plan := func(replicas int32, after []PartRef, link *federationv1.LinkSpec, linkAfter []PartRef) *Plan {
		p := &Plan{Members: map[string]*MemberState{}}
		p.Members["a"] = &MemberState{Cluster: "a", Parts: []*PlannedPart{
			sealed(federationv1.BrokerID, &federationv1.Part{Spec: &federationv1.Part_Broker{Broker: &federationv1.BrokerSpec{Replicas: replicas}}}, after...)}}
		p.Members["b"] = &MemberState{Cluster: "b", Parts: []*PlannedPart{
			sealed(federationv1.LinkID("a"), &federationv1.Part{Spec: &federationv1.Part_Link{Link: link}}, linkAfter...)}}
		return p
	}
	small := plan(1, nil, dial(false), []PartRef{{"a", federationv1.BrokerID}})
	large := plan(3, []PartRef{{"b", federationv1.LinkID("a")}}, dial(true), nil)
	sent := func(p *Plan, prog Progress, cluster string) bool { return len(Next(p, prog, cluster).Upserts) > 0 }
	now := func(p *Plan) Progress { return Progress{"a": holding(p, "a"), "b": holding(p, "b")} }

	prog := now(small)
	if sent(large, prog, "a") || !sent(large, prog, "b") {
		t.Error("growth: the link comes first")
	}
	prog["b"].Held = now(large)["b"].Held
	if !sent(large, prog, "a") {
		t.Error("growth: the link has come")
	}
	prog = now(small)
	prog["b"].Connected = false
	if !sent(large, prog, "a") {
		t.Error("growth waits for a dialer that is away")
	}
	prog = now(small)
	delete(prog["a"].Held, federationv1.BrokerID)
	if !sent(large, prog, "a") {
		t.Error("a new broker waits")
	}
	prog = now(large)
	if !sent(small, prog, "a") || sent(small, prog, "b") {
		t.Error("shrinking: the broker comes first")
	}
	prog["a"].Held = now(small)["a"].Held
	if !sent(small, prog, "b") {
		t.Error("shrinking: the broker has come")
	}
	prog = now(large)
	prog["a"].Connected = false
	if !sent(small, prog, "b") {
		t.Error("a link waits for a broker that is away")
	}
}
