package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/cmd/sealane/hubapi"
)

// eachMember makes a command that does something to each member that is named.
func eachMember(env *environment, c *cobra.Command, do func(ctx context.Context, hub *hubapi.Hub, name string) error) *cobra.Command {
	if c.Args == nil {
		c.Args = arguments(cobra.MinimumNArgs(1))
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		hub, err := env.hub()
		if err != nil {
			return err
		}
		var failed []error
		for _, name := range args {
			failed = append(failed, do(c.Context(), hub, name))
		}
		return errors.Join(failed...)
	}
	c.ValidArgsFunction = env.complete(memberNames, -1)
	return c
}

func memberNames(ctx context.Context, hub *hubapi.Hub) ([]string, error) {
	var list v1alpha1.MemberClusterList
	err := hub.List(ctx, &list)
	names := make([]string, 0, len(list.Items))
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names, err
}

func suspendCommand(env *environment) *cobra.Command {
	return eachMember(env, &cobra.Command{
		Use:   "suspend MEMBER...",
		Short: "Send nothing to members any more; what they have goes on",
		Long: `Send nothing to members any more. They go on with what they hold: their links and
bridges work, and other members change around them. Only the revocation of
another member still reaches them.`,
	}, func(ctx context.Context, hub *hubapi.Hub, name string) error {
		return suspend(ctx, env, hub, name, true)
	})
}

func resumeCommand(env *environment) *cobra.Command {
	return eachMember(env, &cobra.Command{
		Use:   "resume MEMBER...",
		Short: "Send suspended members what they missed, and all that follows",
	}, func(ctx context.Context, hub *hubapi.Hub, name string) error {
		return suspend(ctx, env, hub, name, false)
	})
}

func suspend(ctx context.Context, env *environment, hub *hubapi.Hub, name string, suspended bool) error {
	changed, err := hub.Suspend(ctx, name, suspended)
	if err != nil {
		return err
	}
	state, already := "resumed", ""
	if suspended {
		state = "suspended"
	}
	if !changed {
		already = "is already "
		if !suspended {
			already = "was not suspended: nothing to be "
		}
	}
	fmt.Fprintf(env.out, "member %s %s%s\n", name, already, state)
	return nil
}

func revokeCommand(env *environment) *cobra.Command {
	return eachMember(env, &cobra.Command{
		Use:   "revoke MEMBER...",
		Short: "Shut members out for good, within seconds, whatever they do",
		Long: `Shut members out: the hub ends their sessions and takes their certificates no
more, and all other members drop their links to them at once. Join tokens for
their names are deleted.

The keys are never taken again. To let a member of that name in, start its
agent with an empty data folder and a new token: sealane token create --cluster NAME.`,
	}, func(ctx context.Context, hub *hubapi.Hub, name string) error {
		changed, err := hub.Revoke(ctx, name)
		if err != nil {
			return err
		}
		if !changed {
			fmt.Fprintf(env.out, "member %s is already revoked\n", name)
			return nil
		}
		fmt.Fprintf(env.out, "member %s is revoked; members that are not connected to the hub drop their links to it when they are again\n", name)
		return nil
	})
}

func removeCommand(env *environment) *cobra.Command {
	var forget, wait bool
	var timeout time.Duration
	c := eachMember(env, &cobra.Command{
		Use:   "remove MEMBER...",
		Short: "Let members leave the federation",
		Long: `Let members leave the federation. A member first delivers what is left in its
durable bridges, then all drop their links to it. What it leaves behind on others
is collected. Its broker, its streams and what is in them stay on it: its agent
goes on with them until it is uninstalled.

With --forget nothing is waited for, not even that the hub runs. So a member that
is dead, or whose Drain cannot end, can always be removed.`,
	}, func(ctx context.Context, hub *hubapi.Hub, name string) error {
		if err := hub.Remove(ctx, name, forget); err != nil {
			return err
		}
		if !wait {
			fmt.Fprintf(env.out, "member %s leaves\n", name)
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return awaitGone(ctx, env, hub, name)
	})
	c.Flags().BoolVar(&forget, "forget", false, "wait for nothing; messages not delivered yet stay on the member")
	c.Flags().BoolVar(&wait, "wait", false, "wait until they have left, and tell what they wait for")
	c.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "how long --wait waits")
	return c
}

// awaitGone tells what a member that leaves waits for, until it has left.
func awaitGone(ctx context.Context, env *environment, hub *hubapi.Hub, name string) error {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	said := ""
	for {
		m, err := hub.Member(ctx, name)
		switch {
		case errors.Is(err, hubapi.ErrNoMember) || err == nil && m.DeletionTimestamp.IsZero(): // or another of that name
			fmt.Fprintf(env.out, "member %s has left\n", name)
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("member %s has not left in time: %s (to end it: sealane remove %s --forget)", name, said, name)
		case err != nil:
			return err
		}
		if c := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionLeaving); c != nil && c.Message != said {
			said = c.Message
			fmt.Fprintf(env.out, "member %s: %s\n", name, said)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func allowRemovalCommand(env *environment) *cobra.Command {
	var all bool
	var parts int
	c := &cobra.Command{
		Use:   "allow-removal MEMBER...",
		Short: "Permit a removal from members that is held back because it is large",
		Long: `Permit what the guard against mass removal holds back: the removal of more than
ten parts that are more than half of what a member holds. What is permitted is to
bring the member to the state that it shall have now, and no other.`,
		Args: func(c *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return usageError(c, errors.New("name members, or give --all"))
			}
			return nil
		},
		ValidArgsFunction: env.complete(memberNames, -1),
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if parts < 0 {
			return usageError(c, fmt.Errorf("--parts %d: want at least 1", parts))
		}
		hub, err := env.hub()
		if err != nil {
			return err
		}
		if all {
			var list v1alpha1.MemberClusterList
			if err := hub.List(c.Context(), &list); err != nil {
				return hub.Explain(err)
			}
			for i := range list.Items {
				if hubapi.Held(&list.Items[i]) != "" {
					args = append(args, list.Items[i].Name)
				}
			}
			if len(args) == 0 {
				fmt.Fprintln(env.out, "nothing is held back on any member")
			}
		}
		var failed []error
		for _, name := range args {
			if err := hub.AllowRemoval(c.Context(), name, parts); err != nil {
				failed = append(failed, err)
				continue
			}
			fmt.Fprintf(env.out, "removal from member %s permitted\n", name)
		}
		return errors.Join(failed...)
	}
	c.Flags().BoolVar(&all, "all", false, "all members of which something is held back")
	c.Flags().IntVar(&parts, "parts", 0, "permit to take so many parts at once, now and later, instead")
	return c
}
