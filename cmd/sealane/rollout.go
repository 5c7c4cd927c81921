package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/cmd/sealane/hubapi"
	"github.com/sealane/sealane/topology"
)

func rolloutCommand(env *environment) *cobra.Command {
	c := &cobra.Command{
		Use:   "rollout",
		Short: "See and steer how changes go to members in waves",
		Long: `See and steer how changes go to members in waves.

A topology with spec.rollout has its changes, and those of its streams and bridges,
go to members in waves. Where there is one topology its name can be left out.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(rolloutStatusCommand(env), rolloutHistoryCommand(env), rolloutPauseCommand(env),
		rolloutResumeCommand(env), rolloutUndoCommand(env), rolloutApproveCommand(env))
	return c
}

// rolloutOf is a topology with what is known of its rollout.
type rolloutOf struct {
	hub *hubapi.Hub
	*v1alpha1.MessagingTopology
	// revisions, the newest first.
	revisions []v1alpha1.TopologyRevision
}

// live is the revision that the objects say, as the hub has seen them.
func (r *rolloutOf) live() string {
	if st := r.Status.Rollout; st.Target != "" {
		return st.Target
	}
	return r.Status.Rollout.Current
}

func (r *rolloutOf) revision(name string) *v1alpha1.TopologyRevision {
	for i := range r.revisions {
		if v := &r.revisions[i]; v.Name == name || fmt.Sprint(v.Spec.Number) == name {
			return v
		}
	}
	return nil
}

// patch changes the object in the hub, if it is as it was read.
func (r *rolloutOf) patch(ctx context.Context, change map[string]any) error {
	meta, _ := change["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
	}
	meta["resourceVersion"] = r.ResourceVersion
	change["metadata"] = meta
	body, err := json.Marshal(change)
	if err != nil {
		return err
	}
	err = r.hub.Patch(ctx, r.DeepCopy(), client.RawPatch(types.MergePatchType, body))
	if apierrors.IsConflict(err) {
		return fmt.Errorf("topology %s has just changed: look at it (sealane rollout status %s) and try again", r.Name, r.Name)
	}
	return r.hub.Explain(err)
}

func (r *rolloutOf) annotate(ctx context.Context, key string, value any) error {
	return r.patch(ctx, map[string]any{"metadata": map[string]any{"annotations": map[string]any{key: value}}})
}

// readRollout reads a topology that is rolled out in waves, with its revisions. An
// empty name stands for the only one.
func (e *environment) readRollout(ctx context.Context, args []string) (*rolloutOf, error) {
	hub, err := e.hub()
	if err != nil {
		return nil, err
	}
	var list v1alpha1.MessagingTopologyList
	if err := hub.List(ctx, &list); err != nil {
		return nil, hub.Explain(err)
	}
	var names []string
	r := &rolloutOf{hub: hub}
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
		if len(args) == 0 && len(list.Items) == 1 || len(args) > 0 && args[0] == list.Items[i].Name {
			r.MessagingTopology = &list.Items[i]
		}
	}
	switch {
	case len(names) == 0:
		return nil, errors.New("there is no topology")
	case r.MessagingTopology == nil && len(args) == 0:
		return nil, fmt.Errorf("there are several topologies: name one of %s", strings.Join(names, ", "))
	case r.MessagingTopology == nil:
		return nil, fmt.Errorf("there is no topology %q: there is %s", args[0], strings.Join(names, ", "))
	case r.Spec.Rollout == nil:
		return nil, fmt.Errorf("topology %s has no spec.rollout: its changes go to all members at once, and no revisions are kept", r.Name)
	case r.Status.Rollout == nil:
		return nil, fmt.Errorf("the hub has not looked at the rollout of topology %s yet: does it run?", r.Name)
	}
	var revisions v1alpha1.TopologyRevisionList
	if err := hub.List(ctx, &revisions); err != nil {
		return nil, hub.Explain(err)
	}
	for _, v := range revisions.Items {
		if v.Spec.Topology == r.Name {
			r.revisions = append(r.revisions, v)
		}
	}
	slices.SortFunc(r.revisions, func(a, b v1alpha1.TopologyRevision) int { return int(b.Spec.Number - a.Spec.Number) })
	return r, nil
}

// rolloutVerb is a command about one topology.
func rolloutVerb(env *environment, use, short string, do func(ctx context.Context, r *rolloutOf) error) *cobra.Command {
	return &cobra.Command{
		Use:   use + " [TOPOLOGY]",
		Short: short,
		Args:  arguments(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := env.readRollout(c.Context(), args)
			if err != nil {
				return err
			}
			return do(c.Context(), r)
		},
		ValidArgsFunction: env.complete(func(ctx context.Context, hub *hubapi.Hub) ([]string, error) {
			var list v1alpha1.MessagingTopologyList
			err := hub.List(ctx, &list)
			var names []string
			for i := range list.Items {
				names = append(names, list.Items[i].Name)
			}
			return names, err
		}, 1),
	}
}

func rolloutStatusCommand(env *environment) *cobra.Command {
	output := oneOf("text", "text", "json")
	c := rolloutVerb(env, "status", "Show where the rollout of a topology is", func(_ context.Context, r *rolloutOf) error {
		if output.value == "json" {
			return printJSON(env.out, r.Status.Rollout)
		}
		printRollout(env, r)
		return nil
	})
	output.add(c, "output", "o", "format")
	return c
}

func printRollout(env *environment, r *rolloutOf) {
	st := r.Status.Rollout
	fmt.Fprintf(env.out, "topology %s: %s\n", r.Name, st.State)
	if st.Message != "" {
		fmt.Fprintf(env.out, "  %s\n", st.Message)
	}
	fmt.Fprintf(env.out, "  in effect: %s\n", st.Current)
	if st.Target != "" {
		fmt.Fprintf(env.out, "  objects say: %s\n", st.Target)
	}
	if st.Wave > 0 {
		fmt.Fprintf(env.out, "  waves begun: %d, members reached: %s\n", st.Wave, st.Members)
	}
}

func rolloutHistoryCommand(env *environment) *cobra.Command {
	var show string
	c := rolloutVerb(env, "history", "List the kept revisions of a topology, or show one", func(_ context.Context, r *rolloutOf) error {
		if show != "" {
			v := r.revision(show)
			if v == nil {
				return fmt.Errorf("topology %s has no revision %q (see: sealane rollout history %s)", r.Name, show, r.Name)
			}
			content, err := topology.DecodeContent(v.Spec.Content)
			if err != nil {
				return fmt.Errorf("revision %s: %w", v.Name, err)
			}
			return printYAML(env.out, content)
		}
		st := r.Status.Rollout
		var rows [][]cell
		for _, v := range r.revisions {
			is, ready := "", "never"
			switch v.Name {
			case st.Current:
				is = "in effect"
			case st.Target:
				is = "said by the objects"
			}
			if v.Status.ReadyAt != nil {
				ready = age(env.now(), v.Status.ReadyAt.Time)
			}
			rows = append(rows, []cell{text(fmt.Sprint(v.Spec.Number)), text(v.Name), text(age(env.now(), v.CreationTimestamp.Time)), text(ready), text(is), text(v.Status.Note)})
		}
		env.table(env.out, env.outColour, "", []string{"NUMBER", "NAME", "AGE", "READY", "IS", "NOTE"}, rows)
		return nil
	})
	c.Flags().StringVar(&show, "revision", "", "show what this revision (name or number) says")
	return c
}

func rolloutPauseCommand(env *environment) *cobra.Command {
	return rolloutVerb(env, "pause", "Let no further wave begin", func(ctx context.Context, r *rolloutOf) error {
		if err := r.patch(ctx, map[string]any{"spec": map[string]any{"rollout": map[string]any{"paused": true}}}); err != nil {
			return err
		}
		_, err := fmt.Fprintf(env.out, "rollout of %s paused\n", r.Name)
		return err
	})
}

func rolloutResumeCommand(env *environment) *cobra.Command {
	var now bool
	c := rolloutVerb(env, "resume", "Go on after a pause, a stop over the budget, a rollback or an undo", func(ctx context.Context, r *rolloutOf) error {
		st := r.Status.Rollout
		annotations := map[string]any{}
		change := map[string]any{"metadata": map[string]any{"annotations": annotations}}
		if r.Spec.Rollout.Paused {
			change["spec"] = map[string]any{"rollout": map[string]any{"paused": false}}
		}
		switch st.State {
		case v1alpha1.RolloutOverBudget, v1alpha1.RolloutRolledBack:
			annotations[v1alpha1.RolloutResumeAnnotation] = fmt.Sprintf("%s/%d", st.Target, st.Attempt)
		case v1alpha1.RolloutUndone:
			annotations[v1alpha1.RolloutUndoAnnotation] = nil
		}
		if now && st.Target != "" {
			annotations[v1alpha1.RolloutNowAnnotation] = st.Target
		}
		if len(annotations) == 0 && !r.Spec.Rollout.Paused {
			return fmt.Errorf("the rollout of %s does not stand still: it is %s", r.Name, st.State)
		}
		if err := r.patch(ctx, change); err != nil {
			return err
		}
		how := ""
		if now {
			how = ", to all members at once"
		}
		_, err := fmt.Fprintf(env.out, "rollout of %s goes on%s\n", r.Name, how)
		return err
	})
	c.Flags().BoolVar(&now, "now", false, "skip all waves: an emergency; it is recorded in the revision")
	return c
}

func rolloutUndoCommand(env *environment) *cobra.Command {
	var to string
	c := rolloutVerb(env, "undo", "Put an older revision into effect, on all members at once", func(ctx context.Context, r *rolloutOf) error {
		older := r.before()
		if to != "" {
			older = r.revision(to)
		}
		switch {
		case older == nil && to != "":
			return fmt.Errorf("topology %s has no revision %q (see: sealane rollout history %s)", r.Name, to, r.Name)
		case older == nil:
			return fmt.Errorf("topology %s has no other revision that was Ready everywhere: name one with --to (see: sealane rollout history %s)", r.Name, r.Name)
		case older.Name == r.live():
			return fmt.Errorf("revision %s is what the objects say: sealane rollout resume %s puts it into effect", older.Name, r.Name)
		}
		if err := r.annotate(ctx, v1alpha1.RolloutUndoAnnotation, older.Name+"/"+r.live()); err != nil {
			return err
		}
		_, err := fmt.Fprintf(env.out, "revision %s of %s goes into effect; the objects still say %s: change them, or go back to them with sealane rollout resume %s\n",
			older.Name, r.Name, r.live(), r.Name)
		return err
	})
	c.Flags().StringVar(&to, "to", "", "the revision, by name or number (default: the last other that was Ready everywhere)")
	return c
}

// before is the revision that was the last to be Ready, but for what the objects
// say; nil: none was.
func (r *rolloutOf) before() *v1alpha1.TopologyRevision {
	var last *v1alpha1.TopologyRevision
	for i := range r.revisions {
		v := &r.revisions[i]
		if v.Status.ReadyAt != nil && v.Name != r.live() && (last == nil || last.Status.ReadyAt.Before(v.Status.ReadyAt)) {
			last = v
		}
	}
	return last
}

func rolloutApproveCommand(env *environment) *cobra.Command {
	return rolloutVerb(env, "approve", "Let the next wave begin", func(ctx context.Context, r *rolloutOf) error {
		st := r.Status.Rollout
		if st.Target == "" || r.Spec.Rollout.Approval != v1alpha1.DecisionManual {
			return fmt.Errorf("nothing of %s waits for approval: it is %s", r.Name, st.State)
		}
		if err := r.annotate(ctx, v1alpha1.RolloutApproveAnnotation, fmt.Sprintf("%s/%d", st.Target, st.Wave+1)); err != nil {
			return err
		}
		_, err := fmt.Fprintf(env.out, "wave %d of %s approved\n", st.Wave+1, r.Name)
		return err
	})
}
