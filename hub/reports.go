package hub

import (
	"cmp"
	"maps"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/topology"
)

// handle takes a message of a session's agent. An error ends the session.
func (f *Fleet) handle(s *session, msg *federationv1.AgentMessage) error {
	switch b := msg.GetBody().(type) {
	case *federationv1.AgentMessage_Heartbeat:
		if err := validHeld(b.Heartbeat.GetHeldHash()); err != nil {
			return err
		}
		return f.receive(s, func(m *member) error { return f.holds(s, m, b.Heartbeat.HeldHash) })
	case *federationv1.AgentMessage_Report:
		if err := validReport(b.Report); err != nil {
			return err
		}
		return f.receive(s, func(m *member) error { return f.report(s, m, b.Report) })
	case *federationv1.AgentMessage_Inventory:
		held, err := validInventory(b.Inventory)
		if err != nil {
			return err
		}
		return f.receive(s, func(m *member) error { f.inventory(s, m, b.Inventory.HeldHash, held); return nil })
	case *federationv1.AgentMessage_Hello:
		return invalid("a second Hello in one session")
	}
	return nil // of a newer protocol
}

func (f *Fleet) receive(s *session, take func(*member) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.members[s.cluster]
	if m == nil || m.session != s {
		return nil // the session has ended; what it says does not count any more
	}
	s.last = f.now()
	m.facts.LastSeen = s.last
	err := take(m)
	// Also what cannot be unlocked by others is looked at again, so that no
	// forgotten wake holds a member back for longer than a heartbeat.
	f.wake(s.cluster)
	return err
}

// holds compares what the agent says it holds with the hub's picture, which
// moves on if this completes the update in flight.
func (f *Fleet) holds(s *session, m *member, hash string) error {
	switch {
	case m.heldHash == "" || hash == m.heldHash: // an inventory is under way, or nothing new
		return nil
	case s.inflight == nil || hash != s.inflight.TargetHash:
		return refused(reasonHeld, codes.Aborted, "the agent holds %s, the hub knows of %s: start a new session", hash, m.heldHash)
	}
	u := s.inflight
	s.inflight = nil
	m.heldHash = u.TargetHash
	f.update(s.cluster, func(n *topology.MemberProgress) {
		planned := f.desiredAs(s.cluster, u.TargetHash)
		if n.Held = nil; planned == nil {
			n.Held = apply(f.progress[s.cluster], u.Upserts, u.Removals)
		}
		n.Planned = planned
		n.Unapplied = cloneMap(n.Unapplied)
		for _, p := range u.Upserts {
			n.Unapplied[p.Id] = topology.PartFailure{} // until the agent says that it is applied
		}
		for _, id := range u.Removals {
			delete(n.Unapplied, id)
		}
		n.Refusal = ""
	})
	f.prune(s.cluster)
	f.heldChanged(s.cluster)
	return nil
}

// inventory restarts from what the agent holds, whatever was known or in flight.
func (f *Fleet) inventory(s *session, m *member, hash string, held map[string]string) {
	first := m.heldHash == ""
	early := s.early
	s.inflight, s.early = nil, nil
	m.heldHash = hash
	f.update(s.cluster, func(n *topology.MemberProgress) {
		before, unapplied := f.progress[s.cluster], n.Unapplied
		n.Planned, n.Unapplied = f.desiredAs(s.cluster, hash), map[string]topology.PartFailure{}
		if n.Held = held; n.Planned != nil {
			n.Held = nil
		}
		warnings, told := cloneMap(n.Warnings), n.Warnings != nil
		for id, hash := range held {
			if st := early[id]; st != nil && st.Hash == hash {
				if st.State == federationv1.PartStatus_APPLIED {
					warn(warnings, st)
					told = true
				} else {
					n.Unapplied[id] = failureOf(st)
				}
			} else if why, un := unapplied[id]; before.Hash(id) == hash && un {
				n.Unapplied[id] = why
			} else if before.Hash(id) != hash && !first {
				n.Unapplied[id] = topology.PartFailure{} // nothing was said of it yet
			}
		}
		if told {
			n.Warnings = warnings
		}
	})
	f.prune(s.cluster)
	f.heldChanged(s.cluster)
	f.wakeFar(s.cluster)
}

// remember keeps a status for an inventory to come.
func (s *session) remember(st *federationv1.PartStatus, limit int) {
	if s.early == nil {
		s.early = map[string]*federationv1.PartStatus{}
	}
	if _, has := s.early[st.Id]; has || len(s.early) < limit {
		s.early[st.Id] = st
	}
}

