package hub

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

func (h *testHub) progress(name string) *topology.MemberProgress {
	return h.fleet.Observe().Progress[name]
}

// An agent that holds what it shall is sent nothing, and asked for nothing.
func TestSessionEqualHash(t *testing.T) {
	h := newTestHub(t)
	name := unique("equal")
	cert := h.join(t, name)
	first := state(name, account("app"), account("other"))
	h.fleet.Publish(plan(first))
	s := h.sync(t, cert, hello(first.Hash))
	if w := s.welcome(); w.WantInventory || w.Epoch != 1 || w.HeartbeatSeconds != 10 {
		t.Errorf("welcome: %v", w)
	}
	p := h.progress(name)
	equal(t, "held", holding(p), heldOf(first))
	if !p.Connected || len(p.Unapplied) != 0 || !slices.Equal(p.Features, allFeatures) {
		t.Errorf("progress: %+v", p)
	}
	if got := h.fleet.Observe().Members[name]; got.Agent.GetVersion() != "v1" || got.LastSeen.IsZero() {
		t.Errorf("facts: %+v", got)
	}

	// The next message, if any came before, is not this one.
	second := state(name, account("app", "x.>"), account("other"))
	h.fleet.Publish(plan(second))
	u := s.update()
	if u.BaseHash != first.Hash || u.TargetHash != second.Hash || len(u.Removals) != 0 || u.Epoch != 1 {
		t.Errorf("update from %s to %s, removals %v, epoch %d", u.BaseHash, u.TargetHash, u.Removals, u.Epoch)
	}
	equal(t, "upserts", upserted(u), []string{"account/app"})
}

func TestSessionInventory(t *testing.T) {
	h := newTestHub(t)
	name := unique("inventory")
	cert := h.join(t, name)
	desired := state(name, account("app"), account("new"))
	h.fleet.Publish(plan(desired))
	held := map[string]string{
		"account/app": desired.Part("account/app").Part.Hash, "stream/app/OLD": hashOf("old"), "account/failing": hashOf("failing"),
	}
	hi := hello(federationv1.StateHash(held))
	hi.Unapplied = []*federationv1.PartStatus{
		{Id: "account/failing", Hash: hashOf("failing"), State: federationv1.PartStatus_FAILED, Code: "NoSpace", Message: "disk full"},
		{Id: "account/app", Hash: hashOf("another version"), State: federationv1.PartStatus_FAILED, Code: "Old"},
	}
	s := h.sync(t, cert, hi)
	if w := s.welcome(); !w.WantInventory {
		t.Error("no inventory wanted")
	}
	if p := h.progress(name); p.Known() || !p.Connected {
		t.Errorf("before the inventory: %+v", p)
	}
	s.heartbeat(hi.HeldHash) // must not be taken for a mistake
	s.inventory(held)
	u := s.update()
	equal(t, "upserts", upserted(u), []string{"account/new"})
	equal(t, "removals", u.Removals, []string{"account/failing", "stream/app/OLD"})
	if u.BaseHash != hi.HeldHash || u.TargetHash != desired.Hash {
		t.Errorf("from %s to %s, want %s to %s", u.BaseHash, u.TargetHash, hi.HeldHash, desired.Hash)
	}
	equal(t, "unapplied", h.progress(name).Unapplied, map[string]topology.PartFailure{"account/failing": {Code: "NoSpace", Message: "disk full"}})

	// Held at once, applied only when the agent says so.
	s.heartbeat(desired.Hash)
	eventually(t, "held", func() bool { return h.progress(name).Hash("account/new") != "" })
	equal(t, "unapplied", h.progress(name).Unapplied, map[string]topology.PartFailure{"account/new": {}})
	s.applied(u)
	eventually(t, "applied", func() bool { return h.progress(name).Applied("account/new", u.Upserts[0].Hash) })
	equal(t, "held", holding(h.progress(name)), heldOf(desired))

	// It comes back as it was: known without an inventory, though the plan moved on.
	h.fleet.Publish(plan(state(name, account("app"))))
	u = s.update()
	equal(t, "removals", u.Removals, []string{"account/new"})
	s.leave()
	eventually(t, "disconnected", func() bool { return !h.progress(name).Connected })
	s = h.sync(t, cert, hello(desired.Hash))
	if w := s.welcome(); w.WantInventory {
		t.Error("inventory wanted of a state that the hub has seen")
	}
	if again := s.update(); again.BaseHash != u.BaseHash || again.TargetHash != u.TargetHash {
		t.Error("what the agent did not take before is not sent again")
	}
}

