package topology

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

var allFeatures = []string{"broker", "account", "link", "stream", "outlet"}

// sketch is a federation in a few lines, from which a plan of the planner's form
// is made.
type sketch struct {
	members  []string
	placed   map[string]bool      // in the topology
	links    map[[2]string]string // dialer, acceptor: "granted", "waits" or "keyless"
	flows    map[[3]string]int    // origin, destination, bridge: revision
	retarget map[string]bool      // bridges that deliver into another stream
	revision map[string]int       // of a member's accounts
}

func (k sketch) plan() *Plan {
	p := &Plan{Members: map[string]*MemberState{}, Objects: map[ObjectRef]*Footprint{}, Frozen: map[string]string{}, Standing: map[string]Standing{}}
	for _, m := range k.members {
		p.Standing[m] = Standing{Allow: Allowance{Parts: 1000}} // the guard has tests of its own
	}
	for _, m := range k.members {
		p.Members[m] = &MemberState{Cluster: m}
	}
	add := func(m string, part *federationv1.Part, after ...PartRef) {
		p.Members[m].Parts = append(p.Members[m].Parts, &PlannedPart{Part: federationv1.Seal(part), After: after})
	}
	account := func(name string, revision int) *federationv1.Part {
		return &federationv1.Part{Id: federationv1.AccountID(name), Spec: &federationv1.Part_Account{Account: &federationv1.AccountSpec{
			Name: name, Limits: &federationv1.AccountLimits{Connections: int64(revision)},
		}}}
	}
	for _, m := range k.members {
		if !k.placed[m] {
			continue
		}
		add(m, &federationv1.Part{Id: federationv1.BrokerID, Spec: &federationv1.Part_Broker{Broker: &federationv1.BrokerSpec{}}})
		add(m, account("app", k.revision[m]))
	}
	for l, how := range k.links {
		dialer, acceptor := l[0], l[1]
		for _, end := range [][2]string{{dialer, acceptor}, {acceptor, dialer}} {
			add(end[0], account(federationv1.OutAccount(end[1]), k.revision[end[0]]))
			add(end[0], account(federationv1.InAccount(end[1]), k.revision[end[0]]))
		}
		if how == "keyless" {
			p.Links = append(p.Links, Link{Topology: "t", Dialer: dialer, Acceptor: acceptor})
			continue
		}
		add(acceptor, &federationv1.Part{Id: federationv1.LinkID(dialer), Spec: &federationv1.Part_Link{Link: &federationv1.LinkSpec{
			Peer: dialer, Role: federationv1.LinkSpec_ACCEPT, PeerKey: "U" + dialer,
		}}})
		if how == "granted" {
			add(dialer, &federationv1.Part{Id: federationv1.LinkID(acceptor), Spec: &federationv1.Part_Link{Link: &federationv1.LinkSpec{
				Peer: acceptor, Role: federationv1.LinkSpec_DIAL, Grant: &federationv1.Grant{Key: "U" + dialer},
			}}}, PartRef{acceptor, federationv1.LinkID(dialer)})
		}
		p.Links = append(p.Links, Link{Topology: "t", Dialer: dialer, Acceptor: acceptor, Granted: how == "granted"})
	}
	streams := map[[2]string]*PlannedPart{} // member, stream
	stream := func(m, name string) *PlannedPart {
		if streams[[2]string{m, name}] == nil {
			spec := &federationv1.StreamSpec{Account: "app", Name: name}
			if name == "SRC" {
				spec.Subjects = []string{"src"}
			}
			pp := &PlannedPart{Part: &federationv1.Part{Id: federationv1.StreamID("app", name), Spec: &federationv1.Part_Stream{Stream: spec}}}
			streams[[2]string{m, name}] = pp
			p.Members[m].Parts = append(p.Members[m].Parts, pp)
		}
		return streams[[2]string{m, name}]
	}
	for _, f := range sortedFlows(k.flows) {
		origin, destination, bridge := f[0], f[1], f[2]
		target := "DST"
		if k.retarget[bridge] {
			target = "DST2"
		}
		consumer := fmt.Sprintf("fed-%s-%s-%s", destination, bridge, target)
		outlet := PartRef{origin, federationv1.OutletID(destination, "app", "SRC", consumer)}
		stream(origin, "SRC")
		add(origin, &federationv1.Part{Id: outlet.ID, Spec: &federationv1.Part_Outlet{Outlet: &federationv1.OutletSpec{
			Bridge: bridge, Destination: destination, Account: "app", Stream: "SRC", Consumer: consumer, RateLimit: int64(k.flows[f]),
		}}})
		pp := stream(destination, target)
		spec := pp.Part.GetStream()
		spec.Sources = append(spec.Sources, &federationv1.Source{Bridge: bridge, Origin: origin, Stream: "SRC", Consumer: consumer})
		pp.After = append(pp.After, outlet)
	}
	for _, pp := range streams {
		federationv1.Seal(pp.Part)
	}
	for _, m := range p.Members {
		slices.SortFunc(m.Parts, func(a, b *PlannedPart) int { return strings.Compare(a.Part.Id, b.Part.Id) })
		hashes := map[string]string{}
		for _, pp := range m.Parts {
			hashes[pp.Part.Id] = pp.Part.Hash
		}
		m.Hash = federationv1.StateHash(hashes)
	}
	slices.SortFunc(p.Links, func(a, b Link) int { return strings.Compare(a.Dialer+"/"+a.Acceptor, b.Dialer+"/"+b.Acceptor) })
	return p
}

