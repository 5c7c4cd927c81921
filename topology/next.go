package topology

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// Step is what one member may be sent now. The zero Step is nothing.
type Step struct {
	// Upserts sorted by id.
	Upserts []*federationv1.Part
	// Removals sorted.
	Removals []string
	// Target is the StateHash of what the member holds after the step.
	Target string
	// Meant: the removals are permitted, however many they are.
	Meant bool
}

// Next says what may be sent to a member that has no update in flight.
//
// A part is sent once the parts that it comes after are applied, as planned, on
// their members. A part that is held as planned is never sent again, be it
// applied or not. A stream that would wait for an origin which does not come
// forward (not connected, or its outlet failed) is sent without that source, so
// that one dead origin does not hold up the others. A broker that gets more servers
// waits for those that dial or are dialed to heed it, and a link that is split for
// brokers to have one server; a broker that is not there yet waits for nobody.
//
// What the plan has no more is removed only when nothing uses it any longer:
//
//   - An outlet when its destination, if connected, has applied its streams of
//     that account and dropped those that it shall not have. At once if the
//     stream goes too, if it is overdue, or if the stream is a work queue of which a
//     planned outlet failed: the old consumer stands in the way of the new one.
//   - Links, the accounts and the broker, together, when on this member and on
//     the peers of those links every account and link that can come has come: the
//     new paths are there before the old ones go. Of two ends the one whose name
//     sorts last lets go first.
//   - Everything else at once. The order within a member is the agent's.
//
// Upserts never wait for removals, and what cannot come is not waited for. A frozen
// member is sent no removals, and no version of an account or stream that would
// take something away (see Plan.Withheld); nor is one sent removals that the guard
// holds back (see Standing.Allow). A suspended member is sent nothing. What leads
// to a revoked member is removed at once all the same.
//
// A staged member is brought to its older state and loses nothing; what others get
// and what needs its newer state waits. Links, accounts and brokers go from no
// member of its topology, and what feeds it stays.
func Next(p *Plan, prog Progress, cluster string) Step {
	own := prog[cluster]
	if p == nil || p.Members[cluster] == nil || own == nil || !own.Known() {
		return Step{}
	}
	o := order{p, prog, p.Staged[cluster] != nil}
	want := p.Desired(cluster)
	behind, others := own.compare(want)
	var s Step
	if others || o.staged {
		s.Removals, s.Meant = o.removals(cluster)
	}
	switch standing := p.Standing[cluster]; {
	case standing.Revoked:
		return Step{}
	case !standing.Suspended:
		s.Upserts = o.upserts(cluster, behind)
	}
	if len(s.Upserts)+len(s.Removals) == 0 {
		return Step{}
	}
	if !others && as(s.Upserts, behind) && len(s.Removals) == 0 {
		s.Target = want.Hash // most often, and it is known
		return s
	}
	after := maps.Collect(own.All())
	for _, part := range s.Upserts {
		after[part.Id] = part.Hash
	}
	for _, id := range s.Removals {
		delete(after, id)
	}
	s.Target = federationv1.StateHash(after)
	return s
}

// compare finds the parts of a state that are not held as they are there, and
// tells whether others are held than those of the state.
func (m *MemberProgress) compare(want *MemberState) (behind []*PlannedPart, others bool) {
	if m.Planned != nil {
		m.Planned.Until(want, func(*PlannedPart) { others = true }, func(p *PlannedPart) { behind = append(behind, p) })
		return behind, others
	}
	known, held := 0, m.Held
	for _, p := range want.Parts {
		hash, holds := held[p.Part.Id]
		if holds {
			known++
		}
		if hash != p.Part.Hash {
			behind = append(behind, p)
		}
	}
	return behind, known < len(held)
}

// as tells whether parts are all those that were planned, as they were.
func as(parts []*federationv1.Part, planned []*PlannedPart) bool {
	return slices.EqualFunc(parts, planned, func(a *federationv1.Part, b *PlannedPart) bool { return a == b.Part })
}

// order answers what may be sent when. Its methods take names of members that
// are in the plan.
type order struct {
	plan *Plan
	prog Progress
	// staged: it is asked for a staged member, whose parts come after those that
	// others have for now.
	staged bool
}

// upserts are those of the parts that a member does not hold as planned which may
// be sent.
func (o order) upserts(cluster string, behind []*PlannedPart) []*federationv1.Part {
	if len(behind) == 0 {
		return nil
	}
	own := o.prog[cluster]
	out := make([]*federationv1.Part, 0, len(behind))
	for _, want := range behind {
		if part := o.sendable(cluster, want); part != nil && own.Hash(part.Id) != part.Hash {
			out = append(out, part)
		}
	}
	return out
}

