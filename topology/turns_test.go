package topology

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sealane/sealane/api/v1alpha1"
)

// TestByAge: creation counts first, then what was in effect, then the name.
func TestByAge(t *testing.T) {
	t.Parallel()
	old, ant, bee, cat := &v1alpha1.Bridge{}, &v1alpha1.Bridge{}, &v1alpha1.Bridge{}, &v1alpha1.Bridge{}
	second := metav1.Unix(100, 0)
	for name, b := range map[string]*v1alpha1.Bridge{"old": old, "ant": ant, "bee": bee, "cat": cat} {
		b.Name, b.UID, b.CreationTimestamp = name, types.UID(name), second
	}
	old.CreationTimestamp = metav1.Unix(99, 0)
	another := ant.DeepCopy() // of the same name, deleted since
	another.UID = "another"
	past := history{kept: map[ObjectRef]metav1.Object{refOf(KindBridge, cat): cat, refOf(KindBridge, ant): another}}
	var got []string
	for _, b := range byAge([]*v1alpha1.Bridge{bee, cat, ant, old}, KindBridge, past) {
		got = append(got, b.Name)
	}
	if want := []string{"old", "cat", "ant", "bee"}; !slices.Equal(got, want) {
		t.Errorf("the order is %v, want %v", got, want)
	}
}

// TestRefusedYieldsAtOnce: of objects of one second those that are refused yield to the
// others, and are told of all of them in the plan that refuses them.
func TestRefusedYieldsAtOnce(t *testing.T) {
	t.Parallel()
	in := pairInput()
	in.Bridges = in.Bridges[:1]
	in.Bridges[0].Spec.Subjects = []string{"x.a.*"}
	p := Compile(in)
	for name, subjects := range map[string][]string{"m": {"x.*.b", "y.*.b"}, "n": {"y.a.*"}} {
		b := in.Bridges[0].DeepCopy()
		b.Name, b.UID, b.Spec.Subjects = name, types.UID(name), subjects
		in.Bridges = append(in.Bridges, b)
	}
	q := Recompile(p, in)
	var fields []string
	for _, x := range q.Problems {
		if x.Object.Name != "m" {
			t.Errorf("%+v", x)
		}
		fields = append(fields, x.Field)
	}
	if want := []string{"spec.subjects[0]", "spec.subjects[1]"}; !slices.Equal(fields, want) {
		t.Errorf("refused are %v, want %v", fields, want)
	}
	if diff := cmp.Diff(q.Problems, Recompile(q, in).Problems); diff != "" {
		t.Errorf("a second look finds other problems:\n%s", diff)
	}
}
