package hub

import (
	"context"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

// stager says, for each plan, which topologies are rolled out in waves and what
// is in effect of them meanwhile. It decides nothing by itself: topology.CourseOf
// does, from what is written in the API. It is for one goroutine.
type stager struct {
	reader client.Reader
	// live are the contents of topologies as last seen, decoded those of revisions.
	live    map[string]*liveContent
	decoded map[types.UID]topology.Content
	// base is the plan with the revisions that staged members keep; nil: none are.
	base *topology.Plan
}

// liveContent is what the objects of a topology say, and its name as a revision.
type liveContent struct {
	topology.Content
	version  []keptRef
	hash     string
	revision string
}

// staging is how a plan is to be made.
type staging struct {
	// in is what to plan, base what staged members keep; nil: none are staged.
	in     topology.Input
	base   *topology.Input
	stages []topology.Stage
	// rollouts of the topologies that have spec.rollout, by name.
	rollouts map[string]*rollingOut
}

// rollingOut is a topology with spec.rollout.
type rollingOut struct {
	live   *liveContent
	course topology.Course
	// inEffect instead of what the objects say; nil: they are.
	inEffect *topology.Content
}

// revisions are those that the objects of topologies with spec.rollout say, by
// topology.
func (s staging) revisions() map[string]string {
	out := make(map[string]string, len(s.rollouts))
	for name, r := range s.rollouts {
		out[name] = r.live.revision
	}
	return out
}

func newStager(reader client.Reader) *stager {
	return &stager{reader: reader, live: map[string]*liveContent{}, decoded: map[types.UID]topology.Content{}}
}

// stage looks at the rollouts. Where no topology has spec.rollout it does nothing.
func (s *stager) stage(ctx context.Context, in topology.Input) (staging, error) {
	out := staging{in: in, rollouts: map[string]*rollingOut{}}
	if !slices.ContainsFunc(in.Topologies, func(t *v1alpha1.MessagingTopology) bool { return t.Spec.Rollout != nil }) {
		clear(s.live)
		clear(s.decoded)
		return out, nil
	}
	revisions, err := readRevisions(ctx, s.reader)
	if err != nil {
		return out, err
	}
	older := map[string]topology.Content{}
	for _, t := range in.Topologies {
		if t.Spec.Rollout == nil {
			delete(s.live, t.Name)
			continue
		}
		live, err := s.liveOf(in, t)
		if err != nil {
			return out, err
		}
		r := &rollingOut{live: live, course: topology.CourseOf(t, live.revision, func(name string) bool { return s.content(revisions, t.Name, name) != nil })}
		out.rollouts[t.Name] = r
		if name := r.course.InEffect; name != "" {
			r.inEffect = s.content(revisions, t.Name, name)
			out.in = r.inEffect.With(out.in)
		}
		if name := r.course.Base; name != "" {
			older[t.Name] = *s.content(revisions, t.Name, name)
			out.stages = append(out.stages, topology.Stage{Topology: t, Through: r.course.Through})
		}
	}
	s.forget(revisions)
	if len(older) > 0 {
		base := out.in
		for _, stage := range out.stages {
			base = older[stage.Topology.Name].With(base)
		}
		out.base = &base
	}
	return out, nil
}

// plan makes the plan of a staging after prev; first is given to what is compiled
// from nothing.
func (s *stager) plan(prev *topology.Plan, st staging, first func(topology.Input) topology.Input) *topology.Plan {
	compile := func(prev *topology.Plan, in topology.Input) *topology.Plan {
		if prev == nil {
			return topology.Compile(first(in))
		}
		return topology.Recompile(prev, in)
	}
	if st.base == nil {
		s.base = nil
		return compile(prev, st.in)
	}
	if s.base == nil {
		s.base = prev
	}
	s.base = compile(s.base, *st.base)
	return compile(prev, st.in).WithStaged(s.base, st.stages, st.in.Members)
}

// liveOf is what the objects of a topology say, computed anew only if they changed.
func (s *stager) liveOf(in topology.Input, t *v1alpha1.MessagingTopology) (*liveContent, error) {
	l := &liveContent{Content: topology.ContentOf(in, t)}
	l.version = append(l.version, keptRef{refOf(topology.KindTopology, t), t.UID, t.Generation})
	for _, o := range l.Streams {
		l.version = append(l.version, keptRef{refOf(topology.KindStream, o), o.UID, o.Generation})
	}
	for _, o := range l.Bridges {
		l.version = append(l.version, keptRef{refOf(topology.KindBridge, o), o.UID, o.Generation})
	}
	if old := s.live[t.Name]; old != nil && slices.Equal(old.version, l.version) {
		return old, nil
	}
	hash, err := l.Hash()
	if err != nil {
		return nil, err
	}
	l.hash, l.revision = hash, topology.RevisionName(t.Name, hash)
	s.live[t.Name] = l
	return l, nil
}

// content is what a revision of a topology keeps; nil: there is none, or it cannot
// be read.
func (s *stager) content(revisions []v1alpha1.TopologyRevision, of, name string) *topology.Content {
	i := slices.IndexFunc(revisions, func(r v1alpha1.TopologyRevision) bool { return r.Name == name && r.Spec.Topology == of })
	if i < 0 {
		return nil
	}
	r := &revisions[i]
	c, ok := s.decoded[r.UID]
	if !ok {
		var err error
		if c, err = topology.DecodeContent(r.Spec.Content); err != nil || c.Topology.Name != of {
			return nil
		}
		if hash, err := c.Hash(); err != nil || hash != r.Spec.Hash {
			return nil
		}
		s.decoded[r.UID] = c
	}
	return &c
}

// forget drops contents of revisions that are gone.
func (s *stager) forget(revisions []v1alpha1.TopologyRevision) {
	for uid := range s.decoded {
		if !slices.ContainsFunc(revisions, func(r v1alpha1.TopologyRevision) bool { return r.UID == uid }) {
			delete(s.decoded, uid)
		}
	}
}

// readRevisions reads all revisions from the cache, with which they share memory;
// sorted by topology, the newest first.
func readRevisions(ctx context.Context, reader client.Reader) ([]v1alpha1.TopologyRevision, error) {
	var list v1alpha1.TopologyRevisionList
	if err := reader.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("read the revisions from the cache: %w", err)
	}
	out := slices.Clone(list.Items)
	slices.SortFunc(out, func(a, b v1alpha1.TopologyRevision) int {
		if n := strings.Compare(a.Spec.Topology, b.Spec.Topology); n != 0 {
			return n
		}
		return int(b.Spec.Number - a.Spec.Number)
	})
	return out, nil
}

// newRevision is the revision of what the objects of a topology say.
func newRevision(t *v1alpha1.MessagingTopology, live *liveContent, number int64) (*v1alpha1.TopologyRevision, error) {
	data, err := live.Encode()
	if err != nil {
		return nil, err
	}
	return &v1alpha1.TopologyRevision{
		ObjectMeta: metav1.ObjectMeta{
			Name: live.revision,
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: string(topology.KindTopology), Name: t.Name, UID: t.UID,
			}},
		},
		Spec: v1alpha1.TopologyRevisionSpec{Topology: t.Name, Number: number, Hash: live.hash, Content: data},
	}, nil
}
