package statefulset

import (
	"cmp"
	"fmt"
	"slices"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	"github.com/sealane/sealane/broker/embedded"
)

// view is all that is known of the servers at one moment.
type view struct {
	// want is how many servers there shall be.
	want int
	// generation of the state that servers shall have.
	generation uint64
	// servers are those that exist, or shall by now.
	servers []serverView
}

type serverView struct {
	Server
	// seen is what the server says itself; nil: it cannot be reached.
	seen *brokerv1.Observation
}

type kind string

const (
	// wait: nothing can be done before something heals by itself.
	wait kind = "wait"
	// rest: everything is as it shall be.
	rest kind = "rest"
	// begin a server without data, as founder or not.
	found kind = "found"
	join  kind = "join"
	// forget a peer that is gone for good, or leaves.
	forget kind = "forget"
	// stepDown has another server lead.
	stepDown kind = "step down"
	// grow and shrink change the number of servers.
	grow   kind = "grow"
	shrink kind = "shrink"
	// reduce the replicas of a stream, or move it off a server that leaves; lead has a
	// server that stays lead it, raise gives it more of them so that one can.
	reduce kind = "reduce"
	raise  kind = "raise"
	lead   kind = "lead"
	move   kind = "move"
	// release a stream that takes nothing although its group has ended.
	release kind = "release"
	// retire a server that is no peer any more.
	retire kind = "retire"
	// restart the NATS server, or replace the whole process.
	restart kind = "restart"
	replace kind = "replace"
)

// action is the one next thing to do.
type action struct {
	kind   kind
	server int
	// peer is the name of the NATS server that it is about, peerID its id in the
	// group, for one whose name may not be known any more.
	peer, peerID string
	// stream, and its new number of replicas.
	stream   *brokerv1.Stream
	replicas int
	why      string
}

// maxRaised is the most replicas that a stream gets only to leave a server.
const maxRaised = 3

func (a action) String() string {
	switch a.kind {
	case wait:
		return "waiting: " + a.why
	case rest:
		return "nothing to do"
	case reduce:
		return fmt.Sprintf("reduce stream %s to %d replicas: %s", a.stream.Name, a.replicas, a.why)
	case raise:
		return fmt.Sprintf("give stream %s %d replicas for a while: %s", a.stream.Name, a.replicas, a.why)
	case lead:
		return fmt.Sprintf("have %s lead stream %s: %s", a.peer, a.stream.Name, a.why)
	case release:
		return fmt.Sprintf("have stream %s take again", a.stream.Name)
	case move:
		return fmt.Sprintf("move stream %s off %s", a.stream.Name, a.peer)
	case forget:
		return "forget peer " + a.peer + ": " + a.why
	}
	return fmt.Sprintf("%s server %d: %s", a.kind, a.server, a.why)
}

// decide chooses the one next thing to do. It looks at nothing but v, so that
// whatever happened before, also to an earlier agent, the way goes on from what
// is there. Everything but the first aid at the top waits until all is well.
func decide(v view) action {
	if a, ok := firstAid(v); ok {
		return a
	}
	if why := v.ailment(); why != "" {
		return action{kind: wait, why: why}
	}
	have := len(v.servers)
	switch {
	case have < v.want:
		return action{kind: grow, server: have, why: fmt.Sprintf("%d of %d", have, v.want)}
	case have > v.want:
		return v.leave(have - 1)
	}
	for _, n := range v.leaderLast() {
		if s := v.servers[n]; s.Outdated {
			return action{kind: replace, server: n, why: "its template is another"}
		} else if s.seen.Restart != "" {
			return action{kind: restart, server: n, why: s.seen.Restart}
		}
	}
	return action{kind: rest}
}

