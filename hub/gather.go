package hub

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

// gatherer reads everything that a plan depends on from the watch cache. It
// keeps the pointers of objects that did not change, so that nothing is copied
// twice. It is for one goroutine.
type gatherer struct {
	reader     client.Reader
	topologies map[types.UID]*v1alpha1.MessagingTopology
	members    map[types.UID]*v1alpha1.MemberCluster
	streams    map[types.UID]*v1alpha1.Stream
	bridges    map[types.UID]*v1alpha1.Bridge
}

// gather returns objects that share memory with the cache: they must not be
// modified.
func (g *gatherer) gather(ctx context.Context) (topology.Input, error) {
	var (
		in         topology.Input
		topologies v1alpha1.MessagingTopologyList
		members    v1alpha1.MemberClusterList
		streams    v1alpha1.StreamList
		bridges    v1alpha1.BridgeList
	)
	for _, list := range []client.ObjectList{&topologies, &members, &streams, &bridges} {
		if err := g.reader.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return in, fmt.Errorf("read %T from the cache: %w", list, err)
		}
	}
	in.Topologies, g.topologies = keep(g.topologies, topologies.Items)
	in.Members, g.members = keep(g.members, members.Items)
	in.Streams, g.streams = keep(g.streams, streams.Items)
	in.Bridges, g.bridges = keep(g.bridges, bridges.Items)
	return in, nil
}

// keep returns pointers to items, the old ones where the version is the same.
// Each is an allocation of its own: a pointer into items would keep all of them
// alive.
func keep[T any, P interface {
	*T
	metav1.Object
}](old map[types.UID]P, items []T) ([]P, map[types.UID]P) {
	out, byUID := make([]P, 0, len(items)), make(map[types.UID]P, len(items))
	for i := range items {
		p := P(&items[i])
		if known := old[p.GetUID()]; known != nil && known.GetResourceVersion() == p.GetResourceVersion() {
			p = known
		} else {
			single := items[i]
			p = P(&single)
		}
		out, byUID[p.GetUID()] = append(out, p), p
	}
	return out, byUID
}
