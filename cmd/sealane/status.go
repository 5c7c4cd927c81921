package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealane/sealane/cmd/sealane/hubapi"
)

// Exit statuses of "sealane status".
const (
	statusNotFine = 1
	statusUnknown = 2
)

// perArea is how many findings of one area fit the screen.
const perArea = 8

func statusCommand(env *environment) *cobra.Command {
	output := oneOf("text", "text", "json")
	c := &cobra.Command{
		Use:   "status",
		Short: "Say whether the federation is fine, and if not what is wrong",
		Long: `Say whether the federation is fine, and if not what is wrong.

The first line is the verdict. The exit status is 0 if all is fine, 1 if
something is wrong, 2 if it cannot be told because the hub cannot be asked.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			hub, err := env.hub()
			if err != nil {
				return &exitStatus{statusUnknown, fmt.Errorf("cannot tell: %w", err)}
			}
			s, err := hub.Snapshot(c.Context())
			if err != nil {
				return &exitStatus{statusUnknown, fmt.Errorf("cannot tell: %w", err)}
			}
			r := hubapi.Judge(s, env.now())
			if output.value == "json" {
				err = printJSON(env.out, r)
			} else {
				printReport(env, r)
			}
			if err == nil && !r.Fine {
				err = &exitStatus{code: statusNotFine}
			}
			return err
		},
	}
	output.add(c, "output", "o", "format")
	return c
}

func printReport(env *environment, r *hubapi.Report) {
	c := green
	if !r.Fine {
		c = red
	}
	word, _, _ := strings.Cut(r.Summary, ":")
	fmt.Fprintln(env.out, env.paint(env.outColour, c, word)+strings.TrimPrefix(r.Summary, word))
	for _, a := range hubapi.Areas {
		var rows [][]cell
		more := 0
		for _, f := range r.Findings {
			if f.Area != a {
				continue
			}
			if len(rows) == perArea {
				more++
				continue
			}
			since := ""
			if f.Since != nil && a != hubapi.AreaNotes {
				since = "for " + age(env.now(), *f.Since)
			}
			why := red
			if a == hubapi.AreaNotes {
				why = yellow
			}
			rows = append(rows, []cell{text(f.Object), {f.Reason, why}, text(since), text(f.Message)})
		}
		if len(rows) == 0 {
			continue
		}
		fmt.Fprintf(env.out, "\n%s\n", env.paint(env.outColour, bold, strings.ToUpper(string(a))))
		env.table(env.out, env.outColour, "  ", nil, rows)
		if more > 0 {
			fmt.Fprintf(env.out, "  and %d more%s\n", more, whereElse(a))
		}
	}
}

// whereElse names the command that lists all of an area.
func whereElse(a hubapi.Area) string {
	switch a {
	case hubapi.AreaMembers, hubapi.AreaLinks, hubapi.AreaBridges, hubapi.AreaStreams, hubapi.AreaTopologies:
		return ": sealane get " + string(a)
	}
	return ": sealane status -o json"
}
