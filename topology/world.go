package topology

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/sealane/sealane/api/v1alpha1"
)

// world is what all topologies together come to: it depends on them and on the
// shape of the members.
type world struct {
	topologies []*v1alpha1.MessagingTopology // as given, the oldest first
	members    []*v1alpha1.MemberCluster     // as given, by name
	byName     map[string]*v1alpha1.MemberCluster
	fabrics    []*fabric // in effect, by age
	byTopology map[string]*fabric
	problems   []Problem
	frozen     map[string]string
}

// newWorld resolves the topologies. Of one that is refused the version that was
// in effect until now goes on, if it still can be.
func newWorld(topologies []*v1alpha1.MessagingTopology, members []*v1alpha1.MemberCluster, past history) *world {
	w := &world{
		topologies: topologies, members: members,
		byName:     make(map[string]*v1alpha1.MemberCluster, len(members)),
		byTopology: map[string]*fabric{}, frozen: map[string]string{},
	}
	for _, m := range members {
		w.byName[m.Name] = m
	}
	r := &resolver{members: members, byName: w.byName, claims: map[string]claim{}, conflicts: map[string]Problem{}}
	var refused []string
	for _, t := range topologies {
		rep := &report{ref: refOf(KindTopology, t)}
		last, _ := past.effective(rep.ref).(*v1alpha1.MessagingTopology)
		f := r.resolve(t, last, rep)
		w.problems = append(w.problems, rep.problems...)
		if f == nil && last != nil && !sameObject(t, last) {
			f = r.resolve(last, last, &report{ref: rep.ref})
		}
		if f == nil {
			if past.mayHold(rep.ref) {
				refused = append(refused, t.Name)
			}
			continue
		}
		w.fabrics = append(w.fabrics, f)
		w.byTopology[t.Name] = f
	}
	for _, p := range r.conflicts {
		w.problems = append(w.problems, p)
	}
	if len(refused) > 0 {
		slices.Sort(refused)
		why := "topology " + refused[0] + " is refused"
		if len(refused) > 1 {
			why = "topologies " + firstNames(refused) + " are refused"
		}
		for _, m := range members {
			if _, placed := r.claims[m.Name]; !placed {
				w.frozen[m.Name] = why
			}
		}
	}
	return w
}

// same tells whether the world would come out the same for these inputs.
func (w *world) same(topologies []*v1alpha1.MessagingTopology, members []*v1alpha1.MemberCluster) bool {
	if w == nil || !slices.EqualFunc(w.topologies, topologies, sameObject) {
		return false
	}
	awaits := slices.ContainsFunc(w.fabrics, func(f *fabric) bool { return f.awaits })
	return slices.EqualFunc(w.members, members, func(a, b *v1alpha1.MemberCluster) bool { return sameShape(a, b, awaits) })
}

// scope is where a Stream or Bridge lives.
type scope struct {
	fabric  *fabric
	account int32
}

// scopeOf finds the topology and account of an object.
func (w *world) scopeOf(topology, account, namespace string, rep *report) (scope, bool) {
	if topology == "" {
		switch {
		case len(w.topologies) == 1:
			topology = w.topologies[0].Name
		case len(w.topologies) == 0:
			rep.refuse("spec.topology", v1alpha1.ReasonUnknownTopology, "there is no MessagingTopology: create one")
			return scope{}, false
		default:
			var names []string
			for _, t := range w.topologies {
				names = append(names, t.Name)
			}
			slices.Sort(names)
			rep.refuse("spec.topology", v1alpha1.ReasonUnknownTopology, "there are several topologies (%s): name one of them", firstNames(names))
			return scope{}, false
		}
	}
	f := w.byTopology[topology]
	if f == nil {
		msg := "there is no topology %s: name one that exists"
		for _, t := range w.topologies {
			if t.Name == topology {
				msg = "topology %s is refused: mend it first"
			}
		}
		rep.refuse("spec.topology", v1alpha1.ReasonUnknownTopology, msg, topology)
		return scope{}, false
	}
	a, ok := f.account[account]
	if !ok {
		rep.refuse("spec.account", v1alpha1.ReasonUnknownAccount, "topology %s has no account %s: add it there, or use one of %s", topology, account, orNone(f.accounts))
		return scope{}, false
	}
	for _, spec := range f.topology.Spec.Accounts {
		if spec.Name == account && !slices.Contains(spec.Namespaces, "*") && !slices.Contains(spec.Namespaces, namespace) {
			rep.refuse("spec.account", v1alpha1.ReasonNamespaceNotAllowed,
				"account %s of topology %s does not admit namespace %s: add it to the account's namespaces, or use another account", account, topology, namespace)
			return scope{}, false
		}
	}
	return scope{f, a}, true
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return firstNames(names)
}

