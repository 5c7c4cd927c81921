package hub

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/topology"
)

// Fleet is where the plan meets the sessions: the Reconciler publishes plans
// into it and observes what members reported; sessions take from it what their
// member may be sent next.
//
// Everything is guarded by mu, which is never held while anything is sent or
// received. What hangs from progress, and the reported messages, is immutable
// once stored, so that snapshots are shallow.
type Fleet struct {
	epoch     uint64
	revision  atomic.Uint64 // how far the resources have come
	base      atomic.Uint64 // how far they had when this hub began to lead
	log       *slog.Logger
	metrics   *metrics
	follow    *follower
	heartbeat time.Duration
	churn     *limits
	now       func() time.Time
	outbox    *outbox
	encoded   encodedParts

	changes chan struct{}
	planned chan struct{} // closed by the first Publish
	// wave tells of a plan that concerns many members: until when, at most, it is
	// being sent; lastSent is when something was, in Unix nanoseconds both.
	wave, lastSent atomic.Int64

	mu       sync.RWMutex
	plan     *topology.Plan // nil before the first Publish
	progress topology.Progress
	members  map[string]*member
	waiters  waiters
	issued   map[string]uint64 // by member, the highest revision of an update
	closed   error             // set once by close: no session is admitted any more
	opened   struct {          // sessions of a rush, if it is one
		began, last time.Time
		n           int
	}
}

// member is what the fleet knows of a member beside its progress. It exists
// while the member is in the plan or has a session.
type member struct {
	session  *session // nil: not connected
	facts    MemberFacts
	grants   map[string]*federationv1.Grant // by dialer, as reported
	heldHash string                         // StateHash of progress.Held; empty while that is nil
	waits    []string                       // what waiters holds of it
	// plannedWaits is the part of that which follows from a planned state.
	plannedWaits []string
	plannedOf    *topology.MemberState
	pending      map[string]pending // parts that were being applied at the last look
	// kept are the outlets that shall go, and since when they are kept.
	kept map[string]time.Time
}

// MemberFacts is what a member said of itself.
type MemberFacts struct {
	Agent *federationv1.AgentInfo
	Facts *federationv1.Facts
	// LastSeen is when anything was last heard of the member. It alone moving is
	// no change that Changes tells of.
	LastSeen time.Time
}

// Observation is everything that members reported, as of one moment. It is the
// caller's to keep; what it points to must not be modified.
type Observation struct {
	Progress topology.Progress
	// Members holds the members that had a session with this hub process.
	Members map[string]MemberFacts
	// Grants are the link credentials that acceptors issued, by acceptor, then by
	// dialer: only those that the acceptor's plan asks for, for the very key.
	Grants map[string]map[string]*federationv1.Grant
}

// HeartbeatInterval is how often agents send a heartbeat. A session that is
// silent for three of them is ended.
const HeartbeatInterval = 10 * time.Second

// NewFleet returns a fleet without plan and sessions. Nothing is sent to any
// member before the first Publish.
func NewFleet(epoch uint64, log *slog.Logger) *Fleet {
	m := newMetrics()
	return &Fleet{
		epoch:     epoch,
		log:       log,
		metrics:   m,
		follow:    newFollower(m, time.Now),
		heartbeat: HeartbeatInterval,
		churn:     newLimits(churnRate, churnBurst),
		now:       time.Now,
		outbox:    newOutbox(),
		changes:   make(chan struct{}, 1),
		planned:   make(chan struct{}),
		progress:  topology.Progress{},
		members:   map[string]*member{},
		waiters:   waiters{},
		issued:    map[string]uint64{},
	}
}

// Changes tells, coalesced, that something in Observe changed.
func (f *Fleet) Changes() <-chan struct{} { return f.changes }

func (f *Fleet) changed() {
	select {
	case f.changes <- struct{}{}:
	default:
	}
}

// Observe returns what the fleet knows now.
func (f *Fleet) Observe() Observation {
	f.mu.RLock()
	defer f.mu.RUnlock()
	o := Observation{
		Progress: maps.Clone(f.progress),
		Members:  make(map[string]MemberFacts, len(f.members)),
		Grants:   map[string]map[string]*federationv1.Grant{},
	}
	for name, m := range f.members {
		if !m.facts.LastSeen.IsZero() {
			o.Members[name] = m.facts
		}
		if g := f.wantedGrants(name, m); len(g) > 0 {
			o.Grants[name] = g
		}
	}
	return o
}

// wantedGrants leaves out every grant that the plan does not ask the member
// for: a member cannot speak for links that it has no part in.
func (f *Fleet) wantedGrants(name string, m *member) map[string]*federationv1.Grant {
	desired := f.desired(name)
	if desired == nil || len(m.grants) == 0 {
		return nil
	}
	out := make(map[string]*federationv1.Grant, len(m.grants))
	for dialer, g := range m.grants {
		p := desired.Part(federationv1.LinkID(dialer))
		if p == nil {
			continue
		}
		l := p.Part.GetLink()
		if l.GetRole() == federationv1.LinkSpec_ACCEPT && l.GetPeerKey() == g.GetKey() {
			out[dialer] = g
		}
	}
	return out
}