func TestSessionOneInFlight(t *testing.T) {
	h := newTestHub(t)
	name := unique("flight")
	cert := h.join(t, name)
	h.fleet.Publish(plan(state(name, account("a"))))
	s := h.sync(t, cert, hello(federationv1.EmptyHash))
	if w := s.welcome(); w.WantInventory {
		t.Error("inventory wanted of nothing")
	}
	first := s.update()
	for _, more := range []string{"b", "c", "d"} {
		h.fleet.Publish(plan(state(name, account("a"), account(more))))
	}
	s.heartbeat(federationv1.EmptyHash) // still at it
	s.applied(first)
	second := s.update()
	equal(t, "second update", upserted(second), []string{"account/d"})
	if second.BaseHash != first.TargetHash {
		t.Errorf("based on %s, want %s", second.BaseHash, first.TargetHash)
	}
	s.heartbeat(hashOf("something else"))
	s.ended(codes.Aborted, "start a new session")
}

func TestSessionRefusal(t *testing.T) {
	h := newTestHub(t)
	name := unique("refuses")
	cert := h.join(t, name)
	bad := state(name, account("bad"))
	h.fleet.Publish(plan(bad))
	s := h.sync(t, cert, hello(federationv1.EmptyHash))
	s.welcome()
	s.update()
	s.report(&federationv1.Report{HeldHash: federationv1.EmptyHash, Refusal: "account bad\x1b: no"})
	eventually(t, "refusal", func() bool { return h.progress(name).Refusal == "account bad : no" })

	// Not again while the plan is the same, whatever else happens.
	h.fleet.Publish(plan(bad, state("unrelated")))
	s.heartbeat(federationv1.EmptyHash)
	good := state(name, account("good"))
	h.fleet.Publish(plan(good))
	next := s.update()
	equal(t, "after the refusal", upserted(next), []string{"account/good"})
	if p := h.progress(name); p.Refusal != "" {
		t.Errorf("the refusal of another plan is kept: %q", p.Refusal)
	}
	s.report(&federationv1.Report{HeldHash: federationv1.EmptyHash, Refusal: "nor that"})
	eventually(t, "refusal", func() bool { return h.progress(name).Refusal == "nor that" })

	// A new session is a new chance, and the refusal is known until it is taken.
	s = h.sync(t, cert, hello(federationv1.EmptyHash))
	s.welcome()
	u := s.update()
	if p := h.progress(name); p.Refusal != "nor that" {
		t.Errorf("refusal %q", p.Refusal)
	}
	s.applied(u)
	eventually(t, "the refusal is over", func() bool { p := h.progress(name); return p.Refusal == "" && p.Hash("account/good") != "" })
}

func TestSessionNewerWins(t *testing.T) {
	h := newTestHub(t)
	name := unique("twice")
	cert := h.join(t, name)
	h.fleet.Publish(plan(state(name, account("a"))))
	older := h.sync(t, cert, hello(federationv1.EmptyHash))
	older.welcome()
	older.update()
	newer := h.sync(t, cert, hello(federationv1.EmptyHash))
	newer.welcome()
	u := newer.update()
	older.ended(codes.Aborted, "newer session")
	newer.applied(u)
	eventually(t, "applied", func() bool { return h.progress(name).Applied("account/a", u.Upserts[0].Hash) })
	if !h.progress(name).Connected {
		t.Error("the end of the older session disconnected the member")
	}
}

// The order between members: a part is sent when what it comes after is applied
// elsewhere, and without delay then.
func TestSessionWaitsForOthers(t *testing.T) {
	h := newTestHub(t)
	a, b := unique("acceptor"), unique("dialer")
	certA, certB := h.join(t, a), h.join(t, b)
	h.fleet.Publish(plan(
		state(a, link(b, federationv1.LinkSpec_ACCEPT, "UKEY")),
		state(b, account("app"), after(link(a, federationv1.LinkSpec_DIAL, ""), a, federationv1.LinkID(b))),
	))
	sb := h.sync(t, certB, hello(federationv1.EmptyHash))
	sb.welcome()
	sa := h.sync(t, certA, hello(federationv1.EmptyHash))
	sa.welcome()
	ua := sa.update()
	ub := sb.update()
	for len(ub.Upserts) > 1 { // before a was connected nothing was waited for
		t.Fatalf("b got %v before a was ready", upserted(ub))
	}
	sb.applied(ub)
	sa.heartbeat(ua.TargetHash) // held, not applied
	eventually(t, "held", func() bool {
		return h.progress(a).Known() && h.progress(b).Applied("account/app", ub.Upserts[0].Hash)
	})
	select {
	case m := <-sb.got:
		t.Fatalf("b got %v before a had applied", m)
	default:
	}
	sa.applied(ua)
	equal(t, "then", upserted(sb.update()), []string{federationv1.LinkID(a)})
}

