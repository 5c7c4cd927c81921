package topology

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// world of the generators: names of members, accounts and subjects are few, so
// that things meet.
var (
	genNames    = []string{"ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay", "kite", "lynx"}
	genAccounts = []string{"red", "blue"}
	genSubjects = []string{"a.>", "a.*", "a.b", "a.*.c", "a.b.*", "b.>", "b.x", "c.*.>", "c.d.e"}
	genLiterals = []string{"a.b", "a.x", "a.b.c", "a.x.c", "b.x", "b.y.z", "c.d.e", "c.d.e.f"}
)

func genMember(t *rapid.T, name string, dialOnly bool) *v1alpha1.MemberCluster {
	m := &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("m-" + name), Generation: 1}}
	m.Labels = map[string]string{"zone": rapid.SampledFrom([]string{"z1", "z2"}).Draw(t, "zone"), "name": name}
	if !dialOnly {
		m.Status.Endpoints = []string{name + ":7422"}
	}
	m.Status.LinkKey = "U" + name
	m.Status.Agent = &v1alpha1.AgentInfo{Version: "1", LinkRoles: rapid.IntRange(0, 9).Draw(t, "old") > 0}
	m.Status.Agent.LinkGroups = m.Status.Agent.LinkRoles
	if rapid.IntRange(0, 3).Draw(t, "embedded") == 0 {
		m.Status.Agent.Runtime = "embedded"
	}
	for _, o := range genNames {
		m.Status.Grants = append(m.Status.Grants, v1alpha1.Grant{Peer: o, Key: m.Status.LinkKey, Out: "o", In: "i"})
	}
	return m
}

// genBroker has one server in most cases.
func genBroker(t *rapid.T) v1alpha1.BrokerTemplate {
	three, load := int32(3), int32(100)
	switch rapid.IntRange(0, 5).Draw(t, "servers") {
	case 0:
		return v1alpha1.BrokerTemplate{Replicas: &three}
	case 1:
		return v1alpha1.BrokerTemplate{Autoscaling: &v1alpha1.Autoscaling{Min: 1, Max: 3, Targets: v1alpha1.AutoscalingTargets{Connections: &load}}}
	}
	return v1alpha1.BrokerTemplate{}
}

func genPlacement(t *rapid.T, names []string, groups []string) v1alpha1.Placement {
	switch rapid.IntRange(0, 3).Draw(t, "placement") {
	case 0:
		return v1alpha1.Placement{Group: rapid.SampledFrom(groups).Draw(t, "group")}
	case 1:
		return v1alpha1.Placement{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"zone": rapid.SampledFrom([]string{"z1", "z2"}).Draw(t, "zone")}}}
	}
	return v1alpha1.Placement{Clusters: rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, min(3, len(names)), rapid.ID[string]).Draw(t, "clusters")}
}

