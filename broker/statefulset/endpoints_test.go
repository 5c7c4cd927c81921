package statefulset

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealane/sealane/broker/statefulset/kube"
)

// TestNodePort: peers are told the port of the nodes that servers are on, in one
// order, and nothing is forgotten while a pod, or the agent, is away.
func TestNodePort(t *testing.T) {
	api := &fakeAPI{objects: map[string]map[string]any{}}
	s := httptest.NewServer(api)
	defer s.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "broker.yaml")
	template := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start := func() *Cluster {
		t.Helper()
		c, err := NewCluster(ClusterOptions{
			Client:    &kube.Client{Base: s.URL, HTTP: s.Client(), Manager: "m"},
			Namespace: "ns", Member: "tokyo", Domain: "cluster.local", TemplateFile: file, ReachFile: filepath.Join(dir, "reach.json"),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Recall(t.Context()); err != nil {
			t.Error(err)
		}
		return c
	}
	apply := func(c *Cluster, n int) {
		t.Helper()
		if err := c.Apply(t.Context(), n, nil); err != nil {
			t.Fatal(err)
		}
	}
	endpoints := func(what string, c *Cluster, want ...string) {
		t.Helper()
		if _, err := c.Servers(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, c.Endpoints()); d != "" {
			t.Errorf("%s: %s", what, d)
		}
	}
	pod := func(n, host string) {
		api.objects["/api/v1/namespaces/ns/pods/sealane-broker-"+n] = map[string]any{"status": map[string]any{"hostIP": host}}
	}

	template("image: one\nlinkService: {type: NodePort, nodePort: 30422}\n")
	c := start()
	endpoints("before anything", c)
	apply(c, 3)
	endpoints("before a pod has a node", c)
	pod("0", "192.0.2.2")
	pod("1", "2001:db8::1")
	pod("2", "192.0.2.2")
	endpoints("two servers on one node", c, "192.0.2.2:30422", "[2001:db8::1]:30422")
	pod("1", "") // made anew, and not on a node yet
	delete(api.objects, "/api/v1/namespaces/ns/pods/sealane-broker-0")
	endpoints("pods are away", c, "192.0.2.2:30422", "[2001:db8::1]:30422")

	c = start()
	if d := cmp.Diff([]string{"192.0.2.2:30422", "[2001:db8::1]:30422"}, c.Endpoints()); d != "" {
		t.Errorf("the agent has come back: %s", d)
	}
	pod("1", "192.0.2.1")
	endpoints("a server is elsewhere", c, "192.0.2.1:30422", "192.0.2.2:30422")
	pod("0", "192.0.2.2")
	apply(c, 1)
	endpoints("one server is left", c, "192.0.2.2:30422")

	// The API server chooses a port that is not said.
	template("image: one\nlinkService: {type: NodePort}\n")
	apply(c, 1)
	endpoints("no port chosen yet", c)
	api.choose = func(o map[string]any) {
		o["spec"].(map[string]any)["ports"].([]any)[0].(map[string]any)["nodePort"] = 31999
	}
	apply(c, 1)
	endpoints("a port is chosen", c, "192.0.2.2:31999")

	template("image: one\nlinkService: {type: ClusterIP}\n")
	apply(c, 1)
	endpoints("only inside", c)
	template("image: one\nlinkService: {type: NodePort}\n")
	apply(c, 1)
	if err := os.Remove(filepath.Join(dir, "reach.json")); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"192.0.2.2:31999"}, start().Endpoints()); d != "" {
		t.Errorf("an agent that kept nothing, beside servers that run: %s", d)
	}
}
