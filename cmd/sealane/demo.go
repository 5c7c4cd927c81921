package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sealane/sealane/cmd/sealane/demo"
)

func demoCommand(env *environment) *cobra.Command {
	var o demo.Options
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run a hub and members on this machine and show what a federation does",
		Long: `Run a hub and members on this machine, each a process of its own, and tell a
story in which every step checks itself: members join, a topology is applied,
messages cross, links and processes fail. Then everything stays up to be tried by
hand, until Ctrl-C, which leaves no process and no temporary folder behind.

It needs sealane-hub and sealane-agent beside this program or in PATH, and
nothing else. The exit status is 0 only if every step passed.`,
		Example: `  sealane demo
  sealane demo --exit
  sealane demo --dir /tmp/demo --members 5
  sealane demo --topology mine.yaml --members hub,edge-1,edge-2`,
		Args: arguments(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if o.Dir != "" && o.Keep {
				return usageError(c, fmt.Errorf("--dir keeps its folder anyway: leave out --keep"))
			}
			o.Out, o.Colour = env.out, env.outColour
			return demo.Run(c.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Dir, "dir", "", "folder for everything, kept at the end (default: a temporary one)")
	f.BoolVar(&o.Keep, "keep", false, "keep the temporary folder")
	f.StringVar(&o.Members, "members", "", "how many members (3 to 20, default 3), or with --topology their names, separated by commas")
	f.StringVar(&o.Topology, "topology", "", "file of manifests to apply instead of the built-in story")
	f.BoolVar(&o.Direct, "direct", false, "with --topology: links without the proxies that can cut them, to measure them")
	f.BoolVar(&o.Exit, "exit", false, "end after the story")
	f.BoolVar(&o.JSON, "json", false, "print one event a line as JSON")
	_ = c.MarkFlagDirname("dir") // the flags are there
	_ = c.MarkFlagFilename("topology", "yaml", "yml", "json")
	return c
}
