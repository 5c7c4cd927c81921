package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealane/sealane/broker/pod"
	"github.com/sealane/sealane/telemetry"
)

// newBrokerCommand makes the command that pods of a broker run.
func newBrokerCommand() *cobra.Command {
	var o pod.Options
	var level, format string
	cmd := &cobra.Command{
		Use:   "broker",
		Short: "Run one server of a broker that an agent elsewhere looks after",
		Long: `broker runs one NATS server of a member whose agent runs with --runtime
statefulset. It begins with the state in its boot folder and then does what the
agent says. The agent starts it in pods; there is no need to do so by hand.`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fromEnvironment(cmd.Flags(), os.LookupEnv); err != nil {
				return usageError{err}
			}
			if o.Name == "" {
				return usageError{errors.New("the server's name is missing: give it with --name")}
			}
			log, err := telemetry.NewLogger(cmd.ErrOrStderr(), level, format)
			if err != nil {
				return usageError{err}
			}
			slog.SetDefault(log)
			o.Log = log.With("server", o.Name)
			return pod.Run(cmd.Context(), o)
		},
	}
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w: see %s --help", err, c.CommandPath())}
	})
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&o.Name, "name", "", "`name` of this server among those of its member")
	fs.StringVar(&o.DataDir, "data", "/var/lib/sealane/broker", "`folder` of everything that this server keeps")
	fs.StringVar(&o.BootDir, "boot", "/etc/sealane/broker", "`folder` with the state to begin with")
	fs.StringVar(&o.ControlListen, "control-listen", ":7521", "`host:port` to listen at for the agent")
	fs.StringVar(&o.ClientListen, "client-listen", ":4222", "`host:port` to listen at for applications")
	fs.StringVar(&o.LinkListen, "link-listen", ":7422", "`host:port` to listen at for links; empty: accept none")
	fs.StringVar(&o.RouteListen, "route-listen", ":6222", "`host:port` to listen at for the member's other servers")
	fs.StringVar(&o.HealthListen, "health-listen", ":8080", "`host:port` to answer health checks at: /healthz and /readyz; empty: nowhere")
	fs.DurationVar(&o.WaitForAgent, "wait-for-agent", 5*time.Second, "how `long` to wait for the agent before the server starts with what it knows")
	fs.StringVar(&level, "log-level", "info", "least `level` to log: debug, info, warn or error")
	fs.StringVar(&format, "log-format", "text", "`format` of the log: text or json")
	return cmd
}
