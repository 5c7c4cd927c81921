package topology

import (
	"cmp"
	"fmt"
	"slices"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// maxProblems is how many problems a member's status lists.
const maxProblems = 20

// member is the status of a member: of its session, of everything on it, and of
// the links and flows that end there. A link counts as this member sees it.
func (s *summary) member(m *v1alpha1.MemberCluster) Status {
	ref := ObjectRef{Kind: KindMember, Name: m.Name}
	prog := s.prog[m.Name]
	r := s.reachWhole(m.Name)
	session := s.session(m)
	accepted := s.memberAccepted(ref)
	st := Status{
		Generation: m.Generation,
		Conditions: []Condition{session, accepted},
		Member:     s.memberStatus(m, r),
		Unheard:    prog == nil,
	}
	st.Conditions = append(st.Conditions, s.revoked(m)...)
	st.Conditions = append(st.Conditions, s.storage(m)...)
	if accepted.Status != metav1.ConditionTrue {
		for _, typ := range []string{v1alpha1.ConditionProgrammed, v1alpha1.ConditionReady} {
			c := notAccepted(typ, 0)
			if accepted.Reason == v1alpha1.ReasonUnplaced {
				c.Reason = v1alpha1.ReasonUnplaced
			}
			st.Conditions = append(st.Conditions, c)
		}
		return st
	}

	away := finding{reason: session.Reason, text: session.Message, unknown: session.Reason == v1alpha1.ReasonDisconnected}
	failures, pendings := memberFailures(r, prog), s.memberPendings(m.Name, r)
	programmed := slices.Concat(failures, pendings)
	ready := []finding{away}
	switch {
	case r.connected:
		var links linkTally
		for _, g := range s.links.ofMember[m.Name] {
			links.add(g)
		}
		ready = slices.Concat(failures, links.downs(), s.flowsDown(m.Name, r), pendings, links.pendings())
	case !r.known:
		programmed = []finding{away}
	case len(pendings) > 0:
		away.unknown = false
		programmed = slices.Concat(failures, []finding{away}, pendings)
	}
	fine := s.fullness(m.Name) + fmt.Sprintf("%s, %s", count(len(s.links.ofMember[m.Name]), "link"), count(len(s.inflows[m.Name]), "incoming flow"))
	st.Conditions = append(st.Conditions,
		conclude(v1alpha1.ConditionProgrammed, v1alpha1.ReasonProgrammed, "everything is applied", programmed),
		conclude(v1alpha1.ConditionReady, v1alpha1.ReasonReady, fine, ready))
	return st
}

// session is the condition Connected.
func (s *summary) session(m *v1alpha1.MemberCluster) Condition {
	c := Condition{Type: v1alpha1.ConditionConnected, Status: metav1.ConditionFalse}
	switch prog := s.prog[m.Name]; {
	case prog != nil && prog.Connected:
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonConnected
	case prog != nil && prog.Outdated != "":
		c.Reason, c.Message = v1alpha1.ReasonHubOutdated, prog.Outdated
	case prog != nil || m.Status.Agent != nil:
		c.Reason, c.Message = v1alpha1.ReasonDisconnected, "its agent is not connected to the hub"
	default:
		c.Reason, c.Message = v1alpha1.ReasonNeverConnected, "its agent has not connected to the hub yet"
	}
	return c
}

func (s *summary) memberAccepted(ref ObjectRef) Condition {
	c, ok := s.accepted(ref)
	if !ok {
		return c
	}
	topology, placed := s.topologies[ref.Name]
	why, frozen := s.plan.Frozen[ref.Name]
	switch {
	case placed && c.Message == "":
		c.Message = "member of topology " + topology
	case placed:
	case s.plan.Standing[ref.Name].Revoked:
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonRevoked
		c.Message = "its key is revoked: to let it in again, start its agent with an empty data folder and a new join token for this very name"
	case s.plan.Standing[ref.Name].Departing:
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, v1alpha1.ReasonDeparting, "it leaves the federation"
	case frozen:
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, v1alpha1.ReasonNotAccepted, why
	default:
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonUnplaced
		c.Message = "no group of a topology names it or selects its labels"
	}
	return c
}

// revoked is the condition Revoked, of a member that is or was.
func (s *summary) revoked(m *v1alpha1.MemberCluster) []Condition {
	c := Condition{Type: v1alpha1.ConditionRevoked, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonAccepted}
	switch {
	case s.plan.Standing[m.Name].Revoked:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonRevoked, "the hub refuses it, and all members drop their links to it"
	case apimeta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionRevoked) == nil:
		return nil
	}
	return []Condition{c}
}