func sortedFlows(flows map[[3]string]int) [][3]string {
	return slices.SortedFunc(maps.Keys(flows), func(a, b [3]string) int {
		return strings.Compare(strings.Join(a[:], "/"), strings.Join(b[:], "/"))
	})
}

// simulation is a fleet of agents that take whatever Next gives them and apply
// it part by part, in any order.
type simulation struct {
	t    *rapid.T
	plan *Plan
	prog Progress
	// running is what is in effect on each member, as applied.
	running map[string]map[string]*federationv1.Part
	// journal is what it holds.
	journal map[string]map[string]*federationv1.Part
	broken  map[string]bool // member/id: fails to apply
}

func newSimulation(t *rapid.T, members []string) *simulation {
	s := &simulation{t: t, prog: Progress{}, running: map[string]map[string]*federationv1.Part{}, journal: map[string]map[string]*federationv1.Part{}, broken: map[string]bool{}}
	for _, m := range members {
		s.running[m] = map[string]*federationv1.Part{}
		s.journal[m] = map[string]*federationv1.Part{}
	}
	return s
}

// change replaces a member's progress by a changed copy.
func (s *simulation) change(m string, do func(*MemberProgress)) {
	n := &MemberProgress{Features: allFeatures}
	if old := s.prog[m]; old != nil {
		*n = *old
	}
	n.Unapplied = maps.Clone(n.Unapplied)
	do(n)
	s.prog[m] = n
}

// hello opens a session: the hub learns what is held. What it knows of flows is
// from an older session, if there was one.
func (s *simulation) hello(m string) {
	s.change(m, func(n *MemberProgress) {
		n.Connected = true
		n.Held = map[string]string{}
		n.Unapplied = map[string]PartFailure{}
		for id, p := range s.journal[m] {
			n.Held[id] = p.Hash
			if s.broken[m+"/"+id] {
				n.Unapplied[id] = PartFailure{Code: "Broken"}
			} else if r := s.running[m][id]; r == nil || r.Hash != p.Hash {
				n.Unapplied[id] = PartFailure{}
			}
		}
	})
}

func (s *simulation) connect(m string) {
	s.hello(m)
	s.report(m)
}

func (s *simulation) disconnect(m string) {
	if s.prog[m] != nil {
		s.change(m, func(n *MemberProgress) { n.Connected = false })
	}
}

// report tells which flows run.
func (s *simulation) report(m string) {
	flows := map[FlowKey]FlowReport{}
	for _, p := range s.running[m] {
		for _, src := range p.GetStream().GetSources() {
			flows[FlowKey{Origin: src.Origin, Account: "app", Stream: p.GetStream().Name, Bridge: src.Bridge}] = FlowReport{State: "Up"}
		}
	}
	s.change(m, func(n *MemberProgress) { n.Flows = flows })
}

