package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/cmd/sealane/hubapi"
)

func tokenCommand(env *environment) *cobra.Command {
	c := &cobra.Command{
		Use:   "token",
		Short: "Make, list and delete the tokens with which members join",
		Args:  arguments(cobra.NoArgs),
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(tokenCreateCommand(env), tokenListCommand(env), tokenDeleteCommand(env))
	return c
}

var (
	clusterPattern = regexp.MustCompile(`^[a-z0-9*]([-a-z0-9*]*[a-z0-9*])?$`)
	dnsLabel       = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
)

func tokenCreateCommand(env *environment) *cobra.Command {
	var r hubapi.TokenRequest
	var wait time.Duration
	output := oneOf("text", "text", "json", "token")
	c := &cobra.Command{
		Use:   "create --cluster NAME|PATTERN",
		Short: "Make a join token and print it with the command that uses it",
		Long: `Make a join token and print it with the command that uses it.

The token's secret is made here and shown once: the hub stores only its hash.`,
		Example: `  sealane token create --cluster berlin --label region=eu
  sealane token create --cluster 'edge-*' --uses 50 --ttl 2h`,
		Args: arguments(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkToken(&r); err != nil {
				return usageError(c, err)
			}
			hub, err := env.hub()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), wait)
			defer cancel()
			t, err := hub.CreateToken(ctx, r)
			if err != nil {
				return err
			}
			switch output.value {
			case "json":
				return printJSON(env.out, t)
			case "token":
				_, err = fmt.Fprintln(env.out, t.Text)
				return err
			}
			printToken(env, t)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&r.Name, "name", "", "name of the JoinToken (default: made from the cluster)")
	f.StringVar(&r.Cluster, "cluster", "", "name of the member that may join, or a pattern with * for any characters")
	f.Int32Var(&r.Uses, "uses", 1, "how many members may join with the token (1 to 10000)")
	f.DurationVar(&r.TTL, "ttl", 15*time.Minute, "how long the token works")
	f.StringToStringVar(&r.Labels, "label", nil, "label that the member gets, KEY=VALUE (repeatable)")
	f.DurationVar(&wait, "timeout", 15*time.Second, "how long to wait for the hub")
	output.add(c, "output", "o", "what to print")
	_ = c.MarkFlagRequired("cluster") // the flag is there
	return c
}

func checkToken(r *hubapi.TokenRequest) error {
	switch {
	case len(r.Cluster) > 63 || !clusterPattern.MatchString(r.Cluster):
		return fmt.Errorf("--cluster %q: want a name of a-z, 0-9 and '-', at most 63 characters, in which * stands for any characters", r.Cluster)
	case r.Name != "" && (len(r.Name) > 63 || !dnsLabel.MatchString(r.Name)):
		return fmt.Errorf("--name %q: want a-z, 0-9 and '-', at most 63 characters", r.Name)
	case r.Uses < 1 || r.Uses > 10000:
		return fmt.Errorf("--uses %d: want 1 to 10000", r.Uses)
	case r.TTL < time.Second:
		return fmt.Errorf("--ttl %s: want at least 1s", r.TTL)
	case strings.Contains(r.Cluster, "*") || r.Uses == 1:
		return nil
	}
	return fmt.Errorf("--uses %d with --cluster %s: only one member can have that name; use a pattern such as '%s-*'", r.Uses, r.Cluster, r.Cluster)
}

func printToken(env *environment, t *hubapi.Token) {
	who := "the member " + t.Cluster
	if t.Member() == "NAME" {
		who = fmt.Sprintf("%d member(s) named like %s", t.Uses, t.Cluster)
	}
	fmt.Fprintf(env.out, "Token %s lets %s join until %s (%s from now).\nIt is shown only now:\n\n  %s\n\nStart the agent there:\n\n  %s\n",
		t.Name, who, t.Expires.Local().Format("2006-01-02 15:04:05"), age(t.Expires, env.now()), env.paint(env.outColour, bold, t.Text), t.Command)
	if t.Member() == "NAME" {
		fmt.Fprintf(env.out, "\nwith a NAME that matches %s.\n", t.Cluster)
	}
}

func tokenListCommand(env *environment) *cobra.Command {
	output := oneOf("table", "table", "json", "yaml", "name")
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the join tokens",
		Args:    arguments(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			hub, err := env.hub()
			if err != nil {
				return err
			}
			var list v1alpha1.JoinTokenList
			if err := hub.List(c.Context(), &list); err != nil {
				return hub.Explain(err)
			}
			l := listing{
				kind:   "jointoken",
				header: []string{"NAME", "FOR", "USES", "EXPIRES IN", "STATE", "MEMBERS"},
			}
			for i := range list.Items {
				t := &list.Items[i]
				l.items = append(l.items, item{name: t.Name, row: tokenRow(t, env.now()), object: shown(t, "JoinToken")})
			}
			return l.show(env, output.value, "", nil)
		},
	}
	output.add(c, "output", "o", "format")
	return c
}

func tokenRow(t *v1alpha1.JoinToken, now time.Time) []cell {
	state, left := "Usable", age(t.Spec.ExpiresAt.Time, now)
	switch {
	case !now.Before(t.Spec.ExpiresAt.Time):
		state, left = "Expired", ""
	case t.Status.Uses >= t.Spec.MaxUses:
		state = "Used up"
	case t.Status.Hub == "":
		state = "Pending"
	}
	members := slices.Clone(t.Status.Members)
	if len(members) > 5 {
		members = append(members[:5], fmt.Sprintf("and %d more", len(members)-5))
	}
	return []cell{text(t.Name), text(t.Spec.Cluster), text(fmt.Sprintf("%d/%d", t.Status.Uses, t.Spec.MaxUses)), text(left), verdict(state), text(strings.Join(members, ","))}
}

func tokenDeleteCommand(env *environment) *cobra.Command {
	c := &cobra.Command{
		Use:     "delete NAME...",
		Aliases: []string{"rm"},
		Short:   "Delete join tokens: nobody can join with them any more",
		Args:    arguments(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			hub, err := env.hub()
			if err != nil {
				return err
			}
			var failed []error
			for _, name := range args {
				err := hub.Delete(c.Context(), &v1alpha1.JoinToken{ObjectMeta: metav1.ObjectMeta{Name: name}})
				switch {
				case err == nil:
					fmt.Fprintf(env.out, "token %s deleted\n", name)
				case apierrors.IsNotFound(err) && !hubapi.NotServed(err):
					failed = append(failed, fmt.Errorf("there is no token %q (see: sealane token list)", name))
				default:
					return hub.Explain(err)
				}
			}
			return errors.Join(failed...)
		},
		ValidArgsFunction: env.complete(func(ctx context.Context, hub *hubapi.Hub) ([]string, error) {
			var list v1alpha1.JoinTokenList
			err := hub.List(ctx, &list)
			names := make([]string, 0, len(list.Items))
			for i := range list.Items {
				names = append(names, list.Items[i].Name)
			}
			return names, err
		}, -1),
	}
	return c
}