// storage is the condition StorageNearlyFull, of a member whose broker is or was.
func (s *summary) storage(m *v1alpha1.MemberCluster) []Condition {
	c := Condition{Type: v1alpha1.ConditionStorageNearlyFull, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonStorageSuffices}
	prog := s.prog[m.Name]
	w, full := storageWarning(prog)
	switch {
	case full:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonStorageNearlyFull, w.Message
	case prog != nil && prog.Warnings != nil:
		c.IfThere = true
	default: // it has not said otherwise
		old := apimeta.FindStatusCondition(m.Status.Conditions, c.Type)
		if old == nil {
			return nil
		}
		c.Status, c.Reason, c.Message = old.Status, old.Reason, old.Message
	}
	return []Condition{c}
}

func storageWarning(m *MemberProgress) (PartFailure, bool) {
	if m == nil {
		return PartFailure{}, false
	}
	w := m.Warnings[federationv1.BrokerID]
	return w, w.Code == v1alpha1.ReasonStorageNearlyFull
}

// fullness begins the message of a member that is ready, but not for long.
func (s *summary) fullness(name string) string {
	if _, full := storageWarning(s.prog[name]); full {
		return "its storage is nearly full; "
	}
	return ""
}

func memberFailures(r reach, m *MemberProgress) []finding {
	if r.done() || len(r.failures) == 0 && r.refusal == "" {
		return nil
	}
	return []finding{{reason: v1alpha1.ReasonApplyFailed, text: "failed: " + r.failure(m)}}
}

// memberPendings is what the member has still to apply, to drop, or to be
// granted.
func (s *summary) memberPendings(name string, r reach) []finding {
	var out []finding
	coming := slices.DeleteFunc(slices.Clone(r.missing), func(id string) bool { return slices.Contains(r.failures, id) })
	going := s.leftovers(name)
	if s.plan.Standing[name].Suspended && len(coming)+len(going) > 0 {
		return append(out, finding{reason: v1alpha1.ReasonSuspended, text: fmt.Sprintf("suspended: %s to come and %d to go are not sent", count(len(coming), "part"), len(going))})
	}
	if s.plan.Staged[name] != nil && len(coming)+len(going) > 0 {
		return append(out, finding{reason: v1alpha1.ReasonAwaitingWave, text: fmt.Sprintf("%s: %s to come and %d to go", s.plan.Awaits[name], count(len(coming), "part"), len(going))})
	}
	if blocked, _, gone, held := (order{plan: s.plan, prog: s.prog}).heldBack(name); blocked {
		out = append(out, finding{reason: v1alpha1.ReasonRemovalHeld, text: fmt.Sprintf(
			"%d of %d parts would be removed, which is held back: if it is meant, say so with \"sealane allow-removal %s\"", gone, held, name)})
		going = nil
	}
	if len(coming) > 0 {
		text := "not applied yet: " + firstNames(coming)
		if why, frozen := s.plan.Frozen[name]; frozen {
			text += " (nothing is taken away while " + why + ")"
		}
		out = append(out, finding{reason: v1alpha1.ReasonPending, text: text})
	}
	if len(going) > 0 {
		out = append(out, finding{reason: v1alpha1.ReasonPending, text: "not removed yet: " + firstNames(going)})
	}
	var ungranted linkTally
	for _, g := range s.links.ofMember[name] {
		for _, l := range g.links {
			if l.Dialer == name && !l.Granted {
				ungranted.notGranted = append(ungranted.notGranted, linkName(l.Dialer, l.Acceptor))
			}
		}
	}
	return append(out, ungranted.ungranted()...)
}

// leftovers are the held parts that the plan has no more, sorted.
func (s *summary) leftovers(name string) []string {
	m, desired := s.prog[name], s.plan.Members[name]
	if _, frozen := s.plan.Frozen[name]; frozen || m == nil || desired == nil {
		return nil
	}
	var out []string
	m.Superfluous(desired, func(id string) { out = append(out, id) })
	slices.Sort(out)
	return out
}

// flowsDown is about flows that arrive at the member, once it has applied them.
func (s *summary) flowsDown(name string, r reach) []finding {
	if !r.done() {
		return nil
	}
	var down []string
	for _, f := range s.inflows[name] {
		if rep, ok := s.flowReport(f.Flow, f.bridge); !f.paused && (!ok || rep.State != string(v1alpha1.LinkUp)) {
			down = append(down, f.bridge+" from "+f.Origin)
		}
	}
	if len(down) == 0 {
		return nil
	}
	return []finding{{reason: v1alpha1.ReasonFlowsDown, text: "flows not up: " + firstNames(down)}}
}

