//go:build e2e

package kind

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/e2e/kind/lab"
)

// restFor is how long processor time is measured at least.
const restFor = 30 * time.Second

// container is what the kubelet says of a pod's only container.
type container struct {
	CPU struct {
		Time                 time.Time
		UsageCoreNanoSeconds uint64
	}
	Memory struct{ WorkingSetBytes, RSSBytes uint64 }
}

// rest prints what pods take while nobody sends anything, against what their
// charts request, and scrapes what they tell of themselves as Prometheus would.
func rest(t *testing.T, _ *federation, _ plan) {
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "pod\tworking set\trequested\tprocessor\trequested")
	clusters := []*lab.Cluster{hub, berlin, tokyo}
	first := map[*lab.Cluster]map[string]container{}
	for _, c := range clusters {
		first[c] = containers(t, c)
	}
	for _, c := range clusters {
		requested, before := requests(t, c), first[c]
		var after map[string]container
		// Go gives back what the load before has left within some minutes.
		eventually(t, 5*time.Minute, "the pods of "+c.Name+" take no more than their charts request", func() error {
			after = containers(t, c)
			for pod, r := range requested {
				b, a := before[pod].CPU, after[pod].CPU
				if a.Time.Sub(b.Time) < restFor || b.UsageCoreNanoSeconds == 0 {
					if b.UsageCoreNanoSeconds == 0 {
						before[pod] = after[pod] // it was not measured yet
					}
					return fmt.Errorf("the kubelet measured %s from %v to %v only", pod, b.Time, a.Time)
				}
				if m := after[pod].Memory.WorkingSetBytes; m > uint64(r.Memory().Value()) {
					return fmt.Errorf("%s takes %d MiB", pod, m>>20)
				}
			}
			return nil
		})
		for _, pod := range slices.Sorted(maps.Keys(requested)) {
			b, a := before[pod].CPU, after[pod].CPU
			used := float64(a.UsageCoreNanoSeconds-b.UsageCoreNanoSeconds) / float64(a.Time.Sub(b.Time))
			r := requested[pod]
			fmt.Fprintf(w, "%s/%s\t%d MiB (anonymous: %d)\t%d MiB\t%.0f m\t%d m\n", c.Name, pod, after[pod].Memory.WorkingSetBytes>>20, after[pod].Memory.RSSBytes>>20,
				r.Memory().Value()>>20, used*1000, r.Cpu().MilliValue())
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Logf("at rest:\n%s", table.String())
	for _, s := range []struct {
		cluster         *lab.Cluster
		service, series string
	}{
		{hub, "sealane-hub-metrics", "sealane_hub_connected_members"},
		{berlin, "sealane-agent", "sealane_agent_broker_servers"},
		{tokyo, "sealane-agent", "sealane_agent_link_up"},
	} {
		eventually(t, time.Minute, s.service+" of "+s.cluster.Name+" is scraped", func() error {
			out, err := s.cluster.Kubectl(t.Context(), nil, "get", "--raw", "/api/v1/namespaces/"+system+"/services/"+s.service+":metrics/proxy/metrics")
			if err == nil && !strings.Contains(out, "\n"+s.series) {
				err = fmt.Errorf("no %s in %d bytes of metrics", s.series, len(out))
			}
			return err
		})
	}
}

// requests are those of all pods of the releases in a cluster, by name.
func requests(t testing.TB, c *lab.Cluster) map[string]corev1.ResourceList {
	t.Helper()
	var pods corev1.PodList
	if err := clientOf(t, c).List(t.Context(), &pods, client.InNamespace(system)); err != nil {
		t.Fatal(err)
	}
	all := map[string]corev1.ResourceList{}
	for _, p := range pods.Items {
		all[p.Name] = p.Spec.Containers[0].Resources.Requests
	}
	return all
}

// containers are the kubelet's figures of all pods of the releases, by name.
func containers(t testing.TB, c *lab.Cluster) map[string]container {
	t.Helper()
	var summary struct {
		Pods []struct {
			PodRef     struct{ Name, Namespace string }
			Containers []container
		}
	}
	raw := kubectl(t, c, "get", "--raw", "/api/v1/nodes/"+c.Node()+"/proxy/stats/summary")
	if err := json.Unmarshal([]byte(raw), &summary); err != nil {
		t.Fatal(err)
	}
	all := map[string]container{}
	for _, p := range summary.Pods {
		if p.PodRef.Namespace == system && len(p.Containers) == 1 {
			all[p.PodRef.Name] = p.Containers[0]
		}
	}
	return all
}