func TestSessionHostileReports(t *testing.T) {
	h := newTestHub(t)
	name := unique("hostile")
	cert := h.join(t, name)
	desired := state(name, account("a"))
	h.fleet.Publish(plan(desired))
	badHello := func(change func(*federationv1.Hello)) *federationv1.Hello {
		hi := hello(desired.Hash)
		change(hi)
		return hi
	}
	for what, tt := range map[string]struct {
		hello *federationv1.Hello
		code  codes.Code
	}{
		"protocol":  {badHello(func(h *federationv1.Hello) { h.Protocol = 0 }), codes.FailedPrecondition},
		"epoch":     {badHello(func(h *federationv1.Hello) { h.Epoch = 2 }), codes.FailedPrecondition},
		"held hash": {badHello(func(h *federationv1.Hello) { h.HeldHash = "x" }), codes.InvalidArgument},
		"features":  {badHello(func(h *federationv1.Hello) { h.Features = make([]string, 33) }), codes.InvalidArgument},
		"endpoints": {badHello(func(h *federationv1.Hello) { h.Facts = &federationv1.Facts{Endpoints: make([]string, 17)} }), codes.InvalidArgument},
	} {
		t.Run(what, func(t *testing.T) { h.sync(t, cert, tt.hello).ended(tt.code, "") })
	}
	for what, msg := range map[string]*federationv1.AgentMessage{
		"hello again": {Body: &federationv1.AgentMessage_Hello{Hello: hello(desired.Hash)}},
		"state":       {Body: &federationv1.AgentMessage_Report{Report: &federationv1.Report{HeldHash: desired.Hash, Parts: []*federationv1.PartStatus{{Id: "a", Hash: hashOf("x"), State: 9}}}}},
		"inventory":   {Body: &federationv1.AgentMessage_Inventory{Inventory: &federationv1.Inventory{HeldHash: hashOf("x")}}},
	} {
		t.Run(what, func(t *testing.T) {
			s := h.sync(t, cert, hello(desired.Hash))
			s.welcome()
			s.send(msg)
			s.ended(codes.InvalidArgument, "")
		})
	}
	s := h.sync(t, cert, hello(desired.Hash))
	s.welcome()
	s.send(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Report{Report: &federationv1.Report{
		HeldHash: desired.Hash, Refusal: string(make([]byte, 5<<20)),
	}}})
	s.ended(codes.ResourceExhausted, "")
}

func TestSessionSilence(t *testing.T) {
	h := newTestHub(t)
	name := unique("silent")
	cert := h.join(t, name)
	h.fleet.Publish(plan(state(name)))
	s := h.sync(t, cert, hello(federationv1.EmptyHash))
	s.welcome()
	now := time.Now()
	h.fleet.mu.Lock()
	h.fleet.now = func() time.Time { return now.Add(29 * time.Second) }
	h.fleet.mu.Unlock()
	h.fleet.sweep()
	s.heartbeat(federationv1.EmptyHash)
	eventually(t, "heartbeat", func() bool { return h.fleet.Observe().Members[name].LastSeen.After(now.Add(20 * time.Second)) })
	h.fleet.mu.Lock()
	h.fleet.now = func() time.Time { return now.Add(60 * time.Second) }
	h.fleet.mu.Unlock()
	h.fleet.sweep()
	s.ended(codes.DeadlineExceeded, "nothing was heard")
	eventually(t, "disconnected", func() bool { return !h.progress(name).Connected })
}

