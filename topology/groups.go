package topology

import (
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/sealane/sealane/api/v1alpha1"
)

// claim is a member's place in a topology.
type claim struct {
	topology string
	group    int32
	named    bool // by name, not by a selector
}

// resolver turns topologies, the oldest first, into fabrics.
type resolver struct {
	members   []*v1alpha1.MemberCluster // sorted by name
	byName    map[string]*v1alpha1.MemberCluster
	claims    map[string]claim   // by member
	conflicts map[string]Problem // by member
}

// placing is one version of a topology that is being resolved.
type placing struct {
	*resolver
	topology       *v1alpha1.MessagingTopology
	acceptedBefore bool
	rep            *report
	claims         map[string]claim
	conflicts      map[string]Problem
}

// resolve makes the fabric of one version of a topology; nil if it is refused.
// before is the version that was in effect until now, or nil: if it is this very
// one, a conflict about a member is the member's fault.
func (r *resolver) resolve(t, before *v1alpha1.MessagingTopology, rep *report) *fabric {
	checkTopology(t, rep)
	if rep.refused {
		return nil
	}
	p := &placing{r, t, sameObject(t, before), rep, map[string]claim{}, map[string]Problem{}}
	p.claimMembers()
	if rep.refused {
		return nil
	}
	f := &fabric{ref: rep.ref, topology: t, groups: map[string]set{}}
	for name := range p.claims {
		f.names = append(f.names, name)
	}
	slices.Sort(f.names)
	f.at = make([]int32, 0, len(f.names))
	for i, m := range r.members {
		if _, claimed := p.claims[m.Name]; claimed {
			f.at = append(f.at, int32(i))
		}
	}
	for _, a := range t.Spec.Accounts {
		f.accounts = append(f.accounts, a.Name)
	}
	slices.Sort(f.accounts)
	f.finish()
	f.groupOf = make([]int32, len(f.names))
	for _, g := range t.Spec.Groups {
		f.groups[g.Name] = newSet(len(f.names))
	}
	for i, name := range f.names {
		g := p.claims[name].group
		f.groupOf[i] = g
		f.groups[t.Spec.Groups[g].Name].add(int32(i))
	}
	for _, i := range f.setBrokers(r.byName) {
		if name := f.names[i]; p.conflicts[name].Reason == "" {
			p.conflicts[name] = f.unsupportedReplicas(i, r.byName[name])
		}
	}
	f.rooms = make([]room, len(f.names))
	for i, name := range f.names {
		f.rooms[i] = roomOf(r.byName[name])
	}
	p.checkRoom(f, before)
	r.checkMembers(f, rep)
	linkRules(f, r.byName, rep)
	if rep.refused {
		return nil
	}
	maps.Copy(r.claims, p.claims)
	maps.Copy(r.conflicts, p.conflicts)
	return f
}

// claimMembers finds the members of each group.
func (p *placing) claimMembers() {
	for gi, g := range p.topology.Spec.Groups {
		field := index("spec.groups", gi)
		if g.Selector == nil {
			for _, name := range g.Clusters {
				if m := p.byName[name]; m != nil {
					p.claim(m, claim{p.topology.Name, int32(gi), true}, field+".clusters")
				}
			}
			continue
		}
		sel, err := metav1.LabelSelectorAsSelector(g.Selector)
		if err != nil {
			p.rep.refuse(field+".selector", v1alpha1.ReasonInvalidSelector, "%v: mend the selector", err)
			continue
		}
		for _, m := range p.members {
			if sel.Matches(labels.Set(m.Labels)) {
				p.claim(m, claim{p.topology.Name, int32(gi), false}, field+".selector")
			}
		}
	}
}

