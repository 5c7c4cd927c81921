package hubapi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/jsonmergepatch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

type object = client.Object

// lastApplied is where kubectl apply notes what it applied.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// rehearsals is how many objects are checked with the hub at once.
const rehearsals = 8

// Rehearsal is what would become of the resources.
type Rehearsal struct {
	// Input is what the hub would compile then. Objects that do not change are
	// those of before.
	Input topology.Input
	// Objects that were asked for, sorted.
	Objects []ObjectChange
	// Refused objects stay as they are.
	Refused []topology.Problem
}

// ObjectChange is what would become of one resource.
type ObjectChange struct {
	Object topology.ObjectRef
	// Action is empty if the object does not change.
	Action topology.Action
	// Source is the file that it is from.
	Source string
	// Unchecked says why the hub's API did not check it; empty: it did, or there was
	// nothing to check.
	Unchecked string

	now object
}

// Wish is what somebody wants of the resources.
type Wish struct {
	Manifests []Manifest
	// Delete names objects to delete.
	Delete []topology.ObjectRef
	// Prune deletes every topology, stream and bridge that no manifest describes.
	Prune bool
	// Namespace of manifests that name none.
	Namespace string
	// Now is the creation time of objects that are new.
	Now time.Time
}

// API is what Rehearse needs of a hub.
type API interface {
	Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error
	Create(ctx context.Context, obj client.Object, opts ...client.CreateOption) error
	Patch(ctx context.Context, obj client.Object, patch client.Patch, opts ...client.PatchOption) error
}

// Rehearse finds what would become of the resources in before if the wish came
// true, as kubectl apply and kubectl delete would do it. The API, if there is one,
// checks each object (nothing is written). Without it known are the resources as
// they are.
func Rehearse(ctx context.Context, api API, before topology.Input, known []Manifest, w Wish) (*Rehearsal, error) {
	changes, manifests, err := wanted(before, w)
	if err != nil {
		return nil, err
	}
	r := &rehearser{api: api, wish: w, known: map[topology.ObjectRef]*unstructured.Unstructured{}}
	for _, m := range known {
		ref, err := refOfManifest(m, w.Namespace)
		if err != nil {
			return nil, err
		}
		r.known[ref] = m.Object
	}
	problems, errs := make([][]topology.Problem, len(changes)), make([]error, len(changes))
	var running sync.WaitGroup
	slots := make(chan struct{}, rehearsals)
	for i := range changes {
		m, ok := manifests[changes[i].Object]
		if !ok {
			continue // to be deleted
		}
		slots <- struct{}{}
		running.Go(func() {
			problems[i], errs[i] = r.rehearse(ctx, &changes[i], m)
			<-slots
		})
	}
	running.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	out := &Rehearsal{Input: before, Objects: changes, Refused: slices.Concat(problems...)}
	out.overlay()
	return out, nil
}

// wanted lists what is asked for, with the manifest of what is to be there.
func wanted(before topology.Input, w Wish) ([]ObjectChange, map[topology.ObjectRef]Manifest, error) {
	manifests := map[topology.ObjectRef]Manifest{}
	var changes []ObjectChange
	for _, m := range w.Manifests {
		ref, err := refOfManifest(m, w.Namespace)
		if err != nil {
			return nil, nil, err
		}
		if other, twice := manifests[ref]; twice {
			return nil, nil, fmt.Errorf("%s is in %s and in %s: keep one", Shown(ref), other.Source, m.Source)
		}
		manifests[ref] = m
		changes = append(changes, ObjectChange{Object: ref, Source: m.Source})
	}
	there := refsOf(before)
	remove := map[topology.ObjectRef]bool{}
	for _, ref := range w.Delete {
		if _, both := manifests[ref]; both {
			return nil, nil, fmt.Errorf("%s is to be deleted, and is in %s", Shown(ref), manifests[ref].Source)
		}
		if !there[ref] {
			return nil, nil, fmt.Errorf("there is no %s to delete", Shown(ref))
		}
		remove[ref] = true
	}
	if w.Prune {
		for ref := range there {
			if _, keep := manifests[ref]; !keep && ref.Kind != topology.KindMember {
				remove[ref] = true
			}
		}
	}
	for ref := range remove {
		changes = append(changes, ObjectChange{Object: ref, Action: topology.ActionRemove})
	}
	slices.SortFunc(changes, func(a, b ObjectChange) int { return compareRefs(a.Object, b.Object) })
	return changes, manifests, nil
}

func compareRefs(a, b topology.ObjectRef) int {
	return strings.Compare(string(a.Kind)+"/"+a.Namespace+"/"+a.Name, string(b.Kind)+"/"+b.Namespace+"/"+b.Name)
}

