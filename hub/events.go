package hub

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
)

// announced are all Kubernetes events that the hub makes: one for each condition
// that changes to True or False. The message is the condition's, after its reason.
// An empty word: that change is no event.
var announced = []struct {
	condition  string
	holds, not string // reasons of the event
	warning    metav1.ConditionStatus
	quiet      bool // it is no news that the condition does not hold at first
}{
	{v1alpha1.ConditionAccepted, "Accepted", "Refused", metav1.ConditionFalse, false},
	{v1alpha1.ConditionProgrammed, "Programmed", "NotProgrammed", metav1.ConditionFalse, false},
	{v1alpha1.ConditionReady, "Ready", "NotReady", metav1.ConditionFalse, false},
	{v1alpha1.ConditionConnected, "Connected", "Disconnected", metav1.ConditionFalse, false},
	{v1alpha1.ConditionLeaving, "Leaving", "", "", false},
	{v1alpha1.ConditionRevoked, "Revoked", "", metav1.ConditionTrue, false},
	{v1alpha1.ConditionStorageNearlyFull, "StorageNearlyFull", "StorageHasRoom", metav1.ConditionTrue, true},
}

// event is what is told of one change.
type event struct{ kind, reason, message string }

// eventsOf derives events from the conditions of an object before and after a write.
// A condition that only has another reason or message is no event: the object says
// it already.
func eventsOf(before, after []metav1.Condition) []event {
	var out []event
	for _, a := range announced {
		now, was := meta.FindStatusCondition(after, a.condition), meta.FindStatusCondition(before, a.condition)
		if now == nil || was != nil && was.Status == now.Status {
			continue
		}
		reason := ""
		switch now.Status {
		case metav1.ConditionTrue:
			reason = a.holds
		case metav1.ConditionFalse:
			if was != nil || !a.quiet {
				reason = a.not
			}
		}
		if reason == "" {
			continue
		}
		kind := corev1.EventTypeNormal
		if now.Status == a.warning {
			kind = corev1.EventTypeWarning
		}
		out = append(out, event{kind, reason, now.Reason + ": " + now.Message})
	}
	return out
}

// conditionsOf are a copy of the conditions in the status of one of our kinds.
func conditionsOf(o client.Object) []metav1.Condition {
	switch o := o.(type) {
	case *v1alpha1.MessagingTopology:
		return slices.Clone(o.Status.Conditions)
	case *v1alpha1.MemberCluster:
		return slices.Clone(o.Status.Conditions)
	case *v1alpha1.Stream:
		return slices.Clone(o.Status.Conditions)
	case *v1alpha1.Bridge:
		return slices.Clone(o.Status.Conditions)
	}
	return nil
}

// startEvents returns what records events about objects; nil where the API server
// has none, as the embedded one. Recording never blocks: what is too much is left
// out, and repetitions are counted in one event.
func (o *Options) startEvents(parts *stack, cfg *rest.Config, scheme *runtime.Scheme, m *metrics) (record.EventRecorder, error) {
	api, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, err
	}
	served, err := api.ServerResourcesForGroupVersion("v1")
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("look for events at %s: %w", cfg.Host, err)
	}
	if served == nil || !slices.ContainsFunc(served.APIResources, func(r metav1.APIResource) bool { return r.Name == "events" }) {
		return nil, nil
	}
	core, err := typedcorev1.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&countedSink{&typedcorev1.EventSinkImpl{Interface: core.Events("")}, m})
	parts.start("events", func(ctx context.Context) error {
		<-ctx.Done()
		broadcaster.Shutdown()
		return nil
	})
	return broadcaster.NewRecorder(scheme, corev1.EventSource{Component: "sealane-hub"}), nil
}

// countedSink counts what comes of writing events.
type countedSink struct {
	record.EventSink
	metrics *metrics
}

func (s *countedSink) count(e *corev1.Event, err error) (*corev1.Event, error) {
	s.metrics.events.WithLabelValues(resultOf(err)).Inc()
	return e, err
}

// Create implements record.EventSink.
func (s *countedSink) Create(e *corev1.Event) (*corev1.Event, error) {
	return s.count(s.EventSink.Create(e))
}

// Patch implements record.EventSink.
func (s *countedSink) Patch(e *corev1.Event, data []byte) (*corev1.Event, error) {
	return s.count(s.EventSink.Patch(e, data))
}
