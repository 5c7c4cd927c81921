package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/sealane/sealane/broker"
	"github.com/sealane/sealane/broker/embedded"
	"github.com/sealane/sealane/broker/statefulset"
	"github.com/sealane/sealane/broker/statefulset/kube"
)

// DefaultClusterDomain is the DNS domain of most clusters.
const DefaultClusterDomain = "cluster.local"

// fieldManager is the owner of what the agent writes into objects.
const fieldManager = "sealane-agent"

// recallTimeout bounds how long a start waits for the API server.
const recallTimeout = 5 * time.Second

// KubernetesOptions say how the broker runs as pods beside the agent's.
type KubernetesOptions struct {
	// Template is the file of settings of the pods.
	Template string
	// Namespace of the agent; empty: that of its service account.
	Namespace string
	// Owner is the name of the agent's StatefulSet, whose dependents the objects are
	// that the agent makes; empty: they stay when the agent goes.
	Owner string
	// ClusterDomain is the cluster's DNS domain.
	ClusterDomain string
	// CredentialNamespaces are those in which the agent may write the Secrets of
	// applications.
	CredentialNamespaces []string
	// Client of the API server; nil: that of the cluster that the agent runs in.
	Client *kube.Client
}

// check completes the options.
func (k *KubernetesOptions) check() error {
	if k.Template == "" {
		return errors.New("--runtime statefulset needs the settings of the broker's pods: give their file with --broker-template")
	}
	if k.Client == nil {
		client, namespace, err := kube.InCluster(fieldManager)
		if err != nil {
			return fmt.Errorf("--runtime statefulset: %w", err)
		}
		k.Client, k.Namespace = client, cmp.Or(k.Namespace, namespace)
	}
	k.ClusterDomain = cmp.Or(k.ClusterDomain, DefaultClusterDomain)
	return nil
}

// runtime makes the broker that the options ask for.
func (o *Options) runtime(member string, keyring *broker.Keyring, log *slog.Logger) (broker.Runtime, error) {
	k := o.Kubernetes
	if k == nil {
		return embedded.New(embedded.Options{
			DataDir: o.DataDir, ClientListen: o.ClientListen, LinkListen: o.LinkListen,
			ClientTLS: o.ClientTLS, Keyring: keyring, Log: log,
		})
	}
	place, err := statefulset.NewCluster(statefulset.ClusterOptions{
		Client: k.Client, Namespace: k.Namespace, Member: member, Domain: k.ClusterDomain,
		Owner: k.Owner, TemplateFile: k.Template, ReachFile: filepath.Join(o.DataDir, "broker", "reach.json"), Log: log,
	})
	if err != nil {
		return nil, err
	}
	// It is asked again every few seconds, so an API server that is away stops nothing.
	ctx, cancel := context.WithTimeout(context.Background(), recallTimeout)
	defer cancel()
	if err := place.Recall(ctx); err != nil {
		log.Warn("it is not known yet where peers reach this member", "error", err)
	}
	return statefulset.New(statefulset.Options{DataDir: o.DataDir, Member: member, Keyring: keyring, Place: place, Log: log})
}

// runtimeName is what the hub is told.
func (o *Options) runtimeName() string {
	if o.Kubernetes != nil {
		return "statefulset"
	}
	return "embedded"
}