func refsOf(in topology.Input) map[topology.ObjectRef]bool {
	out := map[topology.ObjectRef]bool{}
	for _, o := range in.Topologies {
		out[topology.ObjectRef{Kind: topology.KindTopology, Name: o.Name}] = true
	}
	for _, o := range in.Members {
		out[topology.ObjectRef{Kind: topology.KindMember, Name: o.Name}] = true
	}
	for _, o := range in.Streams {
		out[topology.ObjectRef{Kind: topology.KindStream, Namespace: o.Namespace, Name: o.Name}] = true
	}
	for _, o := range in.Bridges {
		out[topology.ObjectRef{Kind: topology.KindBridge, Namespace: o.Namespace, Name: o.Name}] = true
	}
	return out
}

func refOfManifest(m Manifest, namespace string) (topology.ObjectRef, error) {
	ref := topology.ObjectRef{Kind: topology.Kind(m.Object.GetKind()), Namespace: m.Object.GetNamespace(), Name: m.Object.GetName()}
	switch {
	case newObject(ref.Kind) == nil || m.Object.GetAPIVersion() != v1alpha1.GroupVersion.String():
		return ref, fmt.Errorf("%s: there is no kind %s of %s", m.Source, m.Object.GetKind(), m.Object.GetAPIVersion())
	case !namespaced(ref.Kind):
		ref.Namespace = ""
	case ref.Namespace == "":
		ref.Namespace = namespace
	}
	return ref, nil
}

type rehearser struct {
	api   API
	wish  Wish
	known map[topology.ObjectRef]*unstructured.Unstructured
}

// rehearse finds what the object would be. Problems say why it is refused.
func (r *rehearser) rehearse(ctx context.Context, c *ObjectChange, m Manifest) ([]topology.Problem, error) {
	wanted := m.Object.DeepCopy()
	wanted.SetNamespace(c.Object.Namespace)
	unstructured.RemoveNestedField(wanted.Object, "metadata", "creationTimestamp")
	if r.api != nil {
		unstructured.RemoveNestedField(wanted.Object, "status") // the API does not take it from us
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(wanted.Object, newObject(c.Object.Kind), true); err != nil {
		return decodeProblems(c.Object, err), nil
	}
	current, err := r.current(ctx, c.Object)
	if err != nil {
		return nil, err
	}
	if current == nil {
		return r.create(ctx, c, wanted)
	}
	return r.update(ctx, c, current, wanted)
}

func (r *rehearser) current(ctx context.Context, ref topology.ObjectRef) (*unstructured.Unstructured, error) {
	if r.api == nil {
		return r.known[ref], nil
	}
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(string(ref.Kind)))
	err := r.api.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, u)
	if apierrors.IsNotFound(err) && !NotServed(err) {
		return nil, nil //nolint:nilnil // nothing is there, which is no error
	}
	return u, err
}

func (r *rehearser) create(ctx context.Context, c *ObjectChange, wanted *unstructured.Unstructured) ([]topology.Problem, error) {
	c.Action = topology.ActionAdd
	if r.api != nil {
		checked := wanted.DeepCopy()
		err := r.api.Create(ctx, checked, client.DryRunAll)
		if done, problems, err := c.answered(err, checked); done {
			return problems, err
		}
	} else {
		c.Unchecked = "offline"
	}
	if err := setDefaults(c.Object.Kind, wanted.Object); err != nil {
		return nil, err
	}
	wanted.SetGeneration(1)
	wanted.SetCreationTimestamp(metav1.NewTime(r.wish.Now.Truncate(time.Second)))
	return nil, c.take(wanted)
}

func (r *rehearser) update(ctx context.Context, c *ObjectChange, current, wanted *unstructured.Unstructured) ([]topology.Problem, error) {
	patch, err := applyPatch(current, wanted)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Shown(c.Object), err)
	}
	if len(patch) == 0 {
		return nil, nil
	}
	if r.api != nil {
		data, err := json.Marshal(patch)
		if err != nil {
			return nil, err
		}
		checked := current.DeepCopy()
		err = r.api.Patch(ctx, checked, client.RawPatch(types.MergePatchType, data), client.DryRunAll)
		if err == nil && !differ(current, checked) {
			return nil, nil
		}
		c.Action = topology.ActionChange
		if done, problems, err := c.answered(err, checked); done {
			return problems, err
		}
	} else {
		c.Unchecked = "offline"
	}
	c.Action = topology.ActionChange
	merged := current.DeepCopy()
	mergePatch(merged.Object, patch)
	if err := setDefaults(c.Object.Kind, merged.Object); err != nil {
		return nil, err
	}
	merged.SetGeneration(current.GetGeneration() + 1)
	return nil, c.take(merged)
}

// differ tells whether a plan may depend on the difference of two versions.
func differ(a, b *unstructured.Unstructured) bool {
	return a.GetGeneration() != b.GetGeneration() || !maps.Equal(a.GetLabels(), b.GetLabels())
}

