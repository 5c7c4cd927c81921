package topology

import (
	"slices"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// fabric is one topology in effect: its members, their links and the routes over
// them. It depends on the shape of members only (see sameShape), not on their
// keys and grants. Members are known by their index in names.
type fabric struct {
	ref      ObjectRef
	topology *v1alpha1.MessagingTopology // the version in effect
	names    []string                    // sorted
	index    map[string]int32
	at       []int32 // by member: index among all members of the world
	all      set
	groups   map[string]set
	groupOf  []int32 // index in spec.groups
	accounts []string
	account  map[string]int32
	links    []link
	peers    [][]peer // by member, sorted by the other's index
	graph    *graph
	awaits   bool                          // the endpoint of a member that has never connected
	brokers  []*federationv1.BrokerSpec    // by member
	rooms    []room                        // by member
	several  []bool                        // by member: its broker may have several servers
	stops    bool                          // some member does not pass on between two of its neighbours
	spaces   [][]string                    // by account: namespaces
	limits   []*federationv1.AccountLimits // by account

	shares  []*stubs
	shareOf []int32 // by member: index in shares, or -1

	// known routes and numbered steps; only the compilation at work touches them.
	known map[[2]int32][]route
	live  map[[2]int32][]route // of members that share links, with the names of live bridges
	steps map[stepKey]int32

	accountNames []string // by accountCode
	accountIDs   []string
}

// link is a link that can be: one end has an endpoint.
type link struct {
	dialer, acceptor int32
	// group is the rule of a choice of parents; the dialer is the child.
	group    string
	priority int32
	// split: each member is the hub of the connection on which it sends; else the
	// acceptor is of both.
	split bool
	// share is the rule by which the dialer may share it with others.
	share string
}

// peer is a neighbour.
type peer struct {
	member int32
	link   int32
}

// accountCode numbers the accounts of a member: first those of applications, as
// in fabric.accounts, then tx_PEER and rx_PEER for each member of the fabric, then
// tx_@RULE and rx_@RULE for each rule by which links are shared.
type accountCode int32

// out is the account of a link at the end that is not the peer's: that of the peer, or
// the one that the peer, who dials, shares with others.
func (f *fabric) out(peer int32) accountCode {
	if s := f.shared(peer); s != nil {
		return s.account
	}
	return accountCode(len(f.accounts) + 2*int(peer))
}

func (f *fabric) in(peer int32) accountCode { return f.out(peer) + 1 }

func (f *fabric) application(c accountCode) bool { return int(c) < len(f.accounts) }

// finish derives what follows from names and accounts.
func (f *fabric) finish() {
	f.known, f.live, f.steps = map[[2]int32][]route{}, map[[2]int32][]route{}, map[stepKey]int32{}
	f.index = make(map[string]int32, len(f.names))
	f.all = newSet(len(f.names))
	for i, n := range f.names {
		f.index[n] = int32(i)
		f.all.add(int32(i))
	}
	f.account = make(map[string]int32, len(f.accounts))
	for i, a := range f.accounts {
		f.account[a] = int32(i)
	}
	f.limits = make([]*federationv1.AccountLimits, len(f.accounts))
	f.spaces = make([][]string, len(f.accounts))
	for _, a := range f.topology.Spec.Accounts {
		f.limits[f.account[a.Name]] = accountLimits(a.Limits)
		f.spaces[f.account[a.Name]] = namespaces(a)
	}
	f.accountNames = slices.Clone(f.accounts)
	for _, n := range f.names {
		f.accountNames = append(f.accountNames, federationv1.OutAccount(n), federationv1.InAccount(n))
	}
	f.accountIDs = make([]string, len(f.accountNames))
	for i, n := range f.accountNames {
		f.accountIDs[i] = federationv1.AccountID(n)
	}
}

// linkOf is the link between two neighbours.
func (f *fabric) linkOf(member, other int32) int32 {
	i, _ := slices.BinarySearchFunc(f.peers[member], other, func(p peer, m int32) int { return int(p.member - m) })
	return f.peers[member][i].link
}

// nameList are the names of a set's members, sorted.
func (f *fabric) nameList(s set) []string {
	n := s.len()
	if n == 0 {
		return nil
	}
	out := make([]string, 0, n)
	for i := range s.each {
		out = append(out, f.names[i])
	}
	return out
}