// firstAid is what cannot wait until all is well, because nothing gets well
// without it.
func firstAid(v view) (action, bool) {
	if len(v.servers) == 0 {
		return action{kind: grow, server: 0, why: "there is none"}, true
	}
	for n, s := range v.servers {
		// What does not run cannot be harmed, and may never run as it is.
		if s.Outdated && s.Exists && s.seen.GetPhase() != brokerv1.Observation_RUNNING {
			return action{kind: replace, server: n, why: "it does not run and its template is another"}, true
		}
	}
	leader := v.leader()
	fresh, known := 0, 0
	for _, s := range v.servers {
		if s.seen != nil {
			known++
			if s.seen.Phase == brokerv1.Observation_FRESH {
				fresh++
			}
		}
	}
	// Only if none of all has data: who cannot be reached may have some.
	if fresh == len(v.servers) && v.servers[0].seen.Generation > 0 {
		return action{kind: found, server: 0, why: "no server has data"}, true
	}
	if leader == nil {
		return action{}, false
	}
	last := len(v.servers) - 1
	if s := v.servers[last]; last >= v.want && s.seen.GetPhase() == brokerv1.Observation_FRESH {
		return action{kind: shrink, server: last, why: "it has left"}, true
	}
	if known == len(v.servers) {
		if a, ok := v.forgetGone(leader); ok {
			return a, true
		}
	}
	for n, s := range v.servers {
		if n < v.want && s.seen.GetPhase() == brokerv1.Observation_FRESH && s.seen.Generation > 0 {
			return action{kind: join, server: n, why: "it has no data"}, true
		}
	}
	if s := v.servers[last]; last >= v.want && s.seen.GetPhase() == brokerv1.Observation_RUNNING && !isPeer(leader, s.seen.Server) {
		return action{kind: retire, server: last, why: "it is no peer any more"}, true
	}
	for _, s := range v.servers {
		for _, st := range s.seen.GetStreams() {
			if st.Leader && st.Held && !st.Moving && st.Replicas == 1 {
				return action{kind: release, stream: st}, true
			}
		}
	}
	return action{}, false
}

// forgetGone removes a peer whose server is gone: its volume was lost, and the
// server that took its place has another name, or none yet. All servers are known,
// so whoever else is among the peers is no more.
func (v view) forgetGone(leader *brokerv1.Observation) (action, bool) {
	ids := map[string]bool{}
	for _, s := range v.servers {
		// A server that does not run has not said its name.
		if s.seen.Phase == brokerv1.Observation_STOPPED {
			return action{}, false
		}
		ids[embedded.PeerID(s.seen.Server)] = true
	}
	for _, p := range leader.Meta.Peers {
		if !ids[p.Id] {
			return action{kind: forget, peer: cmp.Or(p.Name, p.Id), peerID: p.Id, why: "it is gone with its data"}, true
		}
	}
	return action{}, false
}

// leader is what the server says that leads the group; nil: none does.
func (v view) leader() *brokerv1.Observation {
	for _, s := range v.servers {
		if s.seen.GetPhase() == brokerv1.Observation_RUNNING && s.seen.Meta.GetLeader() == s.seen.Server && s.seen.Server != "" {
			return s.seen
		}
	}
	return nil
}

func isPeer(leader *brokerv1.Observation, name string) bool {
	return leader.Server == name || slices.ContainsFunc(leader.Meta.Peers, func(p *brokerv1.Peer) bool { return p.Name == name })
}

