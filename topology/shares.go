package topology

import (
	"slices"
	"strings"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// stubs are a class of spokes that share their links (see
// docs/adr/0023-groups-of-sites.md): those of one rule that have the same parents.
//
// At each parent the spokes of a rule have one pair of accounts. What they send live
// bears one origin, the share's token, so that neither the parent nor anyone beyond
// it plans anything for single spokes. Durable flows are each spoke's own anyway,
// and bear its name.
type stubs struct {
	rule    string
	token   string
	parents []int32 // sorted
	members set
	account accountCode // of the rule, tx_@RULE
}

// Tags of what durable flows send to one spoke of a share alone; see
// federationv1.LinkGroup.Scopes.
const (
	ownForwardTag = "fs" // fs.SPOKE.ORIGIN.ACCOUNT.subject
	ownReplyTag   = "rs" // rs.SPOKE.ACCOUNT.subject
)

// findShares finds the spokes that share their links: those that do nothing but dial
// parents, all by one rule that says so.
func (f *fabric) findShares(members map[string]*v1alpha1.MemberCluster) {
	f.shareOf = make([]int32, len(f.names))
	byToken := map[string]int32{}
	for i := range f.names {
		m := int32(i)
		f.shareOf[m] = -1
		parents, rule := f.sharedParents(m, members)
		if rule == "" {
			continue
		}
		names := make([]string, len(parents))
		for j, p := range parents {
			names[j] = f.names[p]
		}
		token := rule + federationv1.GroupPeer(strings.Join(names, ","))
		at, known := byToken[token]
		if !known {
			slices.Sort(parents)
			at = int32(len(f.shares))
			byToken[token] = at
			f.shares = append(f.shares, &stubs{rule: rule, token: token, parents: parents, members: newSet(len(f.names))})
		}
		f.shareOf[m] = at
		f.shares[at].members.add(m)
	}
	// Their accounts stand in the order of their rules, whichever members there are:
	// imports do too.
	byRule := slices.Clone(f.shares)
	slices.SortStableFunc(byRule, func(a, b *stubs) int { return strings.Compare(a.rule, b.rule) })
	for i, s := range byRule {
		if i > 0 && s.rule == byRule[i-1].rule {
			s.account = byRule[i-1].account
			continue
		}
		s.account = accountCode(len(f.accountNames))
		for _, name := range []string{federationv1.OutAccount(federationv1.GroupPeer(s.rule)), federationv1.InAccount(federationv1.GroupPeer(s.rule))} {
			f.accountNames = append(f.accountNames, name)
			f.accountIDs = append(f.accountIDs, federationv1.AccountID(name))
		}
	}
}

// sharedParents are the parents of a spoke that shares its links, by priority, and
// the rule; "" if it does not.
func (f *fabric) sharedParents(m int32, members map[string]*v1alpha1.MemberCluster) (parents []int32, rule string) {
	if len(f.peers[m]) == 0 || f.several[m] || !knowsGroups(members[f.names[m]]) {
		return nil, ""
	}
	links := make([]link, 0, len(f.peers[m]))
	for _, p := range f.peers[m] {
		l := f.links[p.link]
		if l.dialer != m || l.split || l.share == "" || l.share != f.links[f.peers[m][0].link].share || !knowsGroups(members[f.names[p.member]]) {
			return nil, ""
		}
		links = append(links, l)
	}
	slices.SortFunc(links, func(a, b link) int { return int(a.priority - b.priority) })
	for _, l := range links {
		parents = append(parents, l.acceptor)
	}
	return parents, links[0].share
}

// knowsGroups tells whether a member's agent can share links. One that has never
// connected will be of this version or a later one.
func knowsGroups(m *v1alpha1.MemberCluster) bool {
	return m.Status.Agent == nil || m.Status.Agent.LinkGroups
}

// shared is the share of a member, or nil.
func (f *fabric) shared(m int32) *stubs {
	if i := f.shareOf[m]; i >= 0 {
		return f.shares[i]
	}
	return nil
}

// siblings tells whether two members share links at some parent. Over these they do
// not reach each other: the account would bring its own events back to the sender.
func (f *fabric) siblings(a, b int32) bool {
	x, y := f.shared(a), f.shared(b)
	return x != nil && y != nil && x.rule == y.rule && slices.ContainsFunc(x.parents, func(p int32) bool { return slices.Contains(y.parents, p) })
}

// liveName is the name of a member as origin or responder of live bridges.
func (f *fabric) liveName(m int32) string {
	if s := f.shared(m); s != nil {
		return s.token
	}
	return f.names[m]
}

// inboxes are those of a requester whose replies are not shared with others.
func (f *fabric) inboxes(m int32) string {
	if s := f.shared(m); s != nil {
		return "_INBOX." + federationv1.GroupPeer(s.rule) + ".>"
	}
	return "_INBOX." + f.names[m] + ".>"
}

// group is what both ends of a spoke's link to a parent know of its share; nil if it
// has none.
func (f *fabric) group(l link) *federationv1.LinkGroup {
	s := f.shared(l.dialer)
	if s == nil {
		return nil
	}
	mark := ""
	if l.group != "" {
		mark = ":" + f.names[l.acceptor]
	}
	return &federationv1.LinkGroup{Name: s.rule, Origins: []string{s.token + mark, f.names[l.dialer] + mark}}
}

// heads are the first members of each share in a placement: the others differ from
// them at their own place only.
func (f *fabric) heads(at set) map[*stubs]int32 {
	var out map[*stubs]int32
	for _, s := range f.shares {
		if in := s.members.and(at); !in.empty() {
			if out == nil {
				out = map[*stubs]int32{}
			}
			out[s] = in.list()[0]
		}
	}
	return out
}

// leads tells whether a member is none of a share, or the first of it.
func (f *fabric) leads(heads map[*stubs]int32, m int32) bool {
	s := f.shared(m)
	return s == nil || heads[s] == m
}

// checkShared refuses of a live bridge what members that share their links cannot do.
func (b *bridge) checkShared() {
	f := b.fabric
	if b.live == nil || len(f.shares) == 0 || b.refused() {
		return
	}
	var near []string
	b.eachPair(func(o, d int32) {
		if f.siblings(o, d) {
			near = append(near, f.names[o]+" to "+f.names[d])
		}
	})
	b.partial = b.partial || len(near) > 0
	if len(near) > 0 && !b.lenient {
		b.report.refuse("spec", v1alpha1.ReasonUnroutable,
			"members that share their links (links: Shared) hear no events and requests of each other, as from %s: leave one of them out, use a bridge of type Stream, or give them links: Separate", firstNames(near))
	}
	some := -1
	for m := range f.names {
		if f.shareOf[m] >= 0 && (b.from.has(int32(m)) || b.to.has(int32(m))) {
			some = m
			break
		}
	}
	if some < 0 {
		return
	}
	if b.object.Spec.Type == v1alpha1.BridgeRequests && f.sharesReplies(b.account) {
		b.report.refuse("spec.account", v1alpha1.ReasonInvalidValue,
			"%s shares its links with others (links: Shared), and replies of account %s are Shared too, so that each site would get the replies of all: set replies of the account to PerCluster",
			f.names[some], f.accounts[b.account])
	}
	for i, r := range b.object.Spec.Rename {
		if heads := f.heads(b.from); len(heads) > 0 && strings.Contains(r.To, originPlaceholder) {
			b.report.refuse(index("spec.rename", i)+".to", v1alpha1.ReasonInvalidSubject,
				"events of members that share their links (links: Shared) do not tell which of them is the origin: leave {{origin}} out, and let publishers put it into the subject")
		}
	}
}

// sharesReplies tells whether replies to any inbox cross for an account.
func (f *fabric) sharesReplies(account int32) bool {
	for _, a := range f.topology.Spec.Accounts {
		if a.Name == f.accounts[account] {
			return a.Replies != v1alpha1.RepliesPerCluster
		}
	}
	return true
}

// mixes tells whether of two live bridges with a subject in common one would carry
// what only the other shall: of a share they take different members, and beyond its
// parents nobody can tell those apart.
func (b *bridge) mixes(o *bridge) *stubs {
	same := slices.Equal(b.to, o.to) && len(b.live.renames)+len(o.live.renames) == 0
	if same {
		return nil
	}
	for _, s := range b.fabric.shares {
		x, y := s.members.and(b.from), s.members.and(o.from)
		if !x.empty() && !y.empty() && !slices.Equal(x, y) {
			return s
		}
	}
	return nil
}

// checkMixed refuses a live bridge that an older one mixes with.
func (p *bridgeStep) checkMixed(b *bridge, rep *report) {
	if len(b.fabric.shares) == 0 {
		return
	}
	for _, s := range b.live.subjects {
		first, _, _ := cutToken(s)
		for _, o := range p.live[liveKey{b.scope, first}] {
			mixed := b.mixes(o)
			if mixed == nil || !slices.ContainsFunc(o.live.subjects, func(t string) bool { return overlaps(s, t) }) {
				continue
			}
			rep.refuse(b.subjectField(s), v1alpha1.ReasonSubjectConflict,
				"%s of Bridge %s comes from other members of those that share their links by rule %s (links: Shared), who cannot be told apart beyond their parents: let both name the same of them, or use other subjects",
				s, o.ref.path(), mixed.rule)
			return
		}
	}
}