// send asks Next for one member, checks the step and journals it.
func (s *simulation) send(m string) bool {
	step := Next(s.plan, s.prog, m)
	if len(step.Upserts)+len(step.Removals) == 0 {
		if step.Target != "" {
			s.t.Fatalf("%s: an empty step with a target", m)
		}
		return false
	}
	s.check(m, step)
	held := maps.Clone(s.prog[m].Held)
	journal := s.journal[m]
	s.change(m, func(n *MemberProgress) {
		if n.Unapplied == nil {
			n.Unapplied = map[string]PartFailure{}
		}
		for _, p := range step.Upserts {
			if held[p.Id] == p.Hash {
				s.t.Fatalf("%s: %s is sent again", m, p.Id)
			}
			held[p.Id], journal[p.Id] = p.Hash, p
			n.Unapplied[p.Id] = PartFailure{}
		}
		for _, id := range step.Removals {
			delete(held, id)
			delete(journal, id)
			delete(s.running[m], id)
			delete(n.Unapplied, id)
		}
		n.Held = held
	})
	if got := federationv1.StateHash(held); got != step.Target {
		s.t.Fatalf("%s: target %s, held %s", m, step.Target, got)
	}
	s.report(m)
	return true
}

// applyOne lets a member apply, or fail, one part that it holds.
func (s *simulation) applyOne(m string, pick func(ids []string) string) bool {
	pm := s.prog[m]
	if pm == nil || !pm.Connected {
		return false
	}
	var ids []string
	for id, f := range pm.Unapplied {
		if f.Code == "" {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return false
	}
	slices.Sort(ids)
	id := pick(ids)
	s.change(m, func(n *MemberProgress) {
		if s.broken[m+"/"+id] {
			n.Unapplied[id] = PartFailure{Code: "Broken"}
			return
		}
		delete(n.Unapplied, id)
		s.running[m][id] = s.journal[m][id]
	})
	s.report(m)
	return true
}

// check holds what must be true of every step.
func (s *simulation) check(m string, step Step) {
	for _, p := range step.Upserts {
		if federationv1.ContentHash(p) != p.Hash {
			s.t.Fatalf("%s: %s is not sealed", m, p.Id)
		}
		want := s.plan.Members[m].Part(p.Id)
		if want == nil {
			s.t.Fatalf("%s: %s is sent and not planned", m, p.Id)
		}
		after := want.After
		if p.Hash != want.Part.Hash {
			after = s.checkVariant(m, want.Part, p)
		}
		for _, ref := range after {
			planned := s.plan.Members[ref.Cluster]
			if planned == nil || planned.Part(ref.ID) == nil {
				continue
			}
			if s.prog[ref.Cluster].Applied(ref.ID, planned.Part(ref.ID).Part.Hash) {
				continue
			}
			if s.sourceRuns(m, want.Part, ref) {
				continue
			}
			s.t.Fatalf("%s: %s is sent before %v", m, p.Id, ref)
		}
	}
	for _, id := range step.Removals {
		s.checkRemoval(m, id, step)
	}
}

// checkVariant returns what a stream with fewer sources comes after.
func (s *simulation) checkVariant(m string, want, got *federationv1.Part) []PartRef {
	full := proto.CloneOf(want)
	full.GetStream().Sources = got.GetStream().GetSources()
	if federationv1.ContentHash(full) != got.Hash || len(got.GetStream().GetSources()) >= len(want.GetStream().GetSources()) {
		s.t.Fatalf("%s: %s is neither as planned nor with fewer sources", m, got.Id)
	}
	var after []PartRef
	for _, src := range got.GetStream().Sources {
		after = append(after, PartRef{src.Origin, federationv1.OutletID(m, "app", src.Stream, src.Consumer)})
	}
	for _, src := range want.GetStream().Sources {
		if slices.ContainsFunc(got.GetStream().Sources, func(o *federationv1.Source) bool { return proto.Equal(o, src) }) {
			continue
		}
		if s.sourceRuns(m, want, PartRef{src.Origin, federationv1.OutletID(m, "app", src.Stream, src.Consumer)}) {
			s.t.Fatalf("%s: the running source from %s is dropped", m, src.Origin)
		}
		outlet := s.plan.Members[src.Origin].Part(federationv1.OutletID(m, "app", src.Stream, src.Consumer))
		if s.prog[src.Origin] != nil && !s.stuck(src.Origin, outlet) {
			s.t.Fatalf("%s: the source from %s is left out though it is coming", m, src.Origin)
		}
	}
	return after
}

func (s *simulation) sourceRuns(m string, stream *federationv1.Part, ref PartRef) bool {
	r := s.running[m][stream.Id]
	for _, src := range r.GetStream().GetSources() {
		if src.Origin == ref.Cluster && federationv1.OutletID(m, "app", src.Stream, src.Consumer) == ref.ID {
			return true
		}
	}
	return false
}

func (s *simulation) checkRemoval(m, id string, step Step) {
	if s.plan.Members[m].Part(id) != nil {
		s.t.Fatalf("%s: %s is removed and planned", m, id)
	}
	if s.plan.Frozen[m] != "" {
		s.t.Fatalf("%s: %s is removed from a frozen member", m, id)
	}
	peer := federationv1.IDPeer(id)
	if peer == "" || s.plan.Members[peer] == nil || s.prog[peer] == nil || !s.prog[peer].Connected {
		return
	}
	if strings.HasPrefix(id, "outlet/") {
		if s.plan.Members[m].Part(federationv1.StreamID("app", "SRC")) == nil || s.plan.Frozen[peer] != "" {
			return
		}
		for _, p := range s.running[peer] {
			if s.sourceRuns(peer, p, PartRef{m, id}) {
				s.t.Fatalf("%s: %s is removed while %s of %s sources from it", m, id, p.Id, peer)
			}
		}
		return
	}
	for _, l := range s.plan.Links {
		if pair(l.Dialer, l.Acceptor) == pair(m, peer) {
			s.t.Fatalf("%s: %s is removed, and only lacks a key or grant", m, id)
		}
	}
	for _, end := range []string{m, peer} {
		for _, want := range s.plan.Members[end].Parts {
			kind, _, _ := strings.Cut(want.Part.Id, "/")
			if kind != "link" && kind != "account" || s.prog[end].Applied(want.Part.Id, want.Part.Hash) {
				continue
			}
			if !s.stuck(end, want) {
				s.t.Fatalf("%s: %s is removed while %s of %s is on its way", m, id, want.Part.Id, end)
			}
		}
	}
	if m < peer && s.prog[peer].Held[federationv1.LinkID(m)] != "" && s.plan.Members[peer].Part(federationv1.LinkID(m)) == nil && s.plan.Frozen[peer] == "" {
		s.t.Fatalf("%s: %s is removed before %s let go", m, id, peer)
	}
}

// stuck tells whether a part cannot be applied without anyone mending something.
func (s *simulation) stuck(m string, want *PlannedPart) bool {
	if !s.prog[m].Connected || s.broken[m+"/"+want.Part.Id] {
		return true
	}
	for _, ref := range want.After {
		planned := s.plan.Members[ref.Cluster].Part(ref.ID)
		if s.prog[ref.Cluster].Applied(ref.ID, planned.Part.Hash) {
			continue
		}
		if s.prog[ref.Cluster] == nil || s.stuck(ref.Cluster, planned) {
			return true
		}
	}
	return false
}

// settle runs until nothing moves.
func (s *simulation) settle(pick func([]string) string) {
	for range 1000 {
		moved := false
		for _, m := range sortedKeys(s.plan.Members) {
			if s.prog[m] != nil && s.prog[m].Connected {
				moved = s.send(m) || moved
			}
			for s.applyOne(m, pick) {
				moved = true
			}
		}
		if !moved {
			return
		}
	}
	s.t.Fatal("does not settle")
}

func TestNextProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := []string{"a", "b", "c", "d", "e"}[:rapid.IntRange(2, 5).Draw(t, "members")]
		k := sketch{members: members, placed: map[string]bool{}, links: map[[2]string]string{}, flows: map[[3]string]int{}, retarget: map[string]bool{}, revision: map[string]int{}}
		s := newSimulation(t, members)
		s.plan = k.plan()
		pick := func(ids []string) string { return rapid.SampledFrom(ids).Draw(t, "part") }
		member := func() string { return rapid.SampledFrom(members).Draw(t, "member") }
		t.Repeat(map[string]func(*rapid.T){
			"replan": func(t *rapid.T) {
				k.draw(t)
				s.plan = k.plan()
			},
			"grant": func(*rapid.T) {
				for l := range k.links {
					k.links[l] = "granted"
				}
				s.plan = k.plan()
			},
			"hello": func(*rapid.T) { s.hello(member()) },
			"report": func(*rapid.T) {
				if m := member(); s.prog[m] != nil && s.prog[m].Connected {
					s.report(m)
				}
			},
			"connect":    func(*rapid.T) { s.connect(member()) },
			"disconnect": func(*rapid.T) { s.disconnect(member()) },
			"restart hub": func(*rapid.T) {
				s.prog = Progress{}
			},
			"break": func(t *rapid.T) {
				m := member()
				if ids := sortedKeys(s.journal[m]); len(ids) > 0 {
					s.broken[m+"/"+rapid.SampledFrom(ids).Draw(t, "id")] = true
				}
			},
			"send": func(*rapid.T) {
				if m := member(); s.prog[m] != nil && s.prog[m].Connected {
					s.send(m)
				}
			},
			"apply":  func(*rapid.T) { s.applyOne(member(), pick) },
			"settle": func(*rapid.T) { s.settle(pick) },
		})

		// Whatever happened: all mended, connected and granted, it converges.
		clear(s.broken)
		for l := range k.links {
			k.links[l] = "granted"
		}
		s.plan = k.plan()
		for _, m := range members {
			s.connect(m)
		}
		s.settle(pick)
		for _, m := range members {
			if got := federationv1.StateHash(s.prog[m].Held); got != s.plan.Members[m].Hash || len(s.prog[m].Unapplied) > 0 {
				t.Fatalf("%s holds %v of %v, unapplied %v", m, sortedKeys(s.prog[m].Held), ids(s.plan.Members[m]), s.prog[m].Unapplied)
			}
		}
	})
}

