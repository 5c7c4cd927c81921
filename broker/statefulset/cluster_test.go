package statefulset

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/sealane/sealane/broker/statefulset/kube"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// render is all objects of a member, as YAML. That Kubernetes knows all their fields
// is tested where its types may be used, at the top of the module.
func render(t *testing.T, m *objectMaker, replicas int) string {
	t.Helper()
	var out strings.Builder
	for _, o := range []kube.Object{
		m.secret([]byte("boot")), m.podsService(), m.clientService(), m.linkService(), m.disruptionBudget(), m.statefulSet(replicas),
	} {
		j, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		var plain any
		if err := json.Unmarshal(j, &plain); err != nil {
			t.Fatal(err)
		}
		y, err := yaml.Marshal(plain)
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString("---\n" + string(y))
	}
	return out.String()
}

func TestObjects(t *testing.T) {
	class := "fast"
	for _, tt := range []struct {
		name     string
		template string
		maker    objectMaker
		replicas int
	}{
		{"defaults", "image: registry/agent:1\n", objectMaker{}, 1},
		{"everything", `image: registry/agent:1
imagePullPolicy: Always
imagePullSecrets: [{name: pull}]
labels: {team: a, app.kubernetes.io/name: not-this}
annotations: {note: x}
resources: {requests: {cpu: 100m, memory: 128Mi}, limits: {memory: 2Gi}}
volume: {size: 50Gi, storageClass: fast, whenDeleted: Delete, whenScaled: Delete}
nodeSelector: {disk: ssd}
tolerations: [{key: messaging, operator: Exists}]
topologySpreadConstraints:
- maxSkew: 1
  topologyKey: topology.kubernetes.io/zone
  whenUnsatisfiable: ScheduleAnyway
  labelSelector: {matchLabels: {app.kubernetes.io/name: sealane-broker}}
antiAffinity: Required
priorityClassName: high
terminationGracePeriodSeconds: 90
clientService: {type: NodePort, annotations: {a: b}, hostNames: [nats.example.com]}
linkService: {type: LoadBalancer, port: 443, nodePort: 30422, annotations: {lb: internal}, loadBalancerClass: x/y,
  loadBalancerSourceRanges: [10.0.0.0/8], externalTrafficPolicy: Local}
logLevel: debug
`, objectMaker{owner: kube.Object{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "agent", "uid": "u"}}, 3},
		{"claims-stay", "image: i\nvolume: {size: 20Gi}\nantiAffinity: None\n", objectMaker{claim: &claim{size: "10Gi", storageClass: &class}}, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := tt.maker
			m.namespace, m.member = "messaging", "tokyo"
			var err error
			if m.t, err = parseTemplate([]byte(tt.template)); err != nil {
				t.Fatal(err)
			}
			got := render(t, &m, tt.replicas)
			path := filepath.Join("testdata", tt.name+".yaml")
			if *update {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("(-want +got; -update rewrites)\n%s", d)
			}
		})
	}
}

