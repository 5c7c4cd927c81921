package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sealane/sealane/agent"
	"github.com/sealane/sealane/telemetry"
)

const (
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a mistake on the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func exitCode(err error) int {
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitFailed
}

const example = `  # Join as tokyo and accept links from others
  sealane-agent --name tokyo --hub hub.example.com:7443 --token-file token \
    --data ./tokyo --link-listen 0.0.0.0:7422 --advertise tokyo.example.com:7422

  # An edge site that only dials, its broker on another port
  sealane-agent --name edge-7 --hub hub.example.com:7443 --token slj1.… \
    --data ./edge-7 --client-listen 127.0.0.1:4322

  # Again later: the data folder knows name and hub, and no token is needed
  sealane-agent --data ./edge-7 --client-listen 127.0.0.1:4322`

// envPrefix begins the names of the variables that stand for flags.
const envPrefix = "SEALANE_"

// flags are what the command line says beside the agent's own options.
type flags struct {
	agent.Options
	tokenFile       string
	tlsCert, tlsKey string
	level, format   string
	runtime         string
	kubernetes      agent.KubernetesOptions
}

func newCommand() *cobra.Command {
	f := &flags{Options: agent.Options{Version: version}}
	cmd := &cobra.Command{
		Use:   "sealane-agent",
		Short: "Run a member of a Sealane federation",
		Long: `sealane-agent runs a NATS server with JetStream and makes it what the hub plans
for this member. The first start needs a join token; after that the member runs
from its data folder, also while the hub cannot be reached.

Applications connect to the address in the file url of the data folder, with the
credentials of their account from its folder creds.

Each flag can be given as a variable: SEALANE_NAME for --name, SEALANE_TOKEN_FILE
for --token-file. A flag wins over its variable. Logs go to standard error. The
exit status is 0 after SIGINT or SIGTERM, 1 if the agent failed, 2 if the command
line is wrong.`,
		Example:       example,
		Version:       version,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fromEnvironment(cmd.Flags(), os.LookupEnv); err != nil {
				return usageError{err}
			}
			if err := f.complete(cmd.Flags(), cmd.ErrOrStderr()); err != nil {
				return usageError{err}
			}
			return agent.Run(cmd.Context(), f.Options)
		},
	}
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w: see %s --help", err, c.CommandPath())}
	})
	f.register(cmd.Flags())
	cmd.AddCommand(newBrokerCommand())
	return cmd
}

func (f *flags) register(fs *pflag.FlagSet) {
	fs.SortFlags = false
	fs.StringVar(&f.Name, "name", "", "`name` of this member; needed at the first start")
	fs.StringVar(&f.Hub, "hub", "", "`host:port` at which the hub listens for agents; needed at the first start")
	fs.StringVar(&f.Token, "token", "", "join `token`, as printed by \"sealane token create\"; needed at the first start")
	fs.StringVar(&f.tokenFile, "token-file", "", "`file` that holds the join token")
	fs.StringVar(&f.DataDir, "data", agent.DefaultDataDir, "`folder` of everything that this member keeps")
	fs.StringVar(&f.ClientListen, "client-listen", agent.DefaultClientListen, "`host:port` to listen at for applications; a loopback address unless there is TLS")
	fs.StringVar(&f.tlsCert, "client-tls-cert", "", "`file` of the certificate to show to applications, in PEM")
	fs.StringVar(&f.tlsKey, "client-tls-key", "", "`file` of its key, in PEM")
	fs.StringVar(&f.LinkListen, "link-listen", "", "`host:port` to listen at for links from other members; empty: accept none")
	fs.StringSliceVar(&f.Advertise, "advertise", nil, "`host:port` at which other members reach --link-listen; may be repeated")
	fs.StringVar(&f.runtime, "runtime", "embedded", "`where` the broker runs: embedded (in this process) or statefulset (in pods of the cluster that this is a pod of)")
	fs.StringVar(&f.kubernetes.Template, "broker-template", "", "`file` of settings of the broker's pods, in YAML (statefulset)")
	fs.StringVar(&f.kubernetes.Namespace, "namespace", "", "`namespace` of this pod; that of its service account if empty (statefulset)")
	fs.StringVar(&f.kubernetes.Owner, "owner", "", "`name` of this agent's StatefulSet, with which the broker is deleted; empty: it stays (statefulset)")
	fs.StringVar(&f.kubernetes.ClusterDomain, "cluster-domain", agent.DefaultClusterDomain, "DNS `domain` of the cluster (statefulset)")
	fs.StringSliceVar(&f.kubernetes.CredentialNamespaces, "credential-namespaces", nil, "`namespace` in which Secrets with credentials may be written; may be repeated (statefulset)")
	fs.StringVar(&f.HealthListen, "health-listen", "", "`host:port` to answer health checks at: /healthz and /readyz; empty: nowhere")
	fs.StringVar(&f.MetricsListen, "metrics-listen", agent.DefaultMetricsListen, "`host:port` to serve /metrics at; empty: nowhere. If it is not given and another process has the default, nowhere too")
	fs.StringVar(&f.level, "log-level", "info", "least `level` to log: debug, info, warn or error")
	fs.StringVar(&f.format, "log-format", "text", "`format` of the log: text or json")
}

// fromEnvironment sets the flags that are not given from their variables.
func fromEnvironment(fs *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var errs []error
	fs.VisitAll(func(f *pflag.Flag) {
		name := envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		v, ok := lookup(name)
		if !ok || f.Changed || f.Name == "help" || f.Name == "version" {
			return
		}
		if err := fs.Set(f.Name, v); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	})
	return errors.Join(errs...)
}

// complete makes the agent's options of what was given.
func (f *flags) complete(fs *pflag.FlagSet, stderr io.Writer) error {
	f.MetricsIfFree = !fs.Changed("metrics-listen")
	log, err := telemetry.NewLogger(stderr, f.level, f.format)
	if err != nil {
		return err
	}
	f.Log = log
	slog.SetDefault(log) // for libraries that know no other
	if f.tokenFile != "" {
		if f.Token != "" {
			return errors.New("--token and --token-file are two ways to say the same: give one of them")
		}
		b, err := os.ReadFile(f.tokenFile)
		switch {
		case err == nil:
			f.Token = strings.TrimSpace(string(b))
		case errors.Is(err, os.ErrNotExist):
			// Not needed after the first start, when it is often gone.
			log.Debug("there is no token file", "file", f.tokenFile)
		default:
			return fmt.Errorf("--token-file: %w", err)
		}
	}
	switch f.runtime {
	case "embedded":
	case "statefulset":
		f.Kubernetes = &f.kubernetes
	default:
		return fmt.Errorf("--runtime %q: expected embedded or statefulset", f.runtime)
	}
	if (f.tlsCert == "") != (f.tlsKey == "") {
		return errors.New("--client-tls-cert and --client-tls-key belong together")
	}
	if f.tlsCert != "" {
		cert, err := tls.LoadX509KeyPair(f.tlsCert, f.tlsKey)
		if err != nil {
			return fmt.Errorf("--client-tls-cert and --client-tls-key: %w", err)
		}
		f.ClientTLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	}
	return nil
}
