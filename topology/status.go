package topology

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealane/sealane/api/v1alpha1"
)

// Status is what the status of one object shall say.
type Status struct {
	// Generation of the object that the conditions speak of.
	Generation int64
	// Conditions in this order: Connected (members only), Accepted, Programmed,
	// Ready.
	Conditions []Condition
	// Members that have applied it, of how many: "2/3". Not for members.
	Members string
	// Links that work, of how many; alternatives count as one. For topologies.
	Links string
	// Lag over all flows of a bridge.
	Lag int64
	// Member holds the rest of a member's status.
	Member *MemberStatus
	// Unheard tells that the object depends on a member that has not reported to
	// this hub since it started: what its status said before may still hold.
	Unheard bool
}

// Condition is a condition without its times.
type Condition struct {
	Type    string
	Status  metav1.ConditionStatus
	Reason  string
	Message string
	// IfThere tells that it is said only where the object has a condition of this type
	// already. The Input does not know: a change of a status alone makes no new plan.
	IfThere bool
}

// Condition returns the condition of that type, or a zero one.
func (s Status) Condition(typ string) Condition {
	for _, c := range s.Conditions {
		if c.Type == typ {
			return c
		}
	}
	return Condition{}
}

// MemberStatus is what only the status of a member has.
type MemberStatus struct {
	DesiredHash string
	// HeldHash is empty while it is not known: what was known before may still
	// hold.
	HeldHash string
	// Parts applied, of how many: "12/12".
	Parts string
	// Links sorted by peer; Flows by bridge, origin, account and stream. A zero
	// Since stands where nothing was reported. A member that is not connected has
	// none: what it last said of them is no observation any more.
	Links []v1alpha1.LinkStatus
	Flows []v1alpha1.FlowStatus
	// Problems sorted by part; the first 20.
	Problems []v1alpha1.PartProblem
}

// Summarize says what the status of every object in the Input of which p was
// made shall be, given what members reported.
//
//   - Accepted is the plan's word; a member is accepted when it is in a topology.
//   - Programmed is True when every member concerned is known to have applied
//     each part of the object, as planned.
//   - Ready is True when it is programmed, every member concerned is connected,
//     and every link and flow that it needs was reported to be up: a link by both
//     ends, of alternative links one. It is Unknown where nothing is wrong but
//     the observation is missing.
//
// A topology concerns everything on its members; a refused bridge is on none.
// Messages name what is in the way, sorted, and no times.
func Summarize(p *Plan, in Input, prog Progress) map[ObjectRef]Status {
	s := newSummary(p, prog)
	out := make(map[ObjectRef]Status, len(in.Topologies)+len(in.Members)+len(in.Streams)+len(in.Bridges))
	for _, t := range in.Topologies {
		ref := ObjectRef{Kind: KindTopology, Name: t.Name}
		out[ref] = s.topology(ref, t.Generation)
	}
	for _, x := range in.Streams {
		ref := ObjectRef{KindStream, x.Namespace, x.Name}
		out[ref] = s.flowObject(ref, x.Generation)
	}
	for _, b := range in.Bridges {
		ref := ObjectRef{KindBridge, b.Namespace, b.Name}
		out[ref] = s.flowObject(ref, b.Generation)
	}
	for _, m := range in.Members {
		out[ObjectRef{Kind: KindMember, Name: m.Name}] = s.member(m)
	}
	return out
}

// summary holds what the statuses of several objects share.
type summary struct {
	plan       *Plan
	prog       Progress
	problems   map[ObjectRef][]Problem
	topologies map[string]string // by member
	whole      map[string]reach  // of a member's whole state
	links      *linkIndex
	inflows    map[string][]inflow // by destination
}

// inflow is a durable flow with its bridge.
type inflow struct {
	Flow
	bridge string
	paused bool
}

