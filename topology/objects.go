package topology

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sealane/sealane/api/v1alpha1"
)

func refOf(kind Kind, o metav1.Object) ObjectRef {
	return ObjectRef{kind, o.GetNamespace(), o.GetName()}
}

// path is how messages name the object: namespace/name, or name.
func (r ObjectRef) path() string {
	if r.Namespace == "" {
		return r.Name
	}
	return r.Namespace + "/" + r.Name
}

func compareRefs(a, b ObjectRef) int {
	return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

func compareProblems(a, b Problem) int {
	return cmp.Or(compareRefs(a.Object, b.Object), strings.Compare(a.Field, b.Field), strings.Compare(a.Message, b.Message))
}

// byAge is a sorted copy, the oldest first. Where two objects cannot be, the later
// one yields. Creation is known to the second: of those of one second, the ones
// that were in effect before come first, in the order that they had, lest one that has
// just begun be stopped for another; then by name.
func byAge[T metav1.Object](in []T, kind Kind, past history) []T {
	out := slices.Clone(in)
	turn := map[types.UID]int{}
	for _, o := range in {
		ref := refOf(kind, o)
		if was := past.effective(ref); was != nil && was.GetUID() == o.GetUID() {
			turn[o.GetUID()] = past.rank(ref)
		} else {
			turn[o.GetUID()] = math.MaxInt
		}
	}
	slices.SortFunc(out, func(a, b T) int {
		ta, tb := a.GetCreationTimestamp(), b.GetCreationTimestamp()
		switch {
		case ta.Before(&tb):
			return -1
		case tb.Before(&ta):
			return 1
		}
		return cmp.Or(cmp.Compare(turn[a.GetUID()], turn[b.GetUID()]), strings.Compare(a.GetNamespace(), b.GetNamespace()), strings.Compare(a.GetName(), b.GetName()))
	})
	return out
}

// sameObject tells whether a and b surely have the same spec.
func sameObject[T interface {
	comparable
	metav1.Object
}](a, b T) bool {
	if a == b {
		return true
	}
	var none T
	if a == none || b == none {
		return false
	}
	return a.GetUID() != "" && a.GetUID() == b.GetUID() &&
		a.GetGeneration() > 0 && a.GetGeneration() == b.GetGeneration() && a.GetName() == b.GetName()
}

// sameShape tells whether two versions of a member give the same groups, links
// and routes. That it has connected matters where an endpoint is awaited.
func sameShape(a, b *v1alpha1.MemberCluster, awaits bool) bool {
	if a == b {
		return true
	}
	return a.Name == b.Name && a.CreationTimestamp.Equal(&b.CreationTimestamp) &&
		(len(endpoints(a)) > 0) == (len(endpoints(b)) > 0) && (!awaits || everConnected(a) == everConnected(b)) &&
		maps.Equal(a.Labels, b.Labels) && mostServers(a) == mostServers(b) && knowsRoles(a) == knowsRoles(b) && knowsGroups(a) == knowsGroups(b) && roomOf(a) == roomOf(b)
}

// sameFacts tells whether two versions of a member give the same link parts.
func sameFacts(a, b *v1alpha1.MemberCluster) bool {
	if a == b {
		return true
	}
	return a.Status.LinkKey == b.Status.LinkKey && incarnation(a) == incarnation(b) && slices.Equal(endpoints(a), endpoints(b)) &&
		slices.Equal(a.Status.Grants, b.Status.Grants)
}

// endpoints are the addresses at which others reach the member.
func endpoints(m *v1alpha1.MemberCluster) []string {
	if len(m.Spec.Endpoints) > 0 {
		return m.Spec.Endpoints
	}
	return m.Status.Endpoints
}

// everConnected tells whether the member's agent has ever said where it is
// reached: before that, a lack of endpoints means nothing.
func everConnected(m *v1alpha1.MemberCluster) bool {
	return m.Status.Agent != nil || m.Status.LinkKey != ""
}

// report collects the problems of one object.
type report struct {
	ref      ObjectRef
	problems []Problem
	refused  bool
}

// refuse says why the object is not planned.
func (r *report) refuse(field, reason, format string, args ...any) {
	r.refused = true
	r.problems = append(r.problems, Problem{Object: r.ref, Field: field, Reason: reason, Message: fmt.Sprintf(format, args...)})
}

// wait says what the object, which is planned, waits for.
func (r *report) wait(field, reason, format string, args ...any) {
	r.problems = append(r.problems, Problem{Object: r.ref, Field: field, Reason: reason, Message: fmt.Sprintf(format, args...), Waiting: true})
}

// note says what of the object, which is planned, has no effect.
func (r *report) note(field, reason, format string, args ...any) {
	r.wait(field, reason, format, args...)
	r.problems[len(r.problems)-1].Note = true
}

// blame says what is wrong with the object although the rest of it is planned.
func (r *report) blame(field, reason, format string, args ...any) {
	r.problems = append(r.problems, Problem{Object: r.ref, Field: field, Reason: reason, Message: fmt.Sprintf(format, args...)})
}

// index is the path of an element of a list.
func index(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }
