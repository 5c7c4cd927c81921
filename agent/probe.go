package agent

import (
	"time"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

const (
	// probeInterval is how often a link is probed, probeMisses how many probes in
	// a row must be missing for it to be down.
	probeInterval = 2 * time.Second
	probeMisses   = 3
	// kickInterval is how often a link that is connected but does not work is
	// made to connect again.
	kickInterval = 10 * time.Second
)

// probe is the health of one link as its probes tell it: a state machine
// without clock or socket. A link is up when a probe comes back, and down when
// three in a row did not.
type probe struct {
	state federationv1.Health
	// since is when the state was entered.
	since time.Time
	// seq is the number of the last probe, and sent when it and those before were
	// sent, by number.
	seq  uint64
	sent map[uint64]time.Time
	// asked and heard tell whether a probe was sent, and came back, since the last
	// tick; missed how many ticks in a row nothing did.
	asked, heard bool
	missed       int
	// worked is when one last came back, rtt how long it took.
	worked time.Time
	rtt    time.Duration
}

func newProbe(now time.Time) *probe {
	return &probe{state: federationv1.Health_PENDING, since: now, sent: map[uint64]time.Time{}}
}

func (p *probe) enter(now time.Time, s federationv1.Health) {
	if p.state != s {
		p.state, p.since = s, now
	}
}

// tick passes one interval: it counts whether anything came back since the last
// tick.
func (p *probe) tick(now time.Time) {
	if p.asked && !p.heard {
		if p.missed++; p.missed >= probeMisses {
			p.enter(now, federationv1.Health_DOWN)
		}
	}
	p.asked, p.heard = false, false
	for n, at := range p.sent {
		if now.Sub(at) > 2*probeMisses*probeInterval {
			delete(p.sent, n) // whatever comes back after that is no sign of life
		}
	}
}

// send returns the number of the next probe.
func (p *probe) send(now time.Time) uint64 {
	p.seq++
	p.asked = true
	p.sent[p.seq] = now
	return p.seq
}

// back takes a probe that came back. It returns false for one that was not
// sent, or came back before.
func (p *probe) back(now time.Time, seq uint64) bool {
	at, ok := p.sent[seq]
	if !ok {
		return false
	}
	delete(p.sent, seq)
	p.heard, p.missed = true, 0
	p.worked, p.rtt = now, now.Sub(at)
	p.enter(now, federationv1.Health_UP)
	return true
}
