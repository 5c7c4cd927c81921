package hub

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/sealane/sealane/agent"
	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/topology"
)

// exchange is a hub's fleet and the agents of its members, joined by queues
// instead of a network, in a world where all that can go wrong does.
type exchange struct {
	t     *rapid.T
	dir   string
	key   string // a link key
	clock time.Time
	fleet *Fleet
	plan  *topology.Plan
	sides map[string]*side
	sent  int // updates that the hub sent
}

// side is a member: its agent, and what is under way between it and the hub.
type side struct {
	name  string
	agent *agent.Exchange
	// session is the hub's; nil until the Hello is there.
	session  *session
	open     bool
	up       []*federationv1.AgentMessage
	down     []*federationv1.HubMessage
	inflight int // updates of this session that the agent has not taken
	// lossy: something was lost or doubled, which a stream does not do without
	// ending. It is not waited for that such a session does well.
	lossy bool
	// applied is what the broker does, by part; ever all that it ever did.
	applied map[string]string
	ever    map[string]bool
	broken  map[string]bool
}

func newExchange(t *rapid.T, dir, key string, members []string) *exchange {
	x := &exchange{t: t, dir: dir, key: key, clock: time.Unix(1_000_000, 0), sides: map[string]*side{}}
	for _, m := range members {
		x.sides[m] = &side{name: m, applied: map[string]string{}, ever: map[string]bool{}, broken: map[string]bool{}}
		x.restartAgent(x.sides[m])
	}
	x.restartHub()
	return x
}

func (x *exchange) names() []string { return slices.Sorted(maps.Keys(x.sides)) }

func (x *exchange) restartHub() {
	for _, m := range x.names() {
		x.cut(x.sides[m])
	}
	x.fleet = quietFleet()
	x.fleet.now = func() time.Time { return x.clock }
	x.fleet.churn = newLimits(1e9, 1e9)
	if x.plan != nil {
		x.fleet.Publish(x.plan)
	}
}

// restartAgent starts it from its journal. Its broker has to be told everything
// again.
func (x *exchange) restartAgent(s *side) {
	x.cut(s)
	a, err := agent.OpenExchange(filepath.Join(x.dir, s.name), slog.New(slog.DiscardHandler))
	if err != nil {
		x.t.Fatal(err)
	}
	s.agent, s.applied = a, map[string]string{}
}

// cut ends the connection: what is under way is lost.
func (x *exchange) cut(s *side) {
	if s.session != nil {
		x.fleet.close(s.session)
	}
	s.session, s.open, s.lossy, s.up, s.down, s.inflight = nil, false, false, nil, nil, 0
}

func (x *exchange) dial(s *side) {
	x.cut(s)
	out, err := s.agent.Begin()
	if err != nil {
		x.t.Fatal(err)
	}
	s.open, s.up = true, out
}

// say takes what an agent says, and what it does not any more.
func (x *exchange) say(s *side, out []*federationv1.AgentMessage, err error) {
	if !s.open {
		return
	}
	s.up = append(s.up, out...)
	if err != nil {
		x.cut(s)
	}
}

// toHub delivers the oldest message of an agent.
func (x *exchange) toHub(s *side) bool {
	if len(s.up) == 0 {
		return false
	}
	m := proto.CloneOf(s.up[0])
	s.up = s.up[1:]
	if s.session == nil {
		id := identity{cluster: s.name, cert: &x509.Certificate{NotAfter: x.clock.Add(1000 * time.Hour)}}
		session, welcome, err := x.fleet.open(id, m.GetHello())
		if err != nil {
			if !s.lossy {
				x.t.Fatalf("%s is refused: %v", s.name, err)
			}
			x.cut(s)
			return true
		}
		s.session = session
		s.down = append(s.down, &federationv1.HubMessage{Body: &federationv1.HubMessage_Welcome{Welcome: welcome}})
		return true
	}
	if err := x.fleet.handle(s.session, m); err != nil {
		if !s.lossy {
			x.t.Fatalf("%s, which lost nothing, is refused: %v", s.name, err)
		}
		x.cut(s)
	}
	return true
}

