package topology

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// siteUsers are the users of those who share an account of a member, each named as
// if it had an account of its own.
func siteUsers(p *Plan, acceptor, account string) string {
	var out []string
	for _, part := range p.Members[acceptor].Parts {
		l := part.Part.GetLink()
		if l.GetGroup() == nil {
			continue
		}
		may, in := l.Group.Scopes(l.Peer)
		name := federationv1.InAccount(l.Peer)
		switch account {
		case federationv1.InAccount(l.PeerAt()):
		case federationv1.OutAccount(l.PeerAt()):
			may, name = in, federationv1.OutAccount(l.Peer)
		default:
			continue
		}
		out = append(out, fmt.Sprintf("{user: %q, password: p, permissions: {publish: {allow: [%s]}, subscribe: {allow: [%s]}}}",
			name, quoted(may.Publish), quoted(may.Subscribe)))
	}
	return strings.Join(out, ",\n")
}

func quoted(list []string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = strconv.Quote(s)
	}
	return strings.Join(out, ", ")
}

// sharesLive tells whether several members that share links have part in a live
// bridge.
func sharesLive(p *Plan) bool {
	return slices.ContainsFunc(inEffect(p), func(b *bridge) bool {
		return b.live != nil && slices.ContainsFunc(b.fabric.shares, func(s *stubs) bool { return s.members.and(b.from.or(b.to)).len() > 1 })
	})
}

// TestSharedDurableOnServers copies a stream between two sites that share their links.
func TestSharedDurableOnServers(t *testing.T) {
	if testing.Short() {
		t.Skip("starts servers")
	}
	t.Parallel()
	durableOnServers(t, strings.Replace(durableScenario, "spokes: edges", "spokes: edges, links: Shared", 1))
}
