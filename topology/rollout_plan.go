package topology

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// Stage is how far a rollout of a topology has come.
type Stage struct {
	Topology *v1alpha1.MessagingTopology
	// Through is the last member, in order, that has been reached; nil: none.
	Through *v1alpha1.RolloutPosition
}

// WithStaged returns p with the members staged that the rollouts have not reached:
// they keep what they have in base, the plan of the same members with the older
// revisions. P is not changed.
//
// What differs between p and base is the difference of the revisions only: that a
// staged member gets a new key, address or peer's grant shows in both.
func (p *Plan) WithStaged(base *Plan, stages []Stage, members []*v1alpha1.MemberCluster) *Plan {
	out := *p
	out.Staged, out.InRollout, out.Awaits = map[string]*MemberState{}, map[string]bool{}, map[string]Awaited{}
	for _, s := range stages {
		all := membersOf(s.Topology.Name, p, base)
		staged := false
		for _, at := range newSequence(s.Topology, members).sort(all) {
			older, now := base.Members[at.Member], p.Members[at.Member]
			if older == nil || now == nil || older.Hash == now.Hash || reached(at, s.Through) || p.Standing[at.Member].out() {
				continue
			}
			out.Staged[at.Member], staged = older, true
		}
		for _, name := range all {
			out.InRollout[name] = out.InRollout[name] || staged
		}
		if staged {
			s.tell(out.Awaits, concerned(s.Topology, p, base, members))
		}
	}
	maps.DeleteFunc(out.InRollout, func(_ string, in bool) bool { return !in })
	if len(p.Withheld)+len(base.Withheld) > 0 && len(out.Staged) > 0 {
		out.Withheld = map[PartRef]bool{}
		for _, from := range []struct {
			refs   map[PartRef]bool
			staged bool
		}{{p.Withheld, false}, {base.Withheld, true}} {
			for ref := range from.refs {
				if (out.Staged[ref.Cluster] != nil) == from.staged {
					out.Withheld[ref] = true
				}
			}
		}
	}
	return &out
}

// Awaited is the wave of a rollout that is to reach a member.
type Awaited struct {
	Topology string
	Wave     int32
	// Stopped is the state of the rollout if no wave begins by itself.
	Stopped v1alpha1.RolloutState
}

func (a Awaited) String() string {
	switch {
	case a.Topology == "":
		return "waits for a wave of a rollout"
	case a.Stopped != "":
		return fmt.Sprintf("waits for wave %d of the rollout of topology %s, which is %s", a.Wave, a.Topology, a.Stopped)
	}
	return fmt.Sprintf("waits for wave %d of the rollout of topology %s", a.Wave, a.Topology)
}

// tell says of the members that the rollout has not reached which wave will reach
// them, if as many are concerned then as now, and why it does not begin.
func (s Stage) tell(awaits map[string]Awaited, all []v1alpha1.RolloutPosition) {
	wave, why := int32(0), v1alpha1.RolloutState("")
	if st := s.Topology.Status.Rollout; st != nil && s.Through != nil {
		wave = st.Wave
		switch st.State {
		case v1alpha1.RolloutPaused, v1alpha1.RolloutAwaitingApproval, v1alpha1.RolloutOverBudget:
			why = st.State
		}
	}
	spec := s.Topology.Spec.Rollout
	if spec == nil {
		return
	}
	next := 0
	for next < len(all) && reached(all[next], s.Through) {
		next++
	}
	for next < len(all) {
		wave++
		for last := waveEnd(spec, all, next); next <= last; next++ {
			awaits[all[next].Member] = Awaited{s.Topology.Name, wave, why}
		}
	}
}

// feedsStaged tells whether a part is a stream from which an outlet of the member
// feeds a staged one.
func (o order) feedsStaged(cluster, id string) bool {
	if len(o.plan.Staged) == 0 || !strings.HasPrefix(id, "stream/") {
		return false
	}
	for held := range o.prog[cluster].All() {
		f := strings.Split(held, "/")
		if len(f) == 5 && f[0] == "outlet" && federationv1.StreamID(f[2], f[3]) == id && o.plan.Staged[f[1]] != nil {
			return true
		}
	}
	return false
}

