package federationv1

// Scope is what a dialer may do on one connection of a link whose accounts it
// shares with others: the subjects that it may send, and those of which it may ask
// to be sent what is published at the acceptor.
type Scope struct {
	Publish, Subscribe []string
}

// GroupInbox begins the inboxes of the requesters on a dialer of a group.
func GroupInbox(group, dialer string) string {
	return "_INBOX." + GroupPeer(group) + "." + dialer
}

// Scopes are what a dialer of the group may do on its outgoing connection (to the
// acceptor's account rx_@NAME) and its incoming one (tx_@NAME). They name planes and
// no subject of any bridge, because a change of them would close the connections of
// the whole group. What they name:
//
//	fo.ORIGIN        forward, from the dialer in the name of one of its origins
//	fo               forward to all of the group
//	fs.DIALER        forward to one of it, of a durable flow
//	re.*.*._INBOX    replies to the requests of one of it
//	re.ORIGIN        replies and flow control, from the dialer
//	rs.DIALER        flow control to one of it
//	fedjs.DIALER     resets of durable flows, to and from one of it
//	pq, pr           probes and their echoes
//	_R_              replies to resets
//
// A dialer may publish what it may subscribe to, and subscribe to what it may publish:
// whenever claims change, the servers at both ends compare the subscriptions of a
// connection with what its user may send the other way, and drop others for good. So
// dialers of a group can read what others of it send live, and what they answer;
// durable flows are each one's own. Where it would let one speak to others, mappings
// of the account lead it into the void.
func (g *LinkGroup) Scopes(dialer string) (out, in Scope) {
	const serviceReplies = "_R_.>"
	upward := []string{
		"re.*.*." + GroupInbox(g.GetName(), dialer) + ".>", "rs." + dialer + ".>", "fedjs." + dialer + ".>",
		"pq." + dialer, "pr." + dialer, serviceReplies,
	}
	downward := []string{"fo.>", "fs." + dialer + ".>", "fedjs." + dialer + ".>", "pq." + dialer, "pr." + dialer, serviceReplies}
	for _, o := range g.GetOrigins() {
		upward = append(upward, "fo."+o+".>")
		downward = append(downward, "re."+o+".>")
	}
	return Scope{upward, upward}, Scope{downward, downward}
}