// Publish makes p the plan. It wakes the sessions whose member has something to
// do because of it, and ends those whose member is gone. It does not wait for
// any of them.
func (f *Fleet) Publish(p *topology.Plan) {
	f.encoded.forget()
	f.send(f.replan(p)) // before all members are looked at
	f.send(f.allDue())  // one whose own state is as before may have waited for this plan
}

// replan makes p the plan, and returns the sessions of members whose state is another.
func (f *Fleet) replan(p *topology.Plan) (woken []*session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.plan
	f.plan = p
	if old == nil {
		old = &topology.Plan{}
		close(f.planned)
	}
	kept := 0
	for name := range p.Members {
		if old.Members[name] != nil {
			kept++
		}
		before, state := old.Desired(name), p.Desired(name)
		if before == state {
			continue
		}
		m := f.members[name]
		if m == nil {
			m = &member{}
			f.members[name] = m
		}
		if len(m.grants) > 0 {
			f.changed() // which grants are wanted may be different now
		}
		if before == nil || before.Hash != state.Hash {
			f.replanned(name, m)
		}
		f.setWaits(name)
		if m.due(state) {
			woken = append(woken, m.session)
		}
	}
	for name := range old.Members {
		if kept == len(old.Members) {
			break // as nearly always
		}
		if p.Members[name] == nil {
			f.forget(name)
		}
	}
	f.concerns(len(woken))
	return woken
}

// allDue are the sessions of all members that hold not what they shall.
func (f *Fleet) allDue() (due []*session) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	for name, m := range f.members {
		if m.due(f.desired(name)) {
			due = append(due, m.session)
		}
	}
	f.concerns(len(due))
	return due
}

// concerns notes that a plan is about to be sent to so many. mu is held.
func (f *Fleet) concerns(n int) {
	if n >= manyMembers {
		f.wave.Store(f.now().Add(waveTime).UnixNano())
		f.lastSent.Store(f.now().UnixNano())
	}
}

// send has sessions looked at: many, before anything else is heard.
func (f *Fleet) send(some []*session) {
	f.outbox.add(some...)
	if len(some) >= manyMembers {
		f.outbox.first()
	}
}

const (
	// manyMembers make a wave, which is over after waveTime or when nothing was sent
	// for waveGap.
	manyMembers = 50
	waveTime    = 500 * time.Millisecond
	waveGap     = 20 * time.Millisecond
	// As many sessions that begin within rushTime are a rush, for which others wait
	// like for a wave: at most maxRush.
	rushTime = 200 * time.Millisecond
	maxRush  = 3 * time.Second
)

// rush notices that many members connect at once. mu is held.
func (f *Fleet) rush(now time.Time) {
	if now.Sub(f.opened.last) > rushTime {
		f.opened.began, f.opened.n = now, 0
	}
	f.opened.last = now
	if f.opened.n++; f.opened.n >= manyMembers && now.Sub(f.opened.began) < maxRush {
		f.wave.Store(max(f.wave.Load(), now.Add(rushTime).UnixNano()))
		f.lastSent.Store(now.UnixNano())
	}
}

// idle waits while a plan is being sent to many members, or many connect: that
// comes before what is only told of them.
func (f *Fleet) idle(ctx context.Context) {
	for {
		now := f.now().UnixNano()
		if now > f.wave.Load() || now > f.lastSent.Load()+int64(waveGap) || ctx.Err() != nil {
			return
		}
		pause(ctx, waveGap/4)
	}
}

// replanned lifts the refusal of a member, which was about another state.
func (f *Fleet) replanned(name string, m *member) {
	if m.session != nil {
		m.session.refused = ""
		if m.heldHash == f.desired(name).Hash {
			f.follow.lost(name, "superseded")
		} else {
			f.follow.wanted(name)
		}
	}
	if pr := f.progress[name]; pr != nil && pr.Refusal != "" {
		f.update(name, func(n *topology.MemberProgress) { n.Refusal = "" })
	}
}

// forget drops everything about a member that is not in the plan any more.
func (f *Fleet) forget(name string) {
	if m := f.members[name]; m != nil && m.session != nil {
		f.metrics.connected.Dec()
		m.session.end(errRemoved(name))
		f.follow.lost(name, "removed")
	}
	f.setWaits(name)
	delete(f.members, name)
	delete(f.progress, name)
	f.changed()
}

func errRemoved(name string) error {
	return status.Errorf(codes.PermissionDenied, "member %q was removed from the federation", name)
}

// desired is the state planned for a member, or nil.
func (f *Fleet) desired(name string) *topology.MemberState {
	if f.plan == nil {
		return nil
	}
	return f.plan.Desired(name)
}

// desiredAs is the state planned for a member if it has that hash, or nil.
func (f *Fleet) desiredAs(name, hash string) *topology.MemberState {
	if s := f.desired(name); s != nil && s.Hash == hash {
		return s
	}
	return nil
}

// update replaces the progress of a member by a changed copy. Maps in it must
// be replaced too, not written to.
func (f *Fleet) update(name string, change func(*topology.MemberProgress)) {
	n := &topology.MemberProgress{}
	if old := f.progress[name]; old != nil {
		*n = *old
	}
	change(n)
	f.progress[name] = n
	if m, desired := f.members[name], f.desired(name); m != nil && desired != nil {
		f.follow.progressed(name, m.heldHash == desired.Hash, len(n.Unapplied) == 0)
	}
	f.changed()
}
