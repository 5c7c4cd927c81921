package statefulset

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/sealane/sealane/broker"
)

// reach is where peers reach the link Service, as far as the cluster says. What is
// known of it stays while something is away for a moment: a peer drops a link
// whose address is gone, and connects anew when one is changed.
type reach struct {
	// Balancer has the addresses of a Service of type LoadBalancer.
	Balancer []string `json:"balancer,omitempty"`
	// NodePort is the port of each node for a Service of type NodePort.
	NodePort int `json:"nodePort,omitempty"`
	// Nodes are the addresses of the nodes that servers are on, by the server's number.
	Nodes map[int]string `json:"nodes,omitempty"`
}

// endpoints are in an order that does not depend on which server is where.
func (r reach) endpoints() []string {
	if r.NodePort == 0 {
		return r.Balancer
	}
	var l []string
	for _, node := range r.Nodes {
		l = append(l, net.JoinHostPort(node, strconv.Itoa(r.NodePort)))
	}
	slices.Sort(l)
	return slices.Compact(l)
}

func (r reach) clone() reach {
	return reach{Balancer: slices.Clone(r.Balancer), NodePort: r.NodePort, Nodes: maps.Clone(r.Nodes)}
}

func (r reach) equal(o reach) bool {
	return r.NodePort == o.NodePort && slices.Equal(r.Balancer, o.Balancer) && maps.Equal(r.Nodes, o.Nodes)
}

// Recall reads what was known when the agent last ran. Without that it asks the
// cluster, where servers may run already: the hub is not told that a member has no
// address because it was not looked for yet.
func (c *Cluster) Recall(ctx context.Context) error {
	b, err := os.ReadFile(c.ReachFile)
	if err == nil {
		var r reach
		if err = json.Unmarshal(b, &r); err == nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.reach = r
			return nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	servers, also := c.Servers(ctx)
	if also == nil && len(servers) > 0 {
		also = c.findEndpoints(ctx, c.current(), len(servers))
	}
	return errors.Join(err, also)
}

// learnReach changes what is known and keeps it on the disk. Without the disk it
// is known for as long as the agent runs.
func (c *Cluster) learnReach(change func(*reach)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.reach.clone()
	change(&r)
	if r.equal(c.reach) {
		return
	}
	c.reach = r
	if c.ReachFile == "" {
		return
	}
	b, err := json.Marshal(r)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(c.ReachFile), 0o700)
	}
	if err == nil {
		err = broker.WriteFile(c.ReachFile, b, 0o600)
	}
	if err != nil {
		c.Log.Warn("this member's addresses cannot be kept", "error", err)
	}
}

// findEndpoints looks where peers reach the link Service of n servers.
func (c *Cluster) findEndpoints(ctx context.Context, t *Template, n int) error {
	var svc struct {
		Spec struct {
			Ports []struct{ NodePort int }
		}
		Status struct {
			LoadBalancer struct {
				Ingress []struct{ IP, Hostname string }
			}
		}
	}
	l := t.LinkService
	if *l.Enabled && l.Type != "ClusterIP" {
		if err := c.Client.Get(ctx, serviceKind, c.Namespace, linksName, &svc); err != nil {
			return err
		}
	}
	c.learnReach(func(r *reach) {
		r.Balancer, r.NodePort = nil, 0
		maps.DeleteFunc(r.Nodes, func(server int, _ string) bool { return server >= n })
		switch {
		case !*l.Enabled:
		case l.Type == "NodePort" && len(svc.Spec.Ports) > 0:
			r.NodePort = svc.Spec.Ports[0].NodePort
		case l.Type == "LoadBalancer":
			for _, i := range svc.Status.LoadBalancer.Ingress {
				host := i.Hostname
				if host == "" {
					host = i.IP
				}
				if host != "" {
					r.Balancer = append(r.Balancer, net.JoinHostPort(host, strconv.Itoa(l.Port)))
				}
			}
		}
	})
	return nil
}

// Endpoints are the addresses at which peers reach the links, as far as the
// cluster knows: those of a load balancer, or a port of the nodes that servers are
// on. Other nodes may have that port closed (externalTrafficPolicy), and to ask for
// them takes rights in the whole cluster.
func (c *Cluster) Endpoints() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reach.endpoints()
}