// genInput is a topology of three groups with links of all shapes, and bridges
// and streams on it.
func genInput(t *rapid.T) Input {
	var in Input
	n := rapid.IntRange(2, len(genNames)).Draw(t, "members")
	names := genNames[:n]
	groups := []string{"core", "mid", "leaf"}
	topo := &v1alpha1.MessagingTopology{ObjectMeta: metav1.ObjectMeta{Name: "main", UID: "t", Generation: 1}}
	members := map[string][]string{}
	for i, name := range names {
		g := groups[0]
		if i > 0 {
			g = rapid.SampledFrom(groups).Draw(t, "of")
		}
		members[g] = append(members[g], name)
		in.Members = append(in.Members, genMember(t, name, g == "leaf" && rapid.Bool().Draw(t, "dials")))
	}
	for _, g := range groups {
		group := v1alpha1.Group{Name: g, Clusters: members[g], Broker: genBroker(t)}
		if len(members[g]) == 0 {
			group.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"name": "nobody"}}
		}
		topo.Spec.Groups = append(topo.Spec.Groups, group)
	}
	spokes := func(name, hubs, of string) v1alpha1.LinkRule {
		return v1alpha1.LinkRule{Name: name, Type: v1alpha1.LinkHubAndSpoke, HubAndSpoke: &v1alpha1.HubAndSpoke{
			Hubs: hubs, Spokes: of, MaxParents: rapid.Int32Range(1, 3).Draw(t, "parents"),
			Parents: rapid.SampledFrom([]v1alpha1.ParentSelection{v1alpha1.ParentsOrdered, v1alpha1.ParentsNearest}).Draw(t, "choice"), NearestBy: []string{"zone"},
			Links: rapid.SampledFrom([]v1alpha1.SpokeLinks{v1alpha1.SpokeLinksSeparate, v1alpha1.SpokeLinksShared}).Draw(t, "links"),
		}}
	}
	core := rapid.SampledFrom([]v1alpha1.LinkType{v1alpha1.LinkMesh, v1alpha1.LinkRing, v1alpha1.LinkChain}).Draw(t, "core")
	topo.Spec.Links = append(topo.Spec.Links, v1alpha1.LinkRule{Name: "core", Type: core, Groups: []string{"core"}},
		spokes("mid", "core", "mid"))
	leafHubs := rapid.SampledFrom([]string{"core", "mid"}).Draw(t, "leafhubs")
	topo.Spec.Links = append(topo.Spec.Links, spokes("leaf", leafHubs, "leaf"))
	if rapid.IntRange(0, 3).Draw(t, "edges") == 0 {
		rule := v1alpha1.LinkRule{Name: "more", Type: v1alpha1.LinkEdges}
		for range rapid.IntRange(1, 3).Draw(t, "many") {
			pair := rapid.SliceOfNDistinct(rapid.SampledFrom(names), 2, 2, rapid.ID[string]).Draw(t, "edge")
			rule.Edges = append(rule.Edges, v1alpha1.Edge{A: pair[0], B: pair[1]})
		}
		topo.Spec.Links = append(topo.Spec.Links, rule)
	}
	for i, a := range genAccounts {
		topo.Spec.Accounts = append(topo.Spec.Accounts, v1alpha1.Account{Name: a, Namespaces: []string{"*"}, Replies: []v1alpha1.Replies{v1alpha1.RepliesShared, v1alpha1.RepliesPerCluster}[i]})
	}
	in.Topologies = []*v1alpha1.MessagingTopology{topo}
	for i := range rapid.IntRange(0, 4).Draw(t, "streams") {
		in.Streams = append(in.Streams, genStream(t, fmt.Sprintf("s%d", i), names, groups))
	}
	for i := range rapid.IntRange(1, 6).Draw(t, "bridges") {
		in.Bridges = append(in.Bridges, genBridge(t, fmt.Sprintf("b%d", i), names, groups))
	}
	return in
}

func genStream(t *rapid.T, name string, names, groups []string) *v1alpha1.Stream {
	s := &v1alpha1.Stream{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: name, UID: types.UID("s-" + name), Generation: 1}}
	s.Spec.Account = rapid.SampledFrom(genAccounts).Draw(t, "account")
	s.Spec.Name = rapid.SampledFrom([]string{"S", "T", "Q"}).Draw(t, "stream")
	if s.Spec.Name == "Q" {
		s.Spec.Retention = v1alpha1.RetentionWorkQueue
	}
	s.Spec.Placement = v1alpha1.Placement{Selector: &metav1.LabelSelector{}}
	if rapid.Bool().Draw(t, "somewhere") {
		s.Spec.Placement = genPlacement(t, names, groups)
	}
	s.Spec.Subjects = []string{strings.ToLower(s.Spec.Name) + ".>"}
	return s
}

