package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// pause lets the bubble's clock move.
func pause(d time.Duration) { <-time.After(d) }

// probeFor lets a probe run for so many intervals, of which answered tells
// whether the probe of each comes back, and when.
func probeFor(p *probe, n int, answered bool, rtt time.Duration) {
	for range n {
		p.tick(time.Now())
		seq := p.send(time.Now())
		pause(rtt)
		if answered {
			p.back(time.Now(), seq)
		}
		pause(probeInterval - rtt)
	}
}

func TestProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		p := newProbe(start)
		is := func(want federationv1.Health, since time.Duration) {
			t.Helper()
			if p.state != want || p.since.Sub(start) != since {
				t.Errorf("after %v: %v since %v, want %v since %v", time.Since(start), p.state, p.since.Sub(start), want, since)
			}
		}
		const rtt = 30 * time.Millisecond
		probeFor(p, 3, false, rtt)
		is(federationv1.Health_PENDING, 0)
		p.tick(time.Now()) // the third is missing now
		is(federationv1.Health_DOWN, 3*probeInterval)
		up := time.Since(start) + rtt
		probeFor(p, 1, true, rtt)
		is(federationv1.Health_UP, up)
		if p.rtt != rtt {
			t.Errorf("round trip %v", p.rtt)
		}
		// Two missing are nothing, whether once or again.
		probeFor(p, 2, false, rtt)
		probeFor(p, 1, true, rtt)
		probeFor(p, 2, false, rtt)
		probeFor(p, 1, true, rtt)
		is(federationv1.Health_UP, up)
		probeFor(p, 3, false, rtt)
		p.tick(time.Now())
		is(federationv1.Health_DOWN, time.Since(start))
	})
}

// A slow link whose probes come back after the next was sent is up, and nothing
// that was not sent, or came back before, counts.
func TestProbeLateAndForged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProbe(time.Now())
		for range 10 {
			p.tick(time.Now())
			seq := p.send(time.Now())
			if seq > 1 && !p.back(time.Now(), seq-1) {
				t.Error("a late one does not count")
			}
			pause(probeInterval)
		}
		if p.state != federationv1.Health_UP || p.rtt != probeInterval {
			t.Errorf("%v, round trip %v", p.state, p.rtt)
		}
		if p.back(time.Now(), 9) || p.back(time.Now(), 99) || p.back(time.Now(), 0) {
			t.Error("a forged one counts")
		}
		pause(time.Minute)
		p.tick(time.Now())
		if p.back(time.Now(), 10) || len(p.sent) != 0 {
			t.Error("one that is a minute late counts")
		}
	})
}

// However probes get lost, a link is down exactly after three in a row.
func TestProbeProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(0, 0)
		p := newProbe(now)
		missing, everUp := 0, false
		for _, lost := range rapid.SliceOfN(rapid.Bool(), 1, 60).Draw(t, "lost") {
			seq := p.send(now)
			if !lost {
				p.back(now, seq)
				missing, everUp = 0, true
			} else {
				missing++
			}
			now = now.Add(probeInterval)
			p.tick(now)
			want := federationv1.Health_UP
			switch {
			case missing >= probeMisses:
				want = federationv1.Health_DOWN
			case p.since.Equal(time.Unix(0, 0)) && !everUp:
				want = federationv1.Health_PENDING
			case missing > 0 && p.state == federationv1.Health_DOWN:
				t.Fatalf("down after %d missing", missing)
			}
			if p.state != want {
				t.Fatalf("%v after %d missing, want %v", p.state, missing, want)
			}
		}
	})
}

func TestFlowJudge(t *testing.T) {
	t0 := time.Unix(1_000_000, 0)
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	src := &federationv1.Source{Origin: "osaka", Stream: "S"}
	f := &flow{}
	is := func(s int, info *jetstream.StreamSourceInfo, want federationv1.Health, since int, lag int64, message string) {
		t.Helper()
		gotLag, got := f.judge(at(s), src, info)
		if f.state != want || f.since != at(since) || gotLag != lag || !strings.Contains(got, message) || (message == "") != (got == "") {
			t.Errorf("at %d s: %v since %v, lag %d, %q", s, f.state, f.since, gotLag, got)
		}
	}
	pending, up, down := federationv1.Health_PENDING, federationv1.Health_UP, federationv1.Health_DOWN
	is(0, nil, pending, 0, 0, "stream S of osaka")
	is(8, &jetstream.StreamSourceInfo{Active: -1}, pending, 0, 0, "nothing was heard")
	is(10, &jetstream.StreamSourceInfo{Active: -1}, down, 10, 0, "nothing was heard")
	is(12, &jetstream.StreamSourceInfo{Active: time.Second, Lag: 7}, up, 12, 7, "")
	is(14, &jetstream.StreamSourceInfo{Active: 5 * time.Second, Lag: 3}, up, 12, 3, "")
	is(16, &jetstream.StreamSourceInfo{Active: 6 * time.Second, Lag: 3}, down, 16, 3, "nothing is heard")
	is(18, &jetstream.StreamSourceInfo{Active: time.Second, Error: &jetstream.APIError{Description: "no such consumer"}}, down, 16, 0, "no such consumer")
	is(20, &jetstream.StreamSourceInfo{Active: time.Second}, up, 20, 0, "")
	is(22, nil, down, 22, 0, "does not take")
}

func TestMatchSources(t *testing.T) {
	want := []*federationv1.Source{
		{Stream: "S", Origin: "a", Consumer: "c1", DeliverSubject: "d", ApiPrefix: "fedjs.a"},
		{Stream: "S", Origin: "b", Consumer: "c2", DeliverSubject: "d", ApiPrefix: "fedjs.b"},
		{Stream: "S", Filters: []string{"x"}},
		{Stream: "T"},
	}
	have := []*jetstream.StreamSourceInfo{
		{Name: "S", FilterSubject: "x", Lag: 3},
		{Name: "S", External: &jetstream.ExternalStream{APIPrefix: "_fedjs.b"}, Lag: 2},
		{Name: "S", External: &jetstream.ExternalStream{APIPrefix: "_fedjs.a"}, Lag: 1},
	}
	got := matchSources(want, have)
	for i, lag := range []uint64{1, 2, 3} {
		if got[i] == nil || got[i].Lag != lag {
			t.Errorf("source %d: %+v", i, got[i])
		}
	}
	if got[3] != nil {
		t.Errorf("a source that is not there: %+v", got[3])
	}
}