// join puts a report together that came in several messages; nil while more is to
// come.
func (s *session) join(r *federationv1.Report, now time.Time, room int) (*federationv1.Report, error) {
	if s.partial == nil && !r.More {
		return r, nil
	}
	if s.partial == nil {
		s.partial, s.partialSince = &federationv1.Report{}, now
	}
	p := s.partial
	s.partialSize += proto.Size(r)
	p.HeldHash, p.Refusal, p.RefusalCode = r.HeldHash, cmp.Or(r.Refusal, p.Refusal), cmp.Or(r.RefusalCode, p.RefusalCode)
	if r.Facts != nil {
		p.Facts = r.Facts
	}
	p.Parts, p.Grants = append(p.Parts, r.Parts...), append(p.Grants, r.Grants...)
	p.Links, p.Flows = append(p.Links, r.Links...), append(p.Flows, r.Flows...)
	switch {
	case s.partialSize > maxReport:
		return nil, refused(reasonSize, codes.InvalidArgument, "report: more than %d bytes", maxReport)
	case r.More && s.partialSize > room:
		return nil, refused(reasonSize, codes.ResourceExhausted, "many members report very much at once: try again later")
	case len(p.Parts) > maxParts:
		return nil, invalid("%d part statuses: at most %d", len(p.Parts), maxParts)
	case max(len(p.Grants), len(p.Links), len(p.Flows)) > maxEntries:
		return nil, invalid("report: more than %d entries of a kind", maxEntries)
	case r.More:
		return nil, nil
	}
	s.partial, s.partialSize = nil, 0
	return p, nil
}

// room is how many bytes of a report that goes on a session may keep: all
// unfinished ones together are bounded.
func (f *Fleet) room(s *session, r *federationv1.Report) int {
	if !r.More {
		return 0
	}
	room := maxUnfinished
	for _, m := range f.members {
		if m.session != nil && m.session != s {
			room -= m.session.partialSize
		}
	}
	return room
}

// report takes a Report: first what is held, because the rest speaks of that.
func (f *Fleet) report(s *session, m *member, r *federationv1.Report) error {
	r, err := s.join(r, f.now(), f.room(s, r))
	if err != nil || r == nil {
		return err
	}
	if err := f.holds(s, m, r.HeldHash); err != nil {
		return err
	}
	if r.Refusal != "" && s.inflight != nil {
		f.refuse(s, r.RefusalCode, r.Refusal)
	}
	if err := cmp.Or(f.restless(s.cluster, m.facts.Facts, r.Facts), f.regrant(s.cluster, m.grants, r.Grants)); err != nil {
		return err
	}
	if r.Facts != nil {
		m.facts.Facts = r.Facts
		f.changed()
	}
	f.statuses(s, r.Parts)
	first := !s.reported
	s.reported = true
	f.grants(s, m, r.Grants, first)
	if len(r.Links) > 0 || len(r.Flows) > 0 || first {
		f.health(s, r, first)
	}
	return nil
}

func (f *Fleet) refuse(s *session, code, why string) {
	s.inflight = nil
	f.metrics.updateRefused(code)
	f.log.Warn("member refused an update", "member", s.cluster, "reason", why)
	s.refused = s.toward
	if f.desiredAs(s.cluster, s.refused) == nil {
		return // the plan is another by now: that is sent
	}
	f.update(s.cluster, func(n *topology.MemberProgress) { n.Refusal = why })
	f.wakeFar(s.cluster)
}

// statuses takes what the agent says of single parts: only of those it holds.
func (f *Fleet) statuses(s *session, parts []*federationv1.PartStatus) {
	if len(parts) == 0 {
		return
	}
	pr := f.progress[s.cluster]
	limit := maxEarly
	if !pr.Known() {
		limit = maxParts
	}
	unapplied, warnings, failed := cloneMap(pr.Unapplied), cloneMap(pr.Warnings), false
	for _, st := range brief(parts, len(unapplied)+len(warnings)+len(s.early)) {
		switch {
		case pr.Hash(st.Id) != st.Hash:
			s.remember(st, limit)
		case st.State == federationv1.PartStatus_APPLIED:
			delete(unapplied, st.Id)
			warn(warnings, st)
		case st.State == federationv1.PartStatus_PENDING && unapplied[st.Id].Code == codeStalled:
			// Nobody waits for it a second time.
		default:
			unapplied[st.Id] = failureOf(st)
			failed = failed || unapplied[st.Id].Code != ""
		}
	}
	if maps.Equal(unapplied, pr.Unapplied) && pr.Warnings != nil && maps.Equal(warnings, pr.Warnings) {
		return
	}
	f.update(s.cluster, func(n *topology.MemberProgress) { n.Unapplied, n.Warnings = emptied(unapplied), emptied(warnings) })
	if failed {
		f.wakeFar(s.cluster)
	} else {
		f.wakeWaiters(s.cluster)
	}
}

// warn notes what is said of a part that is applied. What was said of one that is not
// any more stays until it is: it says nothing else meanwhile.
func warn(warnings map[string]topology.PartFailure, st *federationv1.PartStatus) {
	if st.Code == "" {
		delete(warnings, st.Id)
		return
	}
	warnings[st.Id] = topology.PartFailure{Code: st.Code, Message: st.Message}
}

