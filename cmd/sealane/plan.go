package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/cmd/sealane/hubapi"
	"github.com/sealane/sealane/topology"
)

// Exit statuses of "sealane plan", those of terraform plan -detailed-exitcode.
const (
	planProblems = 1
	planChanges  = 2
)

// planOptions are the flags of "sealane plan".
type planOptions struct {
	files, live []string
	recursive   bool
	deletions   []string
	prune       bool
	offline     bool
	namespace   string
	members     []string
}

func planCommand(env *environment) *cobra.Command {
	var o planOptions
	output := oneOf("text", "text", "json")
	c := &cobra.Command{
		Use:   "plan -f FILE",
		Short: "Show what applying manifests would change on each member, and every problem",
		Long: `Show what applying manifests would change on each member, and every problem.

Nothing is written. Each object is merged as kubectl apply would and checked by
the hub's API (a dry run: schema and rules on fields). Then all of them are
compiled together with the resources that the hub has, as the hub does.
Shown is what is added (+), changed (~), removed (-) or left behind (<) on each
member, which links come, go or blink, which clients notice, and what storage
streams reserve. It begins with what is in effect: where a rollout keeps an older
revision, that is said. Removals that the hub holds back until they are permitted
are named.

Where this user may read but not change an object, or its namespace does not
exist yet, the API does not check it, and the output says so. --offline asks no
hub at all: the members and other resources as they are now come from --live
(the output of kubectl get mtop,member,mstream,mbridge,mrev -A -o yaml); without it
there are none, and members may be in FILE. Then only fields that do not exist
are found, not values that the API would refuse.

The exit status is 0 if nothing would change, 2 if something would, and 1 if
something of it would be refused, or the question cannot be answered.`,
		Example: `  sealane plan -f federation.yaml
  sealane plan -f manifests/ -R --prune
  sealane plan --delete bridge/shop/orders --member berlin
  sealane plan --offline --live now.yaml -f next.yaml -o json`,
		Args: arguments(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if len(o.files)+len(o.deletions) == 0 {
				return usageError(c, errors.New("nothing to plan: name files with -f, or objects with --delete"))
			}
			r, err := makePlan(c, env, &o)
			if err != nil {
				return err
			}
			if output.value == "json" {
				err = printJSON(env.out, r)
			} else {
				printPlan(env, r, o.members)
			}
			if err != nil {
				return err
			}
			switch r.Result {
			case resultProblems:
				return &exitStatus{code: planProblems}
			case resultChanges:
				return &exitStatus{code: planChanges}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringArrayVarP(&o.files, "filename", "f", nil, "file or folder of manifests; - is stdin (repeatable)")
	f.BoolVarP(&o.recursive, "recursive", "R", false, "also the folders below those of -f and --live")
	f.StringArrayVar(&o.deletions, "delete", nil, "as if KIND/NAME or KIND/NAMESPACE/NAME were deleted (repeatable)")
	f.BoolVar(&o.prune, "prune", false, "as if topologies, streams and bridges that are in no file were deleted")
	f.BoolVar(&o.offline, "offline", false, "ask no hub")
	f.StringArrayVar(&o.live, "live", nil, "with --offline: file or folder with the resources as they are (repeatable)")
	f.StringVarP(&o.namespace, "namespace", "n", "", "namespace of manifests that name none (default: that of the kubeconfig)")
	f.StringArrayVar(&o.members, "member", nil, "show all that changes on this member, and no other (repeatable)")
	output.add(c, "output", "o", "format")
	return c
}

func makePlan(c *cobra.Command, env *environment, o *planOptions) (*planReport, error) {
	if len(o.live) > 0 && !o.offline {
		return nil, usageError(c, errors.New("--live goes with --offline"))
	}
	wish := hubapi.Wish{Prune: o.prune, Namespace: o.namespace, Now: env.now()}
	var ignored []string
	var err error
	if wish.Manifests, ignored, err = hubapi.ReadManifests(o.files, o.recursive, os.Stdin); err != nil {
		return nil, err
	}
	var (
		before    topology.Input
		revisions []v1alpha1.TopologyRevision
		known     []hubapi.Manifest
		api       hubapi.API
		hub       *hubapi.Hub
	)
	explain := func(err error) error { return err }
	if o.offline {
		if wish.Namespace == "" {
			wish.Namespace = "default"
		}
		if known, _, err = hubapi.ReadManifests(o.live, o.recursive, os.Stdin); err != nil {
			return nil, err
		}
		if known, revisions, err = hubapi.TakeRevisions(known); err != nil {
			return nil, err
		}
		if before, err = hubapi.ParseInput(known, wish.Namespace); err != nil {
			return nil, err
		}
	} else {
		if hub, err = env.hub(); err != nil {
			return nil, fmt.Errorf("%w; --offline plans without a hub", err)
		}
		if wish.Namespace == "" {
			wish.Namespace = hub.Namespace
		}
		s, err := hub.Snapshot(c.Context())
		if err != nil {
			return nil, err
		}
		before, api, explain = s.Input(), hub, hub.Explain
		if revisions, err = hub.Revisions(c.Context(), before); err != nil && !apierrors.IsForbidden(err) {
			return nil, hub.Explain(err)
		}
	}
	for _, d := range o.deletions {
		ref, err := hubapi.ParseRef(d, wish.Namespace)
		if err != nil {
			return nil, usageError(c, err)
		}
		wish.Delete = append(wish.Delete, ref)
	}
	rehearsed, err := hubapi.Rehearse(c.Context(), api, before, known, wish)
	if err != nil {
		return nil, explain(err)
	}
	// As the hub does: what a refused edit would break goes on as it was.
	old, err := topology.EffectiveOf(before, revisions)
	if err != nil {
		return nil, err
	}
	now, err := old.Once(rehearsed.Input)
	if err != nil {
		return nil, err
	}
	for _, m := range o.members {
		if now.Plan.Members[m] == nil && old.Plan.Members[m] == nil {
			return nil, fmt.Errorf("no member %q", m)
		}
	}
	r := reportPlan(topology.Preview(old.Plan, now.Plan), rehearsed)
	r.addRollouts(old, now, rehearsed.Input)
	r.addHeld(before.Members)
	r.addNotes(old.Plan, ignored)
	return r, nil
}
