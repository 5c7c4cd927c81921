package hub

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

// remove deletes a member at once, as "sealane remove --forget" does.
func remove(t testing.TB, c client.Client, name string) {
	t.Helper()
	m := &v1alpha1.MemberCluster{}
	if err := c.Get(t.Context(), keyOf(name), m); err != nil {
		t.Fatal(err)
	}
	before := m.DeepCopy()
	m.Finalizers, m.Spec.Removal = nil, v1alpha1.LeaveForget
	if err := c.Patch(t.Context(), m, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

// leaves takes a stage to members a and b, linked, with a durable bridge from a to
// b on which messages wait, and deletes a.
func (s *stage) leaves() {
	s.t.Helper()
	s.settled()
	for _, o := range []struct{ name, at string }{{"SRC", "a"}, {"DST", "b"}} {
		x := &v1alpha1.Stream{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: strings.ToLower(o.name)}, Spec: v1alpha1.StreamSpec{
			Account: "orders", Name: o.name, Placement: v1alpha1.Placement{Clusters: []string{o.at}},
		}}
		if o.at == "a" {
			x.Spec.Subjects = []string{"src.>"}
		}
		s.create(x)
	}
	s.create(&v1alpha1.Bridge{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "copy"}, Spec: v1alpha1.BridgeSpec{
		Account: "orders", Type: v1alpha1.BridgeStream, Stream: &v1alpha1.BridgeStreams{Name: "SRC", Target: "DST"},
		From: v1alpha1.Placement{Clusters: []string{"a"}}, To: v1alpha1.Placement{Clusters: []string{"b"}},
	}})
	eventually(s.t, "the flow is planned", func() bool { return s.fleet.plan().Carries("a") })
	s.fleet.apply("Up", 1000)
	s.lag(3)
	eventually(s.t, "the finalizer", func() bool { return slices.Contains(s.member("a").Finalizers, v1alpha1.LeaveFinalizer) })
	if err := s.client.Delete(s.t.Context(), s.member("a")); err != nil {
		s.t.Fatal(err)
	}
}

// lag has b say how much of the bridge has not arrived.
func (s *stage) lag(n int64) {
	s.fleet.change(func(o *Observation) {
		m := *o.Progress["b"]
		m.Flows = map[topology.FlowKey]topology.FlowReport{{Origin: "a", Account: "orders", Stream: "DST", Bridge: "app/copy"}: {State: "Up", Lag: n}}
		o.Progress["b"] = &m
	})
}

func (s *stage) gone(name string) bool {
	return apierrors.IsNotFound(s.client.Get(s.t.Context(), keyOf(name), &v1alpha1.MemberCluster{}))
}

// TestLeaves sees a member out: it waits until all is delivered, then until it
// has dropped its links.
func TestLeaves(t *testing.T) {
	s := newStage(t)
	s.leaves()
	c := s.memberSays("a", v1alpha1.ConditionLeaving, "True/Draining")
	if !strings.Contains(c.Message, "bridge app/copy to b has 3 messages to deliver") {
		t.Errorf("it says %q", c.Message)
	}
	if !s.fleet.plan().Carries("a") {
		t.Error("the bridge is planned no more while it drains")
	}
	s.lag(0)
	s.memberSays("a", v1alpha1.ConditionLeaving, "True/Departing")
	eventually(t, "the links are planned no more", func() bool { return len(s.fleet.plan().Links) == 0 })
	if left := s.fleet.plan().Members["a"]; left.Part("stream/orders/SRC") == nil || left.Part("link/b") != nil {
		t.Errorf("what a shall hold: %v", heldOf(left))
	}
	s.fleet.looked(t, 2)
	if s.gone("a") {
		t.Error("it is gone before it dropped its links")
	}
	s.fleet.apply("Up", 1000)
	eventually(t, "a is gone", func() bool { return s.gone("a") && s.fleet.plan().Members["a"] == nil })
	eventually(t, "b has no grant of it any more", func() bool { return len(s.member("b").Status.Grants) == 0 })
}

