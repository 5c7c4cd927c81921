package federationv1

import "strings"

// BrokerID is the id of the one part that configures the broker.
const BrokerID = "broker"

// AccountID is the id of the part of an account.
func AccountID(name string) string { return "account/" + name }

// LinkID is the id of the part of the link to a peer.
func LinkID(peer string) string { return "link/" + peer }

// StreamID is the id of the part of a stream.
func StreamID(account, name string) string { return "stream/" + account + "/" + name }

// OutletID is the id of the part of a durable bridge's consumer at the origin.
func OutletID(destination, account, stream, consumer string) string {
	return strings.Join([]string{"outlet", destination, account, stream, consumer}, "/")
}

// IDPeer is the member that an id names: the peer of a link, the destination of
// an outlet, else "".
func IDPeer(id string) string {
	kind, rest, _ := strings.Cut(id, "/")
	if kind != "link" && kind != "outlet" {
		return ""
	}
	peer, _, _ := strings.Cut(rest, "/")
	return peer
}

// OutAccount is the account whose traffic goes out to peer, InAccount the one
// into which its traffic comes. The underscore keeps them apart from the
// accounts of users, in whose names it is not allowed.
func OutAccount(peer string) string { return "tx_" + peer }

// InAccount is the account into which the traffic of peer comes.
func InAccount(peer string) string { return "rx_" + peer }

// GroupPeer stands for a peer in the names of the accounts that the links of a group
// share at their acceptor. No member can have such a name.
func GroupPeer(group string) string { return "@" + group }

// PeerAt is what stands for the peer of a link in the names of the link's accounts
// on the member that holds this end of it.
func (l *LinkSpec) PeerAt() string {
	if l.GetGroup() != nil && l.GetRole() == LinkSpec_ACCEPT {
		return GroupPeer(l.GetGroup().GetName())
	}
	return l.GetPeer()
}

// MemberID is the SPIFFE id of a member.
func MemberID(trustDomain, cluster string) string {
	return "spiffe://" + trustDomain + "/cluster/" + cluster
}

// EnrolledProtocol is what a member offers in the handshake with its hub (ALPN) beside
// HTTP/2, and the hub never chooses: that it has the hub's authority, which the hub then
// leaves out of its certificate chain.
const EnrolledProtocol = "sealane-enrolled"

// MemberDNSName is the name in a member's certificate by which its peers know
// that they reached the right broker, whatever address they dialled.
func MemberDNSName(trustDomain, cluster string) string {
	return cluster + ".cluster." + trustDomain
}

// IncarnationDNSName is a second name in a member's certificate: it tells the member
// from others that had its name before or have it later (ADR 24).
func IncarnationDNSName(trustDomain, cluster, incarnation string) string {
	return incarnation + "." + MemberDNSName(trustDomain, cluster)
}

// IncarnationOf is the incarnation in the DNS names of a member's certificate; "": it
// has none.
func IncarnationOf(dnsNames []string, trustDomain, cluster string) string {
	for _, n := range dnsNames {
		if i, ok := strings.CutSuffix(n, "."+MemberDNSName(trustDomain, cluster)); ok && ValidIncarnation(i) {
			return i
		}
	}
	return ""
}

// ValidIncarnation tells whether s is an incarnation: 32 digits in hex.
func ValidIncarnation(s string) bool {
	return len(s) == 32 && strings.Trim(s, "0123456789abcdef") == ""
}

// ResetPrefix begins the subjects at which the agent of a durable consumer's
// member serves CONSUMER.RESET.STREAM.CONSUMER in its account. Other members
// reach it, and nothing of JetStream's own API (ADR 10).
const ResetPrefix = "_fedjs."
