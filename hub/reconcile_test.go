package hub

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/hub/apiserver"
	"github.com/sealane/sealane/topology"
)

// stage is a Reconciler with a real API server of its own and a fleet that
// observes what the test tells it to.
type stage struct {
	t      *testing.T
	cfg    *rest.Config
	client client.Client // not cached
	fleet  *scripted
	stop   func() // of the Reconciler, and waits for it
	queue  int    // of the writer, if it shall be another than usual
	kept   string // the file with what is in effect

	metrics *metrics // of the Reconciler
}

// scripted is a fleet by script.
type scripted struct {
	mu        sync.Mutex
	seen      Observation
	published []*topology.Plan
	looks     int
	changes   chan struct{}
}

func newScripted() *scripted {
	return &scripted{changes: make(chan struct{}, 1), seen: Observation{
		Progress: topology.Progress{}, Members: map[string]MemberFacts{}, Grants: map[string]map[string]*federationv1.Grant{},
	}}
}

func (s *scripted) Publish(p *topology.Plan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.published = append(s.published, p)
}

func (s *scripted) Observe() Observation {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks++
	return Observation{Progress: maps.Clone(s.seen.Progress), Members: maps.Clone(s.seen.Members), Grants: maps.Clone(s.seen.Grants)}
}

func (s *scripted) Changes() <-chan struct{} { return s.changes }

// plan is the newest plan.
func (s *scripted) plan() *topology.Plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.published) == 0 {
		return &topology.Plan{}
	}
	return s.published[len(s.published)-1]
}

// change changes what is observed.
func (s *scripted) change(do func(*Observation)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do(&s.seen)
	nudge(s.changes)
}

// connect has a member connect, with nothing held.
func (s *scripted) connect(name string) {
	s.change(func(o *Observation) {
		o.Progress[name] = &topology.MemberProgress{Connected: true, Features: allFeatures, Held: map[string]string{}}
		o.Members[name] = MemberFacts{
			Agent: &federationv1.AgentInfo{Version: "v1", BrokerVersion: "2.15", Runtime: "embedded"},
			Facts: &federationv1.Facts{LinkKey: "U" + strings.ToUpper(name), Endpoints: []string{name + ":7422"}, Storage: 1 << 30},
		}
	})
}

// apply has all members hold and apply what is planned for them, and say that
// their links are in a state.
func (s *scripted) apply(link string, rtt int64) {
	p := s.plan()
	s.change(func(o *Observation) {
		for name, old := range o.Progress {
			n := *old
			n.Held, n.Links = heldOf(p.Members[name]), map[string]topology.LinkReport{}
			for id := range n.Held {
				if peer := federationv1.IDPeer(id); strings.HasPrefix(id, "link/") {
					n.Links[peer] = topology.LinkReport{State: link, SinceMillis: 1_700_000_000_000, RTTMicros: rtt}
				}
			}
			o.Progress[name] = &n
		}
	})
}

// looked waits until the Reconciler has looked at statuses n times more.
func (s *scripted) looked(t *testing.T, n int) {
	t.Helper()
	count := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.looks
	}
	for until := count() + n; count() < until; {
		nudge(s.changes)
		before := count()
		eventually(t, "a look at statuses", func() bool { return count() > before })
	}
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := newStopped(t)
	s.start()
	return s
}