// claim puts a member into a group. If it is in one already, the later object is
// at fault: a topology is refused; a member stays where it is (of two groups, in
// one that names it rather than one that selects it).
func (p *placing) claim(m *v1alpha1.MemberCluster, c claim, field string) {
	first, taken := p.claims[m.Name]
	other, foreign := p.resolver.claims[m.Name]
	if !taken && !foreign {
		p.claims[m.Name] = c
		return
	}
	if taken && first.group == c.group {
		return
	}
	groups := p.topology.Spec.Groups
	memberAtFault := p.acceptedBefore || p.topology.CreationTimestamp.Before(&m.CreationTimestamp)
	where, owner := "topology "+other.topology, "topology"
	if !foreign {
		where, owner = "group "+groups[first.group].Name, "group"
		memberAtFault = memberAtFault && !(first.named && c.named)
	}
	fix := fmt.Sprintf("a member belongs to one %s: change its labels, or take it out of one of them", owner)
	if !memberAtFault {
		p.rep.refuse(field, v1alpha1.ReasonMemberConflict, "member %s is in %s already; %s", m.Name, where, fix)
		return
	}
	also := c.group
	if taken && c.named && !first.named {
		p.claims[m.Name], also, where = c, first.group, "group "+groups[c.group].Name
	}
	p.conflicts[m.Name] = Problem{
		Object: ObjectRef{Kind: KindMember, Name: m.Name}, Field: "metadata.labels", Reason: v1alpha1.ReasonMemberConflict,
		Message: fmt.Sprintf("group %s of topology %s matches it too, though it is in %s; %s", groups[also].Name, p.topology.Name, where, fix),
	}
}

// checkMembers reports groups that wait for members.
func (r *resolver) checkMembers(f *fabric, rep *report) {
	for gi, g := range f.topology.Spec.Groups {
		field := index("spec.groups", gi)
		var missing []string
		for _, name := range g.Clusters {
			if r.byName[name] == nil {
				missing = append(missing, name)
			}
		}
		slices.Sort(missing)
		switch {
		case len(missing) > 0:
			rep.wait(field+".clusters", v1alpha1.ReasonUnknownMember, "%s not joined yet: enrol with a token of that name", hasHave(missing))
		case f.groups[g.Name].empty():
			rep.wait(field, v1alpha1.ReasonNoMembers, "no member is in group %s yet: label one so that it matches", g.Name)
		}
		for oi, o := range g.Overrides {
			override := index(field+".overrides", oi) + ".cluster"
			switch i, ok := f.index[o.Cluster]; {
			case ok && f.groupOf[i] == int32(gi), slices.Contains(missing, o.Cluster):
			case r.byName[o.Cluster] == nil:
				rep.wait(override, v1alpha1.ReasonUnknownMember, "%s not joined yet: enrol with a token of that name, or remove the override", hasHave([]string{o.Cluster}))
			default: // its labels may bring it into the group some day
				rep.note(override, v1alpha1.ReasonUnknownMember, "%s joined, but is not in group %s: the override has no effect", o.Cluster, g.Name)
			}
		}
	}
}

// hasHave lists names with the verb that fits.
func hasHave(names []string) string {
	if len(names) == 1 {
		return names[0] + " has"
	}
	return firstNames(names) + " have"
}

// checkTopology refuses what one topology shows to be wrong by itself. The
// schema refuses most of it at the hub; a stored object may be older than that.
func checkTopology(t *v1alpha1.MessagingTopology, rep *report) {
	groups := map[string]bool{}
	for i, g := range t.Spec.Groups {
		field := index("spec.groups", i)
		if groups[g.Name] {
			rep.refuse(field+".name", v1alpha1.ReasonInvalidValue, "group %s is there twice: rename one", g.Name)
		}
		groups[g.Name] = true
		if (g.Selector == nil) == (len(g.Clusters) == 0) {
			rep.refuse(field, v1alpha1.ReasonInvalidValue, "set exactly one of clusters and selector")
		}
		checkBroker(field+".broker", g.Broker, rep)
		for j, o := range g.Overrides {
			if g.Selector == nil && !slices.Contains(g.Clusters, o.Cluster) {
				rep.refuse(index(field+".overrides", j)+".cluster", v1alpha1.ReasonUnknownMember,
					"%s is none of the clusters of group %s: add it to them, or remove the override", o.Cluster, g.Name)
			}
			checkBroker(index(field+".overrides", j)+".broker", o.Broker, rep)
		}
	}
	accounts := map[string]bool{}
	for i, a := range t.Spec.Accounts {
		field := index("spec.accounts", i)
		if accounts[a.Name] {
			rep.refuse(field+".name", v1alpha1.ReasonInvalidValue, "account %s is there twice: rename one", a.Name)
		}
		accounts[a.Name] = true
		for name, q := range map[string]int64{"storage": quantity(a.Limits.Storage, 0), "memory": quantity(a.Limits.Memory, 0)} {
			if q < 0 {
				rep.refuse(field+".limits."+name, v1alpha1.ReasonInvalidValue, "%d is negative: leave it out for no limit", q)
			}
		}
	}
	if !rep.refused {
		checkAccounts(t, rep)
	}
	rules := map[string]bool{}
	for i, l := range t.Spec.Links {
		field := index("spec.links", i)
		if rules[l.Name] {
			rep.refuse(field+".name", v1alpha1.ReasonInvalidValue, "rule %s is there twice: rename one", l.Name)
		}
		rules[l.Name] = true
		checkRule(field, l, groups, rep)
	}
}