// answered takes what the API said to a rehearsal. If the API may not or cannot
// check the object it is not done.
func (c *ObjectChange) answered(err error, checked *unstructured.Unstructured) (done bool, problems []topology.Problem, _ error) {
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return true, nil, c.take(checked)
	case !errors.As(err, &status) || NotServed(err) || apierrors.IsUnauthorized(err):
		return true, nil, err
	case apierrors.IsForbidden(err):
		c.Unchecked = "this user may not change it"
		return false, nil, nil
	case apierrors.IsNotFound(err) && status.Status().Details != nil && status.Status().Details.Kind == "namespaces":
		c.Unchecked = "there is no namespace " + c.Object.Namespace + " yet"
		return false, nil, nil
	case apierrors.IsTooManyRequests(err) || apierrors.IsInternalError(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err):
		return true, nil, err
	}
	s := status.Status()
	if s.Details == nil || len(s.Details.Causes) == 0 {
		return true, []topology.Problem{{Object: c.Object, Reason: string(s.Reason), Message: s.Message}}, nil
	}
	for _, cause := range s.Details.Causes {
		problems = append(problems, topology.Problem{Object: c.Object, Field: strings.TrimPrefix(cause.Field, "<nil>"), Reason: string(s.Reason), Message: cause.Message})
	}
	return true, problems, nil
}

func (c *ObjectChange) take(u *unstructured.Unstructured) error {
	c.now = newObject(c.Object.Kind)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, c.now); err != nil {
		return fmt.Errorf("%s: %w", Shown(c.Object), err)
	}
	return nil
}

func decodeProblems(ref topology.ObjectRef, err error) []topology.Problem {
	var all []topology.Problem
	list := []error{err}
	if strict, ok := runtime.AsStrictDecodingError(err); ok {
		list = strict.Errors()
	}
	for _, e := range list {
		field := ""
		if _, after, ok := strings.Cut(e.Error(), `unknown field "`); ok {
			field, _, _ = strings.Cut(after, `"`)
		}
		all = append(all, topology.Problem{Object: ref, Field: field, Reason: "Invalid", Message: e.Error()})
	}
	return all
}

// applyPatch is the merge patch that kubectl apply would send.
func applyPatch(current, wanted *unstructured.Unstructured) (map[string]any, error) {
	original := []byte(current.GetAnnotations()[lastApplied])
	bare := wanted.DeepCopy()
	a := bare.GetAnnotations()
	delete(a, lastApplied)
	bare.SetAnnotations(a)
	// What the server sets is not for a manifest that was read from it to change.
	for _, f := range []string{"resourceVersion", "uid", "generation", "managedFields"} {
		unstructured.RemoveNestedField(bare.Object, "metadata", f)
	}
	modified, err := json.Marshal(bare.Object)
	if err != nil {
		return nil, err
	}
	now, err := json.Marshal(current.Object)
	if err != nil {
		return nil, err
	}
	patch, err := jsonmergepatch.CreateThreeWayJSONMergePatch(original, modified, now)
	if err != nil {
		return nil, err
	}
	var out map[string]any
	if err := json.Unmarshal(patch, &out); err != nil {
		return nil, err
	}
	return out, nil
}

// mergePatch applies an RFC 7386 patch.
func mergePatch(into, patch map[string]any) {
	for k, v := range patch {
		inner, isMap := v.(map[string]any)
		old, wasMap := into[k].(map[string]any)
		switch {
		case v == nil:
			delete(into, k)
		case isMap && wasMap:
			mergePatch(old, inner)
		case isMap:
			fresh := map[string]any{}
			mergePatch(fresh, inner)
			into[k] = fresh
		default:
			into[k] = v
		}
	}
}

// overlay puts the changed objects into the input.
func (r *Rehearsal) overlay() {
	refused := map[topology.ObjectRef]bool{}
	for _, p := range r.Refused {
		refused[p.Object] = true
	}
	changed, kept := map[topology.ObjectRef]object{}, r.Objects[:0]
	for _, c := range r.Objects {
		if refused[c.Object] {
			continue
		}
		kept = append(kept, c)
		if c.Action != "" {
			changed[c.Object] = c.now // nil: it goes
		}
	}
	r.Objects = kept
	r.Input.Topologies = overlaid(r.Input.Topologies, topology.KindTopology, changed)
	r.Input.Members = overlaid(r.Input.Members, topology.KindMember, changed)
	r.Input.Streams = overlaid(r.Input.Streams, topology.KindStream, changed)
	r.Input.Bridges = overlaid(r.Input.Bridges, topology.KindBridge, changed)
}

func overlaid[T object](list []T, kind topology.Kind, changed map[topology.ObjectRef]object) []T {
	out := make([]T, 0, len(list))
	add := func(o object) {
		if t, ok := o.(T); ok {
			out = append(out, t)
		}
	}
	for _, o := range list {
		ref := topology.ObjectRef{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}
		now, touched := changed[ref]
		if !touched {
			out = append(out, o)
			continue
		}
		delete(changed, ref)
		add(now)
	}
	for _, ref := range slices.SortedFunc(maps.Keys(changed), compareRefs) {
		if ref.Kind == kind {
			add(changed[ref])
		}
	}
	return out
}
