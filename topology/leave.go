package topology

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// partPeer is the member to which a part leads: the peer of a link or of one of
// its accounts, the destination of an outlet, else "".
func partPeer(id string) string {
	if peer := federationv1.IDPeer(id); peer != "" {
		return peer
	}
	if account, ok := strings.CutPrefix(id, federationv1.AccountID("")); ok {
		return accountPeer(account)
	}
	return ""
}

// accountPeer is the peer whose link an account belongs to; "": it is an
// application's.
func accountPeer(account string) string {
	for _, prefix := range []string{federationv1.OutAccount(""), federationv1.InAccount("")} {
		if peer, ok := strings.CutPrefix(account, prefix); ok {
			return peer
		}
	}
	return ""
}

// alone is what is left of a state when its member goes: its broker, its
// applications' accounts, and its streams with what is in them, without any way
// to or from others.
func alone(m *MemberState) *MemberState {
	out := &MemberState{Cluster: m.Cluster}
	held := map[string]string{}
	for _, planned := range m.Parts {
		part := planned.Part
		if partPeer(part.Id) != "" {
			continue
		}
		part = proto.CloneOf(part)
		if a := part.GetAccount(); a != nil {
			a.Imports = slices.DeleteFunc(a.Imports, func(i *federationv1.Import) bool { return accountPeer(i.Account) != "" })
		}
		if s := part.GetStream(); s != nil {
			s.Sources = slices.DeleteFunc(s.Sources, func(x *federationv1.Source) bool { return x.Origin != "" })
		}
		federationv1.Seal(part)
		held[part.Id] = part.Hash
		out.Parts = append(out.Parts, &PlannedPart{Part: part})
	}
	out.Hash = federationv1.StateHash(held)
	return out
}

// Carries tells whether durable bridges take anything from a member.
func (p *Plan) Carries(name string) bool {
	for _, fp := range p.Objects {
		if slices.ContainsFunc(fp.Flows, func(f Flow) bool { return f.Origin == name }) {
			return true
		}
	}
	return false
}

// Undrained says what a member that is to leave has still to deliver: its durable
// flows whose destination has not reported that all of it arrived, sorted. It is
// an observation of this moment: as long as applications publish there, more may
// come.
func Undrained(p *Plan, m *v1alpha1.MemberCluster, prog Progress) []string {
	if !everConnected(m) {
		return nil // there was never anything
	}
	var out []string
	for ref, fp := range p.Objects {
		if ref.Kind != KindBridge {
			continue
		}
		for _, f := range fp.Flows {
			if f.Origin != m.Name {
				continue
			}
			if why := undrained(prog[f.Destination], f, ref, fp.Paused); why != "" {
				out = append(out, fmt.Sprintf("bridge %s to %s %s", ref.path(), f.Destination, why))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func undrained(to *MemberProgress, f Flow, bridge ObjectRef, paused bool) string {
	if paused {
		return "is paused"
	}
	if to == nil || !to.Connected {
		return "is not observed: " + f.Destination + " is not connected"
	}
	report, ok := to.Flows[FlowKey{Origin: f.Origin, Account: f.Account, Stream: f.Stream, Bridge: bridge.Namespace + "/" + bridge.Name}]
	switch {
	case !ok || report.State == string(v1alpha1.LinkPending):
		return "is not observed yet"
	case report.State != string(v1alpha1.LinkUp):
		return "does not move"
	case report.Lag > 0:
		return fmt.Sprintf("has %s to deliver", count(int(report.Lag), "message"))
	}
	return ""
}

// Departed tells whether a departing member needs not be waited for: it has
// applied what is left to it, or is not there to do so.
func Departed(p *Plan, name string, prog Progress) bool {
	m, desired := prog[name], p.Members[name]
	if m == nil || !m.Connected || desired == nil || m.Refusal != "" {
		return true
	}
	if _, frozen := p.Frozen[name]; frozen || p.Standing[name].Suspended {
		return true
	}
	if m.Count() != len(desired.Parts) {
		return false
	}
	for _, want := range desired.Parts {
		if m.Hash(want.Part.Id) != want.Part.Hash || m.Unapplied[want.Part.Id].Code == "" && !m.Applied(want.Part.Id, want.Part.Hash) {
			return false
		}
	}
	return true
}
