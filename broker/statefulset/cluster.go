package statefulset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"strconv"
	"sync"

	"github.com/sealane/sealane/broker/statefulset/kube"
)

const (
	setKind     = "apps/v1/StatefulSet"
	podKind     = "v1/Pod"
	serviceKind = "v1/Service"
	claimKind   = "v1/PersistentVolumeClaim"
	budgetKind  = "policy/v1/PodDisruptionBudget"
)

// ClusterOptions say where a Cluster is.
type ClusterOptions struct {
	Client            *kube.Client
	Namespace, Member string
	// Domain is the cluster's DNS domain.
	Domain string
	// Owner is the name of the agent's StatefulSet; empty: the objects have no owner.
	Owner string
	// TemplateFile is read whenever objects are made.
	TemplateFile string
	// ReachFile keeps what is known of the link Service's addresses while the agent is
	// away; empty: nothing is kept.
	ReachFile string
	Log       *slog.Logger
}

// Cluster is a Place in a namespace of a Kubernetes cluster.
type Cluster struct {
	ClusterOptions

	mu       sync.Mutex
	template *Template
	owner    kube.Object
	reach    reach
	// ips are the addresses of pods, by host name.
	ips map[string]string
	// warned is what was last said of claims.
	warned string
}

var _ Place = (*Cluster)(nil)

// NewCluster returns a Cluster with a template that is in order.
func NewCluster(o ClusterOptions) (*Cluster, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Client == nil || o.Namespace == "" || o.Member == "" || o.Domain == "" {
		return nil, errors.New("broker on Kubernetes: client, namespace, member and DNS domain are required")
	}
	t, err := ReadTemplate(o.TemplateFile)
	if err != nil {
		return nil, err
	}
	return &Cluster{ClusterOptions: o, template: t, ips: map[string]string{}}, nil
}

func (c *Cluster) current() *Template {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.template
}