func genBridge(t *rapid.T, name string, names, groups []string) *v1alpha1.Bridge {
	b := &v1alpha1.Bridge{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: name, UID: types.UID("b-" + name), Generation: 1}}
	b.Spec.Account = rapid.SampledFrom(genAccounts).Draw(t, "account")
	b.Spec.From, b.Spec.To = genPlacement(t, names, groups), genPlacement(t, names, groups)
	b.Spec.Type = rapid.SampledFrom([]v1alpha1.BridgeType{v1alpha1.BridgeEvents, v1alpha1.BridgeEvents, v1alpha1.BridgeRequests, v1alpha1.BridgeStream, v1alpha1.BridgeQueue}).Draw(t, "type")
	switch b.Spec.Type {
	case v1alpha1.BridgeEvents, v1alpha1.BridgeRequests:
		b.Spec.Subjects = rapid.SliceOfNDistinct(rapid.SampledFrom(genSubjects), 1, 2, rapid.ID[string]).Draw(t, "subjects")
		if b.Spec.Type == v1alpha1.BridgeEvents && rapid.IntRange(0, 2).Draw(t, "renames") == 0 {
			from := b.Spec.Subjects[0]
			to := "new.{{origin}}"
			n := 0
			for _, tok := range strings.Split(from, ".") {
				switch tok {
				case "*":
					n++
					to += fmt.Sprintf(".{{wildcard(%d)}}", n)
				default:
					to += "." + tok
				}
			}
			b.Spec.Rename = []v1alpha1.Rename{{From: from, To: to}}
		}
	case v1alpha1.BridgeStream:
		b.Spec.Stream = &v1alpha1.BridgeStreams{Name: rapid.SampledFrom([]string{"S", "T"}).Draw(t, "name"), Target: rapid.SampledFrom([]string{"", "S", "ALL"}).Draw(t, "target")}
	case v1alpha1.BridgeQueue:
		b.Spec.Stream = &v1alpha1.BridgeStreams{Name: "Q", Target: rapid.SampledFrom([]string{"", "QALL"}).Draw(t, "target")}
	}
	return b
}

// choices are some ways in which the members with a choice of parents may have
// chosen: for each, the links that are not in use.
func choices(t *rapid.T, p *Plan) [][2]string {
	byChild := map[string][]string{}
	for _, l := range p.Links {
		if l.FailoverGroup != "" {
			byChild[l.Dialer] = append(byChild[l.Dialer], l.Acceptor)
		}
	}
	var out [][2]string
	for _, child := range slices.Sorted(maps.Keys(byChild)) {
		live := rapid.SampledFrom(byChild[child]).Draw(t, "parent of "+child)
		for _, parent := range byChild[child] {
			if parent != live {
				out = append(out, [2]string{child, parent})
			}
		}
	}
	return out
}

// inEffect are the bridges that the plan accepted, with their members.
func inEffect(p *Plan) []*bridge { return p.memo.bridges.accepted }

// TestExactlyOnce publishes on every member of random federations, whatever
// parents are chosen, and follows the messages through the imports of the plan:
// one copy at each destination of the bridges, and none anywhere else.
func TestExactlyOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := genInput(t)
		p := Compile(in)
		checkPlan(t, in, p)
		s := newSimulator(p)
		for _, l := range choices(t, p) {
			s.cut(l[0], l[1])
		}
		for _, f := range p.memo.world.fabrics {
			for _, origin := range f.names {
				for _, account := range f.accounts {
					for _, subject := range genLiterals {
						compareDeliveries(t, account+" "+subject+" from "+origin, wantEvents(f, p, origin, account, subject), s.publish(origin, account, subject))
					}
					for _, requester := range f.names {
						inbox := inboxOf(f, requester)
						compareDeliveries(t, account+" "+inbox+" from "+origin, wantReplies(f, p, origin, account, requester, inbox), s.publish(origin, account, inbox))
					}
				}
			}
		}
		checkDurable(t, p, s)
		for _, fault := range s.faults {
			t.Error(fault)
		}
	})
}

