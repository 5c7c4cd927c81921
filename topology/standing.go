package topology

import (
	"slices"
	"strconv"

	apimeta "k8s.io/apimachinery/pkg/api/meta"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// Standing is what the object of a member says of how the member itself is
// treated. The zero value is what it is for most.
type Standing struct {
	// Suspended: nothing is sent to it.
	Suspended bool
	// Revoked: its present key is revoked. It is no part of the plan, and the ways
	// to it are cut at once, whatever else holds changes back.
	Revoked bool
	// Departing: it is deleted and has nothing left that others wait for. It is no
	// part of the plan; it keeps what is its own, and drops the ways to others.
	Departing bool
	// Allow is what the guard against mass removal lets through.
	Allow Allowance
}

// Allowance permits removals that the guard would hold back.
type Allowance struct {
	// State is the hash of a state to which the member may be brought.
	State string
	// Parts is how many parts may be taken from it at once.
	Parts int
}

// StandingOf reads the standing of a member. A plan may depend on it.
func StandingOf(m *v1alpha1.MemberCluster) Standing {
	s := Standing{Suspended: m.Spec.Suspended}
	for _, key := range m.Spec.RevokedKeys {
		if id := m.Status.Identity; id != nil && id.KeyHash == key || key == m.Status.LinkKey {
			s.Revoked = true
		}
	}
	if !m.DeletionTimestamp.IsZero() {
		c := apimeta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionLeaving)
		s.Departing = m.Spec.Removal == v1alpha1.LeaveForget || c != nil && c.Reason == v1alpha1.ReasonDeparting
	}
	if v := m.Annotations[v1alpha1.AllowRemovalAnnotation]; v != "" {
		if n, err := strconv.Atoi(v); err == nil && len(v) < 8 {
			s.Allow.Parts = n
		} else {
			s.Allow.State = v
		}
	}
	return s
}

// out tells whether the member is no part of any topology, whatever these say.
func (s Standing) out() bool { return s.Revoked || s.Departing }

// standings are those of the members of which something is said.
func standings(members []*v1alpha1.MemberCluster) map[string]Standing {
	out := map[string]Standing{}
	for _, m := range members {
		if s := StandingOf(m); s != (Standing{}) {
			out[m.Name] = s
		}
	}
	return out
}

// present are the members that topologies can have.
func present(members []*v1alpha1.MemberCluster, standing map[string]Standing) []*v1alpha1.MemberCluster {
	if len(standing) == 0 {
		return slices.Clone(members)
	}
	return slices.DeleteFunc(slices.Clone(members), func(m *v1alpha1.MemberCluster) bool { return standing[m.Name].out() })
}

// stand adds to a plan how members are treated, and those that are out.
func (p *Plan) stand(prev *Plan, standing map[string]Standing) {
	p.Standing = standing
	for name, s := range standing {
		if !s.out() {
			continue
		}
		var before *MemberState
		var stood Standing
		if prev != nil {
			before, stood = prev.Members[name], prev.Standing[name]
		}
		switch {
		case before != nil && stood.Revoked == s.Revoked && stood.Departing == s.Departing:
			p.Members[name] = before
			if why, frozen := prev.Frozen[name]; frozen {
				p.Frozen[name] = why
			}
		case s.Departing && before != nil:
			p.Members[name] = alone(before)
		default:
			p.Members[name] = &MemberState{Cluster: name, Hash: federationv1.EmptyHash}
			p.Frozen[name] = "it is out of the federation"
		}
	}
}

// heldBack tells whether the guard against mass removal holds back what the
// member would lose, and how much that is of how much it holds. Meant tells that
// it would, were it not permitted.
func (o order) heldBack(cluster string) (blocked, meant bool, gone, held int) {
	m, desired := o.prog[cluster], o.plan.Desired(cluster)
	if m == nil || desired == nil || m.Count() <= federationv1.FreeRemovals {
		return false, false, 0, 0
	}
	if m.Planned == desired {
		return false, false, 0, m.Count()
	}
	for id := range m.All() {
		if desired.Part(id) == nil && !o.toRevoked(id) {
			gone++
		}
	}
	held = m.Count()
	if !federationv1.MassRemoval(held, gone) {
		return false, false, gone, held
	}
	s := o.plan.Standing[cluster]
	meant = s.Departing || s.Allow.State == desired.Hash || gone <= s.Allow.Parts
	return !meant, meant, gone, held
}

// keeps tells whether a member is taken nothing away, apart from ways to revoked
// members.
func (o order) keeps(cluster string) bool {
	if o.frozen(cluster) {
		return true
	}
	blocked, _, _, _ := o.heldBack(cluster)
	return blocked
}

// frozen tells whether a member is frozen, suspended or staged.
func (o order) frozen(cluster string) bool {
	_, frozen := o.plan.Frozen[cluster]
	return frozen || o.plan.Standing[cluster].Suspended || o.plan.Staged[cluster] != nil
}

// toRevoked tells whether a part leads to a revoked member.
func (o order) toRevoked(id string) bool {
	if len(o.plan.Standing) == 0 {
		return false
	}
	return o.plan.Standing[partPeer(id)].Revoked
}

// cutOff are the held parts that lead to revoked members: they go first and at
// once. An attacker does not wait for what is better done before.
func (o order) cutOff(cluster string) []string {
	if len(o.plan.Standing) == 0 {
		return nil
	}
	var out []string
	for id := range o.prog[cluster].All() {
		if o.toRevoked(id) && o.plan.Members[cluster].Part(id) == nil {
			out = append(out, id)
		}
	}
	return out
}
