package hub

import (
	"slices"

	"google.golang.org/grpc/codes"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// What a member says of itself becomes part of the plan, and so of what its
// neighbours are sent. Each may change it often at once, but not all the time.
const (
	churnRate  = 1.0 / 10
	churnBurst = 20
)

// restless bounds how often a member changes what others are planned by: nil if
// it may now.
func (f *Fleet) restless(name string, was, is *federationv1.Facts) error {
	if was == nil || is == nil || !otherFacts(was, is) || f.churn.allow(name) {
		return nil
	}
	return refused(reasonChurn, codes.ResourceExhausted, "member %q changes its facts all the time: try again in a minute", name)
}

func otherFacts(a, b *federationv1.Facts) bool {
	return a.LinkKey != b.LinkKey || !slices.Equal(a.Endpoints, b.Endpoints) ||
		a.Replicas != b.Replicas || a.MaxReplicas != b.MaxReplicas || a.LinkRoles != b.LinkRoles || a.LinkGroups != b.LinkGroups ||
		a.WantedReplicas != b.WantedReplicas || a.ReplicasReason != b.ReplicasReason || a.StorageCapacity != b.StorageCapacity ||
		notable(a.Storage, b.Storage, 0) || notable(a.Memory, b.Memory, 0)
}

// regrant bounds how often a member replaces a grant by another for the same key:
// honest agents do so only when they lost their journal.
func (f *Fleet) regrant(name string, was map[string]*federationv1.Grant, grants []*federationv1.Grant) error {
	for _, g := range grants {
		if old := was[g.Peer]; old != nil && old.Key == g.Key && (old.Out != g.Out || old.In != g.In) {
			if f.churn.allow(name) {
				return nil // many at once count as one
			}
			return refused(reasonChurn, codes.ResourceExhausted, "member %q replaces its grants all the time: try again in a minute", name)
		}
	}
	return nil
}
