package hub

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

// aMember has everything set that a plan may depend on, and more.
func aMember(name string) *v1alpha1.MemberCluster {
	deleted := metav1.NewTime(time.Unix(1_700_000_000, 0))
	return &v1alpha1.MemberCluster{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: types.UID("uid-" + name), Generation: 3, ResourceVersion: "7", DeletionTimestamp: &deleted,
			Labels: map[string]string{"zone": "z1"}, Annotations: map[string]string{v1alpha1.AllowRemovalAnnotation: "5"},
		},
		Spec: v1alpha1.MemberClusterSpec{Suspended: true, RevokedKeys: []string{"k"}},
		Status: v1alpha1.MemberClusterStatus{
			Conditions: []metav1.Condition{{Type: v1alpha1.ConditionLeaving, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonDeparting}},
			Identity:   &v1alpha1.MemberIdentity{KeyHash: "k", Incarnation: "i"},
			Agent:      &v1alpha1.AgentInfo{Runtime: "embedded", MaxReplicas: 1, LinkRoles: true, LinkGroups: true, StorageCapacity: 1 << 30, Memory: 1 << 30},
			LinkKey:    "U" + name, Endpoints: []string{name + ":7422"}, Grants: []v1alpha1.Grant{{Peer: "other", Key: "U" + name, Out: "o", In: "i"}},
			HeldHash: "h", Links: []v1alpha1.LinkStatus{{Peer: "other"}},
		},
	}
}

// TestViewKeepsWhatPlansDependOn changes each part of a member: where a plan may
// depend on it there is another pointer, which differs in nothing from the newest
// version, and else the same.
func TestViewKeepsWhatPlansDependOn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		edit   func(*v1alpha1.MemberCluster)
		replan bool
	}{
		"held":          {func(m *v1alpha1.MemberCluster) { m.Status.HeldHash = "x" }, false},
		"links":         {func(m *v1alpha1.MemberCluster) { m.Status.Links = nil }, false},
		"its version":   {func(m *v1alpha1.MemberCluster) { m.Status.Agent.Version = "v9" }, false},
		"key":           {func(m *v1alpha1.MemberCluster) { m.Status.LinkKey = "x" }, true},
		"endpoints":     {func(m *v1alpha1.MemberCluster) { m.Status.Endpoints = nil }, true},
		"grants":        {func(m *v1alpha1.MemberCluster) { m.Status.Grants[0].Out = "x" }, true},
		"memory":        {func(m *v1alpha1.MemberCluster) { m.Status.Agent.Memory++ }, true},
		"never there":   {func(m *v1alpha1.MemberCluster) { m.Status.Agent = nil }, true},
		"incarnation":   {func(m *v1alpha1.MemberCluster) { m.Status.Identity.Incarnation = "x" }, true},
		"revocation":    {func(m *v1alpha1.MemberCluster) { m.Status.Identity.KeyHash, m.Status.LinkKey = "x", "y" }, true},
		"departure":     {func(m *v1alpha1.MemberCluster) { m.Status.Conditions = nil }, true},
		"labels":        {func(m *v1alpha1.MemberCluster) { m.Labels = nil }, true},
		"allowance":     {func(m *v1alpha1.MemberCluster) { m.Annotations = nil }, true},
		"spec":          {func(m *v1alpha1.MemberCluster) { m.Generation++ }, true},
		"another of it": {func(m *v1alpha1.MemberCluster) { m.UID = "x" }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var v view
			first := aMember("a")
			if !v.change(nil, first) {
				t.Error("a new member changes no plan")
			}
			before := v.toPlan().Members[0]
			next := first.DeepCopy()
			c.edit(next)
			next.ResourceVersion = "8"
			if got := v.change(first, next); got != c.replan {
				t.Errorf("a plan may depend on it: got %v, want %v", got, c.replan)
			}
			after := v.toPlan().Members[0]
			if (after != before) != c.replan {
				t.Errorf("another pointer: got %v, want %v", after != before, c.replan)
			}
			if planDiffers(after, next) || topology.StandingOf(after) != topology.StandingOf(next) {
				t.Error("what plans are made of is not as in the newest version")
			}
			if v.latest().Members[0] != next {
				t.Error("the newest version is not seen")
			}
			if r := renewed([]*v1alpha1.MemberCluster{after}, []*v1alpha1.MemberCluster{next}); r[0] != next {
				t.Error("the member is not renewed")
			}
		})
	}
}

// TestViewPlansAsTheCache compiles what the view has for plans, and the objects
// themselves.
func TestViewPlansAsTheCache(t *testing.T) {
	t.Parallel()
	var v view
	var in topology.Input
	topo := meshOf(everyone)
	topo.UID, topo.Generation = "t", 1
	in.Topologies = append(in.Topologies, topo)
	for i := range 4 {
		m := aMember(fmt.Sprint("m", i))
		m.DeletionTimestamp, m.Spec.RevokedKeys = nil, nil
		if i == 3 {
			m.Spec.RevokedKeys = []string{m.Status.LinkKey}
		}
		in.Members = append(in.Members, m)
	}
	in.Streams = append(in.Streams, &v1alpha1.Stream{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "s", UID: "s", Generation: 1},
		Spec:       v1alpha1.StreamSpec{Account: "orders", Name: "S", Subjects: []string{"s.>"}, Placement: v1alpha1.Placement{Group: "all"}},
	})
	for i := range in.Members {
		v.change(nil, in.Members[len(in.Members)-1-i])
	}
	v.change(nil, topo)
	v.change(nil, in.Streams[0])
	p, q := topology.Compile(in), topology.Compile(v.toPlan())
	if diff := cmp.Diff(p.Problems, q.Problems); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(p.Links, q.Links); diff != "" {
		t.Error(diff)
	}
	for name, m := range p.Members {
		if len(m.Parts) == 0 && name != "m3" || q.Members[name].Hash != m.Hash {
			t.Errorf("%s: got %d parts %s, want %d parts %s", name, len(q.Members[name].Parts), q.Members[name].Hash, len(m.Parts), m.Hash)
		}
	}
}

func TestViewForgets(t *testing.T) {
	t.Parallel()
	var v view
	a, b := aMember("a"), aMember("b")
	v.change(nil, b)
	v.change(nil, a)
	if m := v.latest().Members; len(m) != 2 || m[0] != a || m[1] != b {
		t.Fatalf("got %v", m)
	}
	if !v.change(cache.DeletedFinalStateUnknown{Key: "a", Obj: a}, nil) || v.change(a, nil) {
		t.Error("a member goes once")
	}
	if m := v.toPlan().Members; len(m) != 1 || m[0].Name != "b" {
		t.Errorf("got %v", m)
	}
	again := b.DeepCopy()
	again.UID = "other"
	if r := renewed(v.toPlan().Members, []*v1alpha1.MemberCluster{again}); r[0] == again {
		t.Error("another member of that name is taken for the one that was planned")
	}
	r := &v1alpha1.TopologyRevision{ObjectMeta: metav1.ObjectMeta{Name: "r", UID: "r", Generation: 1}}
	if !v.change(nil, r) || v.change(r, r.DeepCopy()) || !v.change(r, nil) {
		t.Error("a revision matters when it comes or goes")
	}
}
