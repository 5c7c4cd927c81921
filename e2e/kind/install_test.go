//go:build e2e

package kind

import (
	"fmt"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/e2e/freeport"
	"github.com/sealane/sealane/e2e/kind/lab"
)

// install makes the federation: a hub in its cluster, a member in each of two
// others, and an edge outside.
func install(t *testing.T, v version) *federation {
	t.Helper()
	f := &federation{runs: v, kube: clientOf(t, hub), members: map[string]member{}}
	f.bring(t, v)
	f.installHub(t)
	kubectl(t, hub, "create", "namespace", applications)
	eventually(t, time.Minute, "the hub's resources are served", func() error {
		f.kube = clientOf(t, hub) // it asks once what there is
		return f.kube.List(t.Context(), &v1alpha1.JoinTokenList{})
	})
	for _, c := range []*lab.Cluster{berlin, tokyo} {
		kubectl(t, c, "create", "namespace", applications)
		apply(t, c, system, fmt.Sprintf(clientService, system, clientPort))
		f.members[c.Name] = &onKubernetes{cluster: c, kube: clientOf(t, c)}
		f.installAgent(t, c, "--set", "token="+f.token(t, c.Name))
	}
	data := t.TempDir()
	f.members["edge"] = &onMachine{name: "edge", dir: data, process: start(t, "edge.log", v.program("sealane-agent"), "--name", "edge", "--hub", hubAddress(),
		"--token", f.token(t, "edge"), "--data", data, "--client-listen", freeport.Addr(t))}
	for _, name := range everywhere {
		f.wait(t, memberCluster(name), v1alpha1.ConditionConnected, metav1.ConditionTrue)
	}
	return f
}

func hubAddress() string { return fmt.Sprintf("%s:%d", hub.IP, hubPort) }

// bring brings a version's images into the clusters.
func (f *federation) bring(t testing.TB, v version) {
	t.Helper()
	var wg sync.WaitGroup
	for c, i := range map[*lab.Cluster]image{hub: v.images["sealane-hub"], berlin: v.images["sealane-agent"], tokyo: v.images["sealane-agent"]} {
		wg.Go(func() {
			if err := c.Load(t.Context(), i.archive); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// installHub installs the hub's chart, or upgrades it, and waits for its pods.
func (f *federation) installHub(t testing.TB) {
	t.Helper()
	name, tag, _ := cutLast(f.runs.images["sealane-hub"].ref, ":")
	if out, err := hub.Helm(t.Context(), "upgrade", "--install", "sealane-hub", f.runs.chart("hub"), "--namespace", system, "--create-namespace",
		"--set", "image.repository="+name, "--set-string", "image.tag="+tag, "--set", "image.pullPolicy=Never",
		"--set", "advertise="+hubAddress(), "--set", "service.type=NodePort", "--set", fmt.Sprintf("service.nodePort=%d", hubPort)); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	kubectl(t, hub, "-n", system, "rollout", "status", "deployment/sealane-hub", "--timeout=300s")
}

// clientService lets this machine connect as an application.
const clientService = `
apiVersion: v1
kind: Service
metadata: {name: e2e, namespace: %s}
spec:
  type: NodePort
  selector: {app.kubernetes.io/name: sealane-broker}
  ports: [{port: 4222, nodePort: %d}]
`

// installAgent installs the agent chart, or upgrades it.
func (f *federation) installAgent(t testing.TB, c *lab.Cluster, more ...string) {
	t.Helper()
	name, tag, _ := cutLast(f.runs.images["sealane-agent"].ref, ":")
	if c == berlin || f.runs.dir != root { // the other one finds it
		more = append(more, "--set", fmt.Sprintf("advertise={%s:%d}", c.IP, linkPort))
	}
	if out, err := c.Helm(t.Context(), append([]string{
		"upgrade", "--install", "sealane-agent", f.runs.chart("agent"), "--namespace", system,
		"--set", "image.repository=" + name, "--set-string", "image.tag=" + tag, "--set", "image.pullPolicy=Never",
		"--set", "name=" + c.Name, "--set", "hub=" + hubAddress(),
		"--set", "credentialNamespaces={" + applications + "}",
		"--set", "broker.linkService.type=NodePort", "--set", fmt.Sprintf("broker.linkService.nodePort=%d", linkPort),
		"--set", "broker.volume.size=1Gi",
	}, more...)...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
