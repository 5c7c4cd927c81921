package topology

import (
	"slices"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// grantFor is the acceptor's grant for the key with which the dialer dials now;
// nil if it is not known.
func grantFor(dialer *v1alpha1.MemberCluster, acceptor string) *v1alpha1.Grant {
	for i := range dialer.Status.Grants {
		g := &dialer.Status.Grants[i]
		if g.Peer == acceptor && g.Key != "" && g.Key == dialer.Status.LinkKey {
			return g
		}
	}
	return nil
}

// linkSpec is the member's end of a link; nil while something for it is not known
// yet: the dialer's key, or the acceptor's grant, which tells that the acceptor is
// ready.
func (a *assembled) linkSpec(i int32, p peer) *federationv1.LinkSpec {
	f := a.fabric
	l := f.links[p.link]
	dialer, acceptor := a.members[l.dialer], a.members[l.acceptor]
	if l.acceptor == i {
		if dialer.Status.LinkKey == "" {
			return nil
		}
		return &federationv1.LinkSpec{Peer: dialer.Name, Role: federationv1.LinkSpec_ACCEPT, PeerKey: dialer.Status.LinkKey, Group: f.group(l)}
	}
	g := grantFor(dialer, acceptor.Name)
	if g == nil {
		return nil
	}
	return &federationv1.LinkSpec{
		Peer: acceptor.Name, Role: federationv1.LinkSpec_DIAL, Endpoints: slices.Clone(endpoints(acceptor)),
		Grant:         &federationv1.Grant{Peer: dialer.Name, Key: g.Key, Out: g.Out, In: g.In},
		FailoverGroup: l.group, Priority: l.priority, Spoke: !l.split, Group: f.group(l),
		Incarnation: incarnation(acceptor),
	}
}

// incarnation is what the certificate of a member carries beside its name; "": nothing.
func incarnation(m *v1alpha1.MemberCluster) string {
	if m.Status.Identity == nil {
		return ""
	}
	return m.Status.Identity.Incarnation
}

func (a *assembled) planLinks() []Link {
	f := a.fabric
	out := make([]Link, 0, len(f.links))
	for _, l := range f.links {
		dialer, acceptor := f.names[l.dialer], f.names[l.acceptor]
		out = append(out, Link{
			Topology: f.topology.Name, Dialer: dialer, Acceptor: acceptor, FailoverGroup: l.group,
			Granted: grantFor(a.members[l.dialer], acceptor) != nil, Split: l.split,
		})
	}
	return out
}

func (a *assembled) topologyFootprint() *Footprint {
	f := a.fabric
	fp := &Footprint{Generation: f.topology.Generation, Members: slices.Clone(f.names)}
	for i, name := range f.names {
		fp.Parts = append(fp.Parts, PartRef{name, federationv1.BrokerID})
		for code := range f.accounts {
			fp.Parts = append(fp.Parts, PartRef{name, f.accountIDs[code]})
		}
		for _, p := range f.peers[i] {
			fp.Parts = append(fp.Parts, PartRef{name, f.accountIDs[f.out(p.member)]}, PartRef{name, f.accountIDs[f.in(p.member)]})
			if a.linkSpec(int32(i), p) != nil {
				fp.Parts = append(fp.Parts, PartRef{name, federationv1.LinkID(f.names[p.member])})
			}
		}
	}
	sortParts(fp)
	return fp
}
