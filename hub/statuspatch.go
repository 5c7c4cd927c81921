package hub

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

// patch is what differs in one status: a JSON merge patch of it, in which null
// stands for a field that is to go.
type patch struct {
	// fields are to be written now.
	fields map[string]any
	// metrics differ notably and may be written some time later; fresh differ at
	// all, and are written when something else is.
	metrics, fresh map[string]any
}

func newPatch() *patch {
	return &patch{fields: map[string]any{}, metrics: map[string]any{}, fresh: map[string]any{}}
}

// set writes a field if it differs.
func set[T comparable](p *patch, name string, have, want T) {
	if have != want {
		p.fields[name] = orNull(want)
	}
}

// setList writes a list if it differs, as a whole.
func setList[T any](p *patch, name string, have, want []T, same func(a, b T) bool) (written bool) {
	if slices.EqualFunc(have, want, same) {
		return false
	}
	p.fields[name] = listOrNull(want)
	return true
}

func orNull[T comparable](v T) any {
	var zero T
	if v == zero {
		return nil
	}
	return v
}

func listOrNull[T any](l []T) any {
	if len(l) == 0 {
		return nil
	}
	return l
}

// metric writes a number when it changed notably; see notable.
func (p *patch) metric(name string, have, want, slack int64) {
	if have == want {
		return
	}
	p.fresh[name] = orNull(want)
	if notable(have, want, slack) {
		p.metrics[name] = orNull(want)
	}
}

// notable tells whether a number changed by more than a quarter and the slack,
// or from or to zero.
func notable(have, want, slack int64) bool {
	if have == want {
		return false
	}
	diff := max(want-have, have-want)
	return have == 0 || want == 0 || diff > slack && diff > have/4
}

// maxShown bounds what is shown of a message; parts of it are members' words.
const maxShown = 1024

func clip(s string) string {
	if len(s) <= maxShown {
		return s
	}
	return strings.ToValidUTF8(s[:maxShown-3], "") + "..."
}

// conditions writes all of them if one differs. Only a change of a condition's
// status moves its time.
func (p *patch) conditions(have []metav1.Condition, st topology.Status, now time.Time) {
	merged, changed := slices.Clone(have), false
	for _, c := range st.Conditions {
		if c.IfThere && meta.FindStatusCondition(have, c.Type) == nil {
			continue
		}
		changed = meta.SetStatusCondition(&merged, metav1.Condition{
			Type: c.Type, Status: c.Status, Reason: c.Reason, Message: clip(c.Message),
			ObservedGeneration: st.Generation, LastTransitionTime: metav1.NewTime(now),
		}) || changed
	}
	if changed {
		p.fields["conditions"] = merged
	}
}

func (p *patch) observed(have, want int64) { set(p, "observedGeneration", have, want) }

// slackRTT is by how many microseconds a round trip must change to matter.
const slackRTT = 500

// member writes what only members have, but for facts.
func (p *patch) member(have *v1alpha1.MemberClusterStatus, want *topology.MemberStatus, now time.Time) {
	set(p, "desiredHash", have.DesiredHash, want.DesiredHash)
	if want.HeldHash != "" {
		set(p, "heldHash", have.HeldHash, want.HeldHash)
	}
	set(p, "parts", have.Parts, want.Parts)
	problems := slices.Clone(want.Problems)
	for i := range problems {
		problems[i].Message = clip(problems[i].Message)
	}
	setList(p, "problems", have.Problems, problems, func(a, b v1alpha1.PartProblem) bool { return a == b })

	links := slices.Clone(want.Links)
	for i := range links {
		l := &links[i]
		l.Message = clip(l.Message)
		old := find(have.Links, func(o v1alpha1.LinkStatus) bool { return o.Peer == l.Peer && o.State == l.State })
		l.Since = since(l.Since, old.Since, now)
	}
	if !setList(p, "links", have.Links, links, sameLink) {
		differ, much := false, false
		for i, l := range links {
			differ = differ || l.RTTMicros != have.Links[i].RTTMicros
			much = much || notable(have.Links[i].RTTMicros, l.RTTMicros, slackRTT)
		}
		p.refresh("links", links, differ, much)
	}

	flows := slices.Clone(want.Flows)
	for i := range flows {
		f := &flows[i]
		f.Message = clip(f.Message)
		old := find(have.Flows, func(o v1alpha1.FlowStatus) bool {
			return o.Bridge == f.Bridge && o.From == f.From && o.Account == f.Account && o.Stream == f.Stream && o.State == f.State
		})
		f.Since = since(f.Since, old.Since, now)
	}
	if !setList(p, "flows", have.Flows, flows, sameFlow) {
		differ, much := false, false
		for i, f := range flows {
			differ = differ || f.Lag != have.Flows[i].Lag
			much = much || notable(have.Flows[i].Lag, f.Lag, 0)
		}
		p.refresh("flows", flows, differ, much)
	}
}

// refresh notes that numbers in a field differ.
func (p *patch) refresh(name string, value any, differ, much bool) {
	if differ {
		p.fresh[name] = value
	}
	if much {
		p.metrics[name] = value
	}
}

func find[T any](list []T, is func(T) bool) (found T) {
	if i := slices.IndexFunc(list, is); i >= 0 {
		return list[i]
	}
	return found
}

// since is when a state was entered: as reported, else since the hub has known
// of it.
func since(reported, known metav1.Time, now time.Time) metav1.Time {
	switch {
	case !reported.IsZero():
		return reported
	case !known.IsZero():
		return known
	}
	return metav1.NewTime(now)
}

