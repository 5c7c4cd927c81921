package agent

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

func TestNextPeer(t *testing.T) {
	t0 := time.Unix(1_000_000, 0)
	at := func(s float64) time.Time { return t0.Add(time.Duration(s * float64(time.Second))) }
	peers := []string{"p", "q", "r"}
	for _, tc := range []struct {
		name       string
		peers      []string
		active     string
		watch      watch
		attempt    attempt
		now        float64
		want       string
		wantFailed int
	}{
		{name: "a fresh link has time", peers: peers, active: "p", attempt: attempt{since: at(0)}, now: 4, want: "p"},
		{name: "never connected", peers: peers, active: "p", attempt: attempt{since: at(0)}, now: 4.1, want: "q", wantFailed: 1},
		{name: "round robin", peers: peers, active: "r", attempt: attempt{since: at(0), failed: 2}, now: 4.1, want: "p", wantFailed: 3},
		{name: "alone", peers: peers[:1], active: "p", attempt: attempt{since: at(0)}, now: 100, want: "p"},
		{name: "works", peers: peers, active: "p", watch: watch{connected: true, connectedAt: at(99), worked: at(99)}, attempt: attempt{since: at(0), failed: 2}, now: 100, want: "p"},
		{name: "lost its connection just now", peers: peers, active: "p", watch: watch{connectedAt: at(97), worked: at(97)}, attempt: attempt{since: at(0)}, now: 100, want: "p"},
		{name: "lost its connection", peers: peers, active: "p", watch: watch{connectedAt: at(95), worked: at(95)}, attempt: attempt{since: at(0)}, now: 100, want: "q", wantFailed: 1},
		{name: "silent for two probes", peers: peers, active: "p", watch: watch{connected: true, connectedAt: at(100), worked: at(95)}, attempt: attempt{since: at(0)}, now: 100, want: "p"},
		{name: "silent for three", peers: peers, active: "p", watch: watch{connected: true, connectedAt: at(100), worked: at(93)}, attempt: attempt{since: at(0)}, now: 100, want: "q", wantFailed: 1},
		{name: "after a round everyone has more time", peers: peers, active: "p", attempt: attempt{since: at(0), failed: 3}, now: 7, want: "p", wantFailed: 3},
		{name: "but not for ever", peers: peers, active: "p", attempt: attempt{since: at(0), failed: 300}, now: 31, want: "q", wantFailed: 301},
		{name: "not among them", peers: peers, active: "x", attempt: attempt{since: at(0)}, now: 100, want: "x"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, a := nextPeer(at(tc.now), tc.peers, tc.active, tc.watch, tc.attempt)
			if got != tc.want || a.failed != tc.wantFailed {
				t.Errorf("got %s after %d failures, want %s after %d", got, a.failed, tc.want, tc.wantFailed)
			}
			if got != tc.active && a.since != at(tc.now) {
				t.Errorf("in use since %v", a.since)
			}
		})
	}
}

// Whatever links do, a group stays with one that works, and while one of them
// would work it is found.
func TestNextPeerFindsOneThatWorks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 5).Draw(t, "peers")
		var peers []string
		for i := range n {
			peers = append(peers, fmt.Sprint(i))
		}
		good := rapid.SampledFrom(peers).Draw(t, "good")
		active := rapid.SampledFrom(peers).Draw(t, "active")
		now, switched := time.Unix(0, 0), 0
		a := attempt{failed: rapid.IntRange(0, 50).Draw(t, "failed")}
		for range 2 * 60 * (n + 1) {
			w := watch{}
			if active == good {
				w = watch{connected: true, connectedAt: now, worked: now}
			}
			next, na := nextPeer(now, peers, active, w, a)
			if active == good && next != good {
				t.Fatalf("left the link that works for %s", next)
			}
			if next != active {
				switched++
			}
			active, a, now = next, na, now.Add(failoverInterval)
		}
		if active != good || switched >= n {
			t.Fatalf("in use: %s after %d switches, works: %s", active, switched, good)
		}
	})
}

func TestOneOfAGroupIsInUse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := heldFrom(stateOf(nil))
		want := map[string]int{}
		for i := range rapid.IntRange(0, 8).Draw(t, "links") {
			group := rapid.SampledFrom([]string{"", "g1", "g2"}).Draw(t, "group")
			p := linkPart(&federationv1.LinkSpec{
				Peer: fmt.Sprintf("m%d", i), Role: federationv1.LinkSpec_DIAL, FailoverGroup: group,
				Priority: int32(rapid.IntRange(0, 3).Draw(t, "priority")),
			})
			h.parts[p.Id] = p
			want[group]++
		}
		h.choices["g1"] = rapid.SampledFrom([]string{"", "m0", "m5", "gone"}).Draw(t, "choice")
		idle := standby(h)
		inUse := map[string]int{}
		for _, p := range h.parts {
			if l := p.GetLink(); !idle[l.Peer] {
				inUse[l.FailoverGroup]++
			}
		}
		for g, n := range want {
			if g == "" && inUse[g] != n || g != "" && inUse[g] != 1 {
				t.Fatalf("group %q of %d: %d in use", g, n, inUse[g])
			}
		}
	})
}

// A member with two parents uses one at a time, and the other when that one
// dies; it stays there when the first is back, also across a restart.
func TestFailsOverBetweenParents(t *testing.T) {
	t.Parallel()
	hub := startHub(t, newCA(t))
	parents := []string{"kyoto", "nara"}
	agents := map[string]*testAgent{}
	for _, p := range parents {
		agents[p] = startAgent(t, hub, p)
	}
	edge := newAgent(t, hub, "edge")
	edge.opts.LinkListen = ""
	edge.start()
	f := newFed(t, hub, "kyoto", "nara", "edge")
	wires := map[string]*proxy{}
	for _, p := range parents {
		f.accept("edge", p)
		wires[p] = newProxy(t, agents[p].linkAddr())
	}
	f.push()
	for i, p := range parents {
		f.dial("edge", p, wires[p].addr(), "parents", int32(i))
	}
	f.push()
	hub.applied("edge")
	inUse := func(active, idle string) {
		t.Helper()
		hub.link("edge", active, federationv1.Health_UP)
		hub.link("edge", idle, federationv1.Health_STANDBY)
		hub.link(active, "edge", federationv1.Health_UP)
	}
	inUse("kyoto", "nara")
	hub.look("nara", func(m *hubMember) {
		if slices.ContainsFunc(m.linkLog, func(l *federationv1.LinkHealth) bool { return l.State == federationv1.Health_UP }) {
			t.Errorf("the parent on standby had a link: %v", m.linkLog)
		}
	})

	cut := time.Now()
	wires["kyoto"].setCut(true)
	inUse("nara", "kyoto")
	t.Logf("failed over after %v", time.Since(cut).Round(time.Millisecond))

	wires["kyoto"].setCut(false)
	edge.stop()
	hub.look("edge", func(m *hubMember) { m.linkLog = nil })
	edge.start()
	inUse("nara", "kyoto")
	hub.look("edge", func(m *hubMember) {
		for _, l := range m.linkLog {
			if l.Peer == "kyoto" && l.State != federationv1.Health_STANDBY {
				t.Errorf("after the restart: %v", l)
			}
		}
	})

	// Everyone is dead: it goes on trying, and takes the first that is back.
	wires["kyoto"].setCut(true)
	wires["nara"].setCut(true)
	hub.link("edge", "kyoto", federationv1.Health_PENDING) // it is tried
	wires["nara"].setCut(false)
	inUse("nara", "kyoto")
}
