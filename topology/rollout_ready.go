package topology

import (
	"fmt"
	"slices"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// readiness says of members what was observed of them in a rollout.
type readiness struct {
	order
	*summary
	flows map[string][]inflow // by either end
}

func newReadiness(p *Plan, prog Progress) *readiness {
	r := &readiness{order: order{plan: p, prog: prog}, summary: newSummary(p, prog), flows: map[string][]inflow{}}
	for ref, fp := range p.Objects {
		if fp.Paused {
			continue
		}
		for _, f := range fp.Flows {
			in := inflow{Flow: f, bridge: ref.Namespace + "/" + ref.Name}
			r.flows[f.Destination] = append(r.flows[f.Destination], in)
			if f.Origin != f.Destination {
				r.flows[f.Origin] = append(r.flows[f.Origin], in)
			}
		}
	}
	return r
}

// verdict on one member. The zero verdict: it is ready.
type verdict struct {
	// pending says what is waited for.
	pending string
	// failed says what it cannot do.
	failed string
}

// member is ready when it is connected, has applied what the plan has for it, and
// its links and the durable flows that end or begin there work. What waits for a
// member that is staged, or not connected, is not asked for: that is not this
// member's fault, and the staged one is asked for it when it is its turn.
func (r *readiness) member(name string) verdict {
	m, state := r.order.prog[name], r.order.plan.Members[name]
	switch {
	case state == nil:
		return verdict{}
	case m == nil || !m.Connected || !m.Known():
		return verdict{pending: "is not connected"}
	case m.Outdated != "":
		return verdict{failed: m.Outdated}
	case m.Refusal != "":
		return verdict{failed: "refuses the update: " + m.Refusal}
	}
	pending := ""
	for _, want := range state.Parts {
		id := want.Part.Id
		if m.Applied(id, want.Part.Hash) {
			continue
		}
		if failure := m.Unapplied[id]; failure.Code != "" {
			return verdict{failed: fmt.Sprintf("cannot apply %s: %s", id, failure.Message)}
		}
		if m.Hash(id) == want.Part.Hash || !r.excused(PartRef{name, id}, want) {
			pending = "has not applied " + id
		}
	}
	if pending != "" {
		return verdict{pending: pending}
	}
	for _, g := range r.links.ofMember[name] {
		if best := g.best(); best.state == linkUp && best.Granted {
			continue
		}
		if !slices.ContainsFunc(g.links, func(l *linkView) bool { return r.away(name, l) }) {
			return verdict{pending: "link " + g.name + " is not up"}
		}
	}
	for _, f := range r.flows[name] {
		origin, destination := PartRef{f.Origin, federationv1.StreamID(f.Account, f.Stream)}, PartRef{f.Destination, federationv1.StreamID(f.Account, f.Stream)}
		if !connected(r.order.prog, f.Origin) || !connected(r.order.prog, f.Destination) || r.older(origin.Cluster) || r.older(destination.Cluster) {
			continue
		}
		if report, ok := r.flowReport(f.Flow, f.bridge); !ok || report.State != string(v1alpha1.LinkUp) {
			return verdict{pending: fmt.Sprintf("the flow of %s from %s to %s is not up", f.bridge, f.Origin, f.Destination)}
		}
	}
	return verdict{}
}

// excused tells whether a part waits for members that are staged or away.
func (r *readiness) excused(ref PartRef, want *PlannedPart) bool {
	if r.withheld(ref) {
		return true
	}
	return slices.ContainsFunc(want.After, func(before PartRef) bool {
		return !r.met(before) && before.Cluster != ref.Cluster && (r.older(before.Cluster) || !connected(r.order.prog, before.Cluster))
	})
}

// older tells whether the member is staged.
func (r *readiness) older(cluster string) bool { return r.order.plan.Staged[cluster] != nil }

// away tells whether a link of the member cannot be asked for because of its other
// end.
func (r *readiness) away(name string, l *linkView) bool {
	other := l.Acceptor
	if other == name {
		other = l.Dialer
	}
	if !connected(r.order.prog, other) {
		return true
	}
	older := r.order.plan.Staged[other]
	if older == nil {
		return false
	}
	had, has := older.Part(federationv1.LinkID(name)), r.order.plan.Members[other].Part(federationv1.LinkID(name))
	return had == nil || has == nil || had.Part.Hash != has.Part.Hash
}
