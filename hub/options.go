package hub

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Options configure a hub. The zero value of an optional field is its default.
type Options struct {
	// Embedded serves the resources from an API server of the hub's own. Without
	// it Kubeconfig says where they are; without that the cluster in which the
	// hub runs has them.
	Embedded   bool
	Kubeconfig string
	// SkipCRDs does not install the resource definitions into an API server that
	// is not embedded: somebody else does.
	SkipCRDs bool
	// Namespace is where the objects are that replicas of a hub share.
	Namespace string
	// AuthoritySecret keeps the federation's authority, instead of DataDir.
	// NoAuthority waits until somebody else has made it.
	AuthoritySecret string
	NoAuthority     bool
	// Lease decides which of several replicas leads; empty: this hub is the only
	// one. ReplicaHost is where the others reach this one, at the port of Listen.
	Lease       string
	ReplicaHost string
	// StateConfigMap keeps what DataDir would keep from one start to the next, but
	// for the authority and the epoch.
	StateConfigMap string
	// Epoch, if not 0, is used instead of that in DataDir.
	Epoch uint64
	// DataDir holds what must survive: keys and, embedded, the resources.
	DataDir string
	// Listen is where agents reach the hub. Advertise is the address that agents
	// dial, if it is another; it goes into join tokens and the certificate.
	Listen    string
	Advertise string
	// ServerNames are other names and addresses by which agents reach the hub.
	ServerNames []string
	// APIListen is where the embedded API is served.
	APIListen string
	// MetricsListen serves /metrics, /healthz and /readyz; empty: nothing does.
	MetricsListen string
	// TrustDomain of the federation: part of every member's identity, and fixed
	// once the first start has made the authority.
	TrustDomain string
	Version     string
	Log         *slog.Logger
	// Ready is called once, when the hub has published its first plan, or serves
	// agents beside a replica that leads.
	Ready func(Addresses)
}

// Addresses are where a running hub listens.
type Addresses struct {
	// Agents is where it listens for agents, Advertise what they dial.
	Agents, Advertise string
	// API is the URL of the API server, Kubeconfig the file with all rights to it.
	API, Kubeconfig string
	// Metrics is empty if they are not served.
	Metrics string
}

// Defaults of Options, also those of the flags.
const (
	DefaultDataDir       = "/var/lib/sealane/hub"
	DefaultListen        = ":7443"
	DefaultAPIListen     = "127.0.0.1:6443"
	DefaultMetricsListen = "127.0.0.1:9443"
	DefaultTrustDomain   = "sealane.local"
)

// complete fills in defaults and judges the rest. Errors name the flag.
func (o *Options) complete() error {
	o.DataDir = cmp.Or(o.DataDir, DefaultDataDir)
	o.Listen = cmp.Or(o.Listen, DefaultListen)
	o.APIListen = cmp.Or(o.APIListen, DefaultAPIListen)
	o.TrustDomain = cmp.Or(o.TrustDomain, DefaultTrustDomain)
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Embedded && o.Kubeconfig != "" {
		return errors.New("--embedded and --kubeconfig exclude each other: the resources are either in the hub's own API server or in that of the kubeconfig")
	}
	if err := validTrustDomain(o.TrustDomain); err != nil {
		return err
	}
	if err := o.completeReplicas(); err != nil {
		return err
	}
	if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
		return fmt.Errorf("--data %s: %w: choose a folder that this user may write", o.DataDir, err)
	}
	return nil
}

// restConfig is the way to an API server that is not embedded.
func (o *Options) restConfig() (*rest.Config, error) {
	if o.Kubeconfig != "" {
		cfg, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("--kubeconfig %s: %w", o.Kubeconfig, err)
		}
		return cfg, nil
	}
	cfg, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, errors.New("there is no API server to keep the resources in: start with --embedded for one of the hub's own, or with --kubeconfig FILE for that of a Kubernetes cluster")
	}
	return cfg, err
}

// advertised is the address that agents dial when the hub listens at addr.
func (o *Options) advertised(addr net.Addr) (string, error) {
	if o.Advertise == "" {
		_, port, err := net.SplitHostPort(addr.String())
		if err != nil {
			return "", err
		}
		if host, _, err := net.SplitHostPort(o.Listen); err == nil && specific(host) {
			return net.JoinHostPort(host, port), nil
		}
		host, err := os.Hostname()
		if err != nil {
			return "", fmt.Errorf("this machine has no host name (%w): say with --advertise HOST:PORT what agents shall dial", err)
		}
		return net.JoinHostPort(host, port), nil
	}
	host, port, err := net.SplitHostPort(o.Advertise)
	if err != nil {
		return "", fmt.Errorf("--advertise %s: expected HOST:PORT as agents dial it: %w", o.Advertise, err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || !specific(host) {
		return "", fmt.Errorf("--advertise %s: expected HOST:PORT as agents dial it, with a name or address of this hub and a port from 1 to 65535", o.Advertise)
	}
	if strings.HasSuffix("."+host, ".cluster."+o.TrustDomain) {
		return "", fmt.Errorf("--advertise %s: names under cluster.%s are those of members: use another name", o.Advertise, o.TrustDomain)
	}
	return o.Advertise, nil
}

// specific tells whether a host can be dialled.
func specific(host string) bool {
	ip := net.ParseIP(host)
	return host != "" && (ip == nil || !ip.IsUnspecified())
}

// serverNames are the names under which agents may reach the hub.
func (o *Options) serverNames(advertise string) []string {
	names := append([]string{"localhost", "127.0.0.1", "::1"}, o.ServerNames...)
	if o.Lease != "" {
		names = append(names, replicaName(o.TrustDomain))
	}
	for _, addr := range []string{advertise, o.Listen} {
		if host, _, err := net.SplitHostPort(addr); err == nil && specific(host) {
			names = append(names, host)
		}
	}
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