func checkRule(field string, l v1alpha1.LinkRule, groups map[string]bool, rep *report) {
	known := func(field, name string) {
		if !groups[name] {
			rep.refuse(field, v1alpha1.ReasonUnknownGroup, "there is no group %s: use one of spec.groups", name)
		}
	}
	switch l.Type {
	case v1alpha1.LinkMesh, v1alpha1.LinkRing, v1alpha1.LinkChain:
		if len(l.Groups) == 0 {
			rep.refuse(field+".groups", v1alpha1.ReasonInvalidValue, "a rule of type %s needs groups", l.Type)
		}
		for i, g := range l.Groups {
			known(index(field+".groups", i), g)
		}
	case v1alpha1.LinkHubAndSpoke:
		h := l.HubAndSpoke
		if h == nil {
			rep.refuse(field+".hubAndSpoke", v1alpha1.ReasonInvalidValue, "a rule of type HubAndSpoke needs hubAndSpoke")
			return
		}
		known(field+".hubAndSpoke.hubs", h.Hubs)
		known(field+".hubAndSpoke.spokes", h.Spokes)
		if h.Hubs == h.Spokes {
			rep.refuse(field+".hubAndSpoke.spokes", v1alpha1.ReasonInvalidValue, "hubs and spokes are both group %s: use two groups, or a Mesh", h.Hubs)
		}
		if h.MaxParents < 0 || h.MaxParents > maxParents {
			rep.refuse(field+".hubAndSpoke.maxParents", v1alpha1.ReasonInvalidValue, "%d is not between 1 and %d", h.MaxParents, maxParents)
		}
	case v1alpha1.LinkEdges:
		for i, e := range l.Edges {
			if e.A == e.B {
				rep.refuse(index(field+".edges", i), v1alpha1.ReasonInvalidValue, "an edge joins two different members, not %s with itself", e.A)
			}
		}
	default:
		rep.refuse(field+".type", v1alpha1.ReasonInvalidValue, "%q is no type of links: use Mesh, HubAndSpoke, Ring, Chain or Edges", l.Type)
	}
}

// maxPayloadLimit is the largest message that a broker may be told to take.
const maxPayloadLimit = 8 << 20

func checkBroker(field string, b v1alpha1.BrokerTemplate, rep *report) {
	positive := func(name string, v int64, set bool) {
		if set && v <= 0 {
			rep.refuse(field+"."+name, v1alpha1.ReasonInvalidValue, "%d is not positive: leave it out for the default", v)
		}
	}
	positive("storage", quantity(b.Storage, 0), b.Storage != nil)
	positive("memory", quantity(b.Memory, 0), b.Memory != nil)
	positive("maxPayload", quantity(b.MaxPayload, 0), b.MaxPayload != nil)
	if v := quantity(b.MaxPayload, 0); v > maxPayloadLimit {
		rep.refuse(field+".maxPayload", v1alpha1.ReasonInvalidValue, "%d is more than %d: send large things by reference", v, maxPayloadLimit)
	}
	if b.MaxConnections != nil {
		positive("maxConnections", int64(*b.MaxConnections), true)
	}
	checkReplicas(field, b, rep)
	if d := b.Durability; d != "" && d != v1alpha1.DurabilityInterval && d != v1alpha1.DurabilityAlways {
		rep.refuse(field+".durability", v1alpha1.ReasonInvalidValue, "%q is no durability: use Interval or Always", d)
	}
}
