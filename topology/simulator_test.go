package topology

import (
	"fmt"
	"slices"
	"strings"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// simulator moves messages through the imports of a plan, as NATS does: an import
// passes on what was published in the other account (by a client or a leaf
// connection), but not what that account imported itself; a leaf connection
// carries one copy of a message, under one subject.
type simulator struct {
	accounts map[string]map[string]*federationv1.AccountSpec // by member and account
	dead     map[[2]string]bool                              // links, both ways around
	spoke    map[[2]string]bool                              // by member and link account: it is the spoke there
	groups   map[[2]string][]site                            // by acceptor and group
	group    map[[2]string]string                            // by dialer and acceptor
	faults   []string
	steps    int
}

// site is a member that shares its link to an acceptor, and what it may do there.
type site struct {
	name    string
	out, in federationv1.Scope
}

// delivery is a message that an application account received from elsewhere.
type delivery struct {
	member, account, subject string
}

func newSimulator(p *Plan) *simulator {
	s := &simulator{accounts: map[string]map[string]*federationv1.AccountSpec{}, dead: map[[2]string]bool{}, spoke: map[[2]string]bool{}, groups: map[[2]string][]site{}, group: map[[2]string]string{}}
	for name, m := range p.Members {
		s.accounts[name] = map[string]*federationv1.AccountSpec{}
		for _, part := range m.Parts {
			if a := part.Part.GetAccount(); a != nil {
				s.accounts[name][a.Name] = a
			}
		}
	}
	for _, l := range p.Links {
		s.roles(p, l)
		part := p.Members[l.Dialer].Part(federationv1.LinkID(l.Acceptor))
		if g := part.Part.GetLink().GetGroup(); g != nil {
			x := site{name: l.Dialer}
			x.out, x.in = g.Scopes(l.Dialer)
			key := [2]string{l.Acceptor, g.Name}
			s.groups[key] = append(s.groups[key], x)
			s.group[[2]string{l.Dialer, l.Acceptor}] = g.Name
		}
	}
	return s
}

// roles notes who is the spoke of the connections of a link.
func (s *simulator) roles(p *Plan, l Link) {
	several := func(member string) bool {
		b := p.Members[member].Part(federationv1.BrokerID).Part.GetBroker()
		return b.Replicas > 1 || b.Autoscaling != nil
	}
	if part := p.Members[l.Dialer].Part(federationv1.LinkID(l.Acceptor)); part != nil && part.Part.GetLink().Spoke == l.Split {
		s.fault("the link of %s and %s is planned in one form and said to have the other", l.Dialer, l.Acceptor)
	}
	if !l.Split {
		s.spoke[[2]string{l.Dialer, federationv1.OutAccount(l.Acceptor)}] = true
		s.spoke[[2]string{l.Dialer, federationv1.InAccount(l.Acceptor)}] = true
		return
	}
	s.spoke[[2]string{l.Dialer, federationv1.InAccount(l.Acceptor)}] = true
	s.spoke[[2]string{l.Acceptor, federationv1.InAccount(l.Dialer)}] = true
	if several(l.Dialer) || several(l.Acceptor) {
		s.fault("the link of %s and %s is split, and not between single servers", l.Dialer, l.Acceptor)
	}
}

// passes tells whether a member passes on between two of its link accounts.
func (s *simulator) passes(member, from, to string) bool {
	return !s.spoke[[2]string{member, from}] || !s.spoke[[2]string{member, to}]
}

func (s *simulator) fault(format string, args ...any) {
	s.faults = append(s.faults, fmt.Sprintf(format, args...))
}

func (s *simulator) cut(a, b string) {
	s.dead[[2]string{a, b}], s.dead[[2]string{b, a}] = true, true
}

// end is an account at the far end of a link account.
type end struct{ member, account string }

// reaches are the far ends to which a connection carries a subject: of a link account,
// if it is up; of an account that links share, all that may have it.
func (s *simulator) reaches(member, account, subject string) []end {
	peer, isOut := strings.CutPrefix(account, "tx_")
	if !isOut {
		peer = strings.TrimPrefix(account, "rx_")
	}
	there := map[bool]string{true: "rx_", false: "tx_"}[isOut]
	if group, shared := strings.CutPrefix(peer, "@"); shared {
		var out []end
		for _, x := range s.groups[[2]string{member, group}] {
			may := x.out.Subscribe
			if isOut {
				may = x.in.Subscribe
			}
			if !s.dead[[2]string{member, x.name}] && permits(may, subject) {
				out = append(out, end{x.name, there + member})
			}
		}
		return out
	}
	if s.dead[[2]string{member, peer}] {
		return nil
	}
	group, shared := s.group[[2]string{member, peer}]
	if !shared {
		return []end{{peer, there + member}}
	}
	for _, x := range s.groups[[2]string{peer, group}] {
		if x.name != member {
			continue
		}
		may := x.in.Publish
		if isOut {
			may = x.out.Publish
		}
		if !permits(may, subject) {
			s.fault("%s may not send %s to %s", member, subject, peer)
		}
	}
	return []end{{peer, there + federationv1.GroupPeer(group)}}
}

func permits(patterns []string, subject string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return covers(p, subject) })
}

