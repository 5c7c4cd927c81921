package hub

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

// keeper keeps over a restart which versions of objects are in effect, so that an
// object that is refused then goes on as it was: see topology.Input.InEffect.
//
// A plan is published first and kept a moment later, off the path of a push. That
// is safe in this order, too. If the hub ends in between, the file tells of the
// plan before: an object that it does not name at all counts as one of which
// members may hold something, and freezes them if it is refused; of one that was
// changed meanwhile, and is refused, the version before goes on. To write first
// would gain only that last case and cost each push a sync of the disk.
type keeper struct {
	place  keepPlace
	log    *slog.Logger
	latest atomic.Pointer[topology.Plan]
	dirty  chan struct{} // one slot
	// written names what is on the disk; nil: nothing that is known.
	written []keptRef
}

// keptRef is a version of an object in the file, or an object that is nowhere.
type keptRef struct {
	ref        topology.ObjectRef
	uid        types.UID
	generation int64
}

func newKeeper(place keepPlace, log *slog.Logger) *keeper {
	return &keeper{place: place, log: log, dirty: make(chan struct{}, 1)}
}

// offer has a plan kept soon. It never blocks.
func (k *keeper) offer(p *topology.Plan) {
	k.latest.Store(p)
	nudge(k.dirty)
}

// run writes until ctx ends, and then what is not written yet.
func (k *keeper) run(ctx context.Context) {
	for await(ctx, k.dirty, nil, 0) {
		if err := k.write(ctx); err != nil {
			k.log.Error("what is in effect is not kept for a restart, trying again", "place", k.place, "error", err)
			nudge(k.dirty)
			pause(ctx, time.Second)
		}
		pause(ctx, k.place.interval())
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), statusTimeout)
	defer cancel()
	if err := k.write(last); err != nil {
		k.log.Error("what is in effect is not kept for the next start", "place", k.place, "error", err)
	}
}

// write writes what the latest plan has in effect, if that is not on the disk.
func (k *keeper) write(ctx context.Context) error {
	p := k.latest.Load()
	if p == nil {
		return nil
	}
	objects, nowhere := p.InEffect(), p.Nowhere()
	refs := make([]keptRef, 0, len(objects)+len(nowhere))
	for _, o := range objects {
		refs = append(refs, keptRef{refOf(kindOf(o), o), o.GetUID(), o.GetGeneration()})
	}
	for _, ref := range nowhere {
		refs = append(refs, keptRef{ref: ref})
	}
	if k.written != nil && slices.Equal(refs, k.written) {
		return nil
	}
	data, err := encodeKept(objects, nowhere)
	if err != nil {
		return err
	}
	// What is too large is removed: rather nothing than something old, because then
	// a restart freezes members.
	if err = k.place.write(ctx, data); errors.Is(err, errTooLarge) {
		err = errors.Join(err, k.place.write(ctx, nil))
	}
	if err == nil {
		k.written = refs
	}
	return err
}

// read returns what was kept, for the first plan. Objects are nil if nothing was,
// or if it cannot be read: then the hub starts as if it had kept nothing.
func (k *keeper) read(ctx context.Context) ([]metav1.Object, []topology.ObjectRef) {
	data, err := k.place.read(ctx)
	if err == nil && data == nil {
		return nil, nil
	}
	var objects []metav1.Object
	var nowhere []topology.ObjectRef
	if err == nil {
		objects, nowhere, err = decodeKept(data)
	}
	if err != nil {
		k.log.Error("what was in effect before this start is not known: members on which a refused object may be keep what they have until it is mended or deleted",
			"place", k.place, "error", err)
		return nil, nil
	}
	return objects, nowhere
}

// keptHeader begins the file; the SHA-256 of the rest follows in hex, and a new
// line.
const keptHeader = "sealane in-effect 1 "

// keptFile is the rest.
type keptFile struct {
	Topologies []*v1alpha1.MessagingTopology `json:"topologies,omitempty"`
	Streams    []*v1alpha1.Stream            `json:"streams,omitempty"`
	Bridges    []*v1alpha1.Bridge            `json:"bridges,omitempty"`
	Nowhere    []topology.ObjectRef          `json:"nowhere,omitempty"`
}

func encodeKept(objects []metav1.Object, nowhere []topology.ObjectRef) ([]byte, error) {
	f := keptFile{Nowhere: nowhere}
	for _, o := range objects {
		switch o := o.(type) {
		case *v1alpha1.MessagingTopology:
			f.Topologies = append(f.Topologies, &v1alpha1.MessagingTopology{ObjectMeta: keptMeta(o), Spec: o.Spec})
		case *v1alpha1.Stream:
			f.Streams = append(f.Streams, &v1alpha1.Stream{ObjectMeta: keptMeta(o), Spec: o.Spec})
		case *v1alpha1.Bridge:
			f.Bridges = append(f.Bridges, &v1alpha1.Bridge{ObjectMeta: keptMeta(o), Spec: o.Spec})
		}
	}
	body, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	return slices.Concat([]byte(keptHeader+hex.EncodeToString(sum[:])+"\n"), body), nil
}

// keptMeta is what plans depend on.
func keptMeta(o metav1.Object) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID(), Generation: o.GetGeneration(), CreationTimestamp: o.GetCreationTimestamp(),
	}
}

// decodeKept never returns nil objects without an error: nothing in effect is
// something else than nothing known.
func decodeKept(data []byte) ([]metav1.Object, []topology.ObjectRef, error) {
	head, body, found := bytes.Cut(data, []byte("\n"))
	if sum := sha256.Sum256(body); !found || string(head) != keptHeader+hex.EncodeToString(sum[:]) {
		return nil, nil, errors.New("it is damaged, or of another version of this program")
	}
	var f keptFile
	if err := json.Unmarshal(body, &f); err != nil {
		return nil, nil, err
	}
	return append(append(some(f.Topologies), some(f.Streams)...), some(f.Bridges)...), f.Nowhere, nil
}

// some are the objects of a list without those that are null.
func some[T any, P interface {
	*T
	metav1.Object
}](list []P) []metav1.Object {
	out := []metav1.Object{}
	for _, o := range list {
		if o != nil {
			out = append(out, o)
		}
	}
	return out
}

func kindOf(o metav1.Object) topology.Kind {
	switch o.(type) {
	case *v1alpha1.MessagingTopology:
		return topology.KindTopology
	case *v1alpha1.Stream:
		return topology.KindStream
	}
	return topology.KindBridge
}
