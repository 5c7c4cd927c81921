package hub

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

const (
	// statusWorkers is how many patches are on their way to the API server at a
	// time, statusQueue how many wait for that. What does not fit is found again
	// by the next pass.
	statusWorkers = 4
	statusQueue   = 256
	// statusTimeout bounds one patch.
	statusTimeout = 10 * time.Second
	// metricsInterval is how often, at most, an object is written only because a
	// round trip, a lag or a size changed.
	metricsInterval = 10 * time.Second
	// retryFirst and retryLast bound the back-off of an object whose patch fails.
	retryFirst, retryLast = 200 * time.Millisecond, time.Minute
)

// statusWriter brings the statuses of objects to what they shall be, one patch
// an object and only when something differs. Passes compare and say what to
// patch; workers patch. A failure concerns one object and is tried again.
//
// A patch names only fields that are the Reconciler's (see the functions of
// statuspatch.go), and the version of the object that it was made from, so that
// it never undoes what somebody else wrote in between.
type statusWriter struct {
	client client.Client
	log    *slog.Logger
	now    func() time.Time
	// dirty asks for another pass.
	dirty func()
	jobs  chan job
	// wrote counts what came of a patch: ok, conflict, gone or error.
	wrote func(result string)
	// tell announces an event about an object; it does not block.
	tell func(o client.Object, e event)
	// yield waits, a little, while there is something more urgent to do.
	yield func(context.Context)

	mu      sync.Mutex
	start   time.Time // of the first pass
	objects map[topology.ObjectRef]*writing
}

// writing is what the writer knows of one object.
type writing struct {
	uid      types.UID
	inflight bool
	// made is what the last patch made of the object. It stands in for it until
	// the cache is as new.
	made client.Object
	// metrics is when round trips, lags and sizes were last written.
	metrics time.Time
	// failures in a row; notBefore is when to try again.
	failures  int
	notBefore time.Time
}

// job is one patch to send.
type job struct {
	ref     topology.ObjectRef
	uid     types.UID
	object  client.Object // of the kind, with the name; then what the API server answers
	patch   []byte
	metrics bool
	before  []metav1.Condition
}

func newStatusWriter(c client.Client, log *slog.Logger, dirty func()) *statusWriter {
	return &statusWriter{
		client: c, log: log, now: time.Now, dirty: dirty, wrote: func(string) {}, tell: func(client.Object, event) {}, yield: func(context.Context) {},
		jobs: make(chan job, statusQueue), objects: map[topology.ObjectRef]*writing{},
	}
}

// pass is one look at all statuses.
type pass struct {
	w    *statusWriter
	now  time.Time
	due  time.Duration
	want map[topology.ObjectRef]topology.Status
	uids map[topology.ObjectRef]types.UID // of the objects that were planned
	full bool                             // no more jobs fit
}

// write compares the objects as they are with what they shall say, and has
// patches sent. It returns when to do so again at the latest; 0: when something
// changes.
func (w *statusWriter) write(objects topology.Input, seen Observation, want map[topology.ObjectRef]topology.Status, planned topology.Input) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := &pass{w: w, now: w.now(), want: want, uids: uidsOf(planned)}
	if w.start.IsZero() {
		w.start = p.now
	}
	if left := w.start.Add(startGrace).Sub(p.now); left > 0 {
		p.again(left)
	}
	p.members(objects.Members, newFacts(objects.Members, seen))
	for _, t := range objects.Topologies {
		p.topology(latest(p, topology.KindTopology, t))
	}
	for _, s := range objects.Streams {
		s = latest(p, topology.KindStream, s)
		p.flowObject(topology.KindStream, s, &v1alpha1.Stream{}, s.Status)
	}
	for _, b := range objects.Bridges {
		b = latest(p, topology.KindBridge, b)
		p.flowObject(topology.KindBridge, b, &v1alpha1.Bridge{}, b.Status)
	}
	p.forget(objects)
	return p.due
}