// membersOf are the members of a topology in any of the plans, sorted.
func membersOf(topology string, plans ...*Plan) []string {
	var out []string
	for _, p := range plans {
		if fp := p.Objects[ObjectRef{Kind: KindTopology, Name: topology}]; fp != nil {
			out = append(out, fp.Members...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// concerned are the members that a rollout from base to p changes, in its order:
// those whose state differs, and those that will dial a link as soon as its
// acceptor has granted it. A suspended member is not among them: it gets nothing.
func concerned(t *v1alpha1.MessagingTopology, p, base *Plan, members []*v1alpha1.MemberCluster) []v1alpha1.RolloutPosition {
	had := map[[2]string]bool{}
	for _, l := range base.Links {
		had[[2]string{l.Dialer, l.Acceptor}] = true
	}
	dials := map[string]bool{}
	for _, l := range p.Links {
		if !l.Granted && !had[[2]string{l.Dialer, l.Acceptor}] {
			dials[l.Dialer] = true
		}
	}
	names := slices.DeleteFunc(membersOf(t.Name, p, base), func(name string) bool {
		now, older := p.Members[name], base.Members[name]
		s := p.Standing[name]
		return now == nil || older == nil || s.out() || s.Suspended || now.Hash == older.Hash && !dials[name]
	})
	return newSequence(t, members).sort(names)
}

// sequence is the order of members in a rollout.
type sequence struct {
	steps  []func(*v1alpha1.MemberCluster) bool
	byName map[string]*v1alpha1.MemberCluster
}

func newSequence(t *v1alpha1.MessagingTopology, members []*v1alpha1.MemberCluster) *sequence {
	s := &sequence{byName: make(map[string]*v1alpha1.MemberCluster, len(members))}
	for _, m := range members {
		s.byName[m.Name] = m
	}
	if t.Spec.Rollout == nil {
		return s
	}
	for _, step := range t.Spec.Rollout.Order {
		selector, names := step.Selector, map[string]bool{}
		if step.Group != "" {
			for _, g := range t.Spec.Groups {
				if g.Name == step.Group {
					selector = g.Selector
					for _, name := range g.Clusters {
						names[name] = true
					}
				}
			}
		}
		matches := labels.Nothing()
		if sel, err := metav1.LabelSelectorAsSelector(selector); err == nil {
			matches = sel // nil selects nothing
		}
		s.steps = append(s.steps, func(m *v1alpha1.MemberCluster) bool {
			return names[m.Name] || matches.Matches(labels.Set(m.Labels))
		})
	}
	return s
}

func (s *sequence) sort(names []string) []v1alpha1.RolloutPosition {
	out := make([]v1alpha1.RolloutPosition, 0, len(names))
	for _, name := range names {
		at := v1alpha1.RolloutPosition{Step: int32(len(s.steps)), Member: name}
		if m := s.byName[name]; m != nil {
			if i := slices.IndexFunc(s.steps, func(is func(*v1alpha1.MemberCluster) bool) bool { return is(m) }); i >= 0 {
				at.Step = int32(i)
			}
		}
		out = append(out, at)
	}
	slices.SortFunc(out, comparePositions)
	return out
}

func comparePositions(a, b v1alpha1.RolloutPosition) int {
	return cmp.Or(cmp.Compare(a.Step, b.Step), strings.Compare(a.Member, b.Member))
}

func reached(at v1alpha1.RolloutPosition, through *v1alpha1.RolloutPosition) bool {
	return through != nil && comparePositions(at, *through) <= 0
}

// nextWave is the last member of the next wave; nil: there is none.
func nextWave(r *v1alpha1.Rollout, all []v1alpha1.RolloutPosition, through *v1alpha1.RolloutPosition) *v1alpha1.RolloutPosition {
	from := slices.IndexFunc(all, func(at v1alpha1.RolloutPosition) bool { return !reached(at, through) })
	if from < 0 {
		return nil
	}
	return &all[waveEnd(r, all, from)]
}

// waveEnd is the index of the last member of the wave that begins at an index.
func waveEnd(r *v1alpha1.Rollout, all []v1alpha1.RolloutPosition, from int) int {
	size := max(1, portion(r.Size, "25%", len(all), true))
	to := from
	for to+1 < len(all) && to+1-from < size && all[to+1].Step == all[from].Step {
		to++
	}
	return to
}

// portion is a number, or a percentage of n.
func portion(v *intstr.IntOrString, usual string, n int, up bool) int {
	if v == nil {
		d := intstr.Parse(usual)
		v = &d
	}
	out, err := intstr.GetScaledValueFromIntOrPercent(v, n, up)
	if err != nil {
		return 0 // the API server lets no such value pass
	}
	return max(out, 0)
}
