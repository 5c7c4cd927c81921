package hub

import (
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/telemetry"
	"github.com/sealane/sealane/telemetry/telemetrytest"
)

func TestCauseOf(t *testing.T) {
	t.Parallel()
	member := &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: "m", Generation: 1}}
	world := &v1alpha1.MessagingTopology{ObjectMeta: metav1.ObjectMeta{Name: "t", Generation: 1}}
	keyed, allowed := member.DeepCopy(), member.DeepCopy()
	keyed.Status.LinkKey = "U"
	allowed.Annotations = map[string]string{v1alpha1.AllowRemovalAnnotation: "h"}
	waved, changed, approved := world.DeepCopy(), world.DeepCopy(), world.DeepCopy()
	waved.Status.Rollout = &v1alpha1.RolloutStatus{Wave: 1}
	changed.Generation++
	approved.Annotations = map[string]string{v1alpha1.RolloutApproveAnnotation: "r/2"}
	edit := cause{edit: true}
	for name, tc := range map[string]struct {
		before, after any
		want          cause
	}{
		"a member joins":                 {nil, member, edit},
		"a member goes":                  {member, nil, edit},
		"a member says its key":          {member, keyed, cause{}},
		"a removal is allowed":           {member, allowed, edit},
		"a rollout goes on":              {world, waved, cause{rollouts: []string{"t"}}},
		"a topology is changed":          {world, changed, edit},
		"a wave is approved":             {world, approved, edit},
		"a bridge comes":                 {nil, &v1alpha1.Bridge{}, edit},
		"the hub keeps a revision":       {nil, &v1alpha1.TopologyRevision{}, cause{}},
		"the hub notes on a revision":    {&v1alpha1.TopologyRevision{}, &v1alpha1.TopologyRevision{}, cause{}},
		"the hub removes a revision":     {&v1alpha1.TopologyRevision{}, nil, cause{}},
		"something that is not foreseen": {"?", nil, edit},
	} {
		if got := causeOf(tc.before, tc.after); got.edit != tc.want.edit || !cmp.Equal(got.rollouts, tc.want.rollouts) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestCauses(t *testing.T) {
	t.Parallel()
	var c causes
	at := time.Unix(1_800_000_000, 0)
	if s := c.take(at); s.edited != at || s.cause.edit {
		t.Errorf("without events: %+v", s)
	}
	c.add(cause{rollouts: []string{"b"}}, at)
	c.add(cause{rollouts: []string{"b", "a"}}, at.Add(1))
	s := c.take(at.Add(2))
	if s.edited != at || s.began != at.Add(2) || s.cause.edit || !cmp.Equal(s.cause.rollouts, []string{"a", "b"}) {
		t.Errorf("two events: %+v", s)
	}
	c.add(cause{edit: true}, at)
	c.add(cause{}, at)
	if s := c.take(at); !s.cause.edit || len(s.cause.rollouts) > 0 {
		t.Errorf("an edit and what follows: %+v", s)
	}
}

// TestFollowUps: what follows from an edit is in its trace, and what others edit is
// not.
func TestFollowUps(t *testing.T) {
	receiver := telemetrytest.Start(t)
	f := quietFleet()
	tracer, err := telemetry.NewTracer(t.Context(), "sealane-hub", "test", "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer tracer.Close()
	f.follow.trace(tracer)
	now := time.Now()
	f.follow.now = func() time.Time { return now }
	s := connect(t, f, "a", federationv1.EmptyHash)
	begun := 0
	// change publishes a plan and returns the trace in which it is.
	change := func(name string, c cause, revisions map[string]string, applied bool, imports ...string) telemetrytest.Span {
		t.Helper()
		f.follow.publishing(stages{edited: now, began: now, gathered: now, compiled: now, cause: c, revisions: revisions})
		f.Publish(plan(state("a", account("app", imports...))))
		f.follow.published()
		if imports == nil {
			return telemetrytest.Span{}
		}
		if applied {
			u := f.next(s)
			f.sent(s, u, 1)
			tell(t, f, s, done(u))
		}
		begun++
		eventually(t, "the change is exported", func() bool { return len(receiver.Spans("compile")) == begun })
		parent := receiver.Spans("compile")[begun-1].Parent
		if !applied {
			return telemetrytest.Span{ID: parent}
		}
		var out telemetrytest.Span
		eventually(t, name+" is exported", func() bool {
			for _, s := range receiver.Spans(name) {
				if out = s; s.ID == parent {
					return true
				}
			}
			return false
		})
		return out
	}
	edit := cause{edit: true}
	first := change("change", edit, nil, true, "1.>")
	granted := change("follow-up", cause{}, nil, true, "2.>")
	if granted.Trace != first.Trace || granted.Parent != first.ID {
		t.Errorf("what a member said is %+v, the edit %+v", granted, first)
	}
	waves := map[string]string{"t": "r1"}
	rolling := cause{rollouts: []string{"t"}}
	// The edit that a rollout follows from concerns nobody yet.
	edited := now
	f.follow.publishing(stages{edited: edited, cause: edit, revisions: waves})
	f.follow.published()
	now = now.Add(time.Second)
	one := change("change", rolling, waves, true, "3.>")
	if one.Trace == first.Trace || one.Begin != uint64(edited.UnixNano()) {
		t.Errorf("the first wave is %+v, edited at %v", one, edited)
	}
	other := change("change", edit, waves, true, "4.>")
	now = now.Add(2 * followTime)
	two := change("follow-up", rolling, waves, true, "5.>")
	if two.Trace != one.Trace || other.Trace == one.Trace {
		t.Errorf("waves are of %s and %s, another edit of %s", one.Trace, two.Trace, other.Trace)
	}
	now = now.Add(2 * followTime)
	if late := change("change", cause{}, waves, true, "6.>"); late.Trace == two.Trace {
		t.Error("what a member says much later is of the last change")
	}

	// A plan that follows before the one before it is applied takes its place, and
	// nothing went wrong by that; an edit does more.
	change("", edit, waves, false, "7.>")
	change("", cause{}, waves, false, "8.>")
	change("change", edit, waves, true, "9.>")
	var wrong int
	for _, s := range receiver.Spans("member") {
		if s.Error != "" {
			wrong++
		}
	}
	if n := len(receiver.Spans("member")); wrong != 1 || n != begun {
		t.Errorf("of %d members %d were superseded", n, wrong)
	}
}