func newSummary(p *Plan, prog Progress) *summary {
	s := &summary{
		plan:       p,
		prog:       prog,
		problems:   map[ObjectRef][]Problem{},
		topologies: map[string]string{},
		whole:      map[string]reach{},
		links:      indexLinks(p, prog),
		inflows:    map[string][]inflow{},
	}
	for _, problem := range p.Problems {
		s.problems[problem.Object] = append(s.problems[problem.Object], problem)
	}
	for ref, fp := range p.Objects {
		switch ref.Kind {
		case KindTopology:
			for _, m := range fp.Members {
				s.topologies[m] = ref.Name
			}
		case KindBridge:
			for _, f := range fp.Flows {
				s.inflows[f.Destination] = append(s.inflows[f.Destination], inflow{f, ref.Namespace + "/" + ref.Name, fp.Paused})
			}
		}
	}
	for _, flows := range s.inflows {
		slices.SortFunc(flows, func(a, b inflow) int {
			return cmp.Or(strings.Compare(a.bridge, b.bridge), strings.Compare(a.Origin, b.Origin),
				strings.Compare(a.Account, b.Account), strings.Compare(a.Stream, b.Stream))
		})
	}
	return s
}

// topology is the status of a topology: of everything on its members, and of
// its links.
func (s *summary) topology(ref ObjectRef, generation int64) Status {
	fp := s.plan.Objects[ref]
	if fp == nil {
		fp = &Footprint{}
	}
	var t tally
	for _, m := range fp.Members {
		t.add(m, s.prog[m], s.reachWhole(m))
	}
	var l linkTally
	for _, g := range s.links.ofTopology[ref.Name] {
		l.add(g)
	}
	st := s.judge(ref, generation, t, l, nil, fmt.Sprintf("%s, %s", count(len(fp.Members), "member"), count(l.total, "link")))
	st.Links = fmt.Sprintf("%d/%d", l.up, l.total)
	return st
}

// flowObject is the status of a Stream or Bridge.
func (s *summary) flowObject(ref ObjectRef, generation int64) Status {
	fp := s.plan.Objects[ref]
	if fp == nil {
		fp = &Footprint{}
	}
	var t tally
	for m, ids := range fp.byMember() {
		t.add(m, s.prog[m], s.reach(m, ids))
	}
	var l linkTally
	for _, h := range fp.Hops {
		l.add(s.links.hop(h))
	}
	var extra []finding
	var lag int64
	if ref.Kind == KindBridge {
		var down []string
		for _, f := range fp.Flows {
			r, ok := s.flowReport(f, ref.Namespace+"/"+ref.Name)
			lag += max(r.Lag, 0)
			if connected(s.prog, f.Destination) && (!ok || r.State != string(v1alpha1.LinkUp)) {
				down = append(down, f.Origin+" to "+f.Destination)
			}
		}
		switch {
		case fp.Paused:
			extra = append(extra, finding{reason: v1alpha1.ReasonPaused, text: "paused by spec.stream.flow"})
		case len(down) > 0 && t.allDone():
			extra = append(extra, finding{reason: v1alpha1.ReasonFlowsDown, text: "flows not up: " + firstNames(down)})
		}
	}
	st := s.judge(ref, generation, t, l, extra, "on "+count(t.total, "member"))
	st.Lag = lag
	return st
}

// byMember are the members that the object concerns or that have parts of it, in
// order, each with the ids of these; a list of them is overwritten by the next.
func (fp *Footprint) byMember() iter.Seq2[string, []string] {
	return func(yield func(string, []string) bool) {
		var ids []string
		members, parts := fp.Members, fp.Parts // both sorted
		for len(members)+len(parts) > 0 {
			var name string
			if len(parts) == 0 || len(members) > 0 && members[0] <= parts[0].Cluster {
				name, members = members[0], members[1:]
			} else {
				name = parts[0].Cluster
			}
			ids = ids[:0]
			for len(parts) > 0 && parts[0].Cluster == name {
				ids, parts = append(ids, parts[0].ID), parts[1:]
			}
			if !yield(name, ids) {
				return
			}
		}
	}
}

