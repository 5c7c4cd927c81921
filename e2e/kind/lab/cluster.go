package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Cluster is a cluster of one node.
type Cluster struct {
	// Name as the test chose it.
	Name string
	// Kubeconfig is that of an administrator.
	Kubeconfig string
	// IP is the node's address, which every cluster and this machine reach.
	IP string

	lab *Lab
}

// clusterConfig: no two clusters share addresses, so an address in a log tells
// its cluster. The API server writes down what service accounts ask of it.
const clusterConfig = `kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking:
  podSubnet: 10.%[1]d.0.0/16
  serviceSubnet: 10.%[2]d.0.0/16
nodes:
- role: control-plane
  extraMounts:
  - {hostPath: %[3]q, containerPath: /etc/kubernetes/audit.yaml, readOnly: true}
kubeadmConfigPatches:
- |
  kind: ClusterConfiguration
  apiServer:
    extraArgs:
    - {name: audit-policy-file, value: /etc/kubernetes/audit.yaml}
    - {name: audit-log-path, value: ` + auditLog + `}
    extraVolumes:
    - {name: audit-policy, hostPath: /etc/kubernetes/audit.yaml, mountPath: /etc/kubernetes/audit.yaml, readOnly: true, pathType: File}
    - {name: audit-log, hostPath: /var/log/kubernetes, mountPath: /var/log/kubernetes, pathType: DirectoryOrCreate}
`

const (
	auditLog  = "/var/log/kubernetes/audit.log"
	auditFile = "audit.yaml"
	// auditPolicy leaves out the cluster's own service accounts. Nothing of the
	// objects' contents is written down.
	auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, userGroups: ["system:serviceaccounts:kube-system", "system:serviceaccounts:local-path-storage"]}
