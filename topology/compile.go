package topology

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// Compile makes the plan of in.
//
// It goes in stages: topologies become fabrics (members, links and routes),
// Streams are placed on them, Bridges are led over them and checked together,
// and what all of them ask of each member becomes its parts. Objects are taken
// the oldest first, so that of two that cannot be the later one is refused.
func Compile(in Input) *Plan { return Recompile(nil, in) }

// Recompile makes the plan of in as Compile does, faster where in is like the
// input of prev: what did not change is taken over from prev. Objects are alike
// if they are the same pointer or of the same UID and generation (of members also
// what of their metadata and status matters).
//
// It differs from Compile where an object is refused: then the version of it that
// is in effect in prev stays in effect, if that still can be.
//
// Prev is not changed but for caches that Recompile alone uses: one call at a
// time may be given the same prev.
func Recompile(prev *Plan, in Input) *Plan {
	past := newHistory(prev, in)
	standing := standings(in.Members)
	members := present(in.Members, standing)
	if past.prev != nil && slices.Equal(members, past.prev.members) {
		members = past.prev.members
	} else {
		slices.SortFunc(members, func(a, b *v1alpha1.MemberCluster) int { return strings.Compare(a.Name, b.Name) })
	}
	turns := turnsOf(in, past)
	p := compile(turns, members, past)
	if len(p.Problems) > 0 {
		// Who is refused yields from now on to those of the same second who are not, and
		// is told so at once.
		past = history{prev: p.memo}
		if again := turnsOf(in, past); !again.same(turns) {
			p = compile(again, members, past)
		}
	}
	p.withhold(prev)
	p.stand(prev, standing)
	return p
}

// turns are the objects in the order in which they are taken.
type turns struct {
	topologies []*v1alpha1.MessagingTopology
	streams    []*v1alpha1.Stream
	bridges    []*v1alpha1.Bridge
}

func turnsOf(in Input, past history) turns {
	return turns{byAge(in.Topologies, KindTopology, past), byAge(in.Streams, KindStream, past), byAge(in.Bridges, KindBridge, past)}
}

func (t turns) same(o turns) bool {
	return slices.Equal(t.topologies, o.topologies) && slices.Equal(t.streams, o.streams) && slices.Equal(t.bridges, o.bridges)
}

func compile(t turns, members []*v1alpha1.MemberCluster, past history) *Plan {
	m := &memo{members: members}
	if past.prev != nil && past.prev.world.same(t.topologies, members) {
		m.world = past.prev.world
	} else {
		m.world = newWorld(t.topologies, members, past)
	}
	if past.prev != nil && past.prev.streams.same(m.world, t.streams) {
		m.streams = past.prev.streams
	} else {
		m.streams = newStreamStage(m.world, t.streams, past)
	}
	m.bridges = newBridgeStage(m.streams, t.bridges, past)
	p := assemble(m, past)
	m.remember(past)
	m.rank = map[ObjectRef]int{}
	for i, o := range t.topologies {
		m.rank[refOf(KindTopology, o)] = i
	}
	for i, o := range t.streams {
		m.rank[refOf(KindStream, o)] = i
	}
	for i, o := range t.bridges {
		m.rank[refOf(KindBridge, o)] = i
	}
	return p
}

// memo is what a plan keeps for the next compilation.
type memo struct {
	world   *world
	members []*v1alpha1.MemberCluster // by name
	streams *streamStage
	bridges *bridgeStage
	fabrics map[*fabric]*assembled
	// effective versions of all objects that are in effect.
	effective map[ObjectRef]metav1.Object
	// rank is the place of each object among those of its kind, in the order in which
	// they were taken.
	rank map[ObjectRef]int
	// mayHold names the objects of which members may hold something.
	mayHold map[ObjectRef]bool
	// before holds, for each frozen member, the versions of its accounts and
	// streams with everything that it must not lose; nil where they are not known.
	before map[string]map[string]*federationv1.Part
}

// remember notes what history needs.
func (m *memo) remember(past history) {
	m.effective = map[ObjectRef]metav1.Object{}
	m.mayHold = map[ObjectRef]bool{}
	for _, f := range m.world.fabrics {
		m.effective[f.ref] = f.topology
	}
	for _, p := range m.streams.accepted {
		m.effective[p.ref] = p.object
	}
	for _, b := range m.bridges.accepted {
		m.effective[b.ref] = b.object
	}
	note := func(ref ObjectRef) {
		if m.effective[ref] != nil || past.mayHold(ref) {
			m.mayHold[ref] = true
		}
	}
	for _, t := range m.world.topologies {
		note(refOf(KindTopology, t))
	}
	for _, s := range m.streams.given {
		note(refOf(KindStream, s))
	}
	for _, b := range m.bridges.given {
		note(refOf(KindBridge, b))
	}
}