// Address implements Place.
func (c *Cluster) Address(n int) Address {
	name := brokerName + "-" + strconv.Itoa(n)
	host := fmt.Sprintf("%s.%s.%s.svc.%s", name, podsName, c.Namespace, c.Domain)
	at := func(port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
	return Address{Name: name, Control: at(controlPort), Client: at(clientPort), Route: at(routePort)}
}

// Names implements Place.
func (c *Cluster) Names() []string {
	svc := c.Namespace + ".svc"
	names := []string{
		brokerName, brokerName + "." + c.Namespace, brokerName + "." + svc, brokerName + "." + svc + "." + c.Domain,
		"*." + podsName + "." + svc + "." + c.Domain,
	}
	return append(names, c.current().ClientService.HostNames...)
}

// ClientURL implements Place.
func (c *Cluster) ClientURL() string {
	return fmt.Sprintf("tls://%s.%s.svc:%d", brokerName, c.Namespace, clientPort)
}

// LinkPort implements Place.
func (c *Cluster) LinkPort() int {
	if l := c.current().LinkService; *l.Enabled {
		return l.Port
	}
	return 0
}

// Apply implements Place.
func (c *Cluster) Apply(ctx context.Context, n int, boot []byte) error {
	t, err := ReadTemplate(c.TemplateFile)
	if err != nil {
		c.Log.Error("the broker template cannot be used, keeping the last one", "error", err)
		t = c.current()
	}
	c.mu.Lock()
	c.template = t
	c.mu.Unlock()
	m := &objectMaker{namespace: c.Namespace, member: c.Member, t: t}
	if m.owner, err = c.ownerReference(ctx); err != nil {
		return err
	}
	set, err := c.set(ctx)
	if err != nil {
		return err
	}
	if set != nil {
		m.claim = set.claim()
	}
	objects := []kube.Object{m.secret(boot), m.podsService(), m.clientService()}
	if *t.LinkService.Enabled {
		objects = append(objects, m.linkService())
	} else if err := c.Client.Delete(ctx, serviceKind, c.Namespace, linksName); err != nil {
		return err
	}
	if *t.PodDisruptionBudget.Enabled {
		objects = append(objects, m.disruptionBudget())
	} else if err := c.Client.Delete(ctx, budgetKind, c.Namespace, brokerName); err != nil {
		return err
	}
	for _, o := range append(objects, m.statefulSet(n)) {
		if err := c.Client.Apply(ctx, o); err != nil {
			return err
		}
	}
	c.growClaims(ctx, n, t.Volume.Size)
	return c.findEndpoints(ctx, t, n)
}

// ownerReference refers to the agent's StatefulSet, which has the same uid for as
// long as the agent lives.
func (c *Cluster) ownerReference(ctx context.Context) (kube.Object, error) {
	if c.Owner == "" || c.owner != nil {
		return c.owner, nil
	}
	var set struct {
		Metadata struct{ UID string }
	}
	if err := c.Client.Get(ctx, setKind, c.Namespace, c.Owner, &set); err != nil {
		return nil, fmt.Errorf("the agent's own StatefulSet (--owner): %w", err)
	}
	c.owner = kube.Object{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": c.Owner, "uid": set.Metadata.UID, "blockOwnerDeletion": false, "controller": false}
	return c.owner, nil
}

// statefulSet is what is read of one.
type statefulSet struct {
	Metadata struct{ Generation int64 }
	Spec     struct {
		Replicas             *int
		VolumeClaimTemplates []struct {
			Spec struct {
				StorageClassName *string
				Resources        struct{ Requests struct{ Storage string } }
			}
		}
	}
	Status struct {
		ObservedGeneration int64
		UpdateRevision     string
	}
}

func (s *statefulSet) claim() *claim {
	if len(s.Spec.VolumeClaimTemplates) == 0 {
		return nil
	}
	spec := s.Spec.VolumeClaimTemplates[0].Spec
	return &claim{size: spec.Resources.Requests.Storage, storageClass: spec.StorageClassName}
}

func (c *Cluster) set(ctx context.Context) (*statefulSet, error) {
	s := &statefulSet{}
	err := c.Client.Get(ctx, setKind, c.Namespace, brokerName, s)
	if kube.IsNotFound(err) {
		return nil, nil
	}
	return s, err
}

// serverPod is what is read of a pod.
type serverPod struct {
	Metadata struct {
		Labels            map[string]string
		DeletionTimestamp string
	}
	Status struct {
		PodIP      string
		HostIP     string
		Conditions []struct{ Type, Status, Message string }

		ContainerStatuses []struct {
			State struct {
				Waiting *struct{ Reason, Message string }
			}
		}
	}
}

// Servers implements Place.
func (c *Cluster) Servers(ctx context.Context) ([]Server, error) {
	set, err := c.set(ctx)
	if err != nil || set == nil || set.Spec.Replicas == nil {
		return nil, err
	}
	var servers []Server
	nodes := map[int]string{}
	for n := range *set.Spec.Replicas {
		var p serverPod
		err := c.Client.Get(ctx, podKind, c.Namespace, c.Address(n).Name, &p)
		switch {
		case kube.IsNotFound(err):
			servers = append(servers, Server{Message: "the pod does not exist"})
		case err != nil:
			return nil, err
		default:
			servers = append(servers, p.server(set))
		}
		c.noteIP(n, p.Status.PodIP)
		if p.Status.HostIP != "" {
			nodes[n] = p.Status.HostIP
		}
	}
	c.learnReach(func(r *reach) {
		if r.Nodes == nil {
			r.Nodes = map[int]string{}
		}
		maps.Copy(r.Nodes, nodes)
	})
	return servers, nil
}

func (c *Cluster) noteIP(n int, ip string) {
	host, _, err := net.SplitHostPort(c.Address(n).Control)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ip == "" {
		delete(c.ips, host)
		return
	}
	c.ips[host] = ip
}

// Resolve returns where to connect for HOST:PORT of a pod.
func (c *Cluster) Resolve(hostPort string) string {
	host, port, err := net.SplitHostPort(hostPort)
	c.mu.Lock()
	defer c.mu.Unlock()
	if ip := c.ips[host]; err == nil && ip != "" {
		return net.JoinHostPort(ip, port)
	}
	return hostPort
}

func (p *serverPod) server(set *statefulSet) Server {
	s := Server{Exists: p.Metadata.DeletionTimestamp == ""}
	// Before the StatefulSet was looked at by its controller nothing is known.
	if set.Status.ObservedGeneration == set.Metadata.Generation && set.Status.UpdateRevision != "" {
		s.Outdated = p.Metadata.Labels["controller-revision-hash"] != set.Status.UpdateRevision
	}
	for _, cond := range p.Status.Conditions {
		if cond.Type == "PodScheduled" && cond.Status == "False" {
			s.Message = cond.Message
		}
	}
	for _, cs := range p.Status.ContainerStatuses {
		if w := cs.State.Waiting; w != nil {
			s.Message = w.Reason
			if w.Message != "" {
				s.Message += ": " + w.Message
			}
		}
	}
	return s
}

// Replace implements Place: the StatefulSet makes a new pod for one that is deleted.
func (c *Cluster) Replace(ctx context.Context, n int) error {
	return c.Client.Delete(ctx, podKind, c.Namespace, c.Address(n).Name)
}

// growClaims asks for larger volumes, if the template does: a StatefulSet cannot.
func (c *Cluster) growClaims(ctx context.Context, n int, size string) {
	var problem string
	for i := range n {
		name := volumeName + "-" + c.Address(i).Name
		var claim struct {
			Spec struct {
				Resources struct{ Requests struct{ Storage string } }
			}
		}
		if err := c.Client.Get(ctx, claimKind, c.Namespace, name, &claim); err != nil || claim.Spec.Resources.Requests.Storage == size {
			continue // it may not be there yet
		}
		patch := kube.Object{"spec": kube.Object{"resources": kube.Object{"requests": kube.Object{"storage": size}}}}
		if err := c.Client.Patch(ctx, claimKind, c.Namespace, name, patch); err != nil {
			problem = err.Error()
		}
	}
	if problem != c.warned && problem != "" {
		c.Log.Warn("volumes cannot have the size that the template asks for", "size", size, "error", problem)
	}
	c.warned = problem
}
