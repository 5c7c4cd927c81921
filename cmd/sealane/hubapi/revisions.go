package hubapi

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

const kindRevision = "TopologyRevision"

// Revisions reads what rollouts may keep in effect of the topologies of in; nothing
// if none of them has one.
func (h *Hub) Revisions(ctx context.Context, in topology.Input) ([]v1alpha1.TopologyRevision, error) {
	for _, t := range in.Topologies {
		if t.Spec.Rollout != nil && t.Status.Rollout != nil {
			var list v1alpha1.TopologyRevisionList
			err := h.List(ctx, &list)
			return list.Items, err
		}
	}
	return nil, nil
}

// TakeRevisions takes the revisions out of manifests, which are not planned.
func TakeRevisions(manifests []Manifest) (rest []Manifest, revisions []v1alpha1.TopologyRevision, err error) {
	for _, m := range manifests {
		if m.Object.GetKind() != kindRevision || m.Object.GetAPIVersion() != v1alpha1.GroupVersion.String() {
			rest = append(rest, m)
			continue
		}
		var r v1alpha1.TopologyRevision
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(m.Object.Object, &r); err != nil {
			return nil, nil, fmt.Errorf("%s: revision %s: %w", m.Source, m.Object.GetName(), err)
		}
		revisions = append(revisions, r)
	}
	return rest, revisions, nil
}