func failureOf(st *federationv1.PartStatus) topology.PartFailure {
	why := topology.PartFailure{Code: st.Code, Message: st.Message}
	switch {
	case st.State == federationv1.PartStatus_PENDING:
		why.Code = "" // still being applied
	case why.Code == "":
		why.Code = "Failed"
	}
	return why
}

// grants stores the credentials that the member issued. Which of them count is
// decided when they are observed: see wantedGrants.
func (f *Fleet) grants(s *session, m *member, grants []*federationv1.Grant, complete bool) {
	if len(grants) == 0 && (!complete || len(m.grants) == 0) {
		return
	}
	if complete || m.grants == nil {
		m.grants = make(map[string]*federationv1.Grant, len(grants))
	}
	for _, g := range grants {
		// Members only, and so bounded: one that is not planned cannot be dialling.
		if f.desired(g.Peer) != nil && g.Peer != s.cluster {
			m.grants[g.Peer] = g
		} else {
			f.metrics.refused.WithLabelValues(reasonClaim).Inc()
		}
	}
	f.changed()
}

// health takes the state of links and flows: only of those that the member has
// or shall have. The first report of a session says all of it.
func (f *Fleet) health(s *session, r *federationv1.Report, complete bool) {
	desired, pr := f.desired(s.cluster), f.progress[s.cluster]
	links, flows := cloneMap(pr.Links), cloneMap(pr.Flows)
	if complete {
		clear(links)
		clear(flows)
	}
	for _, l := range r.Links {
		switch {
		case l.Removed:
			delete(links, l.Peer)
		case hasLink(desired, pr, l.Peer):
			links[l.Peer] = topology.LinkReport{State: healthName(l.State), SinceMillis: l.Since, RTTMicros: l.RttMicros, Message: l.Message}
		default:
			f.metrics.refused.WithLabelValues(reasonClaim).Inc()
		}
	}
	for _, w := range r.Flows {
		key := topology.FlowKey{Origin: w.Origin, Account: w.Account, Stream: w.Stream, Bridge: w.Bridge}
		switch {
		case w.Removed:
			delete(flows, key)
		case hasFlow(desired, key):
			flows[key] = topology.FlowReport{State: healthName(w.State), SinceMillis: w.Since, Lag: w.Lag, Message: w.Message}
		default:
			f.metrics.refused.WithLabelValues(reasonClaim).Inc()
		}
	}
	f.update(s.cluster, func(n *topology.MemberProgress) { n.Links, n.Flows = links, flows })
	if complete {
		f.wakeWaiters(s.cluster) // which flows run is known from now on
	}
}

func hasLink(desired *topology.MemberState, pr *topology.MemberProgress, peer string) bool {
	id := federationv1.LinkID(peer)
	return pr.Hash(id) != "" || desired != nil && desired.Part(id) != nil
}

func hasFlow(desired *topology.MemberState, k topology.FlowKey) bool {
	if desired == nil {
		return false
	}
	p := desired.Part(federationv1.StreamID(k.Account, k.Stream))
	if p == nil {
		return false
	}
	for _, src := range p.Part.GetStream().GetSources() {
		if src.Bridge == k.Bridge && src.Origin == k.Origin {
			return true
		}
	}
	return false
}

// prune drops the health of links and flows that the member neither has nor
// shall have, should its agent not say so itself.
func (f *Fleet) prune(name string) {
	desired, pr := f.desired(name), f.progress[name]
	links, lessLinks := without(pr.Links, func(peer string) bool { return !hasLink(desired, pr, peer) })
	flows, lessFlows := without(pr.Flows, func(k topology.FlowKey) bool {
		return pr.Hash(federationv1.StreamID(k.Account, k.Stream)) == "" && !hasFlow(desired, k)
	})
	warnings, lessWarnings := without(pr.Warnings, func(id string) bool {
		return pr.Known() && pr.Hash(id) == ""
	})
	if lessLinks || lessFlows || lessWarnings {
		f.update(name, func(n *topology.MemberProgress) { n.Links, n.Flows, n.Warnings = links, flows, warnings })
	}
}

// without is a map without some of its keys: another one, if it had any of them.
func without[K comparable, V any](m map[K]V, drop func(K) bool) (rest map[K]V, less bool) {
	for k := range m {
		if drop(k) {
			out := maps.Clone(m)
			maps.DeleteFunc(out, func(k K, _ V) bool { return drop(k) })
			return out, true
		}
	}
	return m, false
}

// emptied is another map if one is empty by now: what was in it takes memory.
func emptied[K comparable, V any](m map[K]V) map[K]V {
	if len(m) == 0 {
		return map[K]V{}
	}
	return m
}

// cloneMap is maps.Clone, but never nil.
func cloneMap[K comparable, V any](m map[K]V) map[K]V {
	out := make(map[K]V, len(m))
	maps.Copy(out, m)
	return out
}