// members are first, and of those first what plans wait for.
func (p *pass) members(members []*v1alpha1.MemberCluster, f *facts) {
	type other struct {
		base  *v1alpha1.MemberCluster
		patch *patch
	}
	var others []other
	for _, m := range members {
		base := latest(p, topology.KindMember, m)
		if patch := f.patch(base); len(patch.fields) > 0 {
			p.member(base, patch)
		} else {
			others = append(others, other{base, patch})
		}
	}
	for _, o := range others {
		p.member(o.base, o.patch)
	}
}

func (p *pass) member(m *v1alpha1.MemberCluster, patch *patch) {
	if st, ok := p.status(topology.KindMember, m, m.Status.ObservedGeneration); ok {
		patch.conditions(m.Status.Conditions, st, p.now)
		patch.observed(m.Status.ObservedGeneration, st.Generation)
		patch.member(&m.Status, st.Member, p.now)
	}
	p.send(topology.KindMember, m, &v1alpha1.MemberCluster{}, patch)
}

func (p *pass) topology(t *v1alpha1.MessagingTopology) {
	patch := newPatch()
	if st, ok := p.status(topology.KindTopology, t, t.Status.ObservedGeneration); ok {
		patch.conditions(t.Status.Conditions, st, p.now)
		patch.observed(t.Status.ObservedGeneration, st.Generation)
		set(patch, "members", t.Status.Members, st.Members)
		set(patch, "links", t.Status.Links, st.Links)
	}
	p.send(topology.KindTopology, t, &v1alpha1.MessagingTopology{}, patch)
}

func (p *pass) flowObject(kind topology.Kind, o, empty client.Object, have v1alpha1.FlowObjectStatus) {
	patch := newPatch()
	if st, ok := p.status(kind, o, have.ObservedGeneration); ok {
		patch.conditions(have.Conditions, st, p.now)
		patch.observed(have.ObservedGeneration, st.Generation)
		set(patch, "members", have.Members, st.Members)
		patch.metric("lag", have.Lag, st.Lag, 0)
	}
	p.send(kind, o, empty, patch)
}

// status is what the object shall say; false: leave it as it is, because the
// plan is of another object of that name, or its members have yet to reconnect
// after a start of the hub.
func (p *pass) status(kind topology.Kind, o client.Object, observed int64) (topology.Status, bool) {
	ref := refOf(kind, o)
	st, ok := p.want[ref]
	if !ok || p.uids[ref] != o.GetUID() {
		return st, false
	}
	if st.Unheard && observed == st.Generation && p.now.Before(p.w.start.Add(startGrace)) {
		return st, false
	}
	return st, true
}

// send gives a patch to the workers, unless it is empty, put off, or there are
// too many.
func (p *pass) send(kind topology.Kind, o, empty client.Object, patch *patch) {
	ref := refOf(kind, o)
	w := p.w.objects[ref]
	if w.inflight || p.full {
		return // a pass follows its end
	}
	body, metrics := patch.fields, len(patch.metrics) > 0
	switch {
	case len(body) > 0: // metrics travel with the rest, even small changes
		maps.Copy(body, patch.fresh)
	case !metrics:
		return
	case p.now.Sub(w.metrics) < metricsInterval:
		p.again(w.metrics.Add(metricsInterval).Sub(p.now))
		return
	default:
		body = patch.metrics
	}
	if left := w.notBefore.Sub(p.now); left > 0 {
		p.again(left)
		return
	}
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": o.GetResourceVersion()},
		"status":   body,
	})
	if err != nil {
		p.w.log.Error("status does not encode", "kind", kind, "name", o.GetName(), "error", err)
		return
	}
	empty.SetNamespace(o.GetNamespace())
	empty.SetName(o.GetName())
	select {
	case p.w.jobs <- job{ref, o.GetUID(), empty, data, len(patch.fresh) > 0, conditionsOf(o)}:
		w.inflight = true
	default:
		p.full = true
	}
}

// again asks for another pass in d.
func (p *pass) again(d time.Duration) {
	if p.due == 0 || d < p.due {
		p.due = max(d, time.Millisecond)
	}
}

