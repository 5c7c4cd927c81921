package main

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/sealane/sealane/hub"
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

const example = `  # A hub with its own API server; then: export KUBECONFIG=./hub/kubeconfig
  sealane-hub --embedded --data ./hub --advertise hub.example.com:7443

  # A hub that keeps its resources in a Kubernetes cluster
  sealane-hub --kubeconfig ~/.kube/config --data ./hub --advertise hub.example.com:7443

  # One of several replicas inside a cluster, as charts/hub runs them
  sealane-hub --authority-secret hub-authority --state-configmap hub-state --lease hub --replica-host $POD_IP --advertise hub.example.com:7443`

func newCommand() *cobra.Command {
	o := hub.Options{Version: version}
	var level, format string
	installCRDs, createAuthority := true, true
	cmd := &cobra.Command{
		Use:   "sealane-hub",
		Short: "Run the hub of a Sealane federation",
		Long: `sealane-hub plans the topology of a federation of brokers and tells the agents of
its members what to hold.

The resources are kept by an API server: one of the hub's own (--embedded), that
of a kubeconfig (--kubeconfig), or that of the cluster in which the hub runs.

The data folder holds the federation's authority and must be kept: without it no
agent trusts the hub any more. Logs go to standard error. The exit status is 0
after SIGINT or SIGTERM, 1 if the hub failed, 2 if the command line is wrong.`,
		Example: example,
		Version: version,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unexpected argument %q: see %s --help", args[0], cmd.CommandPath())}
			}
			return nil
		},
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := telemetry.NewLogger(cmd.ErrOrStderr(), level, format)
			if err != nil {
				return usageError{err}
			}
			slog.SetDefault(log) // for libraries that know no other
			o.Log, o.SkipCRDs, o.NoAuthority = log, !installCRDs, !createAuthority
			saveMemory(o.Embedded)
			return hub.Run(cmd.Context(), o)
		},
	}
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w: see %s --help", err, c.CommandPath())}
	})
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&o.Embedded, "embedded", false, "keep the resources in an API server of the hub's own")
	f.StringVar(&o.Kubeconfig, "kubeconfig", "", "keep the resources in the cluster of this `file`")
	f.StringVar(&o.DataDir, "data", hub.DefaultDataDir, "`folder` of keys and, with --embedded, of the resources")
	f.StringVar(&o.Listen, "listen", hub.DefaultListen, "`host:port` to listen at for agents")
	f.StringVar(&o.Advertise, "advertise", "", "`host:port` that agents dial (default: this machine's name, or the host of --listen, and the port)")
	f.StringVar(&o.APIListen, "api-listen", hub.DefaultAPIListen, "`host:port` to serve the embedded API at")
	f.StringVar(&o.MetricsListen, "metrics-listen", hub.DefaultMetricsListen, "`host:port` to serve /metrics, /healthz and /readyz at; empty: nowhere")
	f.StringVar(&o.TrustDomain, "trust-domain", hub.DefaultTrustDomain, "`name` that is part of every member's identity; fixed at the first start")
	f.BoolVar(&installCRDs, "install-crds", true, "install the resource definitions into an API server that is not embedded")
	f.StringSliceVar(&o.ServerNames, "server-name", nil, "another `name` or address by which agents reach the hub (repeatable)")
	f.StringVar(&o.AuthoritySecret, "authority-secret", "", "keep the authority in the Secret of this `name`, not in the data folder")
	f.BoolVar(&createAuthority, "create-authority", true, "make the authority if that Secret is absent; false: wait for it")
	f.StringVar(&o.StateConfigMap, "state-configmap", "", "keep in the ConfigMap of this `name` what else must survive, but for the epoch")
	f.StringVar(&o.Lease, "lease", "", "`name` of the Lease by which several replicas agree who leads (default: there is one hub)")
	f.StringVar(&o.ReplicaHost, "replica-host", "", "`address` at which the other replicas reach this one, at the port of --listen")
	f.StringVar(&o.Namespace, "namespace", "", "`namespace` of the Secret, the ConfigMap and the Lease (default: that of the hub's service account)")
	f.Uint64Var(&o.Epoch, "epoch", 0, "epoch of the hub's resources (default: the `number` in the data folder)")
	f.StringVar(&level, "log-level", "info", "least `level` to log: debug, info, warn or error")
	f.StringVar(&format, "log-format", "text", "`format` of the log: text or json")
	return cmd
}