// toAgent delivers the oldest message of the hub, and checks that an update is
// taken once, and as a whole.
func (x *exchange) toAgent(s *side) bool {
	if len(s.down) == 0 {
		return false
	}
	m := proto.CloneOf(s.down[0])
	s.down = s.down[1:]
	before := s.agent.Held()
	out, err := s.agent.Take(m)
	now := s.agent.Held()
	if u := m.GetUpdate(); u != nil {
		s.inflight--
		x.taken(s, u, before, now)
	} else if !maps.Equal(before, now) {
		x.t.Fatalf("%s holds something else after %v", s.name, m)
	}
	x.say(s, out, err)
	return true
}

func (x *exchange) taken(s *side, u *federationv1.Update, before, now map[string]string) {
	if maps.Equal(before, now) {
		return
	}
	if federationv1.StateHash(before) != u.BaseHash || federationv1.StateHash(now) != u.TargetHash {
		x.t.Fatalf("%s took an update from %s to %s while it held %s, and holds %s", s.name, u.BaseHash, u.TargetHash, federationv1.StateHash(before), federationv1.StateHash(now))
	}
	for _, p := range u.Upserts {
		if before[p.Id] == p.Hash {
			x.t.Fatalf("%s took %s a second time", s.name, p.Id)
		}
	}
	for _, id := range u.Removals {
		if before[id] == "" {
			x.t.Fatalf("%s removed %s, which it did not hold", s.name, id)
		}
		delete(s.applied, id)
	}
}

// send lets the hub send, if it was woken, and checks what.
func (x *exchange) send(s *side) bool {
	if s.session == nil || !woken(s.session) {
		return false
	}
	awake(s.session)
	u := x.fleet.next(s.session)
	if u == nil {
		return true
	}
	x.sent++
	if s.inflight++; s.inflight > 1 && !s.lossy {
		x.t.Fatalf("%s: a second update is in flight", s.name)
	}
	for _, p := range u.Upserts {
		x.inOrder(s, p)
	}
	if len(u.Upserts)+len(u.Removals) == 0 || u.BaseHash == u.TargetHash {
		x.t.Fatalf("%s: an update that changes nothing", s.name)
	}
	s.down = append(s.down, &federationv1.HubMessage{Body: &federationv1.HubMessage_Update{Update: u}})
	return true
}

// inOrder checks that what a part comes after was done, by the member itself and
// not in the hub's mind only.
func (x *exchange) inOrder(s *side, p *federationv1.Part) {
	want := x.plan.Members[s.name].Part(p.Id)
	if want == nil || want.Part.Hash != p.Hash {
		x.t.Fatalf("%s: %s is sent, and not as planned", s.name, p.Id)
	}
	for _, ref := range want.After {
		before := x.plan.Members[ref.Cluster].Part(ref.ID)
		if before == nil {
			continue
		}
		if !x.sides[ref.Cluster].ever[ref.ID+"@"+before.Part.Hash] {
			x.t.Fatalf("%s: %s is sent before %s has %s", s.name, p.Id, ref.Cluster, ref.ID)
		}
		if !x.fleet.progress[ref.Cluster].Applied(ref.ID, before.Part.Hash) {
			x.t.Fatalf("%s: %s is sent though the hub does not know that %s has %s", s.name, p.Id, ref.Cluster, ref.ID)
		}
	}
}

// apply lets a broker do one of the parts that its member holds, or fail.
func (x *exchange) apply(s *side, pick func([]string) string) bool {
	held := s.agent.Held()
	var todo []string
	for id, hash := range held {
		if s.applied[id] != hash {
			todo = append(todo, id)
		}
	}
	if len(todo) == 0 {
		return false
	}
	slices.Sort(todo)
	id := pick(todo)
	st := &federationv1.PartStatus{Id: id, Hash: held[id], State: federationv1.PartStatus_APPLIED}
	if s.broken[id] {
		st.State, st.Code = federationv1.PartStatus_FAILED, "Broken"
	} else {
		s.applied[id] = held[id]
		s.ever[id+"@"+held[id]] = true
	}
	s.agent.Show(st)
	if st.State == federationv1.PartStatus_FAILED {
		return false // it may try for ever
	}
	return true
}