// forget drops what is known of objects that are gone.
func (p *pass) forget(objects topology.Input) {
	there := uidsOf(objects)
	for ref := range p.w.objects {
		if _, ok := there[ref]; !ok {
			delete(p.w.objects, ref)
		}
	}
}

// latest is the object, or what the last patch made of it if the cache does not
// show that yet.
func latest[T client.Object](p *pass, kind topology.Kind, o T) T {
	ref := refOf(kind, o)
	w := p.w.objects[ref]
	if w == nil || w.uid != o.GetUID() {
		p.w.objects[ref] = &writing{uid: o.GetUID()}
		return o
	}
	if made, ok := w.made.(T); ok && newer(made, o) {
		return made
	}
	w.made = nil
	return o
}

// newer tells whether a is a later version than b. Versions are numbers that
// grow, whatever else the API server makes of them.
func newer(a, b client.Object) bool {
	va, errA := strconv.ParseUint(a.GetResourceVersion(), 10, 64)
	vb, errB := strconv.ParseUint(b.GetResourceVersion(), 10, 64)
	return errA == nil && errB == nil && va > vb
}

// run sends patches until ctx ends.
func (w *statusWriter) run(ctx context.Context) {
	var workers sync.WaitGroup
	for range statusWorkers {
		workers.Go(func() {
			for {
				select {
				case j := <-w.jobs:
					w.yield(ctx)
					w.done(ctx, j, w.patch(ctx, j))
				case <-ctx.Done():
					return
				}
			}
		})
	}
	workers.Wait()
}

func (w *statusWriter) patch(ctx context.Context, j job) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	return w.client.Status().Patch(ctx, j.object, client.RawPatch(types.MergePatchType, j.patch))
}

// done notes how a patch went and asks for a pass, in which the object is looked
// at again.
func (w *statusWriter) done(ctx context.Context, j job, err error) {
	w.wrote(resultOf(err))
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.dirty()
	o := w.objects[j.ref]
	if o == nil || o.uid != j.uid {
		return
	}
	o.inflight = false
	switch {
	case err == nil:
		o.made = j.object
		for _, e := range eventsOf(j.before, conditionsOf(j.object)) {
			w.tell(j.object, e)
		}
		o.failures, o.notBefore = 0, time.Time{}
		if j.metrics {
			o.metrics = w.now()
		}
	case apierrors.IsNotFound(err) || ctx.Err() != nil:
	case apierrors.IsConflict(err): // the cache will show what we did not know
		w.log.Debug("status changed meanwhile, trying again", "kind", j.ref.Kind, "namespace", j.ref.Namespace, "name", j.ref.Name)
		o.notBefore = w.now().Add(statusInterval)
	default:
		back := min(retryFirst<<min(o.failures, 16), retryLast)
		o.failures++
		o.notBefore = w.now().Add(back)
		w.log.Warn("status not written, trying again", "kind", j.ref.Kind, "namespace", j.ref.Namespace, "name", j.ref.Name, "after", back, "error", err)
	}
}

// resultOf names what came of a request to the API server.
func resultOf(err error) string {
	switch {
	case err == nil:
		return "ok"
	case apierrors.IsConflict(err):
		return "conflict"
	case apierrors.IsNotFound(err):
		return "gone"
	}
	return "error"
}

func refOf(kind topology.Kind, o metav1.Object) topology.ObjectRef {
	return topology.ObjectRef{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}
}

func uidsOf(in topology.Input) map[topology.ObjectRef]types.UID {
	out := make(map[topology.ObjectRef]types.UID, len(in.Topologies)+len(in.Members)+len(in.Streams)+len(in.Bridges))
	for _, o := range in.Topologies {
		out[refOf(topology.KindTopology, o)] = o.UID
	}
	for _, o := range in.Members {
		out[refOf(topology.KindMember, o)] = o.UID
	}
	for _, o := range in.Streams {
		out[refOf(topology.KindStream, o)] = o.UID
	}
	for _, o := range in.Bridges {
		out[refOf(topology.KindBridge, o)] = o.UID
	}
	return out
}