// place finds the members of a placement. A lenient one, of a version that was in
// effect before, passes over what is no member any more.
func (w *world) place(f *fabric, p v1alpha1.Placement, field string, lenient bool, rep *report) set {
	out := newSet(len(f.names))
	switch {
	case p.Group != "" && p.Clusters == nil && p.Selector == nil:
		g, ok := f.groups[p.Group]
		if !ok {
			rep.refuse(field+".group", v1alpha1.ReasonUnknownGroup, "topology %s has no group %s: use one of its groups", f.topology.Name, p.Group)
			return out
		}
		out = out.or(g)
	case len(p.Clusters) > 0 && p.Group == "" && p.Selector == nil:
		var absent, outside []string
		for _, name := range p.Clusters {
			switch i, ok := f.index[name]; {
			case ok:
				out.add(i)
			case w.byName[name] == nil:
				absent = append(absent, name)
			default:
				outside = append(outside, name)
			}
		}
		slices.Sort(absent)
		slices.Sort(outside)
		if len(outside) > 0 && !lenient {
			rep.refuse(field+".clusters", v1alpha1.ReasonUnknownMember,
				"%s joined, but not as part of topology %s: put it into a group there, or take it out here", firstNames(outside), f.topology.Name)
		}
		if len(absent) > 0 {
			rep.wait(field+".clusters", v1alpha1.ReasonUnknownMember, "%s not joined yet: enrol with a token of that name", hasHave(absent))
			return out
		}
	case p.Selector != nil && p.Group == "" && p.Clusters == nil:
		sel, err := metav1.LabelSelectorAsSelector(p.Selector)
		if err != nil {
			rep.refuse(field+".selector", v1alpha1.ReasonInvalidSelector, "%v: mend the selector", err)
			return out
		}
		for i, at := range f.at {
			if sel.Matches(labels.Set(w.members[at].Labels)) {
				out.add(int32(i))
			}
		}
	default:
		rep.refuse(field, v1alpha1.ReasonInvalidValue, "set exactly one of group, clusters and selector")
		return out
	}
	if out.empty() && !rep.refused {
		rep.wait(field, v1alpha1.ReasonNoMembers, "no member of topology %s matches yet", f.topology.Name)
	}
	return out
}

// concerns are the members that an object of these placements may be on, as far
// as it can be told: all members that there are if it is not known to which
// topology it belongs, and those in none if its topology is gone.
func (w *world) concerns(topology string, placements ...v1alpha1.Placement) []string {
	fabrics := w.fabrics
	if topology == "" && len(w.topologies) == 1 {
		topology = w.topologies[0].Name
	}
	if f := w.byTopology[topology]; f != nil {
		fabrics = []*fabric{f}
	} else if topology != "" || len(w.topologies) == 0 {
		var out []string
		for _, m := range w.members {
			if !slices.ContainsFunc(w.fabrics, func(f *fabric) bool { _, in := f.index[m.Name]; return in }) {
				out = append(out, m.Name)
			}
		}
		return out
	}
	var out []string
	for _, f := range fabrics {
		at := newSet(len(f.names))
		for _, p := range placements {
			rep := &report{}
			at = at.or(w.place(f, p, "", true, rep))
			if rep.refused {
				at = f.all
			}
		}
		out = append(out, f.nameList(at)...)
	}
	return out
}

// maxBetween is for how many pairs of members it is found out who lies between
// them; of more, all members may.
const maxBetween = 10_000

// between are the members that lie on routes between any two members of the
// placements.
func (w *world) between(topology string, placements []v1alpha1.Placement) []string {
	fabrics := w.fabrics
	if f := w.byTopology[topology]; f != nil {
		fabrics = []*fabric{f}
	}
	var out []string
	for _, f := range fabrics {
		ends, on := newSet(len(f.names)), newSet(len(f.names))
		for _, p := range placements {
			ends = ends.or(w.place(f, p, "", true, &report{}))
		}
		if pairs(ends, ends) > maxBetween {
			out = append(out, f.names...)
			continue
		}
		for _, o := range ends.list() {
			for _, d := range ends.list() {
				if n, _ := f.routable(o, d); o == d || n == 0 {
					continue
				}
				for _, r := range f.routes(o, d) {
					for _, m := range r.nodes {
						on.add(m)
					}
				}
			}
		}
		out = append(out, f.nameList(on)...)
	}
	return out
}
