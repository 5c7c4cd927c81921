package topology

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// history is what a compilation knows of the one before.
//
// Nothing of a refused object is planned, yet to break a running object by a
// wrong edit must not take it off the members. So the version of it that was in
// effect in the plan before goes on, as long as that is possible, while the
// problem is reported. A hub that has just started has no plan before: then the
// members that the object may be on are frozen (see Plan.Frozen). Objects that
// were first seen in a wrong version are known to be nowhere and freeze nothing.
type history struct {
	prev *memo
}

// effective is the version of the object that was in effect; nil if none was.
func (h history) effective(ref ObjectRef) metav1.Object {
	if h.prev == nil {
		return nil
	}
	return h.prev.effective[ref]
}

// mayHold tells whether members may hold something of the object.
func (h history) mayHold(ref ObjectRef) bool {
	return h.prev == nil || h.prev.mayHold[ref]
}
