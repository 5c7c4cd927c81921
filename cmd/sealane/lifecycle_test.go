package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
)

// TestLifecycleCommands runs them against an API server; what the hub makes of it
// is tested there.
func TestLifecycleCommands(t *testing.T) {
	h := hub(t)
	name := "nizza"
	m := &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{v1alpha1.LeaveFinalizer}}}
	if err := h.Create(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if m.Spec.Removal != v1alpha1.LeaveDrain {
		t.Errorf("removal is %q by default", m.Spec.Removal)
	}
	member := func() *v1alpha1.MemberCluster {
		t.Helper()
		m, err := h.Member(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	says := func(code int, want string, args ...string) {
		t.Helper()
		if got, stdout, stderr := call(t, args...); got != code || !strings.Contains(stdout+stderr, want) {
			t.Errorf("sealane %s: status %d, want %d and %q\n%s%s", strings.Join(args, " "), got, code, want, stdout, stderr)
		}
	}
	says(0, "member nizza suspended", "suspend", name)
	says(0, "is already suspended", "suspend", name)
	if !member().Spec.Suspended {
		t.Error("not suspended")
	}
	says(0, "member nizza resumed", "resume", name)
	if member().Spec.Suspended {
		t.Error("not resumed")
	}
	says(1, `there is no member "nowhere"`, "suspend", "nowhere", name)
	if !member().Spec.Suspended {
		t.Error("one name that does not exist stops the others")
	}

	says(1, "has no key", "revoke", name)
	key, next, link := strings.Repeat("a1", 32), strings.Repeat("b2", 32), "U"+strings.Repeat("A", 55)
	m = member()
	m.Status.Identity = &v1alpha1.MemberIdentity{KeyHash: key, NextKeyHash: next, NotAfter: metav1.NewTime(time.Now().Add(time.Hour))}
	m.Status.LinkKey, m.Status.DesiredHash = link, "d00d"
	m.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionProgrammed, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonRemovalHeld, Message: "12 of 20 parts", LastTransitionTime: metav1.Now()}}
	if err := h.Status().Update(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	for _, cluster := range []string{name, "niz*"} {
		if err := h.Create(t.Context(), &v1alpha1.JoinToken{ObjectMeta: metav1.ObjectMeta{Name: "token-" + strings.TrimRight(cluster, "*")}, Spec: v1alpha1.JoinTokenSpec{
			Cluster: cluster, SecretHash: key, ExpiresAt: metav1.NewTime(time.Now().Add(time.Hour)),
		}}); err != nil {
			t.Fatal(err)
		}
	}
	says(0, "member nizza is revoked", "revoke", name)
	says(0, "already revoked", "revoke", name)
	if got := member().Spec.RevokedKeys; !slices.Equal(got, []string{key, next, link}) {
		t.Errorf("revoked keys: %v", got)
	}
	var tokens v1alpha1.JoinTokenList
	if err := h.List(t.Context(), &tokens); err != nil {
		t.Fatal(err)
	}
	for i := range tokens.Items {
		if k := &tokens.Items[i]; k.Name == "token-nizza" {
			t.Error("the token for its name is left")
		} else if k.Name == "token-niz" {
			_ = h.Delete(t.Context(), k)
		}
	}

	says(1, "name members, or give --all", "allow-removal")
	says(0, "removal from member nizza permitted", "allow-removal", "--all")
	if got := member().Annotations[v1alpha1.AllowRemovalAnnotation]; got != "d00d" {
		t.Errorf("allowed is %q", got)
	}
	says(0, "permitted", "allow-removal", name, "--parts", "40")
	if got := member().Annotations[v1alpha1.AllowRemovalAnnotation]; got != "40" {
		t.Errorf("allowed is %q", got)
	}

	// No hub runs here: a Drain waits for it, Forget does not.
	says(0, "member nizza leaves", "remove", name)
	says(1, "has not left in time", "remove", name, "--wait", "--timeout", "1s")
	says(0, "member nizza has left", "remove", name, "--forget", "--wait")
	if err := h.Get(t.Context(), client.ObjectKey{Name: name}, m); !apierrors.IsNotFound(err) {
		t.Errorf("it is still there: %v", err)
	}
	says(1, `there is no member "nizza"`, "remove", name)
}
