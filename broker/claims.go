package broker

import (
	"errors"
	"fmt"
	"regexp"
	"sort"
	"strings"

	"github.com/nats-io/jwt/v2"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// agentConnections is how many connections of an account are kept for the agent
// beside those that its limit leaves to applications: one, and one that takes
// its place.
const agentConnections = 2

// The services that one account offers to the others of the same broker.
const (
	// resetService lets a durable bridge's destination reset its consumer.
	resetService = federationv1.ResetPrefix + "CONSUMER.RESET.*.*"
	// relayService is the same in transit.
	relayService = "fedjs.>"
)

var nameRE = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// Accounts makes the claims of all accounts of the broker of member self, by
// name, from the account and link parts among parts. Beside what the parts name
// there are the two accounts of each link, AgentAccount, and the imports by
// which agents probe links:
//
//	probe     _agent pq.PEER -> tx_PEER pq ~~> rx_SELF pq -> _agent pi.SELF (there)
//	its echo  _agent po.SELF -> rx_SELF pr ~~> tx_PEER pr -> _agent pa.PEER (here)
//
// Links of a group share their accounts at the acceptor, tx_@GROUP and rx_@GROUP, and
// their probes and echoes bear the name of the dialer: pq.DIALER and pr.DIALER.
//
// The result depends on the content of the parts only, not on their order. An
// import that cannot work is left out and named in the error of its account;
// everything else is unaffected. The system account is not among them: it is the
// runtime's.
func (k *Keyring) Accounts(self string, parts []*federationv1.Part) (map[string]*jwt.AccountClaims, map[string]error) {
	b := &accountBuilder{keyring: k, claims: map[string]*jwt.AccountClaims{}, errs: map[string][]string{}}
	var specs []*federationv1.AccountSpec
	var peers []string
	links := map[string]*federationv1.LinkSpec{}
	b.add(AgentAccount)
	for _, p := range parts {
		switch {
		case p.GetAccount() != nil:
			specs = append(specs, p.GetAccount())
		case p.GetLink() != nil:
			l := p.GetLink()
			peers = append(peers, l.GetPeer())
			links[l.GetPeer()] = l
		}
	}
	sort.SliceStable(specs, func(i, j int) bool { return specs[i].GetName() < specs[j].GetName() })
	sort.Strings(peers)
	specs = b.addSpecs(specs)
	peers = b.addPeers(self, peers, links)
	for _, s := range specs {
		for _, i := range s.GetImports() {
			b.importInto(s.GetName(), i)
		}
	}
	shared := map[string]bool{}
	for _, p := range peers {
		switch l := links[p]; {
		case l.GetGroup() == nil:
			b.probe(p)
		case l.GetRole() != federationv1.LinkSpec_ACCEPT:
			b.probeAs(self, p)
		case !shared[l.PeerAt()]:
			shared[l.PeerAt()] = true
			b.probeAll(l.PeerAt())
		}
	}
	return b.finish()
}

type accountBuilder struct {
	keyring *Keyring
	claims  map[string]*jwt.AccountClaims
	errs    map[string][]string
}

func (b *accountBuilder) fail(account, format string, args ...any) {
	b.errs[account] = append(b.errs[account], fmt.Sprintf(format, args...))
}

// add makes an account without imports.
func (b *accountBuilder) add(name string) {
	c := jwt.NewAccountClaims(b.keyring.Account(name).Public)
	c.Name = name
	switch {
	case name == AgentAccount:
		c.Exports.Add(streamExport("pq.>"), streamExport("po.>"))
		c.Limits.LeafNodeConn = 0
	case isLinkAccount(name):
		c.Exports.Add(streamExport(">"), serviceExport(relayService))
		if groupOf(name) != "" && linkOut(name) {
			c.Mappings = groupMappings()
		}
	default:
		c.Exports.Add(streamExport(">"), serviceExport(resetService))
		c.Limits.LeafNodeConn = 0
	}
	b.claims[name] = c
}

// addSpecs makes the accounts of specs, which are sorted, and returns those whose
// account was made.
func (b *accountBuilder) addSpecs(specs []*federationv1.AccountSpec) []*federationv1.AccountSpec {
	var good []*federationv1.AccountSpec
	for _, s := range specs {
		name := s.GetName()
		switch peer := linkPeer(name); {
		case b.claims[name] != nil:
			b.fail(name, "the account %q is described twice, or its name is taken", name)
			continue
		case s.GetApplication() && !nameRE.MatchString(name),
			!s.GetApplication() && !nameRE.MatchString(strings.TrimPrefix(peer, federationv1.GroupPeer(""))):
			b.fail(name, "the account name %q is not allowed", name)
			continue
		}
		b.add(name)
		if s.GetApplication() {
			applyLimits(b.claims[name], s.GetLimits())
		}
		good = append(good, s)
	}
	return good
}

func (b *accountBuilder) addPeers(self string, peers []string, links map[string]*federationv1.LinkSpec) []string {
	var good []string
	for i, p := range peers {
		group := links[p].GetGroup()
		out, in := federationv1.OutAccount(links[p].PeerAt()), federationv1.InAccount(links[p].PeerAt())
		switch {
		case p == self || !nameRE.MatchString(p) || group != nil && !nameRE.MatchString(group.GetName()):
			b.fail(out, "there can be no link from %q to %q", self, p)
			continue
		case i > 0 && peers[i-1] == p:
			b.fail(out, "the link to %q is described twice", p)
			continue
		}
		for _, name := range []string{out, in} {
			if b.claims[name] == nil {
				b.add(name)
			}
		}
		good = append(good, p)
	}
	return good
}

// probe adds the four imports of the probe of the link to peer.
func (b *accountBuilder) probe(peer string) {
	out, in := federationv1.OutAccount(peer), federationv1.InAccount(peer)
	b.importInto(out, &federationv1.Import{Account: AgentAccount, Subject: "pq." + peer, To: "pq"})
	b.importInto(AgentAccount, &federationv1.Import{Account: in, Subject: "pq", To: "pi." + peer})
	b.importInto(in, &federationv1.Import{Account: AgentAccount, Subject: "po." + peer, To: "pr"})
	b.importInto(AgentAccount, &federationv1.Import{Account: out, Subject: "pr", To: "pa." + peer})
}

// probeAs adds those of a link that this member shares with others at peer.
func (b *accountBuilder) probeAs(self, peer string) {
	out, in := federationv1.OutAccount(peer), federationv1.InAccount(peer)
	b.importInto(out, &federationv1.Import{Account: AgentAccount, Subject: "pq." + peer, To: "pq." + self})
	b.importInto(AgentAccount, &federationv1.Import{Account: in, Subject: "pq." + self, To: "pi." + peer})
	b.importInto(in, &federationv1.Import{Account: AgentAccount, Subject: "po." + peer, To: "pr." + self})
	b.importInto(AgentAccount, &federationv1.Import{Account: out, Subject: "pr." + self, To: "pa." + peer})
}

// probeAll adds those of all links of a group that this member accepts.
func (b *accountBuilder) probeAll(group string) {
	out, in := federationv1.OutAccount(group), federationv1.InAccount(group)
	b.importInto(out, &federationv1.Import{Account: AgentAccount, Subject: "pq.*"})
	b.importInto(AgentAccount, &federationv1.Import{Account: in, Subject: "pq.*", To: "pi.$1"})
	b.importInto(in, &federationv1.Import{Account: AgentAccount, Subject: "po.*", To: "pr.$1"})
	b.importInto(AgentAccount, &federationv1.Import{Account: out, Subject: "pr.*", To: "pa.$1"})
}

// importInto adds an import to an account that exists, or says why it cannot be.
func (b *accountBuilder) importInto(account string, spec *federationv1.Import) {
	what := fmt.Sprintf("import of %q from account %q", spec.GetSubject(), spec.GetAccount())
	c := b.claims[account]
	switch {
	case b.claims[spec.GetAccount()] == nil:
		b.fail(account, "%s: there is no such account", what)
		return
	case spec.GetAccount() == account:
		b.fail(account, "%s: an account cannot import from itself", what)
		return
	}
	i := &jwt.Import{
		Account: b.claims[spec.GetAccount()].Subject,
		Subject: jwt.Subject(spec.GetSubject()),
		Type:    jwt.Stream,
	}
	if spec.GetService() {
		i.Type = jwt.Service
	}
	if to := spec.GetTo(); to != "" && to != spec.GetSubject() {
		i.LocalSubject = jwt.RenamingSubject(to)
	}
	vr := jwt.CreateValidationResults()
	i.Validate(c.Subject, vr)
	for _, issue := range vr.Issues {
		if issue.Blocking {
			b.fail(account, "%s: %s", what, issue.Description)
			return
		}
	}
	for _, o := range c.Imports {
		if o.Account != i.Account || o.Type != i.Type {
			continue
		}
		if o.Subject == i.Subject && o.LocalSubject == i.LocalSubject {
			return
		}
		// NATS takes the first of two and says nothing.
		if i.Type == jwt.Stream && o.Subject == i.Subject {
			b.fail(account, "%s to %q: it is imported to %q already", what, localSubject(i), localSubject(o))
			return
		}
		if l, m := localSubject(i), localSubject(o); i.Type == jwt.Service && (l.IsContainedIn(m) || m.IsContainedIn(l)) {
			b.fail(account, "%s to %q: it overlaps with %q of the same account", what, l, m)
			return
		}
	}
	c.Imports.Add(i)
}

func (b *accountBuilder) finish() (map[string]*jwt.AccountClaims, map[string]error) {
	errs := map[string]error{}
	for name, c := range b.claims {
		sortAccount(c)
		vr := jwt.CreateValidationResults()
		c.Validate(vr)
		for _, issue := range vr.Issues {
			if issue.Blocking {
				b.fail(name, "%s", issue.Description)
			}
		}
	}
	for name, msgs := range b.errs {
		sort.Strings(msgs)
		errs[name] = errors.New(strings.Join(msgs, "; "))
	}
	return b.claims, errs
}

// applyLimits bounds an application account; nil: it is unlimited.
func applyLimits(c *jwt.AccountClaims, l *federationv1.AccountLimits) {
	if l == nil {
		l = &federationv1.AccountLimits{Connections: -1, Subscriptions: -1, Storage: -1, Memory: -1, Streams: -1, Consumers: -1}
	}
	c.Limits.Subs = unlimited(l.GetSubscriptions())
	if c.Limits.Conn = unlimited(l.GetConnections()); c.Limits.Conn >= 0 {
		c.Limits.Conn += agentConnections
	}
	c.Limits.JetStreamLimits = jwt.JetStreamLimits{
		DiskStorage:   unlimited(l.GetStorage()),
		MemoryStorage: unlimited(l.GetMemory()),
		Streams:       unlimited(l.GetStreams()),
		Consumer:      unlimited(l.GetConsumers()),
	}
}

func unlimited(n int64) int64 { return max(n, jwt.NoLimit) }

func streamExport(subject jwt.Subject) *jwt.Export {
	return &jwt.Export{Subject: subject, Type: jwt.Stream}
}

func serviceExport(subject jwt.Subject) *jwt.Export {
	return &jwt.Export{Subject: subject, Type: jwt.Service, ResponseType: jwt.ResponseTypeSingleton}
}

func localSubject(i *jwt.Import) jwt.Subject {
	if i.LocalSubject != "" {
		return i.LocalSubject.ToSubject()
	}
	return i.Subject
}

// linkPeer is the peer of a link's account; "" for any other account.
func linkPeer(account string) string {
	for _, prefix := range []string{federationv1.OutAccount(""), federationv1.InAccount("")} {
		if p, ok := strings.CutPrefix(account, prefix); ok {
			return p
		}
	}
	return ""
}

// groupOf is the group that shares a link's account; "" if none does.
func groupOf(account string) string {
	g, shared := strings.CutPrefix(linkPeer(account), federationv1.GroupPeer(""))
	if !shared {
		return ""
	}
	return g
}

// linkOut tells whether a link's account is that of its outgoing side.
func linkOut(account string) bool { return strings.HasPrefix(account, federationv1.OutAccount("")) }

// groupMappings are those of tx_@GROUP. What leads to dialers would be passed on to
// the others if a dialer could send it: a user may publish what it may subscribe to
// (see federationv1.LinkGroup.Scopes). The second keeps interest in replies known to
// all dialers: each of them asks not to be told the interest of others, which may come
// from beyond this member, too.
func groupMappings() jwt.Mapping {
	to := func(s jwt.Subject) []jwt.WeightedMapping { return []jwt.WeightedMapping{{Subject: s}} }
	return jwt.Mapping{"fo.>": to("void.fo.>"), "re.>": to("re.>")}
}

func isLinkAccount(name string) bool { return linkPeer(name) != "" }