// ailment says what is not well; "": all is.
func (v view) ailment() string {
	for n, s := range v.servers {
		switch {
		case s.seen == nil:
			return fmt.Sprintf("server %d cannot be reached%s", n, suffix(s.Message))
		case s.seen.Phase != brokerv1.Observation_RUNNING:
			return fmt.Sprintf("server %d does not run%s", n, suffix(s.seen.Problem))
		case s.seen.Problem != "":
			return fmt.Sprintf("server %d: %s", n, s.seen.Problem)
		case s.seen.Generation != v.generation:
			return fmt.Sprintf("server %d has not the latest state", n)
		case !s.seen.Healthy:
			return fmt.Sprintf("server %d is not up to date%s", n, suffix(s.seen.Health))
		}
	}
	leader := v.leader()
	if leader == nil {
		return "no server leads"
	}
	for n, s := range v.servers {
		if s.seen.Meta.GetLeader() != leader.Server {
			return fmt.Sprintf("server %d follows no leader, or another", n)
		}
		if !isPeer(leader, s.seen.Server) && n < v.want {
			return fmt.Sprintf("server %d is not a peer yet", n)
		}
	}
	for _, p := range leader.Meta.Peers {
		if p.Offline || !p.Current {
			return fmt.Sprintf("peer %s is not current", p.Name)
		}
	}
	return v.streamAilment()
}

func suffix(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

func (v view) streamAilment() string {
	led := map[string]bool{}
	names := map[string]string{}
	for _, s := range v.servers {
		for _, st := range s.seen.Streams {
			key := st.Account + "/" + st.Name
			names[key] = st.Name
			if !st.Leader {
				continue
			}
			led[key] = true
			if st.Moving {
				return fmt.Sprintf("stream %s is being moved", st.Name)
			}
			for _, p := range st.Peers {
				if p.Offline || !p.Current {
					return fmt.Sprintf("the replica of stream %s on %s is not current", st.Name, p.Name)
				}
			}
		}
	}
	for _, key := range sortedKeys(names) {
		if !led[key] {
			return fmt.Sprintf("stream %s has no leader", names[key])
		}
	}
	return ""
}

func sortedKeys[V any](m map[string]V) []string {
	var l []string
	for k := range m {
		l = append(l, k)
	}
	slices.Sort(l)
	return l
}

// leave is the next thing to do so that server n, the last, can go. All is well.
func (v view) leave(n int) action {
	name := v.servers[n].seen.Server
	for i, s := range v.servers {
		for _, st := range s.seen.Streams {
			if !st.Leader {
				continue
			}
			if int(st.Replicas) > n {
				// A stream keeps the replica of its leader, and reduced at once to what it shall
				// have in the end it need not be moved on.
				why := fmt.Sprintf("only %d servers will be left", v.want)
				if stays := v.stays(st); i >= v.want && stays != "" {
					return action{kind: lead, stream: st, peer: stays, why: why}
				}
				return action{kind: reduce, stream: st, replicas: v.want, why: why}
			}
			on := s.seen.Server == name || slices.ContainsFunc(st.Peers, func(p *brokerv1.Peer) bool { return p.Name == name })
			if on && st.Replicas == 1 && st.Interest && v.want == 1 && n < maxRaised {
				// Moved, it would come to be led where it was stored without its consumers.
				return action{kind: raise, stream: st, peer: name, server: n, replicas: n + 1, why: "it is on a server that leaves"}
			}
			if on {
				return action{kind: move, stream: st, peer: name, server: n}
			}
		}
	}
	if v.leader().Server == name {
		return action{kind: stepDown, server: n, why: "it leaves"}
	}
	return action{kind: forget, peer: name, server: n, why: "it leaves"}
}

// stays is a server that stays and has a replica of a stream; "": none.
func (v view) stays(st *brokerv1.Stream) string {
	for _, s := range v.servers[:v.want] {
		if slices.ContainsFunc(st.Peers, func(p *brokerv1.Peer) bool { return p.Name == s.seen.Server }) {
			return s.seen.Server
		}
	}
	return ""
}

// leaderLast orders servers so that the leader is restarted last: it would only be
// followed by others that are restarted too.
func (v view) leaderLast() []int {
	var order []int
	last := -1
	for n := len(v.servers) - 1; n >= 0; n-- {
		if s := v.servers[n].seen; s.Meta.GetLeader() == s.Server {
			last = n
			continue
		}
		order = append(order, n)
	}
	if last >= 0 {
		order = append(order, last)
	}
	return order
}