// TestForget ends a Drain that cannot end: the destination does not answer.
func TestForget(t *testing.T) {
	s := newStage(t)
	s.leaves()
	s.fleet.change(func(o *Observation) {
		m := *o.Progress["b"]
		m.Connected = false
		o.Progress["b"] = &m
	})
	eventually(t, "it says what it waits for", func() bool {
		c := meta.FindStatusCondition(s.member("a").Status.Conditions, v1alpha1.ConditionLeaving)
		return c != nil && strings.Contains(c.Message, "b is not connected")
	})
	m := s.member("a")
	if err := s.client.Patch(t.Context(), m, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"removal":"Forget"}}`))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a is gone", func() bool { return s.gone("a") })
}

// TestRevocation: the session ends at once, the key is never taken again, and the
// name is free only for who was let in since.
func TestRevocation(t *testing.T) {
	h := newTestHub(t)
	name := unique("lost")
	key := newKey(t)
	old := h.newToken(t, func(k *v1alpha1.JoinToken) { k.Spec.Cluster, k.Spec.MaxUses = name+"*", 5 })
	res, err := h.enrol(t, old.String(), name, request(t, key))
	if err != nil {
		t.Fatal(err)
	}
	cert := pair(t, res.Certificates, key)
	h.fleet.Publish(plan(state(name)))
	s := h.sync(t, cert, hello(federationv1.EmptyHash))
	s.welcome()

	// A renewal that is not in use yet does not outlast the key that asked for it.
	next := newKey(t)
	renewal, err := federationv1.NewFederationClient(h.dial(t, cert)).Renew(t.Context(), &federationv1.RenewRequest{Csr: request(t, next)})
	if err != nil {
		t.Fatal(err)
	}
	m := h.member(t, name)
	before := m.DeepCopy()
	m.Spec.RevokedKeys = []string{m.Status.Identity.KeyHash}
	if err := h.client.Patch(t.Context(), m, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	s.ended(codes.PermissionDenied, "is revoked")
	h.sync(t, cert, hello(federationv1.EmptyHash)).ended(codes.PermissionDenied, "is revoked")
	h.sync(t, pair(t, renewal.Certificates, next), hello(federationv1.EmptyHash)).ended(codes.PermissionDenied, "another key")
	if _, err := federationv1.NewFederationClient(h.dial(t, cert)).Renew(t.Context(), &federationv1.RenewRequest{Csr: request(t, newKey(t))}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a renewal of a revoked member: %v", err)
	}

	// The Reconciler notes since when.
	exact := func(k *v1alpha1.JoinToken) { k.Spec.Cluster = name }
	early := h.newToken(t, exact)
	refused := func(what string, token federationv1.JoinToken, csr []byte, code codes.Code) {
		t.Helper()
		if _, err := h.enrol(t, token.String(), name, csr); status.Code(err) != code {
			t.Errorf("%s: %v, want %s", what, err, code)
		}
	}
	refused("before the revocation is noted", early, request(t, newKey(t)), codes.Unavailable)
	m = h.member(t, name)
	m.Status.LinkKey = "UOLD"
	m.Status.Conditions = []metav1.Condition{{
		Type: v1alpha1.ConditionRevoked, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonRevoked,
		LastTransitionTime: metav1.NewTime(h.token(t, early.Name).CreationTimestamp.Add(time.Second)),
	}}
	if err := h.client.Status().Update(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	refused("a token of before", early, request(t, newKey(t)), codes.PermissionDenied)
	refused("a token for many", old, request(t, newKey(t)), codes.PermissionDenied)
	eventually(t, "the next second", func() bool { return time.Now().After(m.Status.Conditions[0].LastTransitionTime.Time) })
	fresh := h.newToken(t, exact)
	refused("the old key", fresh, request(t, key), codes.PermissionDenied)
	again := newKey(t)
	res, err = h.enrol(t, fresh.String(), name, request(t, again))
	if err != nil {
		t.Fatal(err)
	}
	if st := h.member(t, name).Status; st.LinkKey != "" || len(st.Conditions) > 0 {
		t.Errorf("of the revoked member is left: %+v", st)
	}
	h.sync(t, pair(t, res.Certificates, again), hello(federationv1.EmptyHash)).welcome()
	h.sync(t, cert, hello(federationv1.EmptyHash)).ended(codes.PermissionDenied, "is revoked")
}

// TestOutdatedHub: a hub that has not come as far as an agent has seen does not
// rule it, and says so; one of a higher epoch does.
func TestOutdatedHub(t *testing.T) {
	h := newTestHub(t)
	name := unique("ahead")
	cert := h.join(t, name)
	h.fleet.Publish(plan(state(name)))
	if err := h.fleet.leadFrom(t.Context(), h.cluster.GetAPIReader()); err != nil {
		t.Fatal(err)
	}
	now := h.fleet.base.Load()
	if now == 0 {
		t.Fatal("no revision")
	}
	say := func(epoch, revision uint64) *script {
		hi := hello(federationv1.EmptyHash)
		hi.Epoch, hi.Revision = epoch, revision
		return h.sync(t, cert, hi)
	}
	say(1, now+1).ended(codes.FailedPrecondition, "restored from a backup")
	if p := h.progress(name); p == nil || !strings.Contains(p.Outdated, "raise its epoch above 1") || p.Connected {
		t.Errorf("progress %+v", p)
	}
	say(2, 0).ended(codes.FailedPrecondition, "has seen epoch 2")
	s := say(1, now)
	s.welcome()
	if p := h.progress(name); p.Outdated != "" {
		t.Errorf("still outdated: %s", p.Outdated)
	}
	s.leave()

	// What this hub has sent itself is no news, and what it has come to since does
	// not make up for what it has lost.
	h.fleet.seen(strconv.FormatUint(now+10, 10))
	h.fleet.Publish(plan(state(name, account("x"))))
	s = say(1, now)
	s.welcome()
	revision := s.update().Revision
	if revision != now+10 {
		t.Errorf("an update of revision %d, want %d", revision, now+10)
	}
	s.leave()
	s = say(1, revision)
	s.welcome()
	s.leave()
	h.fleet.seen(strconv.FormatUint(now+20, 10))
	say(1, now+15).ended(codes.FailedPrecondition, "restored from a backup")
	say(0, now+1_000_000).welcome() // what it has seen was of an older epoch
}
