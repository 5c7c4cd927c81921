package main

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sealane/sealane/cmd/sealane/hubapi"
)

// environment is what commands use of the process they run in.
type environment struct {
	out, err             io.Writer
	outColour, errColour bool
	now                  func() time.Time
	where                hubapi.Where
}

func osEnv() *environment {
	colour := func(f *os.File) bool {
		return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
	}
	return &environment{out: os.Stdout, err: os.Stderr, outColour: colour(os.Stdout), errColour: colour(os.Stderr), now: time.Now}
}

func (e *environment) hub() (*hubapi.Hub, error) { return hubapi.Connect(e.where) }

func newRoot(env *environment) *cobra.Command {
	root := &cobra.Command{
		Use:   "sealane",
		Short: "Look after a federation of NATS clusters",
		Long: `sealane looks after a federation of NATS clusters that a hub keeps together.

The hub is found by --kubeconfig, else KUBECONFIG, else the default kubeconfig.
An embedded hub writes one into its data folder.`,
		Version:       versionText(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetOut(env.out)
	root.SetErr(env.err)
	root.SetVersionTemplate("{{.Version}}\n")
	root.PersistentFlags().StringVar(&env.where.Kubeconfig, "kubeconfig", "", "kubeconfig of the hub")
	root.PersistentFlags().StringVar(&env.where.Context, "context", "", "context of the kubeconfig to use")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError(c, err)
	})
	root.AddCommand(tokenCommand(env), getCommand(env), statusCommand(env), planCommand(env), diffCommand(env), rolloutCommand(env),
		suspendCommand(env), resumeCommand(env), revokeCommand(env), removeCommand(env), allowRemovalCommand(env), credsCommand(env), demoCommand(env), versionCommand(env))
	root.InitDefaultCompletionCmd()
	return root
}

// usageError points to the help of the command that was called wrongly.
func usageError(c *cobra.Command, err error) error {
	return fmt.Errorf("%w (see: %s --help)", err, c.CommandPath())
}

// arguments wraps a check of arguments so that its error points to the help.
func arguments(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return usageError(c, err)
		}
		return nil
	}
}

func versionCommand(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  arguments(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(env.out, versionText())
			return err
		},
	}
}

// versionText is what the linker set, else what the Go command recorded.
func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

// choice is a flag whose value is one of a few.
type choice struct {
	value   string
	choices []string
}

func oneOf(def string, choices ...string) *choice { return &choice{def, choices} }

// String is the value.
func (c *choice) String() string { return c.value }

// Type is shown in the help.
func (c *choice) Type() string { return strings.Join(c.choices, "|") }

// Set takes one of the choices.
func (c *choice) Set(s string) error {
	for _, v := range c.choices {
		if s == v {
			c.value = s
			return nil
		}
	}
	return fmt.Errorf("want one of: %s", strings.Join(c.choices, ", "))
}

// add defines the flag, with completion of its value.
func (c *choice) add(cmd *cobra.Command, name, short, usage string) {
	cmd.Flags().VarP(c, name, short, usage)
	_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(c.choices, cobra.ShellCompDirectiveNoFileComp)) // fails only for a flag that is not there
}
