package topology

import (
	"slices"
	"strings"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// removals are the held parts that the plan has no more and nothing uses. Meant:
// they are permitted however many they are.
func (o order) removals(cluster string) (out []string, meant bool) {
	out = o.cutOff(cluster)
	meant = len(out) > 0
	if !o.frozen(cluster) {
		if blocked, permitted, _, _ := o.heldBack(cluster); !blocked {
			meant = meant || permitted
			out = append(out, o.unused(cluster)...)
		}
	}
	slices.Sort(out)
	return out, meant
}

// unused are those of the held parts that are not in the plan, and lead to no
// revoked member, that nothing uses.
func (o order) unused(cluster string) []string {
	var paths, out []string
	for id := range o.prog[cluster].All() {
		if o.plan.Members[cluster].Part(id) != nil || o.toRevoked(id) {
			continue
		}
		switch kind, _, _ := strings.Cut(id, "/"); kind {
		case "link", "account", federationv1.BrokerID:
			paths = append(paths, id)
		case "outlet":
			if !o.outletUsed(cluster, id) {
				out = append(out, id)
			}
		default:
			if !o.feedsStaged(cluster, id) {
				out = append(out, id)
			}
		}
	}
	if o.plan.InRollout[cluster] {
		return out
	}
	return append(out, o.unusedPaths(cluster, paths)...)
}

// outletUsed tells whether an outlet that is to go may still feed its
// destination.
func (o order) outletUsed(cluster, id string) bool {
	f := strings.Split(id, "/") // outlet, destination, account, stream, consumer
	if len(f) != 5 {
		return false
	}
	destination, account, stream := f[1], f[2], f[3]
	if o.plan.Staged[destination] != nil {
		return true
	}
	source := o.plan.Members[cluster].Part(federationv1.StreamID(account, stream))
	if source == nil || o.prog[cluster].Overdue[id] {
		return false
	}
	if source.Part.GetStream().GetRetention() == federationv1.StreamSpec_WORK_QUEUE && o.failedOutlet(cluster, account, stream) {
		return false
	}
	there, desired := o.prog[destination], o.plan.Members[destination]
	if desired == nil || there == nil || !there.Connected {
		return false
	}
	if !there.Known() {
		return true
	}
	prefix := federationv1.StreamID(account, "")
	for _, want := range desired.withPrefix(prefix) {
		part := o.sendable(destination, want)
		switch {
		case part == nil && there.Hash(want.Part.Id) != "":
			return true // it runs an older version, which may use it
		case part != nil && !there.Applied(part.Id, part.Hash):
			return true
		}
	}
	if o.keeps(destination) {
		return false
	}
	for held := range there.All() {
		if strings.HasPrefix(held, prefix) && desired.Part(held) == nil {
			return true
		}
	}
	return false
}

// failedOutlet tells whether a planned outlet of the stream failed.
func (o order) failedOutlet(cluster, account, stream string) bool {
	for id, failure := range o.prog[cluster].Unapplied {
		if failure.Code == "" || o.plan.Members[cluster].Part(id) == nil {
			continue
		}
		if f := strings.Split(id, "/"); len(f) == 5 && f[0] == "outlet" && f[2] == account && f[3] == stream {
			return true
		}
	}
	return false
}

// unusedPaths gives back the links, accounts and broker part that are to go, or
// less while messages may need them. They go together because the accounts of
// links import from each other and from applications' accounts.
func (o order) unusedPaths(cluster string, ids []string) []string {
	var peers []string
	for _, id := range ids {
		if peer := federationv1.IDPeer(id); peer != "" {
			peers = append(peers, peer)
		}
	}
	if len(peers) == 0 {
		return ids
	}
	// A link that is planned but lacks a key or grant is no leftover: it runs, as
	// far as it can, until they are known.
	waiting, ungranted := map[string]bool{}, o.plan.ungranted()
	for _, l := range ungranted[cluster] {
		if l.Dialer == cluster {
			waiting[federationv1.LinkID(l.Acceptor)] = true
		} else {
			waiting[federationv1.LinkID(l.Dialer)] = true
		}
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return waiting[id] })
	if o.pathsComing(cluster, ungranted[cluster]) {
		return nil
	}
	for _, peer := range peers {
		if waiting[federationv1.LinkID(peer)] {
			continue
		}
		if o.pathsComing(peer, ungranted[peer]) || cluster < peer && o.holdsOn(peer, federationv1.LinkID(cluster)) {
			return nil
		}
	}
	return ids
}

// pathsComing tells whether accounts or links of a connected member are still
// on their way, so that old paths to it have to stay; ungranted are the links of
// it that wait for a grant.
func (o order) pathsComing(cluster string, ungranted []Link) bool {
	desired, m := o.plan.Members[cluster], o.prog[cluster]
	if desired == nil || m == nil || !m.Connected {
		return false
	}
	for _, prefix := range []string{federationv1.AccountID(""), federationv1.LinkID("")} {
		for _, want := range desired.withPrefix(prefix) {
			ref := PartRef{cluster, want.Part.Id}
			if !m.Applied(ref.ID, want.Part.Hash) && o.coming(ref, maxDepth) {
				return true
			}
		}
	}
	for _, l := range ungranted {
		if l.Dialer != cluster {
			continue
		}
		acceptor := PartRef{l.Acceptor, federationv1.LinkID(cluster)}
		if other := o.prog[l.Acceptor]; other != nil && other.Connected && o.planned(acceptor) != nil &&
			(o.met(acceptor) || o.coming(acceptor, maxDepth)) {
			return true
		}
	}
	return false
}

// ungranted are the links that wait for a key or grant, by the members at both
// ends.
func (p *Plan) ungranted() map[string][]Link {
	out := map[string][]Link{}
	for i := range p.Links {
		if l := &p.Links[i]; !l.Granted {
			out[l.Dialer] = append(out[l.Dialer], *l)
			out[l.Acceptor] = append(out[l.Acceptor], *l)
		}
	}
	return out
}

// holdsOn tells whether a connected member still has a part that it is going to
// drop.
func (o order) holdsOn(cluster, id string) bool {
	desired, m := o.plan.Members[cluster], o.prog[cluster]
	if desired == nil || m == nil || !m.Connected || m.Refusal != "" || desired.Part(id) != nil {
		return false
	}
	if o.keeps(cluster) {
		return false
	}
	return !m.Known() || m.Hash(id) != ""
}

// withPrefix are the parts whose ids begin with prefix.
func (m *MemberState) withPrefix(prefix string) []*PlannedPart {
	from, _ := slices.BinarySearchFunc(m.Parts, prefix, func(p *PlannedPart, id string) int { return strings.Compare(p.Part.Id, id) })
	to := from
	for to < len(m.Parts) && strings.HasPrefix(m.Parts[to].Part.Id, prefix) {
		to++
	}
	return m.Parts[from:to]
}