func ids(m *MemberState) []string {
	var out []string
	for _, p := range m.Parts {
		out = append(out, p.Part.Id)
	}
	return out
}

// draw changes the federation at random, keeping it one that a planner makes.
func (k *sketch) draw(t *rapid.T) {
	for _, m := range k.members {
		k.placed[m] = rapid.IntRange(0, 5).Draw(t, "placed "+m) > 0
		k.revision[m] = rapid.IntRange(0, 2).Draw(t, "revision "+m)
	}
	clear(k.links)
	clear(k.flows)
	clear(k.retarget)
	for i, a := range k.members {
		for _, b := range k.members[i+1:] {
			if !k.placed[a] || !k.placed[b] {
				continue
			}
			switch rapid.IntRange(0, 6).Draw(t, "link "+a+b) {
			case 0:
				k.links[[2]string{a, b}] = "granted"
			case 1:
				k.links[[2]string{b, a}] = "granted"
			case 2:
				k.links[[2]string{b, a}] = "waits"
			case 3:
				k.links[[2]string{b, a}] = "keyless"
			}
		}
	}
	for _, bridge := range []string{"x", "y"} {
		k.retarget[bridge] = rapid.Bool().Draw(t, "retarget "+bridge)
		for _, a := range k.members {
			for _, b := range k.members {
				if a != b && k.placed[a] && k.placed[b] && rapid.IntRange(0, 2).Draw(t, "flow "+a+b) == 0 {
					k.flows[[3]string{a, b, bridge}] = rapid.IntRange(0, 1).Draw(t, "rate")
				}
			}
		}
	}
}