- {level: Metadata, userGroups: ["system:serviceaccounts"]}
- {level: None}
`
)

// Create makes clusters, all at once, and returns them in the order of their
// names.
func (l *Lab) Create(ctx context.Context, names ...string) ([]*Cluster, error) {
	if err := os.WriteFile(filepath.Join(l.work, auditFile), []byte(auditPolicy), 0o600); err != nil {
		return nil, err
	}
	made := make([]*Cluster, len(names))
	errs := make([]error, len(names))
	l.mu.Lock()
	first := len(l.clusters)
	for i, name := range names {
		made[i] = &Cluster{Name: name, Kubeconfig: filepath.Join(l.work, name+".kubeconfig"), lab: l}
	}
	l.clusters = append(l.clusters, made...)
	l.mu.Unlock()
	err := l.timed("clusters "+strings.Join(names, ", "), func() error {
		var wg sync.WaitGroup
		for i, c := range made {
			wg.Go(func() { errs[i] = c.create(ctx, 20+first+i) })
		}
		wg.Wait()
		return errors.Join(errs...)
	})
	return made, err
}

func (c *Cluster) create(ctx context.Context, subnet int) error {
	config := strings.NewReader(fmt.Sprintf(clusterConfig, subnet, 100+subnet, filepath.Join(c.lab.work, auditFile)))
	if _, err := c.lab.kind(ctx, config, "create", "cluster", "--name", prefix+c.Name, "--image", c.lab.node,
		"--kubeconfig", c.Kubeconfig, "--config", "-", "--wait", "5m", "--retain", "-q"); err != nil {
		return err
	}
	return c.address(ctx)
}

// address finds the node's address, which can change with a restart.
func (c *Cluster) address(ctx context.Context) (err error) {
	c.IP, err = c.lab.docker(ctx, "inspect", "-f", "{{.NetworkSettings.Networks.kind.IPAddress}}", c.Node())
	if err == nil && c.IP == "" {
		err = fmt.Errorf("%s has no address", c.Node())
	}
	return err
}

// Node is the name of the node and of its container; clusters resolve it.
func (c *Cluster) Node() string { return prefix + c.Name + "-control-plane" }

// removeLeftovers deletes all clusters that the lab owns.
func (l *Lab) removeLeftovers(ctx context.Context) error {
	list, err := l.kind(ctx, nil, "get", "clusters", "-q")
	if err != nil {
		return err
	}
	var errs []error
	for name := range strings.FieldsSeq(list) {
		if strings.HasPrefix(name, prefix) {
			_, err := l.kind(ctx, nil, "delete", "cluster", "-q", "--name", name, "--kubeconfig", filepath.Join(l.work, "deleted"))
			errs = append(errs, err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clusters = nil
	return errors.Join(errs...)
}

// Load brings the images of a docker archive into the cluster.
func (c *Cluster) Load(ctx context.Context, archives ...string) error {
	for _, a := range archives {
		if _, err := c.lab.kind(ctx, nil, "load", "image-archive", "-q", "--name", prefix+c.Name, a); err != nil {
			return err
		}
	}
	return nil
}

// Tag gives an image that the cluster has a further name.
func (c *Cluster) Tag(ctx context.Context, from, to string) error {
	_, err := c.Exec(ctx, "ctr", "-n", "k8s.io", "images", "tag", "--force", from, to)
	return err
}

// Exec runs a program on the node.
func (c *Cluster) Exec(ctx context.Context, args ...string) (string, error) {
	return c.lab.docker(ctx, append([]string{"exec", c.Node()}, args...)...)
}

// AuditLog is what service accounts, but for the cluster's own, asked of the API
// server: an event a line.
func (c *Cluster) AuditLog(ctx context.Context) (string, error) {
	return c.Exec(ctx, "cat", auditLog)
}

// Kubectl runs the node's kubectl as an administrator.
func (c *Cluster) Kubectl(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	return c.lab.run(ctx, command{
		Args:  append([]string{"docker", "exec", "-i", c.Node(), "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf"}, args...),
		Env:   c.lab.engine.env(),
		Stdin: stdin,
	})
}

// Helm runs helm as an administrator of the cluster. Paths are relative to the
// checkout.
func (c *Cluster) Helm(ctx context.Context, args ...string) (string, error) {
	home := filepath.Join(c.lab.work, "helm")
	return c.lab.run(ctx, command{
		Dir:  c.lab.root,
		Env:  []string{"KUBECONFIG=" + c.Kubeconfig, "HELM_CACHE_HOME=" + home, "HELM_CONFIG_HOME=" + home, "HELM_DATA_HOME=" + home},
		Args: append([]string{c.lab.program("helm")}, args...),
	})
}

// Pause stops everything in the cluster where it is; Resume lets it go on.
func (c *Cluster) Pause(ctx context.Context) error {
	_, err := c.lab.docker(ctx, "pause", c.Node())
	return err
}

// Resume ends a Pause.
func (c *Cluster) Resume(ctx context.Context) error {
	_, err := c.lab.docker(ctx, "unpause", c.Node())
	return err
}

// RestartNode kills the node and starts it again.
func (c *Cluster) RestartNode(ctx context.Context) error {
	if _, err := c.lab.docker(ctx, "kill", c.Node()); err != nil {
		return err
	}
	if _, err := c.lab.docker(ctx, "start", c.Node()); err != nil {
		return err
	}
	return c.address(ctx)
}

// Cut drops what comes from and goes to addresses, before any connection
// tracking, so that also open connections fall silent. Heal ends it. The API
// server stays reachable from this machine.
func (c *Cluster) Cut(ctx context.Context, addresses ...string) error {
	return c.filter(ctx, "-I", addresses)
}

// Heal ends a Cut of the same addresses.
func (c *Cluster) Heal(ctx context.Context, addresses ...string) error {
	return c.filter(ctx, "-D", addresses)
}

func (c *Cluster) filter(ctx context.Context, verb string, addresses []string) error {
	for _, a := range addresses {
		for _, rule := range [][]string{{"PREROUTING", "-s", a}, {"PREROUTING", "-d", a}, {"OUTPUT", "-d", a}} {
			if _, err := c.Exec(ctx, slices.Concat([]string{"iptables", "-w", "-t", "raw", verb}, rule, []string{"-j", "DROP"})...); err != nil {
				return err
			}
		}
	}
	return nil
}

// Collect writes logs and resources of every cluster into a folder, for whoever
// looks into a failure. It goes on after errors and returns them all.
func (l *Lab) Collect(ctx context.Context, dir string) error {
	l.mu.Lock()
	clusters := slices.Clone(l.clusters)
	l.mu.Unlock()
	var errs []error
	for _, c := range clusters {
		errs = append(errs, c.collect(ctx, filepath.Join(dir, c.Name)))
	}
	return errors.Join(errs...)
}

// resources are told per file. Secrets are left out: artifacts are read by many.
var resources = map[string][]string{
	"pods.txt":       {"get", "pods", "-A", "-o", "wide"},
	"describe.txt":   {"describe", "pods", "-A"},
	"events.txt":     {"get", "events", "-A", "--sort-by=.lastTimestamp"},
	"resources.yaml": {"get", "all,pvc,pv,configmaps,pdb,roles,rolebindings,networkpolicies", "-A", "-o", "yaml"},
	"nodes.txt":      {"describe", "nodes"},
}

func (c *Cluster) collect(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	_ = c.Resume(ctx) // an error says that it was not paused
	_, err := c.lab.kind(ctx, nil, "export", "logs", dir, "-q", "--name", prefix+c.Name)
	errs := []error{err}
	for file, args := range resources {
		text, err := c.Kubectl(ctx, nil, args...)
		errs = append(errs, err, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600))
	}
	kinds, err := c.Kubectl(ctx, nil, "api-resources", "--api-group", "messaging.sealane.dev", "-o", "name")
	errs = append(errs, err)
	if kinds := strings.Join(strings.Fields(kinds), ","); kinds != "" {
		text, err := c.Kubectl(ctx, nil, "get", kinds, "-A", "-o", "yaml")
		errs = append(errs, err, os.WriteFile(filepath.Join(dir, "sealane.yaml"), []byte(text), 0o600))
	}
	return errors.Join(errs...)
}