// sameLink compares what is stored: times have seconds there, and round trips
// are treated apart.
func sameLink(a, b v1alpha1.LinkStatus) bool {
	return a.Peer == b.Peer && a.Role == b.Role && a.State == b.State && a.Message == b.Message && a.Since.Unix() == b.Since.Unix()
}

func sameFlow(a, b v1alpha1.FlowStatus) bool {
	return a.Bridge == b.Bridge && a.From == b.From && a.Account == b.Account && a.Stream == b.Stream &&
		a.State == b.State && a.Message == b.Message && a.Since.Unix() == b.Since.Unix()
}

// facts are what members said of themselves and of each other, as it goes into
// their statuses for plans to depend on.
type facts struct {
	members map[string]MemberFacts
	// grants by dialer, then by acceptor.
	grants map[string]map[string]*federationv1.Grant
	exist  map[string]bool
}

func newFacts(members []*v1alpha1.MemberCluster, seen Observation) *facts {
	f := &facts{members: seen.Members, grants: map[string]map[string]*federationv1.Grant{}, exist: make(map[string]bool, len(members))}
	for _, m := range members {
		f.exist[m.Name] = !topology.StandingOf(m).Revoked // what it granted is void
	}
	for acceptor, issued := range seen.Grants {
		for dialer, g := range issued {
			if f.grants[dialer] == nil {
				f.grants[dialer] = map[string]*federationv1.Grant{}
			}
			f.grants[dialer][acceptor] = g
		}
	}
	return f
}

// patch is what differs of the facts in a member's status.
func (f *facts) patch(m *v1alpha1.MemberCluster) *patch {
	p, have, said := newPatch(), m.Status, f.members[m.Name]
	if said.Agent != nil {
		f.agent(p, have.Agent, said)
	}
	key := have.LinkKey
	if said.Facts != nil {
		if said.Facts.LinkKey != "" {
			key = said.Facts.LinkKey
		}
		set(p, "linkKey", have.LinkKey, key)
		setList(p, "endpoints", have.Endpoints, distinct(said.Facts.Endpoints), func(a, b string) bool { return a == b })
	}
	setList(p, "grants", have.Grants, f.grantsOf(m, key), func(a, b v1alpha1.Grant) bool { return a == b })
	return p
}

func (f *facts) agent(p *patch, have *v1alpha1.AgentInfo, said MemberFacts) {
	want := v1alpha1.AgentInfo{
		Version: said.Agent.Version, BrokerVersion: said.Agent.BrokerVersion, Runtime: said.Agent.Runtime,
		Storage: max(said.Facts.GetStorage(), 0), Memory: max(said.Facts.GetMemory(), 0),
		StorageCapacity: max(said.Facts.GetStorageCapacity(), 0),
		Replicas:        max(said.Facts.GetReplicas(), 0), MaxReplicas: max(said.Facts.GetMaxReplicas(), 0),
		LinkRoles: said.Facts.GetLinkRoles(), LinkGroups: said.Facts.GetLinkGroups(),
		WantedReplicas: max(said.Facts.GetWantedReplicas(), 0), ReplicasReason: clip(said.Facts.GetReplicasReason()),
	}
	value := map[string]any{
		"version": want.Version, "brokerVersion": want.BrokerVersion, "runtime": want.Runtime,
		"storage": orNull(want.Storage), "memory": orNull(want.Memory), "storageCapacity": orNull(want.StorageCapacity),
		"replicas": orNull(int64(want.Replicas)), "maxReplicas": orNull(int64(want.MaxReplicas)),
		"wantedReplicas": orNull(int64(want.WantedReplicas)), "replicasReason": orNull(want.ReplicasReason),
		"linkRoles": orNull(want.LinkRoles), "linkGroups": orNull(want.LinkGroups),
	}
	if have == nil || have.Version != want.Version || have.BrokerVersion != want.BrokerVersion || have.Runtime != want.Runtime {
		p.fields["agent"] = value
		return
	}
	p.refresh("agent", value, !equality.Semantic.DeepEqual(*have, want),
		notable(have.Storage, want.Storage, 0) || notable(have.Memory, want.Memory, 0) || have.StorageCapacity != want.StorageCapacity ||
			have.Replicas != want.Replicas || have.MaxReplicas != want.MaxReplicas || have.LinkRoles != want.LinkRoles || have.LinkGroups != want.LinkGroups ||
			have.WantedReplicas != want.WantedReplicas || have.ReplicasReason != want.ReplicasReason)
}

// grantsOf are the grants that the member has for its present key, of members
// that exist: those in its status, and over them those that were just issued.
func (f *facts) grantsOf(m *v1alpha1.MemberCluster, key string) []v1alpha1.Grant {
	byPeer := map[string]v1alpha1.Grant{}
	for _, g := range m.Status.Grants {
		if g.Key == key && f.exist[g.Peer] {
			byPeer[g.Peer] = g
		}
	}
	for peer, g := range f.grants[m.Name] {
		if g.Key == key && key != "" && f.exist[peer] && g.Out != "" && g.In != "" {
			byPeer[peer] = v1alpha1.Grant{Peer: peer, Key: g.Key, Out: g.Out, In: g.In}
		}
	}
	return slices.SortedFunc(maps.Values(byPeer), func(a, b v1alpha1.Grant) int { return cmp.Compare(a.Peer, b.Peer) })
}

// distinct leaves out what was there before, keeping the order.
func distinct(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
