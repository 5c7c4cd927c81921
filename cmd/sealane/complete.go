package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealane/sealane/cmd/sealane/hubapi"
)

// completeWithin bounds how long the shell waits for names from the hub.
const completeWithin = 2 * time.Second

// complete offers names that the hub knows, for at most limit arguments (-1:
// any number). Whatever goes wrong, it offers nothing: the shell is no place
// for errors.
func (e *environment) complete(names func(context.Context, *hubapi.Hub) ([]string, error), limit int) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if limit >= 0 && len(args) >= limit {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(c.Context(), completeWithin)
		defer cancel()
		hub, err := e.hub()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all, err := names(ctx, hub)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return offer(all, args, prefix), cobra.ShellCompDirectiveNoFileComp
	}
}

// offer lists the names with a prefix that are not given yet.
func offer(all, given []string, prefix string) []string {
	var out []string
	for _, n := range all {
		if strings.HasPrefix(n, prefix) && !slices.Contains(given, n) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
