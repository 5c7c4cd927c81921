package statefulset

import (
	"testing"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	"github.com/sealane/sealane/broker/embedded"
)

// wellView is n servers of which all is well; the first leads.
func wellView(want, n int) view {
	v := view{want: want, generation: 7}
	name := func(i int) string { return "a." + string(rune('0'+i)) }
	for i := range n {
		o := &brokerv1.Observation{
			Server: name(i), Generation: 7, Phase: brokerv1.Observation_RUNNING, Healthy: true,
			Meta: &brokerv1.Meta{Leader: name(0), Size: int32(n)}, Usage: &brokerv1.Usage{},
		}
		for j := range n {
			if j != i {
				o.Meta.Peers = append(o.Meta.Peers, &brokerv1.Peer{Name: name(j), Current: true, Id: embedded.PeerID(name(j))})
			}
		}
		v.servers = append(v.servers, serverView{Server: Server{Exists: true}, seen: o})
	}
	return v
}

func (v view) stream(leader int, replicas int32, peers ...string) *brokerv1.Stream {
	s := &brokerv1.Stream{Account: "A", Name: "S", Replicas: replicas, Leader: true}
	for _, p := range peers {
		s.Peers = append(s.Peers, &brokerv1.Peer{Name: p, Current: true})
	}
	v.servers[leader].seen.Streams = append(v.servers[leader].seen.Streams, s)
	return s
}

func TestDecide(t *testing.T) {
	fresh := &brokerv1.Observation{Phase: brokerv1.Observation_FRESH, Generation: 7}
	tests := []struct {
		name string
		view func() view
		want action
	}{
		{"nothing yet", func() view { return view{want: 1} }, action{kind: grow, server: 0}},
		{"founder", func() view {
			v := wellView(3, 1)
			v.servers[0].seen = fresh
			return v
		}, action{kind: found, server: 0}},
		{"all fresh but one that cannot be reached: it may have data", func() view {
			v := wellView(3, 3)
			v.servers[0].seen, v.servers[1].seen, v.servers[2].seen = fresh, fresh, nil
			return v
		}, action{kind: wait}},
		{"fresh among others joins", func() view {
			v := wellView(2, 2)
			v.servers[1].seen = fresh
			v.servers[0].seen.Meta.Peers = nil
			return v
		}, action{kind: join, server: 1}},
		{"lost volume: the old peer is forgotten first", func() view {
			v := wellView(3, 3)
			v.servers[2].seen = fresh
			return v
		}, action{kind: forget, peer: "a.2", peerID: embedded.PeerID("a.2")}},
		{"an offline peer is not forgotten while a server cannot be reached", func() view {
			v := wellView(3, 3)
			v.servers[2].seen = nil
			v.servers[0].seen.Meta.Peers[1].Offline = true
			return v
		}, action{kind: wait}},
		{"well", func() view { return wellView(3, 3) }, action{kind: rest}},
		{"grow by one", func() view { return wellView(3, 1) }, action{kind: grow, server: 1}},
		{"do not grow with a replica behind", func() view {
			v := wellView(3, 2)
			v.stream(0, 2, "a.1").Peers[0].Current = false
			return v
		}, action{kind: wait}},
		{"do not grow before a stream has a leader", func() view {
			v := wellView(3, 2)
			v.stream(0, 2, "a.1").Leader = false
			return v
		}, action{kind: wait}},
		{"do not touch anything while a server lacks the state", func() view {
			v := wellView(1, 3)
			v.servers[1].seen.Generation = 6
			return v
		}, action{kind: wait}},
		{"leave: replicas first", func() view {
			v := wellView(2, 3)
			v.stream(0, 3, "a.1", "a.2")
			return v
		}, action{kind: reduce, replicas: 2}},
		{"leave: replicas at once to what there shall be", func() view {
			v := wellView(1, 3)
			v.stream(0, 3, "a.1", "a.2")
			return v
		}, action{kind: reduce, replicas: 1}},
		{"leave: the replica that is kept is that of a server that stays", func() view {
			v := wellView(1, 3)
			v.stream(2, 3, "a.1", "a.0")
			return v
		}, action{kind: lead, peer: "a.0"}},
		{"leave: of servers that go any is as good", func() view {
			v := wellView(1, 3)
			v.stream(2, 3, "a.1")
			return v
		}, action{kind: reduce, replicas: 1}},
		{"leave: of interest, and its only replica goes", func() view {
			v := wellView(1, 3)
			v.stream(2, 1).Interest = true
			return v
		}, action{kind: raise, server: 2, peer: "a.2", replicas: 3}},
		{"leave: of interest, where not all go", func() view {
			v := wellView(2, 3)
			v.stream(2, 1).Interest = true
			return v
		}, action{kind: move, server: 2, peer: "a.2"}},
		{"a stream that is held takes again", func() view {
			v := wellView(3, 3)
			v.stream(1, 1).Held = true
			return v
		}, action{kind: release}},
		{"but not before its group has ended", func() view {
			v := wellView(3, 3)
			st := v.stream(1, 1)
			st.Held, st.Moving = true, true
			return v
		}, action{kind: wait}},
		{"leave: then streams", func() view {
			v := wellView(2, 3)
			v.stream(2, 1)
			return v
		}, action{kind: move, server: 2, peer: "a.2"}},
		{"leave: wait for a move", func() view {
			v := wellView(2, 3)
			v.stream(2, 1).Moving = true
			return v
		}, action{kind: wait}},
		{"leave: then the peer", func() view {
			v := wellView(2, 3)
			v.stream(0, 1)
			return v
		}, action{kind: forget, server: 2, peer: "a.2"}},
		{"leave: who leads steps down first", func() view {
			v := wellView(2, 3)
			for _, s := range v.servers {
				s.seen.Meta.Leader = "a.2"
			}
			return v
		}, action{kind: stepDown, server: 2}},
		{"leave: no peer any more", func() view {
			v := wellView(2, 3)
			v.servers[0].seen.Meta.Peers = v.servers[0].seen.Meta.Peers[:1]
			return v
		}, action{kind: retire, server: 2}},
		{"leave: retired", func() view {
			v := wellView(2, 3)
			v.servers[2].seen = fresh
			v.servers[0].seen.Meta.Peers = v.servers[0].seen.Meta.Peers[:1]
			return v
		}, action{kind: shrink, server: 2}},
		{"a new template rolls from the end, the leader last", func() view {
			v := wellView(3, 3)
			for i := range v.servers {
				v.servers[i].Outdated = true
			}
			return v
		}, action{kind: replace, server: 2}},
		{"the leader too, at last", func() view {
			v := wellView(3, 3)
			v.servers[0].Outdated = true
			return v
		}, action{kind: replace, server: 0}},
		{"one at a time", func() view {
			v := wellView(3, 3)
			v.servers[1].Outdated = true
			v.servers[2].seen = nil
			return v
		}, action{kind: wait}},
		{"what does not run is replaced at once", func() view {
			v := wellView(3, 3)
			v.servers[2].Outdated = true
			v.servers[2].seen = nil
			return v
		}, action{kind: replace, server: 2}},
		{"restart", func() view {
			v := wellView(3, 3)
			v.servers[1].seen.Restart = "storage is lowered"
			return v
		}, action{kind: restart, server: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := decide(tt.view())
			if got.kind != tt.want.kind || got.server != tt.want.server || got.peer != tt.want.peer ||
				got.peerID != tt.want.peerID || got.replicas != tt.want.replicas {
				t.Errorf("%s (%+v), want %+v", got, got, tt.want)
			}
		})
	}
}