// newStopped is a stage with the API server only.
func newStopped(t *testing.T) *stage {
	t.Helper()
	dir := t.TempDir()
	api, err := apiserver.Start(context.WithoutCancel(t.Context()), apiserver.Options{DataDir: dir, Listen: "127.0.0.1:0", Kinds: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &stage{t: t, cfg: rest.CopyConfig(api.RESTConfig()), kept: filepath.Join(dir, "in-effect")}
	s.cfg.QPS = -1
	return s
}

// start starts a hub's Reconciler, with a fleet that knows nothing.
func (s *stage) start() {
	s.t.Helper()
	o := Options{Log: slog.New(slog.DiscardHandler)}
	parts := newStack(context.WithoutCancel(s.t.Context()))
	c, err := o.startCache(s.t.Context(), parts, s.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.client, err = client.New(s.cfg, client.Options{Scheme: c.GetScheme()}); err != nil {
		s.t.Fatal(err)
	}
	s.fleet = newScripted()
	r := newReconciler(c, s.fleet, s.kept, o.Log)
	s.metrics = r.metrics
	if s.queue > 0 {
		r.writer.jobs = make(chan job, s.queue)
	}
	parts.start("reconciler", r.Run)
	s.stop = sync.OnceFunc(func() {
		if err := parts.stop(); err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(s.stop)
}

func (s *stage) create(o client.Object) {
	s.t.Helper()
	if err := s.client.Create(s.t.Context(), o); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) members(names ...string) {
	s.t.Helper()
	for _, name := range names {
		s.create(&v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
}

func (s *stage) member(name string) *v1alpha1.MemberCluster {
	s.t.Helper()
	m := &v1alpha1.MemberCluster{}
	if err := s.client.Get(s.t.Context(), keyOf(name), m); err != nil {
		s.t.Fatal(err)
	}
	return m
}

func (s *stage) topology() *v1alpha1.MessagingTopology {
	s.t.Helper()
	m := &v1alpha1.MessagingTopology{}
	if err := s.client.Get(s.t.Context(), keyOf("t"), m); err != nil {
		s.t.Fatal(err)
	}
	return m
}

// says waits until a condition says something: "True/Ready".
func (s *stage) says(typ, want string, conditions func() []metav1.Condition) metav1.Condition {
	s.t.Helper()
	var got *metav1.Condition
	if !poll(func() bool {
		got = meta.FindStatusCondition(conditions(), typ)
		return got != nil && fmt.Sprintf("%s/%s", got.Status, got.Reason) == want
	}) {
		s.t.Fatalf("%s: got %+v, want %s", typ, got, want)
	}
	return *got
}

func (s *stage) memberSays(name, typ, want string) metav1.Condition {
	s.t.Helper()
	return s.says(typ, want, func() []metav1.Condition { return s.member(name).Status.Conditions })
}

func (s *stage) topologySays(typ, want string) metav1.Condition {
	s.t.Helper()
	return s.says(typ, want, func() []metav1.Condition { return s.topology().Status.Conditions })
}

func meshOf(groups ...v1alpha1.Group) *v1alpha1.MessagingTopology {
	return &v1alpha1.MessagingTopology{ObjectMeta: metav1.ObjectMeta{Name: "t"}, Spec: v1alpha1.MessagingTopologySpec{
		Groups:   groups,
		Links:    []v1alpha1.LinkRule{{Name: "mesh", Type: v1alpha1.LinkMesh, Groups: []string{groups[0].Name}}},
		Accounts: []v1alpha1.Account{{Name: "orders", Namespaces: []string{"*"}}},
	}}
}

var everyone = v1alpha1.Group{Name: "all", Selector: &metav1.LabelSelector{}}

// settled takes a stage of members a and b, linked, to Ready.
func (s *stage) settled() {
	s.t.Helper()
	s.members("a", "b")
	s.create(meshOf(everyone))
	s.fleet.connect("a")
	s.fleet.connect("b")
	s.granted()
	s.fleet.apply("Up", 1000)
	s.topologySays("Ready", "True/Ready")
}

// granted has a grant b, as soon as a is asked to, and waits for the plan that
// comes of it.
func (s *stage) granted() {
	s.t.Helper()
	eventually(s.t, "a is asked to accept b", func() bool {
		m := s.fleet.plan().Members["a"]
		return m != nil && m.Part("link/b") != nil && m.Part("link/b").Part.GetLink().PeerKey == "UB"
	})
	s.fleet.change(func(o *Observation) {
		o.Grants["a"] = map[string]*federationv1.Grant{"b": {Peer: "b", Key: "UB", Out: "out", In: "in"}}
	})
	eventually(s.t, "b is told to dial a", func() bool {
		p := s.fleet.plan().Members["b"].Part("link/a")
		return p != nil && p.Part.GetLink().GetGrant().GetOut() == "out"
	})
}

func TestReconcile(t *testing.T) {
	s := newStage(t)
	eventually(t, "a first plan, of nothing", func() bool { return s.fleet.plan().Members != nil })

	// Nobody has joined, then nobody has connected.
	s.create(meshOf(everyone))
	s.topologySays("Ready", "False/NoMembers")
	s.topologySays("Accepted", "True/Accepted")
	s.members("a", "b")
	s.memberSays("a", "Connected", "False/NeverConnected")
	s.memberSays("a", "Accepted", "True/Accepted")
	s.topologySays("Ready", "False/Pending")

	// What members say of themselves makes the plan.
	s.fleet.connect("a")
	s.fleet.connect("b")
	s.memberSays("a", "Connected", "True/Connected")
	s.granted()
	b := s.member("b")
	equal(t, "grants of b", b.Status.Grants, []v1alpha1.Grant{{Peer: "a", Key: "UB", Out: "out", In: "in"}})
	equal(t, "agent of b", b.Status.Agent, &v1alpha1.AgentInfo{Version: "v1", BrokerVersion: "2.15", Runtime: "embedded", Storage: 1 << 30})
	equal(t, "endpoints of b", b.Status.Endpoints, []string{"b:7422"})
	s.topologySays("Programmed", "False/Pending")

	// All applied and up.
	s.fleet.apply("Up", 1000)
	ready := s.topologySays("Ready", "True/Ready")
	s.memberSays("b", "Ready", "True/Ready")
	top := s.topology()
	if ready.ObservedGeneration != top.Generation || top.Status.ObservedGeneration != top.Generation || top.Status.Members != "2/2" || top.Status.Links != "1/1" {
		t.Errorf("status of the topology: %+v", top.Status)
	}
	b = s.member("b")
	state := s.fleet.plan().Members["b"]
	if b.Status.DesiredHash != state.Hash || b.Status.HeldHash != state.Hash || b.Status.Parts != fmt.Sprintf("%d/%[1]d", len(state.Parts)) {
		t.Errorf("status of b: %+v", b.Status)
	}
	equal(t, "links of b", b.Status.Links, []v1alpha1.LinkStatus{{Peer: "a", Role: "Dial", State: v1alpha1.LinkUp, Since: b.Status.Links[0].Since, RTTMicros: 1000}})
	if got := b.Status.Links[0].Since.Unix(); got != 1_700_000_000 {
		t.Errorf("the link is up since %d", got)
	}

	// A link goes down and comes back.
	s.fleet.apply("Down", 1000)
	down := s.topologySays("Ready", "False/LinksDown")
	if !strings.Contains(down.Message, "a<->b") {
		t.Errorf("message %q", down.Message)
	}
	s.memberSays("a", "Ready", "False/LinksDown")
	s.fleet.apply("Up", 1000)
	s.topologySays("Ready", "True/Ready")

	// A stream, and a bridge that cannot be: only the bridge says so.
	s.create(&v1alpha1.Stream{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "src"}, Spec: v1alpha1.StreamSpec{
		Account: "orders", Placement: v1alpha1.Placement{Clusters: []string{"a"}}, Subjects: []string{"src.>"},
	}})
	s.create(&v1alpha1.Bridge{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "wrong"}, Spec: v1alpha1.BridgeSpec{
		Account: "nobody", Type: v1alpha1.BridgeEvents, Subjects: []string{"x"},
		From: v1alpha1.Placement{Clusters: []string{"a"}}, To: v1alpha1.Placement{Clusters: []string{"b"}},
	}})
	s.says("Accepted", "False/UnknownAccount", func() []metav1.Condition {
		o := &v1alpha1.Bridge{}
		_ = s.client.Get(t.Context(), client.ObjectKey{Namespace: "app", Name: "wrong"}, o)
		return o.Status.Conditions
	})
	eventually(t, "the stream is planned", func() bool { return s.fleet.plan().Members["a"].Part("stream/orders/src") != nil })
	s.fleet.apply("Up", 1000)
	s.says("Ready", "True/Ready", func() []metav1.Condition {
		o := &v1alpha1.Stream{}
		_ = s.client.Get(t.Context(), client.ObjectKey{Namespace: "app", Name: "src"}, o)
		return o.Status.Conditions
	})
	s.topologySays("Ready", "True/Ready")

	// A member is removed from the federation, without waiting for what it has.
	gone := s.member("a")
	before := gone.DeepCopy()
	gone.Spec.Removal = v1alpha1.LeaveForget
	if err := s.client.Patch(t.Context(), gone, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	if err := s.client.Delete(t.Context(), s.member("a")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a is planned no more", func() bool { return s.fleet.plan().Members["a"] == nil })
	eventually(t, "b has no grant of it any more", func() bool { return len(s.member("b").Status.Grants) == 0 })
}

func TestReconcileWritesOnlyChanges(t *testing.T) {
	s := newStage(t)
	s.settled()
	s.memberSays("b", "Ready", "True/Ready")
	versions := func() string {
		return s.member("a").ResourceVersion + " " + s.member("b").ResourceVersion + " " + s.topology().ResourceVersion
	}
	still := func(what string) {
		t.Helper()
		before := versions()
		s.fleet.looked(t, 3)
		if after := versions(); after != before {
			t.Errorf("%s: written, %s before and %s after", what, before, after)
		}
	}
	var last string
	eventually(t, "rest", func() bool {
		before := last
		s.fleet.looked(t, 3)
		last = versions()
		return before == last
	})
	still("nothing changed")
	s.fleet.apply("Up", 1200)
	still("the round trip changed a little")
	written := time.Now()
	s.fleet.apply("Up", 9000)
	eventually(t, "the round trip changed much", func() bool { return s.member("b").Status.Links[0].RTTMicros == 9000 })
	s.fleet.looked(t, 3)
	before := s.member("b").ResourceVersion
	s.fleet.apply("Up", 90_000)
	s.fleet.looked(t, 3)
	if after := s.member("b").ResourceVersion; after != before && time.Since(written) < metricsInterval {
		t.Error("the round trip changed much again, and was written too soon")
	}
	s.fleet.apply("Down", 90_000)
	eventually(t, "the state, with the round trip", func() bool {
		l := s.member("b").Status.Links[0]
		return l.State == v1alpha1.LinkDown && l.RTTMicros == 90_000
	})

	// A status that somebody spoils is mended.
	b := s.member("b")
	meta.SetStatusCondition(&b.Status.Conditions, metav1.Condition{Type: "Ready", Status: "True", Reason: "Wish"})
	b.Status.Links = nil
	if err := s.client.Status().Update(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	s.memberSays("b", "Ready", "False/LinksDown")
	eventually(t, "links are back", func() bool { return len(s.member("b").Status.Links) == 1 })
}

// TestReconcileLeavesIdentityAlone: enrolment writes the same status.
func TestReconcileLeavesIdentityAlone(t *testing.T) {
	s := newStage(t)
	s.settled()
	for i := range 15 {
		s.fleet.apply([]string{"Up", "Down"}[i%2], int64(i))
		for {
			m := s.member("b")
			m.Status.Identity = &v1alpha1.MemberIdentity{KeyHash: fmt.Sprint(i), NotAfter: metav1.Now(), Token: "t"}
			if err := s.client.Status().Update(t.Context(), m); err == nil {
				break
			}
		}
		if got := s.member("b").Status.Identity; got == nil || got.KeyHash != fmt.Sprint(i) {
			t.Fatalf("identity %d is lost: %+v", i, got)
		}
	}
	s.fleet.apply("Up", 15)
	s.memberSays("b", "Ready", "True/Ready")
	if got := s.member("b").Status.Identity.KeyHash; got != "14" {
		t.Errorf("identity %s", got)
	}
}

// TestReconcileAfterRestart: a new hub plans everything at once, and does not
// say that members are gone before they had time to come back.
func TestReconcileAfterRestart(t *testing.T) {
	s := newStage(t)
	s.settled()
	s.memberSays("b", "Ready", "True/Ready")
	eventually(t, "the finalizer", func() bool { return len(s.member("b").Finalizers) > 0 })
	old := s.fleet.plan()
	s.stop()
	rest := s.member("b").ResourceVersion
	started := time.Now()
	s.start()
	eventually(t, "a plan", func() bool { return s.fleet.plan().Members != nil })
	s.fleet.mu.Lock()
	for _, p := range s.fleet.published {
		for name, m := range old.Members {
			if p.Members[name] == nil || p.Members[name].Hash != m.Hash {
				t.Errorf("the new hub planned something else for %s", name)
			}
		}
	}
	s.fleet.mu.Unlock()
	s.fleet.looked(t, 3)
	if got := s.member("b").ResourceVersion; got != rest && time.Since(started) < startGrace {
		t.Errorf("b was written though nothing was heard of it yet: %+v", s.member("b").Status)
	}
	s.fleet.connect("a")
	s.fleet.apply("Up", 1000)
	s.topologySays("Ready", "Unknown/MembersDisconnected")
	s.memberSays("b", "Connected", "False/Disconnected")
	if took := time.Since(started); took < startGrace {
		t.Errorf("said after %s", took)
	}
	b := s.member("b")
	if b.Status.LinkKey != "UB" || len(b.Status.Grants) != 1 || b.Status.HeldHash != old.Members["b"].Hash {
		t.Errorf("what was known of b is lost: %+v", b.Status)
	}
}

// TestReconcileOneBadObject: an object whose status cannot be written holds up
// no other, and is written once it can be.
func TestReconcileOneBadObject(t *testing.T) {
	s := newStage(t)
	s.members("a", "b")
	s.create(meshOf(everyone))
	s.fleet.connect("a")
	s.fleet.change(func(o *Observation) {
		f := o.Members["a"]
		f.Facts = &federationv1.Facts{LinkKey: "UA", Endpoints: []string{strings.Repeat("x", 4<<20)}} // more than the store takes
		o.Members["a"] = f
	})
	s.fleet.connect("b")
	s.memberSays("b", "Connected", "True/Connected")
	if got := s.member("a").Status; len(got.Endpoints) > 0 {
		t.Fatal("the API server took it")
	}
	s.fleet.connect("a")
	s.memberSays("a", "Connected", "True/Connected")
}

// TestReconcileMany: more statuses than fit the queue.
func TestReconcileMany(t *testing.T) {
	s := newStopped(t)
	s.queue = 2
	s.start()
	const many = 40
	for i := range many {
		s.members(fmt.Sprintf("m%02d", i))
	}
	for i := range many {
		s.memberSays(fmt.Sprintf("m%02d", i), "Accepted", "False/Unplaced")
	}
}
