package hub

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

// view is what the watches have brought so far of the objects that plans and
// statuses depend on. It shares them with the watch cache, and copies none of
// them to look at all: they must not be modified.
type view struct {
	mu         sync.Mutex
	topologies seen[*v1alpha1.MessagingTopology]
	members    seen[*v1alpha1.MemberCluster]
	streams    seen[*v1alpha1.Stream]
	bridges    seen[*v1alpha1.Bridge]
}

// change notes a version of an object, or that it is gone: then after is nil. It
// tells whether a plan may depend on that.
func (v *view) change(before, after any) (replan bool) {
	if last, ok := before.(cache.DeletedFinalStateUnknown); ok {
		before = last.Obj
	}
	o, gone := after, after == nil
	if gone {
		o = before
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch o := o.(type) {
	case *v1alpha1.MessagingTopology:
		return v.topologies.change(o, gone)
	case *v1alpha1.MemberCluster:
		return v.members.change(o, gone)
	case *v1alpha1.Stream:
		return v.streams.change(o, gone)
	case *v1alpha1.Bridge:
		return v.bridges.change(o, gone)
	}
	a, isA := before.(client.Object)
	b, isB := after.(client.Object)
	return !isA || !isB || planDiffers(a, b)
}

// toPlan are the objects for a plan. One that has changed in nothing that a plan
// depends on is the same pointer as before, so that the planner need not compare it.
func (v *view) toPlan() topology.Input {
	v.mu.Lock()
	defer v.mu.Unlock()
	return topology.Input{Topologies: v.topologies.planned(), Members: v.members.planned(), Streams: v.streams.planned(), Bridges: v.bridges.planned()}
}

// latest are the objects in their newest versions.
func (v *view) latest() topology.Input {
	v.mu.Lock()
	defer v.mu.Unlock()
	return topology.Input{Topologies: v.topologies.latest(), Members: v.members.latest(), Streams: v.streams.latest(), Bridges: v.bridges.latest()}
}

// seen are the objects of one kind, sorted by namespace and name.
type seen[T client.Object] []versions[T]

// versions are those of one object: the newest, and the one that plans are made of.
type versions[T client.Object] struct{ newest, planned T }

func (s *seen[T]) change(o T, gone bool) (replan bool) {
	i, found := slices.BinarySearchFunc(*s, o, func(v versions[T], o T) int {
		return cmp.Or(strings.Compare(v.newest.GetNamespace(), o.GetNamespace()), strings.Compare(v.newest.GetName(), o.GetName()))
	})
	switch {
	case gone && found:
		*s = slices.Delete(*s, i, i+1)
	case gone:
		return false
	case !found:
		*s = slices.Insert(*s, i, versions[T]{o, forPlan(o)})
	default:
		v := &(*s)[i]
		v.newest = o
		if !planDiffers(v.planned, o) {
			return false
		}
		v.planned = forPlan(o)
	}
	return true
}

func (s seen[T]) planned() []T {
	out := make([]T, len(s))
	for i, v := range s {
		out[i] = v.planned
	}
	return out
}

func (s seen[T]) latest() []T {
	out := make([]T, len(s))
	for i, v := range s {
		out[i] = v.newest
	}
	return out
}

// forPlan is what of an object plans are made of. Of members there are many, and the
// rest of their statuses is written often: it would be kept in an old version beside
// the newest.
func forPlan[T client.Object](o T) T {
	m, is := any(o).(*v1alpha1.MemberCluster)
	if !is {
		return o
	}
	s := m.Status
	slim := *m
	slim.Status = v1alpha1.MemberClusterStatus{Identity: s.Identity, Agent: s.Agent, LinkKey: s.LinkKey, Endpoints: s.Endpoints, Grants: s.Grants}
	if !m.DeletionTimestamp.IsZero() {
		slim.Status.Conditions = s.Conditions // they tell how far it is with leaving
	}
	return any(&slim).(T)
}

// renewed are the members of planned in their newest versions, where they are there
// still. Both are sorted by name.
func renewed(planned, latest []*v1alpha1.MemberCluster) []*v1alpha1.MemberCluster {
	out := slices.Clone(planned)
	for i, m := range out {
		at, found := slices.BinarySearchFunc(latest, m.Name, func(m *v1alpha1.MemberCluster, name string) int { return strings.Compare(m.Name, name) })
		latest = latest[at:]
		if found && latest[0].UID == m.UID {
			out[i] = latest[0]
		}
	}
	return out
}