func TestTemplateIsChecked(t *testing.T) {
	for in, want := range map[string]string{
		"":                                       "image is missing",
		"image: x\nimag: y":                      `unknown field "imag"`,
		"image: x\nantiAffinity: Maybe":          "antiAffinity",
		"image: x\nlinkService: {type: Ingress}": "linkService.type",
		"image: x\nvolume: {whenScaled: Burn}":   "volume.whenScaled",
		"image: [":                               "yaml",
	} {
		if _, err := parseTemplate([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want one that says %s", in, err, want)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	f.Add([]byte("image: x\nvolume: {size: 1Gi}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		tpl, err := parseTemplate(b)
		if err != nil {
			return
		}
		m := &objectMaker{namespace: "n", member: "m", t: tpl}
		if _, err := json.Marshal(m.statefulSet(1)); err != nil {
			t.Error(err)
		}
	})
}

// fakeAPI is as much of an API server as is asked of.
type fakeAPI struct {
	mu      sync.Mutex
	objects map[string]map[string]any
	calls   []string
	// choose completes the link Service; nil: it stays as it was applied.
	choose func(map[string]any)
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	path := r.URL.Path
	f.calls = append(f.calls, r.Method+" "+path)
	have := f.objects[path]
	switch r.Method {
	case http.MethodPatch:
		var o map[string]any
		b, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(b, &o); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if have == nil || strings.HasPrefix(r.Header.Get("Content-Type"), "application/apply") {
			f.objects[path] = o
			if f.choose != nil && strings.HasSuffix(path, "/services/"+linksName) {
				f.choose(o)
			}
		}
	case http.MethodDelete, http.MethodGet:
		if have == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		if r.Method == http.MethodDelete {
			delete(f.objects, path)
		}
	}
	_ = json.NewEncoder(w).Encode(f.objects[path])
}

func TestCluster(t *testing.T) {
	api := &fakeAPI{objects: map[string]map[string]any{
		"/apis/apps/v1/namespaces/ns/statefulsets/agent": {"metadata": map[string]any{"uid": "u1"}},
	}}
	s := httptest.NewServer(api)
	defer s.Close()
	file := filepath.Join(t.TempDir(), "broker.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("image: one\nlinkService: {type: LoadBalancer}\n")
	c, err := NewCluster(ClusterOptions{
		Client:    &kube.Client{Base: s.URL, HTTP: s.Client(), Manager: "m"},
		Namespace: "ns", Member: "tokyo", Domain: "cluster.local", Owner: "agent", TemplateFile: file,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if l, err := c.Servers(ctx); err != nil || len(l) != 0 {
		t.Errorf("servers before any: %v %v", l, err)
	}
	if err := c.Apply(ctx, 2, []byte("boot")); err != nil {
		t.Fatal(err)
	}
	set := "/apis/apps/v1/namespaces/ns/statefulsets/sealane-broker"
	pods := "/api/v1/namespaces/ns/pods/sealane-broker-"
	if api.objects[set] == nil || api.objects["/api/v1/namespaces/ns/secrets/sealane.broker"] == nil {
		t.Fatalf("objects: %v", api.calls)
	}
	api.objects[set]["metadata"].(map[string]any)["generation"] = 2
	api.objects[set]["status"] = map[string]any{"observedGeneration": 2, "updateRevision": "r2"}
	pod := func(revision string) map[string]any {
		return map[string]any{"metadata": map[string]any{"labels": map[string]any{"controller-revision-hash": revision}}}
	}
	api.objects[pods+"0"] = pod("r1")
	api.objects[pods+"1"] = pod("r2")
	api.objects[pods+"1"]["status"] = map[string]any{"podIP": "192.0.2.7", "containerStatuses": []any{map[string]any{
		"state": map[string]any{"waiting": map[string]any{"reason": "ImagePullBackOff"}},
	}}}
	got, err := c.Servers(ctx)
	want := []Server{{Exists: true, Outdated: true}, {Exists: true, Message: "ImagePullBackOff"}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("servers: %v %s", err, d)
	}
	if at := c.Resolve(c.Address(1).Control); at != "192.0.2.7:7521" || c.Resolve(c.Address(0).Client) != c.Address(0).Client {
		t.Errorf("server 1 is at %s", at)
	}
	if err := c.Replace(ctx, 0); err != nil || api.objects[pods+"0"] != nil {
		t.Errorf("replace: %v", err)
	}

	links := "/api/v1/namespaces/ns/services/sealane-links"
	api.objects[links]["status"] = map[string]any{"loadBalancer": map[string]any{"ingress": []any{map[string]any{"ip": "192.0.2.1"}, map[string]any{"hostname": "lb.example.com"}}}}
	if err := c.findEndpoints(ctx, c.current(), 2); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"192.0.2.1:7422", "lb.example.com:7422"}, c.Endpoints()); d != "" {
		t.Error(d)
	}
	// A template that cannot be used changes nothing; one without links takes the
	// Service away.
	write("imag: two")
	if err := c.Apply(ctx, 2, nil); err != nil || c.current().Image != "one" {
		t.Errorf("a broken template: %v, %s", err, c.current().Image)
	}
	write("image: two\nlinkService: {enabled: false}\n")
	if err := c.Apply(ctx, 2, nil); err != nil || api.objects[links] != nil || c.LinkPort() != 0 {
		t.Errorf("no links: %v %v", err, api.objects[links])
	}
	// What is asked is what docs/adr/0013 lists as rights.
	allowed := []string{
		"GET /apis/apps/v1/namespaces/ns/statefulsets/agent", "GET " + set, "PATCH " + set,
		"PATCH /api/v1/namespaces/ns/secrets/sealane.broker",
		"PATCH /api/v1/namespaces/ns/services/sealane-broker", "PATCH /api/v1/namespaces/ns/services/sealane-broker-pods",
		"PATCH " + links, "GET " + links, "DELETE " + links,
		"PATCH /apis/policy/v1/namespaces/ns/poddisruptionbudgets/sealane-broker",
		"GET " + pods + "0", "GET " + pods + "1", "DELETE " + pods + "0",
		"GET /api/v1/namespaces/ns/persistentvolumeclaims/data-sealane-broker-0", "GET /api/v1/namespaces/ns/persistentvolumeclaims/data-sealane-broker-1",
	}
	for _, call := range api.calls {
		if !slices.Contains(allowed, call) {
			t.Errorf("asked the API server: %s", call)
		}
	}
	if _, err := NewCluster(ClusterOptions{}); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("no options: %v", err)
	}
}