func (x *exchange) tell(s *side) {
	if s.open {
		out, err := s.agent.Tell()
		x.say(s, out, err)
	}
}

func (x *exchange) beat(s *side) {
	if s.open {
		out, err := s.agent.Beat()
		x.say(s, out, err)
	}
}

// ends cuts what the hub has ended.
func (x *exchange) ends() {
	for _, m := range x.names() {
		if s := x.sides[m]; s.session != nil {
			select {
			case <-s.session.ended:
				x.cut(s)
			default:
			}
		}
	}
}

// settle lets everything happen that can, without faults and without a clock.
func (x *exchange) settle(pick func([]string) string) {
	for range 2000 {
		moved := false
		for _, m := range x.names() {
			s := x.sides[m]
			for x.apply(s, pick) {
				moved = true
			}
			x.tell(s)
			for x.toHub(s) {
				moved = true
			}
			moved = x.send(s) || moved
			for x.toAgent(s) {
				moved = true
			}
		}
		if !moved {
			return
		}
	}
	x.t.Fatal("does not settle")
}

// draw makes a plan at random: accounts, and links that come after others.
func (x *exchange) draw() *topology.Plan {
	names := x.names()
	states := make([]*topology.MemberState, len(names))
	for i, m := range names {
		app := account("app", fmt.Sprintf("v%d", rapid.IntRange(0, 2).Draw(x.t, "version")))
		if rapid.IntRange(0, 15).Draw(x.t, "refused") == 0 {
			app = account("Not-A-Name") // the agent refuses such an update as a whole
		}
		parts := []*topology.PlannedPart{app, account("more", fmt.Sprintf("v%d", rapid.IntRange(0, 1).Draw(x.t, "more")))}
		for j, peer := range names {
			if i == j || !rapid.Bool().Draw(x.t, "linked") {
				continue
			}
			l := link(peer, federationv1.LinkSpec_ACCEPT, x.key)
			if j < i { // no cycles
				l = after(l, peer, "account/app")
				if j > 0 && rapid.Bool().Draw(x.t, "chain") {
					l = after(l, peer, federationv1.LinkID(names[j-1]))
				}
			}
			parts = append(parts, l)
		}
		states[i] = state(m, parts...)
	}
	return plan(states...)
}

func (x *exchange) publish(p *topology.Plan) {
	x.plan = p
	x.fleet.Publish(p)
}