func TestSessionRevocation(t *testing.T) {
	h := newTestHub(t)
	name := unique("revoked")
	cert := h.join(t, name)
	h.fleet.Publish(plan(state(name)))
	s := h.sync(t, cert, hello(federationv1.EmptyHash))
	s.welcome()

	// The object goes: at once, before any plan says so.
	remove(t, h.client, name)
	s.ended(codes.PermissionDenied, "was removed")
	h.sync(t, cert, hello(federationv1.EmptyHash)).ended(codes.PermissionDenied, "not in this federation")

	// Another takes the name: the old certificate is none of it.
	again := h.join(t, name)
	h.sync(t, cert, hello(federationv1.EmptyHash)).ended(codes.PermissionDenied, "another key")
	s = h.sync(t, again, hello(federationv1.EmptyHash))
	s.welcome()

	// The plan loses the member.
	h.fleet.Publish(plan())
	s.ended(codes.PermissionDenied, "was removed")
	if p := h.progress(name); p != nil {
		t.Errorf("progress of a removed member: %+v", p)
	}

	// An identity is taken away while the object stays.
	third := unique("stripped")
	cert = h.join(t, third)
	s = h.sync(t, cert, hello(federationv1.EmptyHash))
	s.welcome()
	eventually(t, "the watch shows the identity", func() bool {
		var m v1alpha1.MemberCluster
		return h.cluster.GetClient().Get(t.Context(), keyOf(third), &m) == nil && m.Status.Identity != nil
	})
	m := h.member(t, third)
	m.Status.Identity = nil
	if err := h.client.Status().Update(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	s.ended(codes.PermissionDenied, "was removed")
	h.sync(t, cert, hello(federationv1.EmptyHash)).ended(codes.PermissionDenied, "has not enrolled")
}

func TestSessionNeedsOurCertificate(t *testing.T) {
	h := newTestHub(t)
	h.fleet.Publish(plan())
	name := unique("guarded")
	h.join(t, name)
	other := newAuthority(t)
	issue := func(a *Authority, cluster string) tls.Certificate {
		key := newKey(t)
		der, _, err := a.Issue(cluster, anIncarnation, key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return pair(t, [][]byte{der}, key)
	}
	call := func(certs ...tls.Certificate) error {
		_, err := federationv1.NewFederationClient(h.dial(t, certs...)).Renew(t.Context(), &federationv1.RenewRequest{Csr: request(t, newKey(t))})
		return err
	}
	wantStatus(t, call(), codes.Unauthenticated, "enrol first")
	wantStatus(t, call(issue(other, name)), codes.Unavailable, "") // at TLS
	wantStatus(t, call(issue(h.authority, name)), codes.PermissionDenied, "another key")
	wantStatus(t, call(issue(h.authority, unique("absent"))), codes.PermissionDenied, "not in this federation")
	h.authority.trustDomain = "other.local"
	foreign := issue(h.authority, name)
	h.authority.trustDomain = "test.local"
	wantStatus(t, call(foreign), codes.Unauthenticated, "no member of trust domain")
	h.authority.now = func() time.Time { return time.Now().Add(-30 * 24 * time.Hour) }
	expired := issue(h.authority, name)
	h.authority.now = time.Now
	wantStatus(t, call(expired), codes.Unavailable, "") // at TLS
	server, err := h.authority.issueServer(h.authority.current.Load(), []string{"x"})
	if err != nil {
		t.Fatal(err)
	}
	wantStatus(t, call(*server), codes.Unavailable, "") // at TLS: no client certificate
}

// Until the hub has read its resources it does not know what a hash stands for,
// and does not ask a thousand agents because of that.
func TestSessionWaitsForFirstPlan(t *testing.T) {
	h := newTestHub(t)
	name := unique("early")
	cert := h.join(t, name)
	desired := state(name, account("a"))
	s := h.sync(t, cert, hello(desired.Hash))
	h.fleet.Publish(plan(desired))
	if w := s.welcome(); w.WantInventory {
		t.Error("inventory wanted of the desired state")
	}
}

func TestSessionShutdown(t *testing.T) {
	h := newTestHub(t)
	name := unique("shutdown")
	cert := h.join(t, name)
	h.fleet.Publish(plan(state(name)))
	s := h.sync(t, cert, hello(federationv1.EmptyHash))
	s.welcome()
	start := time.Now()
	h.stop()
	s.ended(codes.Unavailable, "shutting down")
	if d := time.Since(start); d > stopTimeout {
		t.Errorf("stopping took %v", d)
	}
}

func TestSessionExpiredCertificateEnds(t *testing.T) {
	h := newTestHub(t)
	name := unique("expires")
	cert := h.join(t, name)
	h.fleet.Publish(plan(state(name)))
	s := h.sync(t, cert, hello(federationv1.EmptyHash))
	s.welcome()
	h.fleet.mu.Lock()
	h.fleet.now = func() time.Time { return cert.Leaf.NotAfter.Add(time.Second) }
	h.fleet.mu.Unlock()
	h.fleet.sweep()
	s.ended(codes.Aborted, "has expired")
}

// TestSessionLargeReport: a parent reports 5,000 grants, in several messages, as one.
func TestSessionLargeReport(t *testing.T) {
	const n = 5000
	h := newTestHub(t)
	name := unique("parent")
	cert := h.join(t, name)
	key := "U" + keyBody('A')
	jwt := "e." + strings.Repeat("x", 900) + ".y"
	var parts []*topology.PlannedPart
	var states []*topology.MemberState
	first := &federationv1.Report{More: true}
	second := &federationv1.Report{More: true}
	third := &federationv1.Report{}
	for i := range n {
		peer := fmt.Sprintf("edge-%04d", i)
		parts = append(parts, link(peer, federationv1.LinkSpec_ACCEPT, key))
		states = append(states, state(peer))
		part := [...]*federationv1.Report{first, second, third}[i*3/n]
		part.Grants = append(part.Grants, &federationv1.Grant{Peer: peer, Key: key, Out: jwt, In: jwt})
		part.Links = append(part.Links, &federationv1.LinkHealth{Peer: peer, State: federationv1.Health_UP, Since: 1})
	}
	own := state(name, parts...)
	h.fleet.Publish(plan(append(states, own)...))
	agent := h.sync(t, cert, hello(own.Hash))
	agent.welcome()
	for i, r := range []*federationv1.Report{first, second, third} {
		r.HeldHash = own.Hash
		if i == 2 {
			// What was said so far does not count yet: a report is complete or not there.
			agent.heartbeat(own.Hash)
			if o := h.fleet.Observe(); len(o.Grants[name]) > 0 || len(o.Progress[name].Links) > 0 {
				t.Errorf("%d grants and %d links of an unfinished report count", len(o.Grants[name]), len(o.Progress[name].Links))
			}
		}
		agent.report(r)
	}
	eventually(t, "the report is there", func() bool {
		o := h.fleet.Observe()
		return len(o.Grants[name]) == n && len(o.Progress[name].Links) == n
	})
	// Later ones tell what changed, and the first is not cleared by them.
	agent.report(&federationv1.Report{HeldHash: own.Hash, Links: []*federationv1.LinkHealth{{Peer: "edge-0000", Removed: true}}})
	eventually(t, "a link is gone", func() bool { return len(h.progress(name).Links) == n-1 })
	if got := len(h.fleet.Observe().Grants[name]); got != n {
		t.Errorf("%d grants are left", got)
	}

	// One that never ends is ended.
	endless := &federationv1.Report{HeldHash: own.Hash, More: true, Parts: make([]*federationv1.PartStatus, 9000)}
	for i := range endless.Parts {
		endless.Parts[i] = &federationv1.PartStatus{Id: fmt.Sprintf("part-%d", i), Hash: hashOf("x"), State: federationv1.PartStatus_APPLIED}
	}
	for range 3 {
		agent.report(endless)
	}
	agent.ended(codes.InvalidArgument, "part statuses")
}

// TestSessionOfOtherVersions: an agent of another version, which knows fewer kinds
// of parts or more, has a session, and is sent what it knows.
func TestSessionOfOtherVersions(t *testing.T) {
	h := newTestHub(t)
	name := unique("other")
	cert := h.join(t, name)
	broker := &topology.PlannedPart{Part: federationv1.Seal(&federationv1.Part{Id: federationv1.BrokerID, Spec: &federationv1.Part_Broker{Broker: &federationv1.BrokerSpec{}}})}
	h.fleet.Publish(plan(state(name, account("app"), broker)))
	for what, c := range map[string]struct {
		protocol uint32
		features []string
		want     []string
	}{
		"older": {1, []string{"account"}, []string{"account/app"}},
		"newer": {7, append([]string{"hologram"}, allFeatures...), []string{"account/app", "broker"}},
	} {
		hi := hello(federationv1.EmptyHash)
		hi.Protocol, hi.Features = c.protocol, c.features
		s := h.sync(t, cert, hi)
		s.welcome()
		var got []string
		for _, p := range s.update().Upserts {
			got = append(got, p.Id)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("the %s agent is sent %v, want %v", what, got, c.want)
		}
		s.leave()
	}
}
