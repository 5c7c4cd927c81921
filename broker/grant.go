package broker

import (
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// linkTypes are the connections that a link user may open; an ordinary client
// with a grant is refused.
var linkTypes = []string{jwt.ConnectionTypeLeafnode}

// LinkDenied are the server's own interfaces, which it offers in every account.
// The acceptor denies them in the grant, the dialer in its remotes: what only one
// side denies, the other would ask for and be cut off. That changes nothing for
// what is tagged, and all that a link carries is. $JS.FC is not among them: the
// server checks it although it crosses tagged, and without it a durable bridge
// is never acknowledged.
func LinkDenied() []string { return []string{"$SYS.>", "$JS.API.>", "$JS.*.API.>"} }

// IssueGrant permits peer, by its public user key, to open the two connections
// of a link of its own with this member.
func IssueGrant(k *Keyring, peer, peerKey string, issuedAt time.Time) (*federationv1.Grant, error) {
	return IssueLinkGrant(k, &federationv1.LinkSpec{Peer: peer, PeerKey: peerKey}, issuedAt)
}

// IssueLinkGrant permits the peer of a link that this member accepts, by its public
// user key, to open the two connections of the link. The grant does not expire: it ends
// when the link's accounts are removed or, where others share them, when it is revoked.
// The same arguments give the same bytes.
func IssueLinkGrant(k *Keyring, l *federationv1.LinkSpec, issuedAt time.Time) (*federationv1.Grant, error) {
	peer, key := l.GetPeer(), l.GetPeerKey()
	if !nkeys.IsValidPublicUserKey(key) {
		return nil, fmt.Errorf("the link key of %q is not a public user key", peer)
	}
	g := &federationv1.Grant{Peer: peer, Key: key}
	var out, in federationv1.Scope // without bounds: the accounts are the peer's alone
	if l.GetGroup() != nil {
		out, in = l.GetGroup().Scopes(peer)
	}
	for _, side := range []struct {
		account string
		scope   federationv1.Scope
		token   *string
	}{
		{federationv1.InAccount(l.PeerAt()), out, &g.Out},
		{federationv1.OutAccount(l.PeerAt()), in, &g.In},
	} {
		c := newUser(key, peer, linkTypes)
		c.Pub.Allow.Add(side.scope.Publish...)
		c.Sub.Allow.Add(side.scope.Subscribe...)
		c.Pub.Deny.Add(LinkDenied()...)
		c.Sub.Deny.Add(LinkDenied()...)
		token, err := Sign(c, k.Account(side.account), issuedAt)
		if err != nil {
			return nil, err
		}
		*side.token = token
	}
	return g, nil
}

// ErrBadGrant says that a grant cannot be used by this member.
var ErrBadGrant = errors.New("bad grant")

// VerifyGrant checks a grant as its receiver: both tokens are user claims over
// ownKey, signed by two different accounts, for links only, and do not expire.
// Whether those accounts are the right ones only the peer's broker can tell.
func VerifyGrant(g *federationv1.Grant, ownKey string) error {
	if g.GetKey() != ownKey {
		return fmt.Errorf("%w: it is for another link key", ErrBadGrant)
	}
	var issuers []string
	for _, t := range []struct{ side, token string }{{"out", g.GetOut()}, {"in", g.GetIn()}} {
		c, err := jwt.DecodeUserClaims(t.token)
		if err != nil {
			return fmt.Errorf("%w: its %s token: %w", ErrBadGrant, t.side, err)
		}
		vr := jwt.CreateValidationResults()
		c.Validate(vr)
		switch {
		case c.Subject != ownKey:
			return fmt.Errorf("%w: its %s token is for another key", ErrBadGrant, t.side)
		case vr.IsBlocking(true):
			return fmt.Errorf("%w: its %s token is not valid: %w", ErrBadGrant, t.side, vr.Errors()[0])
		case c.Expires != 0:
			return fmt.Errorf("%w: its %s token expires", ErrBadGrant, t.side)
		case c.BearerToken:
			return fmt.Errorf("%w: its %s token needs no key", ErrBadGrant, t.side)
		case !sameTypes(c.AllowedConnectionTypes):
			return fmt.Errorf("%w: its %s token is for other connections than links", ErrBadGrant, t.side)
		case !deniesServer(c):
			return fmt.Errorf("%w: its %s token does not deny the server's own interfaces", ErrBadGrant, t.side)
		}
		issuers = append(issuers, c.Issuer)
	}
	if issuers[0] == issuers[1] {
		return fmt.Errorf("%w: both tokens are of one account", ErrBadGrant)
	}
	return nil
}

func deniesServer(c *jwt.UserClaims) bool {
	for _, s := range LinkDenied() {
		if !c.Pub.Deny.Contains(s) || !c.Sub.Deny.Contains(s) {
			return false
		}
	}
	return true
}

func sameTypes(types jwt.StringList) bool {
	if len(types) != len(linkTypes) {
		return false
	}
	for _, t := range linkTypes {
		if !types.Contains(t) {
			return false
		}
	}
	return true
}