// sendable is the part as it may be sent now, or already was: the planned one,
// a stream without the sources that cannot come, or nil.
func (o order) sendable(cluster string, want *PlannedPart) *federationv1.Part {
	if !slices.Contains(o.prog[cluster].Features, kindOf(want.Part)) || o.withheld(PartRef{cluster, want.Part.Id}) {
		return nil
	}
	if want.Part.Id == federationv1.BrokerID && o.prog[cluster].Hash(federationv1.BrokerID) == "" {
		return want.Part
	}
	var unmet map[PartRef]bool
	for _, ref := range want.After {
		if o.met(ref) {
			continue
		}
		if o.coming(ref, maxDepth) {
			return nil
		}
		if needs(want.Part, ref) {
			if unmet == nil {
				unmet = map[PartRef]bool{}
			}
			unmet[ref] = true
		}
	}
	if len(unmet) == 0 {
		return want.Part
	}
	if want.Part.GetStream() == nil {
		return nil
	}
	return o.withoutSources(cluster, want.Part, unmet)
}

// withheld tells whether a member keeps the version of a part that it holds,
// because it is frozen and the planned one may lack something.
func (o order) withheld(ref PartRef) bool {
	m := o.prog[ref.Cluster]
	return o.plan.Withheld[ref] && m != nil && m.Hash(ref.ID) != ""
}

// withoutSources is a stream part without the sources whose outlets are unmet,
// or nil if that is not possible. A source that runs already is kept: it was
// sent in order once, and to drop it for a change elsewhere would stop a flow.
func (o order) withoutSources(cluster string, part *federationv1.Part, unmet map[PartRef]bool) *federationv1.Part {
	own, spec := o.prog[cluster], part.GetStream()
	if own.Hash(part.Id) != "" && own.Flows == nil {
		return nil // not known which sources run
	}
	var sources []*federationv1.Source
	matched := map[PartRef]bool{}
	for _, s := range spec.Sources {
		ref := PartRef{s.Origin, federationv1.OutletID(cluster, spec.Account, s.Stream, s.Consumer)}
		matched[ref] = true
		_, runs := own.Flows[FlowKey{Origin: s.Origin, Account: spec.Account, Stream: spec.Name, Bridge: s.Bridge}]
		if !unmet[ref] || runs {
			sources = append(sources, s)
		}
	}
	for ref := range unmet {
		if !matched[ref] {
			return nil
		}
	}
	if len(sources) == len(spec.Sources) {
		return part
	}
	if len(sources) == 0 && len(spec.Subjects) == 0 {
		return nil // JetStream would give it a subject of its own
	}
	part = proto.CloneOf(part)
	part.GetStream().Sources = sources
	return federationv1.Seal(part)
}

// planned is the part that the plan has under ref, or nil.
func (o order) planned(ref PartRef) *PlannedPart {
	m := o.plan.Members[ref.Cluster]
	if o.staged {
		m = o.plan.Desired(ref.Cluster)
	}
	if m != nil {
		return m.Part(ref.ID)
	}
	return nil
}

// met tells whether nothing has to wait for ref: it is applied as planned, or
// not in the plan.
func (o order) met(ref PartRef) bool {
	want := o.planned(ref)
	return want == nil || o.prog[ref.Cluster].Applied(ref.ID, want.Part.Hash)
}

// maxDepth is more than any chain of After in a plan: outlet, then stream; link
// of the acceptor, then of the dialer.
const maxDepth = 8

// coming tells whether ref, which is not met, can be expected without anyone
// mending something: its member is connected, and it is being applied or will be
// sent.
func (o order) coming(ref PartRef, depth int) bool {
	m, want := o.prog[ref.Cluster], o.planned(ref)
	if depth == 0 || want == nil || m == nil || !m.Connected {
		return false
	}
	if !m.Known() {
		return true // its inventory is
	}
	if older := o.plan.Staged[ref.Cluster]; older != nil {
		if part := older.Part(ref.ID); part == nil || part.Part.Hash != want.Part.Hash {
			return false
		}
	}
	if m.Hash(ref.ID) == want.Part.Hash {
		failure, un := m.Unapplied[ref.ID]
		return un && failure.Code == ""
	}
	if s := o.plan.Standing[ref.Cluster]; s.Suspended || s.Revoked {
		return false
	}
	if m.Refusal != "" || !slices.Contains(m.Features, kindOf(want.Part)) || o.withheld(ref) {
		return false
	}
	for _, before := range want.After {
		if needs(want.Part, before) && !o.met(before) && !o.coming(before, depth-1) {
			return false
		}
	}
	return true
}

// needs tells whether a part is of no use without one before it. Else it is only
// better sent later, and is sent anyway when that one does not come.
func needs(p *federationv1.Part, before PartRef) bool {
	return p.GetBroker() == nil && before.ID != federationv1.BrokerID
}

// kindOf is the name of a part's kind, as in Hello.features.
func kindOf(p *federationv1.Part) string {
	switch p.Spec.(type) {
	case *federationv1.Part_Broker:
		return "broker"
	case *federationv1.Part_Account:
		return "account"
	case *federationv1.Part_Link:
		return "link"
	case *federationv1.Part_Stream:
		return "stream"
	case *federationv1.Part_Outlet:
		return "outlet"
	}
	return ""
}