// publish counts what application accounts receive of a message.
func (s *simulator) publish(member, account, subject string) map[delivery]int {
	out := map[delivery]int{}
	s.steps = 0
	s.follow(member, account, subject, out)
	return out
}

func (s *simulator) follow(member, account, subject string, out map[delivery]int) {
	if s.steps++; s.steps > 10_000 {
		s.fault("loop: %s on %s in %s", subject, member, account)
		return
	}
	for name, a := range s.accounts[member] {
		var seen []string
		for _, i := range a.Imports {
			if i.Service || i.Account != account || !covers(i.Subject, subject) {
				continue
			}
			seen = append(seen, mapped(i, subject))
		}
		if len(seen) == 0 {
			continue
		}
		if a.Application {
			for _, m := range seen {
				out[delivery{member, name, m}]++
			}
			continue
		}
		for _, m := range seen {
			if m != seen[0] {
				s.fault("%s of %s leaves %s over one link as %s and as %s", subject, member, name, seen[0], m)
			}
		}
		if !s.passes(member, account, name) {
			s.fault("%s of %s is planned to go on in %s, of which it is the spoke too", account, member, name)
		}
		for _, far := range s.reaches(member, name, seen[0]) {
			if s.accounts[far.member][far.account] == nil {
				s.fault("%s has no account %s", far.member, far.account)
			}
			s.follow(far.member, far.account, seen[0], out)
		}
	}
}

// mapped is the subject that an import makes of one that it matches.
func mapped(i *federationv1.Import, subject string) string {
	if i.To == "" {
		return subject
	}
	from, got := strings.Split(i.Subject, "."), strings.Split(subject, ".")
	var wild, rest []string
	for n, tok := range from {
		if tok == "*" {
			wild = append(wild, got[n])
		}
		if tok == ">" {
			rest = got[n:]
		}
	}
	var out []string
	next := 0
	for _, tok := range strings.Split(i.To, ".") {
		var n int
		switch _, err := fmt.Sscanf(tok, "$%d", &n); {
		case err == nil:
			out = append(out, wild[n-1])
		case tok == "*":
			out = append(out, wild[next])
			next++
		case tok == ">":
			out = append(out, rest...)
		default:
			out = append(out, tok)
		}
	}
	return strings.Join(out, ".")
}

// request counts where a request ends: in an application account that has no
// import for it.
func (s *simulator) request(member, account, subject string) map[delivery]int {
	out := map[delivery]int{}
	s.steps = 0
	s.ask(member, account, subject, out)
	return out
}

func (s *simulator) ask(member, account, subject string, out map[delivery]int) {
	if s.steps++; s.steps > 10_000 {
		s.fault("loop: request %s on %s in %s", subject, member, account)
		return
	}
	for _, i := range s.accounts[member][account].GetImports() {
		local := i.To
		if local == "" {
			local = i.Subject
		}
		if !i.Service || local != subject {
			continue
		}
		if s.accounts[member][i.Account].GetApplication() {
			out[delivery{member, i.Account, i.Subject}]++
			continue
		}
		if !s.passes(member, account, i.Account) {
			s.fault("requests of %s of %s are planned to go on in %s, of which it is the spoke too", account, member, i.Account)
		}
		for _, far := range s.reaches(member, i.Account, i.Subject) {
			s.ask(far.member, far.account, i.Subject, out)
		}
	}
}