// TestExchange explores the session logic of hub and agent together. When faults
// stop each member comes to hold and do what is planned; nothing is taken twice,
// or before what it comes after; and nothing is sent when nothing changed.
func TestExchange(t *testing.T) {
	u, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	key, err := u.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	runs := 0
	root := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		runs++
		dir := filepath.Join(root, fmt.Sprint(runs))
		defer os.RemoveAll(dir)
		members := []string{"a", "b", "c", "d"}[:rapid.IntRange(2, 4).Draw(t, "members")]
		x := newExchange(t, dir, key, members)
		some := func() *side { return x.sides[rapid.SampledFrom(members).Draw(t, "member")] }
		pick := func(ids []string) string { return rapid.SampledFrom(ids).Draw(t, "part") }
		x.publish(x.draw())
		t.Repeat(map[string]func(*rapid.T){
			"":              func(*rapid.T) { x.ends() },
			"publish":       func(*rapid.T) { x.publish(x.draw()) },
			"publish again": func(*rapid.T) { x.publish(x.plan) },
			"restart hub":   func(*rapid.T) { x.restartHub() },
			"restart agent": func(*rapid.T) { x.restartAgent(some()) },
			"dial":          func(*rapid.T) { x.dial(some()) },
			"cut":           func(*rapid.T) { x.cut(some()) },
			"to hub":        func(*rapid.T) { x.toHub(some()) },
			"to agent":      func(*rapid.T) { x.toAgent(some()) },
			"send":          func(*rapid.T) { x.send(some()) },
			"apply": func(*rapid.T) {
				s := some()
				x.apply(s, pick)
				x.tell(s)
			},
			"beat": func(*rapid.T) { x.beat(some()) },
			"break": func(t *rapid.T) {
				id := rapid.SampledFrom([]string{"account/app", "account/more", "link/a", "link/b"}).Draw(t, "id")
				some().broken[id] = true
			},
			"time passes": func(t *rapid.T) {
				x.clock = x.clock.Add(time.Duration(rapid.IntRange(1, 90).Draw(t, "seconds")) * time.Second)
				x.fleet.sweep()
			},
			"lose": func(*rapid.T) {
				if s := some(); len(s.down) > 0 && s.down[0].GetUpdate() != nil {
					s.down, s.lossy, s.inflight = s.down[1:], true, s.inflight-1
				} else if len(s.up) > 0 && s.session != nil {
					s.up, s.lossy = s.up[1:], true
				}
			},
			"double": func(*rapid.T) {
				if s := some(); len(s.down) > 0 && s.down[0].GetUpdate() != nil {
					s.down, s.lossy, s.inflight = append(s.down[:1:1], s.down...), true, s.inflight+1
				} else if len(s.up) > 0 && s.session != nil {
					s.up, s.lossy = append(s.up[:1:1], s.up...), true
				}
			},
			"swap": func(*rapid.T) {
				if s := some(); len(s.up) > 1 && s.session != nil {
					s.up[0], s.up[1], s.lossy = s.up[1], s.up[0], true
				}
			},
			"settle": func(*rapid.T) { x.settle(pick) },
		})
		x.converges(pick)
	})
}

// converges stops all faults and looks where that leads.
func (x *exchange) converges(pick func([]string) string) {
	for m := range x.sides {
		clear(x.sides[m].broken)
	}
	for { // a plan that nobody refuses
		x.publish(x.draw())
		if !slices.ContainsFunc(x.names(), func(m string) bool { return x.plan.Members[m].Part("account/Not-A-Name") != nil }) {
			break
		}
	}
	for _, m := range x.names() {
		if s := x.sides[m]; !s.open || s.lossy {
			x.dial(s)
		}
	}
	x.settle(pick)
	x.ends()
	for _, m := range x.names() {
		s, want := x.sides[m], x.plan.Members[m]
		if !s.open {
			x.t.Fatalf("%s: its session ended", m)
		}
		if held := s.agent.Held(); federationv1.StateHash(held) != want.Hash || !maps.Equal(held, s.applied) {
			x.t.Fatalf("%s holds %v and does %v, planned is %v\nhub: %+v", m, keysOf(held), keysOf(s.applied), keysOf(heldOf(want)), x.fleet.progress[m])
		}
		if p := x.fleet.progress[m]; !maps.Equal(holding(p), s.applied) || len(p.Unapplied) > 0 || p.Refusal != "" || !p.Connected {
			x.t.Fatalf("%s is done, and the hub thinks %+v", m, p)
		}
	}
	// From now on nothing is to be said, whatever happens but a change.
	before := x.sent
	for _, m := range x.names() {
		x.beat(x.sides[m])
	}
	x.publish(plan(slices.Collect(maps.Values(x.plan.Members))...))
	x.settle(pick)
	for _, m := range x.names() {
		x.dial(x.sides[m])
	}
	x.settle(pick)
	x.restartHub()
	for _, m := range x.names() {
		x.dial(x.sides[m])
	}
	for _, m := range x.names() {
		s := x.sides[m]
		x.toHub(s)
		if w := s.down[0].GetWelcome(); w == nil || w.WantInventory {
			x.t.Fatalf("%s is asked for what it holds though that is as planned", m)
		}
	}
	x.settle(pick)
	if x.sent != before {
		x.t.Fatalf("%d updates were sent though nothing changed", x.sent-before)
	}
}

func keysOf(m map[string]string) string { return strings.Join(slices.Sorted(maps.Keys(m)), " ") }
