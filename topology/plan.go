package topology

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// Input is everything a plan depends on. The objects are not modified, and must
// not be modified by the caller as long as a Plan made from them is in use. The
// order of the slices does not matter.
type Input struct {
	Topologies []*v1alpha1.MessagingTopology
	Members    []*v1alpha1.MemberCluster
	Streams    []*v1alpha1.Stream
	Bridges    []*v1alpha1.Bridge
	// InEffect is what Plan.InEffect said in the hub's life before this one, if it
	// was kept: versions of Topologies, Streams and Bridges to go on with where the
	// newest is refused. Nil: it was not kept. Only Compile looks at it.
	InEffect []metav1.Object
	// Nowhere is what Plan.Nowhere said with it. An object that neither of them
	// names is newer than what was kept: members may hold something of it.
	Nowhere []ObjectRef
}

// Kind is the kind of a resource.
type Kind string

// The kinds that a Plan speaks of.
const (
	KindTopology Kind = "MessagingTopology"
	KindMember   Kind = "MemberCluster"
	KindStream   Kind = "Stream"
	KindBridge   Kind = "Bridge"
)

// ObjectRef names a resource. Namespace is empty for cluster-scoped kinds.
type ObjectRef struct {
	Kind      Kind
	Namespace string
	Name      string
}

// Problem is something wrong with one object.
type Problem struct {
	Object ObjectRef
	// Field is the path of the field at fault, such as "spec.links[2].groups[0]".
	Field string
	// Reason is one of the reasons of Accepted in v1alpha1.
	Reason string
	// Message says what is wrong and how to mend it. It is deterministic.
	Message string
	// Waiting marks an object that is right but has nothing to do yet (no member
	// matches, a member has not joined): it stays accepted.
	Waiting bool
	// Note marks a problem, Waiting too, that holds nothing up: what it is about has
	// no effect, and the rest is complete without it.
	Note bool
}

// Plan is the desired state of every member. It is immutable.
type Plan struct {
	// Members by name: every MemberCluster, also those in no topology (whose
	// state is empty).
	Members map[string]*MemberState
	// Problems sorted by object, field and message.
	Problems []Problem
	// Links lists every link once, sorted by name.
	Links []Link
	// Objects says what each accepted object needs, for its status.
	Objects map[ObjectRef]*Footprint
	// Frozen names members that must lose nothing for now, and why: an object that
	// concerns them is refused, and no version of it that was right is known (the
	// hub has just started), so that their state lacks what that object put on
	// them. Next sends them no removals.
	Frozen map[string]string
	// Withheld are the accounts and streams of frozen members that would lose
	// imports or sources if they were brought to what is planned, or may: Next does
	// not send them to a member that holds another version.
	Withheld map[PartRef]bool
	// Standing names the members that are treated in another way than most.
	Standing map[string]Standing
	// Staged are the members that keep an older state for now, because no wave of a
	// rollout has reached them, and that state; see WithStaged.
	Staged map[string]*MemberState
	// Awaits says of staged members which wave of which rollout is to reach them.
	Awaits map[string]Awaited
	// InRollout names all members of the topologies of which some are staged.
	InRollout map[string]bool

	memo *memo
}

// InEffect are the objects as they are in effect, sorted: each in its newest
// version, or, where that is refused, in the last one that was not. A hub that
// keeps their specs over a restart never plans less than it did (see
// Input.InEffect).
func (p *Plan) InEffect() []metav1.Object {
	if p.memo == nil {
		return nil // a plan made by hand
	}
	refs := make([]ObjectRef, 0, len(p.memo.effective))
	for ref := range p.memo.effective {
		refs = append(refs, ref)
	}
	slices.SortFunc(refs, compareRefs)
	out := make([]metav1.Object, len(refs))
	for i, ref := range refs {
		out[i] = p.memo.effective[ref]
	}
	return out
}

// Nowhere are the objects of which no member holds anything, because all versions
// of them that were ever seen were refused; sorted.
func (p *Plan) Nowhere() []ObjectRef {
	if p.memo == nil {
		return nil
	}
	var out []ObjectRef
	for _, x := range p.Problems {
		switch x.Object.Kind {
		case KindTopology, KindStream, KindBridge:
			if !x.Waiting && !p.memo.mayHold[x.Object] {
				out = append(out, x.Object)
			}
		}
	}
	return slices.Compact(out) // problems are sorted by object
}

// MemberState is what one member shall hold.
type MemberState struct {
	Cluster string
	// Hash is the StateHash of Parts.
	Hash string
	// Parts sorted by id; sealed.
	Parts []*PlannedPart
}

// Desired is what the member shall hold for now: its state in the plan or, while
// it is staged, an older one; nil for no member.
func (p *Plan) Desired(cluster string) *MemberState {
	if s := p.Staged[cluster]; s != nil {
		return s
	}
	return p.Members[cluster]
}

// Part returns the part of that id, or nil.
func (m *MemberState) Part(id string) *PlannedPart {
	lo, hi := 0, len(m.Parts)
	for lo < hi {
		mid := (lo + hi) / 2
		if m.Parts[mid].Part.Id < id {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(m.Parts) && m.Parts[lo].Part.Id == id {
		return m.Parts[lo]
	}
	return nil
}

// Until tells what differs in next: gone is called for each part that next has not,
// fresh for each that next has otherwise or alone; both in the order of their ids.
func (m *MemberState) Until(next *MemberState, gone, fresh func(*PlannedPart)) {
	was := m.Parts
	for _, p := range next.Parts {
		for len(was) > 0 && was[0] != p && was[0].Part.Id < p.Part.Id {
			gone(was[0])
			was = was[1:]
		}
		switch {
		case len(was) == 0 || was[0].Part.Id != p.Part.Id:
			fresh(p)
		case was[0].Part.Hash != p.Part.Hash:
			fresh(p)
			was = was[1:]
		default:
			was = was[1:]
		}
	}
	for _, p := range was {
		gone(p)
	}
}

// PlannedPart is a part and what must have happened before it may be sent.
type PlannedPart struct {
	Part *federationv1.Part
	// After lists parts that must be applied, as planned, on other members first.
	After []PartRef
}

// PartRef names a part of a member.
type PartRef struct {
	Cluster string
	ID      string
}

// Link is one link between two members.
type Link struct {
	Topology string
	Dialer   string
	Acceptor string
	// FailoverGroup is set on links of which only one is in use at a time.
	FailoverGroup string
	// Split: each member is the hub of the connection on which it sends; else the
	// acceptor is the hub of both.
	Split bool
	// Granted tells whether the acceptor's grant for the dialer's present key is
	// known, so that the dialer's part could be planned.
	Granted bool
}

// Footprint is what an accepted object needs to be in effect.
type Footprint struct {
	// Parts of which the object is (part) owner, sorted.
	Parts []PartRef
	// Hops are the links that it needs; of alternatives one is enough.
	Hops []Hop
	// Flows are the durable flows of a Stream or Queue bridge.
	Flows []Flow
	// Members that the object concerns, sorted.
	Members []string
	// Paused tells that the object is told not to flow.
	Paused bool
	// Generation of the object that is in effect. It is not the newest while the
	// newest is refused and the last good one goes on.
	Generation int64
}

// Hop is a step from one member to the next for which one of several links must
// work: more than one only where the step ends or begins at a member that has a
// choice of parents.
type Hop struct {
	Member string
	Peers  []string
}

// Flow is one durable flow, at its destination.
type Flow struct {
	Origin      string
	Destination string
	Account     string
	Stream      string
}