// flowReport is what the destination last said of a flow.
func (s *summary) flowReport(f Flow, bridge string) (FlowReport, bool) {
	m := s.prog[f.Destination]
	if m == nil {
		return FlowReport{}, false
	}
	key := FlowKey{Origin: f.Origin, Account: f.Account, Stream: f.Stream, Bridge: bridge}
	r, ok := m.Flows[key]
	if !ok && f.Origin == f.Destination {
		key.Origin = "" // as Source.origin says it of a local stream
		r, ok = m.Flows[key]
	}
	return r, ok
}

// judge makes the status of anything but a member.
func (s *summary) judge(ref ObjectRef, generation int64, t tally, l linkTally, extra []finding, fine string) Status {
	accepted, ok := s.accepted(ref)
	st := Status{Generation: generation, Members: fmt.Sprintf("%d/%d", t.done, t.total)}
	if !ok {
		older := int64(0)
		if fp := s.plan.Objects[ref]; fp == nil || fp.Generation != generation {
			st.Members = fmt.Sprintf("0/%d", t.total)
			if fp != nil {
				older = fp.Generation
			}
		}
		st.Conditions = []Condition{accepted, notAccepted(v1alpha1.ConditionProgrammed, older), notAccepted(v1alpha1.ConditionReady, older)}
		return st
	}
	waiting := s.waiting(ref)
	if len(waiting) == 0 && t.total == 0 {
		waiting = []finding{{reason: v1alpha1.ReasonNoMembers, text: "no member is concerned yet"}}
	}
	programmed := slices.Concat(t.failures(), waiting, t.pendings(len(waiting) == 0), l.ungranted(), t.away(false))
	ready := slices.Concat(t.failures(), l.downs(), extra, waiting, t.pendings(len(waiting) == 0), l.pendings(), t.away(true, l.unseen...))
	st.Conditions = []Condition{
		accepted,
		conclude(v1alpha1.ConditionProgrammed, v1alpha1.ReasonProgrammed, "applied by "+count(t.total, "member"), programmed),
		conclude(v1alpha1.ConditionReady, v1alpha1.ReasonReady, fine, ready),
	}
	for _, m := range slices.Concat(t.disconnected, l.unseen) {
		st.Unheard = st.Unheard || s.prog[m] == nil
	}
	return st
}

// accepted is the condition and whether it is True.
func (s *summary) accepted(ref ObjectRef) (Condition, bool) {
	c := Condition{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAccepted}
	var refused, waits []string
	for _, p := range s.problems[ref] {
		text := p.Message
		if p.Field != "" {
			text = p.Field + ": " + text
		}
		if p.Waiting {
			waits = append(waits, text)
			continue
		}
		if len(refused) == 0 {
			c.Reason = p.Reason
		}
		refused = append(refused, text)
	}
	switch {
	case len(refused) > 0:
		c.Status = metav1.ConditionFalse
		c.Message = first(refused, "; ")
	case s.plan.Objects[ref] == nil && ref.Kind != KindMember:
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, v1alpha1.ReasonPending, "not planned yet"
	default:
		c.Message = first(waits, "; ")
	}
	return c, c.Status == metav1.ConditionTrue
}

// waiting is one finding for all that the object waits for by the plan's word.
func (s *summary) waiting(ref ObjectRef) []finding {
	var texts []string
	reason := v1alpha1.ReasonPending
	for _, p := range s.problems[ref] {
		if !p.Waiting || p.Note {
			continue
		}
		if p.Reason == v1alpha1.ReasonNoMembers {
			reason = p.Reason
		}
		texts = append(texts, p.Message)
	}
	if len(texts) == 0 {
		return nil
	}
	return []finding{{reason: reason, text: first(texts, "; ")}}
}

// notAccepted is a condition of a refused object, of which an older generation
// may be in effect.
func notAccepted(typ string, older int64) Condition {
	c := Condition{Type: typ, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonNotAccepted, Message: "see condition Accepted"}
	if older > 0 {
		c.Message += fmt.Sprintf("; generation %d stays in effect", older)
	}
	return c
}
