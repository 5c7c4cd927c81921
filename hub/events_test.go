package hub

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealane/sealane/api/v1alpha1"
)

func TestEventsOf(t *testing.T) {
	with := func(kind string, status metav1.ConditionStatus, reason string) []metav1.Condition {
		return []metav1.Condition{{Type: kind, Status: status, Reason: reason, Message: "why"}}
	}
	const yes, no, unknown = metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown
	for _, tc := range []struct {
		name          string
		before, after []metav1.Condition
		want          []event
	}{
		{"new", nil, with(v1alpha1.ConditionReady, yes, "Ready"), []event{{"Normal", "Ready", "Ready: why"}}},
		{"broken", with(v1alpha1.ConditionReady, yes, "Ready"), with(v1alpha1.ConditionReady, no, "LinkDown"), []event{{"Warning", "NotReady", "LinkDown: why"}}},
		{"another reason", with(v1alpha1.ConditionReady, no, "LinkDown"), with(v1alpha1.ConditionReady, no, "FlowDown"), nil},
		{"not known", with(v1alpha1.ConditionReady, yes, "Ready"), with(v1alpha1.ConditionReady, unknown, "X"), nil},
		{"room at first", nil, with(v1alpha1.ConditionStorageNearlyFull, no, "X"), nil},
		{"no room", with(v1alpha1.ConditionStorageNearlyFull, no, "X"), with(v1alpha1.ConditionStorageNearlyFull, yes, "Y"), []event{{"Warning", "StorageNearlyFull", "Y: why"}}},
		{"revoked", nil, with(v1alpha1.ConditionRevoked, yes, "Revoked"), []event{{"Warning", "Revoked", "Revoked: why"}}},
		{"gone", with(v1alpha1.ConditionReady, yes, "Ready"), nil, nil},
	} {
		if got := eventsOf(tc.before, tc.after); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}