func (s *summary) memberStatus(m *v1alpha1.MemberCluster, r reach) *MemberStatus {
	prog := s.prog[m.Name]
	ms := &MemberStatus{Parts: fmt.Sprintf("%d/%d", r.applied, r.total)}
	if desired := s.plan.Members[m.Name]; desired != nil {
		ms.DesiredHash = desired.Hash
	}
	if prog == nil {
		return ms
	}
	if r.known {
		ms.HeldHash = s.heldHash(m.Name)
	}
	for _, id := range sortedKeys(prog.Unapplied) {
		if f := prog.Unapplied[id]; f.Code != "" && len(ms.Problems) < maxProblems {
			ms.Problems = append(ms.Problems, v1alpha1.PartProblem{Part: id, Code: f.Code, Message: f.Message})
		}
	}
	if prog.Connected {
		ms.Links, ms.Flows = s.linkStatuses(m.Name, prog), s.flowStatuses(m.Name)
	}
	return ms
}

// heldHash avoids to compute the hash of what is held where it is the desired
// state.
func (s *summary) heldHash(name string) string {
	m, desired := s.prog[name], s.plan.Members[name]
	if m.Planned != nil {
		return m.Planned.Hash
	}
	if desired == nil || len(m.Held) != len(desired.Parts) {
		return federationv1.StateHash(m.Held)
	}
	for _, p := range desired.Parts {
		if m.Held[p.Part.Id] != p.Part.Hash {
			return federationv1.StateHash(m.Held)
		}
	}
	return desired.Hash
}

func (s *summary) linkStatuses(name string, m *MemberProgress) []v1alpha1.LinkStatus {
	var out []v1alpha1.LinkStatus
	seen := map[string]bool{}
	for _, g := range s.links.ofMember[name] {
		for _, l := range g.links {
			peer, role := l.Acceptor, "Dial"
			if l.Acceptor == name {
				peer, role = l.Dialer, "Accept"
			} else if l.Dialer != name {
				continue
			}
			if seen[peer] {
				continue
			}
			seen[peer] = true
			r := m.Links[peer]
			st := v1alpha1.LinkStatus{Peer: peer, Role: role, State: state(r.State), Since: since(r.SinceMillis), RTTMicros: max(r.RTTMicros, 0), Message: r.Message}
			if !l.Granted && st.State == v1alpha1.LinkPending && role == "Dial" {
				st.Message = "waits for the grant of " + peer
			}
			if other := s.prog[peer]; role == "Accept" && st.State != v1alpha1.LinkUp && other != nil && other.Connected && other.Links[name].State == string(v1alpha1.LinkStandby) {
				// Only the dialer knows that it does not use the link for now.
				st.State, st.Since, st.Message = v1alpha1.LinkStandby, since(other.Links[name].SinceMillis), ""
			}
			out = append(out, st)
		}
	}
	slices.SortFunc(out, func(a, b v1alpha1.LinkStatus) int { return cmp.Compare(a.Peer, b.Peer) })
	return out
}

func (s *summary) flowStatuses(name string) []v1alpha1.FlowStatus {
	var out []v1alpha1.FlowStatus
	for _, f := range s.inflows[name] {
		r, _ := s.flowReport(f.Flow, f.bridge)
		out = append(out, v1alpha1.FlowStatus{
			Bridge: f.bridge, From: f.Origin, Account: f.Account, Stream: f.Stream,
			State: state(r.State), Since: since(r.SinceMillis), Lag: max(r.Lag, 0), Message: r.Message,
		})
	}
	return out
}

// state is a reported state; one that this hub does not know is Pending.
func state(s string) v1alpha1.LinkState {
	switch st := v1alpha1.LinkState(s); st {
	case v1alpha1.LinkUp, v1alpha1.LinkDown, v1alpha1.LinkStandby:
		return st
	}
	return v1alpha1.LinkPending
}

// since leaves out times that no clock shows: RFC 3339 has no year 10000.
func since(millis int64) metav1.Time {
	if millis <= 0 || millis > 253_402_300_799_000 {
		return metav1.Time{}
	}
	return metav1.Unix(millis/1000, millis%1000*1_000_000)
}
