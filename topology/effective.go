package topology

import (
	"fmt"
	"slices"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// Effective is what is in effect of objects while rollouts keep some of it back:
// for previews, which begin there and not with what the objects say.
type Effective struct {
	// Plan as members have it, or get it without anybody's doing: Preview reads it.
	Plan *Plan
	// Kept are the topologies that a rollout keeps at another revision than their
	// objects say, by name.
	Kept []Kept
	// Lost are those of which that revision is not known: of them Plan has what the
	// objects say.
	Lost []Kept
	// Says are the revisions that the objects of topologies with a rollout say, by
	// name.
	Says map[string]string

	revisions  []v1alpha1.TopologyRevision
	plan, base *Plan
}

// Kept is a topology of which an older revision is in effect.
type Kept struct {
	Topology string
	// State of its rollout, and why it is there.
	State   v1alpha1.RolloutState
	Message string
	// Says is the revision that the objects say, InEffect the one that is kept.
	Says, InEffect string
	// Members keep it, sorted.
	Members []string
	// Waves are those that are to reach these members, if waves are.
	Waves map[string]int32
	// All: on all members, until the objects are changed or somebody resumes.
	All bool
}

// EffectiveOf compiles what is in effect of the objects.
func EffectiveOf(in Input, revisions []v1alpha1.TopologyRevision) (*Effective, error) {
	return effective(nil, in, revisions)
}

// Once is what is in effect once the objects are those of in, which are written
// later, and each topology that they change has gone to all its members. Others are
// kept where they are.
func (e *Effective) Once(in Input) (*Effective, error) { return effective(e, in, e.revisions) }

func effective(before *Effective, in Input, revisions []v1alpha1.TopologyRevision) (*Effective, error) {
	e := &Effective{Says: map[string]string{}, revisions: revisions}
	planned := in
	older := map[string]*Content{}
	var stages []Stage
	for _, t := range in.Topologies {
		st := t.Status.Rollout
		if t.Spec.Rollout == nil || st == nil {
			continue
		}
		hash, err := ContentOf(in, t).Hash()
		if err != nil {
			return nil, err
		}
		says := RevisionName(t.Name, hash)
		e.Says[t.Name] = says
		c := CourseOf(t, says, func(string) bool { return true })
		k := Kept{Topology: t.Name, State: st.State, Message: st.Message, Says: says, InEffect: c.InEffect + c.Base, All: c.InEffect != ""}
		if k.InEffect == "" || !k.All && before != nil && before.Says[t.Name] != says {
			continue
		}
		content := contentOf(revisions, t.Name, k.InEffect)
		switch {
		case content == nil:
			e.Lost = append(e.Lost, k)
			continue
		case k.All:
			planned = content.With(planned)
		default:
			older[t.Name] = content
			stages = append(stages, Stage{t, c.Through})
		}
		e.Kept = append(e.Kept, k)
	}
	var plan, base *Plan
	if before != nil {
		plan, base = before.plan, before.base
	}
	if base == nil {
		base = plan
	}
	e.plan = Recompile(plan, planned)
	if len(stages) > 0 {
		for _, c := range older {
			planned = c.With(planned)
		}
		e.base = Recompile(base, planned)
		e.plan = e.plan.WithStaged(e.base, stages, in.Members)
	}
	e.Plan = e.plan.linksAsStaged(e.base)
	e.name()
	return e, nil
}

// name finds the members that keep something, and drops rollouts of which nobody
// does.
func (e *Effective) name() {
	for i := range e.Kept {
		k := &e.Kept[i]
		for _, m := range membersOf(k.Topology, e.plan) {
			if k.All || e.plan.Staged[m] != nil {
				k.Members = append(k.Members, m)
			}
			if a := e.plan.Awaits[m]; !k.All && e.plan.Staged[m] != nil && a.Topology == k.Topology {
				if k.Waves == nil {
					k.Waves = map[string]int32{}
				}
				k.Waves[m] = a.Wave
			}
		}
	}
	e.Kept = slices.DeleteFunc(e.Kept, func(k Kept) bool { return !k.All && len(k.Members) == 0 })
}

// contentOf is what a revision of a topology keeps; nil: it is not there, or cannot
// be read.
func contentOf(revisions []v1alpha1.TopologyRevision, of, name string) *Content {
	for i := range revisions {
		r := &revisions[i]
		if r.Name != name || r.Spec.Topology != of {
			continue
		}
		if c, err := DecodeContent(r.Spec.Content); err == nil && c.Topology.Name == of {
			return &c
		}
	}
	return nil
}

// linksAsStaged is p with the links that members have while some are staged.
func (p *Plan) linksAsStaged(base *Plan) *Plan {
	if len(p.Staged) == 0 {
		return p
	}
	out := *p
	out.Links = nil
	known := map[[2]string]bool{}
	for _, l := range slices.Concat(p.Links, base.Links) {
		part := func(on, peer string) bool {
			s := p.Desired(on)
			return s != nil && s.Part(federationv1.LinkID(peer)) != nil
		}
		if ends := pair(l.Dialer, l.Acceptor); !known[ends] && (part(l.Dialer, l.Acceptor) || part(l.Acceptor, l.Dialer)) {
			known[ends], out.Links = true, append(out.Links, l)
		}
	}
	slices.SortFunc(out.Links, func(a, b Link) int {
		x, y := pair(a.Dialer, a.Acceptor), pair(b.Dialer, b.Acceptor)
		return comparePairs(x[0], x[1], y[0], y[1])
	})
	return &out
}

// guarded says that the guard against mass removal will hold back what m takes away.
func (p *Plan) guarded(m *MemberChange, before, after *MemberState) string {
	if before == nil || after == nil {
		return ""
	}
	o, gone := order{plan: p}, 0
	for _, c := range m.Parts {
		if c.After == nil && !o.toRevoked(c.ID) {
			gone++
		}
	}
	s := p.Standing[m.Cluster]
	if !federationv1.MassRemoval(len(before.Parts), gone) || s.Departing || s.Allow.State == after.Hash || gone <= s.Allow.Parts {
		return ""
	}
	return fmt.Sprintf("%d of %d parts would go at once: the hub takes none of them away until it is told by \"sealane allow-removal %s\" that this is meant", gone, len(before.Parts), m.Cluster)
}
