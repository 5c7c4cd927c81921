package hubapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
)

// DefaultHubKubeconfig is where an embedded hub with the default data folder
// writes the kubeconfig of its administrator.
const DefaultHubKubeconfig = "/var/lib/sealane/hub/kubeconfig"

// ErrNoHub says that nothing tells where the hub is.
var ErrNoHub = errors.New("no hub to talk to")

// Hub is the API of one hub.
type Hub struct {
	client.Client
	// Server is the address of the API.
	Server string
	// Namespace is the default namespace of the kubeconfig.
	Namespace string
}

// Where tells how to find the hub. The zero value asks KUBECONFIG, then the
// default kubeconfig, then the pod that it runs in.
type Where struct {
	Kubeconfig string
	Context    string
	// Timeout of each request. Default 10 seconds.
	Timeout time.Duration
}

// Connect finds the hub. It sends nothing yet: an address at which nobody
// answers shows at the first request.
func Connect(w Where) (*Hub, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = w.Kubeconfig
	rules.Warner = func(error) {} // a missing file of KUBECONFIG shows as ErrNoHub below
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: w.Context})
	cfg, err := loader.ClientConfig()
	if clientcmd.IsEmptyConfig(err) || errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNoHub, howToFind(w.Kubeconfig))
	}
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	cfg.Timeout = w.Timeout
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	return New(cfg, namespace)
}

// New is a Hub at a known address.
func New(cfg *rest.Config, namespace string) (*Hub, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register the resources: %w", err)
	}
	cfg = rest.CopyConfig(cfg)
	cfg.QPS = -1
	c, err := client.New(cfg, client.Options{Scheme: scheme, Mapper: Mapper()})
	if err != nil {
		return nil, fmt.Errorf("make a client for %s: %w", cfg.Host, err)
	}
	return &Hub{Client: c, Server: cfg.Host, Namespace: namespace}, nil
}

// Mapper knows the resources of this version, so that no request is spent on
// asking the server for them.
func Mapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper([]schema.GroupVersion{v1alpha1.GroupVersion})
	for kind, scope := range map[string]meta.RESTScope{
		"MessagingTopology": meta.RESTScopeRoot,
		"MemberCluster":     meta.RESTScopeRoot,
		"JoinToken":         meta.RESTScopeRoot,
		"TopologyRevision":  meta.RESTScopeRoot,
		"Stream":            meta.RESTScopeNamespace,
		"Bridge":            meta.RESTScopeNamespace,
	} {
		m.Add(v1alpha1.GroupVersion.WithKind(kind), scope)
	}
	return m
}

func howToFind(kubeconfig string) string {
	if kubeconfig != "" {
		return fmt.Sprintf("the file %s does not exist. An embedded hub writes \"kubeconfig\" into its data folder when it starts", kubeconfig)
	}
	if env := os.Getenv("KUBECONFIG"); env != "" {
		return fmt.Sprintf("KUBECONFIG names %s, in which there is no cluster. Pass --kubeconfig FILE, or correct KUBECONFIG", env)
	}
	if _, err := os.Stat(DefaultHubKubeconfig); err == nil {
		return "a hub on this machine left its kubeconfig: pass --kubeconfig " + DefaultHubKubeconfig + ", or export KUBECONFIG=" + DefaultHubKubeconfig
	}
	return "pass --kubeconfig FILE, or set KUBECONFIG. An embedded hub writes its own to DATA/kubeconfig (by default " + DefaultHubKubeconfig + "); for a hub on Kubernetes use that cluster's"
}

// Explain turns an error of a request into one that says what to do. Errors
// that say it already are returned as they are.
func (h *Hub) Explain(err error) error {
	var op *net.OpError
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return nil
	case meta.IsNoMatchError(err):
		return err
	case errors.As(err, &status):
		return h.explainStatus(err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("the hub's API at %s refuses connections: is the hub running? Start sealane-hub, or pass the kubeconfig of another one: %w", h.Server, err)
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return fmt.Errorf("the hub's API at %s does not answer: check that the address is right and that no firewall is in between: %w", h.Server, err)
	case strings.Contains(err.Error(), "x509:"):
		return fmt.Errorf("the server at %s is not the one that the kubeconfig trusts (an old kubeconfig after the hub's data folder was removed?): %w", h.Server, err)
	case errors.As(err, &op):
		return fmt.Errorf("cannot reach the hub's API at %s: %w", h.Server, err)
	}
	return err
}

func (h *Hub) explainStatus(err error) error {
	switch {
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("the hub's API at %s does not know this user: the kubeconfig's certificate is of another hub or has expired; take the hub's current kubeconfig: %w", h.Server, err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("this user may not do that: ask for a role on the resources of %s: %w", v1alpha1.GroupVersion.Group, err)
	case NotServed(err):
		return fmt.Errorf("the server at %s has no resources of %s: no hub has run there yet (sealane-hub installs them when it starts), or the kubeconfig is of another cluster: %w",
			h.Server, v1alpha1.GroupVersion.Group, err)
	}
	return err
}

// NotServed tells a kind that the server does not have from an object that does
// not exist: both are 404.
func NotServed(err error) bool {
	var s apierrors.APIStatus
	if !apierrors.IsNotFound(err) || !errors.As(err, &s) {
		return false
	}
	d := s.Status().Details
	return d == nil || d.Name == "" || apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}
