package hub

import (
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

// mayReturn tells whether another key may take the place of the one that a member
// has: that one is revoked.
func mayReturn(m *v1alpha1.MemberCluster, key string) bool {
	return topology.StandingOf(m).Revoked && !slices.Contains(m.Spec.RevokedKeys, key)
}

// approved judges who asks for the name of a member of which keys are revoked: a
// revoked key never has it again, and while the present key is revoked it takes a
// token that somebody made for this very name since then.
func approved(m *v1alpha1.MemberCluster, key string, t *v1alpha1.JoinToken) error {
	if slices.Contains(m.Spec.RevokedKeys, key) {
		return errRevoked(m.Name)
	}
	if !topology.StandingOf(m).Revoked {
		return nil
	}
	revoked := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionRevoked)
	switch {
	case revoked == nil || revoked.Status != "True":
		return status.Errorf(codes.Unavailable, "the revocation of member %q is under way: try again in a second", m.Name)
	case t.Spec.Cluster != m.Name, t.CreationTimestamp.Before(&revoked.LastTransitionTime):
		return status.Errorf(codes.PermissionDenied, "the key of member %q was revoked: to join again takes a token that was made for this very name since: \"sealane token create --cluster %s\"", m.Name, m.Name)
	}
	return nil
}