func compareDeliveries(t *rapid.T, what string, want, got map[delivery]int) {
	for d, n := range got {
		if want[d] != n {
			t.Errorf("%s: %d copies at %s in %s as %s, want %d", what, n, d.member, d.account, d.subject, want[d])
		}
	}
	for d := range want {
		if got[d] == 0 {
			t.Errorf("%s: nothing at %s in %s as %s", what, d.member, d.account, d.subject)
		}
	}
}

// wantEvents is what the accepted live bridges promise.
func wantEvents(f *fabric, p *Plan, origin, account, subject string) map[delivery]int {
	out := map[delivery]int{}
	for _, b := range inEffect(p) {
		if b.live == nil || b.fabric != f || f.accounts[b.account] != account || !b.from.has(f.index[origin]) {
			continue
		}
		for _, pattern := range b.live.subjects {
			if !covers(pattern, subject) {
				continue
			}
			arrives := subject
			if r := b.live.renames[pattern]; r != nil {
				arrives = r.apply(subject, origin)
			}
			for _, d := range b.to.list() {
				if f.names[d] != origin {
					out[delivery{f.names[d], account, arrives}] = 1
				}
			}
		}
	}
	return out
}

// inboxOf is an inbox of a requester.
func inboxOf(f *fabric, requester string) string {
	if s := f.shared(f.index[requester]); s != nil {
		return federationv1.GroupInbox(s.rule, requester) + ".x"
	}
	return "_INBOX." + requester + ".x"
}

// wantReplies is who hears what a responder publishes to an inbox.
func wantReplies(f *fabric, p *Plan, responder, account, requester, inbox string) map[delivery]int {
	out := map[delivery]int{}
	for _, b := range inEffect(p) {
		if b.live == nil || b.object.Spec.Type != v1alpha1.BridgeRequests || b.fabric != f || f.accounts[b.account] != account || !b.to.has(f.index[responder]) {
			continue
		}
		for _, o := range b.from.list() {
			shared := account == genAccounts[0]
			if f.names[o] != responder && (shared || f.names[o] == requester) {
				out[delivery{f.names[o], account, inbox}] = 1
			}
		}
	}
	return out
}

// checkDurable follows the three planes of each durable flow.
func checkDurable(t *rapid.T, p *Plan, s *simulator) {
	for name, m := range p.Members {
		for _, part := range m.Parts {
			if o := part.Part.GetOutlet(); o != nil {
				compareDeliveries(t, part.Part.Id+" of "+name, map[delivery]int{{o.Destination, o.Account, o.DeliverSubject}: 1}, s.publish(name, o.Account, o.DeliverSubject))
				flow := "$JS.FC." + o.Stream + "." + o.Consumer + ".abcd"
				compareDeliveries(t, "flow control of "+part.Part.Id+" of "+name, map[delivery]int{{name, o.Account, flow}: 1}, s.publish(o.Destination, o.Account, flow))
				request := "CONSUMER.RESET." + o.Stream + "." + o.Consumer
				compareDeliveries(t, "reset of "+part.Part.Id+" of "+name, map[delivery]int{{name, o.Account, federationv1.ResetPrefix + request}: 1},
					s.request(o.Destination, o.Account, "fedjs."+name+"."+request))
				d := p.Members[o.Destination]
				found := false
				for _, x := range d.Parts {
					for _, src := range x.Part.GetStream().GetSources() {
						if src.Consumer == o.Consumer && src.Origin == name && x.Part.GetStream().Account == o.Account {
							found = true
							if src.DeliverSubject != o.DeliverSubject || src.Stream != o.Stream || src.ApiPrefix != "fedjs."+name || src.Bridge != o.Bridge {
								t.Errorf("source %v does not fit outlet %v", src, o)
							}
							if !slices.Contains(x.After, PartRef{name, part.Part.Id}) {
								t.Errorf("%s of %s does not wait for %s of %s", x.Part.Id, o.Destination, part.Part.Id, name)
							}
						}
					}
				}
				if !found {
					t.Errorf("outlet %s of %s has no source at %s", part.Part.Id, name, o.Destination)
				}
			}
		}
	}
}
