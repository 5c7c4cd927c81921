package topology

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealane/sealane/api/v1alpha1"
)

// history is what a compilation knows of the one before.
//
// Nothing of a refused object is planned, yet to break a running object by a
// wrong edit must not take it off the members. So the version of it that was in
// effect in the plan before goes on, as long as that is possible, while the
// problem is reported. A hub that has just started has no plan before, unless it
// kept Plan.InEffect: then the members that the object may be on are frozen (see
// Plan.Frozen). Objects that were first seen in a wrong version are known to be
// nowhere and freeze nothing.
type history struct {
	prev *memo
	// kept holds the versions that the caller kept, without prev; nil: none were.
	kept map[ObjectRef]metav1.Object
	// nowhere are the objects that the caller knows to be on no member.
	nowhere map[ObjectRef]bool
}

func newHistory(prev *Plan, in Input) history {
	var h history
	kept := in.InEffect
	switch {
	case prev != nil:
		h.prev = prev.memo
	case kept != nil:
		h.kept = map[ObjectRef]metav1.Object{}
		for _, o := range kept {
			if kind := kindOfObject(o); kind != "" {
				h.kept[refOf(kind, o)] = o
			}
		}
		h.nowhere = map[ObjectRef]bool{}
		for _, ref := range in.Nowhere {
			h.nowhere[ref] = true
		}
	}
	return h
}

func kindOfObject(o metav1.Object) Kind {
	switch o.(type) {
	case *v1alpha1.MessagingTopology:
		return KindTopology
	case *v1alpha1.Stream:
		return KindStream
	case *v1alpha1.Bridge:
		return KindBridge
	}
	return ""
}

// effective is the version of the object that was in effect; nil if none was.
func (h history) effective(ref ObjectRef) metav1.Object {
	if h.prev == nil {
		return h.kept[ref]
	}
	return h.prev.effective[ref]
}

// rank is the place that an object had among those of its kind; 0 if none is known.
func (h history) rank(ref ObjectRef) int {
	if h.prev == nil {
		return 0
	}
	return h.prev.rank[ref]
}

// mayHold tells whether members may hold something of the object.
func (h history) mayHold(ref ObjectRef) bool {
	if h.prev == nil {
		return h.kept == nil || !h.nowhere[ref]
	}
	return h.prev.mayHold[ref]
}

// holders are the members that had something of a bridge in the plan before.
func (h history) holders(ref ObjectRef) (members []string, known bool) {
	if h.prev == nil {
		return nil, false
	}
	if members, known = h.prev.bridges.holders[ref]; known {
		return members, true
	}
	for _, b := range h.prev.bridges.accepted {
		if b.ref == ref && b.lowered != nil {
			return b.lowered.footprint.Members, true
		}
	}
	return nil, false
}
