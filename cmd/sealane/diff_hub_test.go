package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/cmd/sealane/hubapi"
	"github.com/sealane/sealane/hub/apiserver/apiservertest"
	"github.com/sealane/sealane/topology"
)

// reader returns the kubeconfig of a user who may do everything at the shared API
// server but list a resource. That server knows all rights or none, so what stands
// before it refuses, in the words of RBAC.
func reader(t *testing.T, not string) string {
	t.Helper()
	cfg := apiservertest.Start(t)
	target, err := url.Parse(cfg.Host)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	pass := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/"+not) {
			pass.ServeHTTP(w, r)
			return
		}
		no := apierrors.NewForbidden(schema.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: not}, "",
			fmt.Errorf("User \"reader\" cannot list resource %q in API group %q at the cluster scope", not, v1alpha1.GroupVersion.Group))
		body := no.Status()
		body.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(body)
	}))
	t.Cleanup(front.Close)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:  map[string]*clientcmdapi.Cluster{"hub": {Server: front.URL}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"reader": {}},
		Contexts:  map[string]*clientcmdapi.Context{"hub": {Cluster: "hub", AuthInfo: "reader"}}, CurrentContext: "hub",
	}, file); err != nil {
		t.Fatal(err)
	}
	return file
}

// waves is a topology on the shared API server of which a rollout keeps one revision
// while its objects say another.
type waves struct {
	t *testing.T
	h *hubapi.Hub
	// was and says are the plans of the revision before and of what the objects say.
	was, says *topology.Plan
	// before and now name them.
	before, now string
}

func newWaves(t *testing.T) *waves {
	t.Helper()
	w := &waves{t: t, h: hub(t)}
	file := filepath.Join(t.TempDir(), "fleet.yaml")
	fleet := strings.Replace(strings.TrimSuffix(fleetYAML(6, 0), "---\n"), "  accounts:", "  rollout: {size: 1}\n  accounts:", 1)
	if err := os.WriteFile(file, []byte(fleet), 0o600); err != nil {
		t.Fatal(err)
	}
	load(t, w.h, file)
	var content []byte
	w.was, w.before, content = w.revision()
	r := &v1alpha1.TopologyRevision{ObjectMeta: metav1.ObjectMeta{Name: w.before}, Spec: v1alpha1.TopologyRevisionSpec{
		Topology: "world", Number: 1, Hash: "0a", Content: content,
	}}
	if err := w.h.Create(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.h.Delete(context.Background(), r); err != nil {
			t.Error(err)
		}
	})
	log := &v1alpha1.Stream{}
	if err := w.h.Get(t.Context(), client.ObjectKey{Namespace: "apps", Name: "log"}, log); err != nil {
		t.Fatal(err)
	}
	log.Spec.Subjects = append(log.Spec.Subjects, "audit.>")
	if err := w.h.Update(t.Context(), log); err != nil {
		t.Fatal(err)
	}
	w.says, w.now, _ = w.revision()
	return w
}

// revision compiles what the objects say, and names it.
func (w *waves) revision() (*topology.Plan, string, []byte) {
	w.t.Helper()
	s, err := w.h.Snapshot(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	in := s.Input()
	c := topology.ContentOf(in, in.Topologies[0])
	hash, err := c.Hash()
	if err != nil {
		w.t.Fatal(err)
	}
	data, err := c.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	return topology.Compile(in), topology.RevisionName("world", hash), data
}

// rollout plays the hub's part.
func (w *waves) rollout(state v1alpha1.RolloutState, through string) {
	w.t.Helper()
	world := &v1alpha1.MessagingTopology{}
	if err := w.h.Get(w.t.Context(), client.ObjectKey{Name: "world"}, world); err != nil {
		w.t.Fatal(err)
	}
	st := &v1alpha1.RolloutStatus{State: state, Current: w.before, Target: w.now, Wave: 1, Attempt: 1, Message: "edge-000 failed"}
	if state == v1alpha1.RolloutComplete {
		st = &v1alpha1.RolloutStatus{State: state, Current: w.now}
	}
	if through != "" {
		st.Through = &v1alpha1.RolloutPosition{Member: through}
	}
	world.Status.Rollout = st
	if err := w.h.Status().Update(w.t.Context(), world); err != nil {
		w.t.Fatal(err)
	}
}

// report plays the part of the members: each holds what a plan wants, and its links
// work but for those that are down.
func (w *waves) report(plan *topology.Plan, down ...string) {
	w.t.Helper()
	s, err := w.h.Snapshot(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range s.Members {
		m := &s.Members[i]
		state := plan.Members[m.Name]
		n := len(state.Parts)
		m.Status.DesiredHash, m.Status.HeldHash, m.Status.Parts = state.Hash, state.Hash, fmt.Sprintf("%d/%d", n, n)
		m.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionConnected, Status: "True", Reason: "Connected", LastTransitionTime: metav1.Now()}}
		m.Status.Links = nil
		for _, l := range plan.Links {
			for _, end := range [][3]string{{l.Dialer, l.Acceptor, "Dial"}, {l.Acceptor, l.Dialer, "Accept"}} {
				if end[0] != m.Name {
					continue
				}
				st := v1alpha1.LinkStatus{Peer: end[1], Role: end[2], State: v1alpha1.LinkUp, Since: metav1.Now()}
				if slices.Contains(down, m.Name) {
					st.State = v1alpha1.LinkDown
				}
				m.Status.Links = append(m.Status.Links, st)
			}
		}
		if err := w.h.Status().Update(w.t.Context(), m); err != nil {
			w.t.Fatal(err)
		}
	}
}

// hold has members report what another plan wants.
func (w *waves) hold(p *topology.Plan, members ...string) {
	w.t.Helper()
	for _, name := range members {
		m := &v1alpha1.MemberCluster{}
		if err := w.h.Get(w.t.Context(), client.ObjectKey{Name: name}, m); err != nil {
			w.t.Fatal(err)
		}
		m.Status.HeldHash = p.Members[name].Hash
		if err := w.h.Status().Update(w.t.Context(), m); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *waves) diff(args ...string) (int, diffReport, string) {
	w.t.Helper()
	code, text, stderr := call(w.t, append([]string{"diff"}, args...)...)
	asJSON, stdout, _ := call(w.t, append([]string{"diff", "-o", "json"}, args...)...)
	var r diffReport
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || code != asJSON {
		w.t.Fatalf("status %d and %d, %v\n%s%s", code, asJSON, err, text, stderr)
	}
	return code, r, text + stderr
}

// logYAML is the stream of waves, as it was.
const logYAML = "apiVersion: messaging.sealane.dev/v1alpha1\nkind: Stream\nmetadata: {name: log, namespace: apps}\nspec: {account: orders, name: LOG, placement: {group: edges}, subjects: [\"log.>\"]}\n"

// TestDiffOfARollout: members are compared with the revision in effect; who may not
// read it is told what that leaves open, and of the rest everything.
func TestDiffOfARollout(t *testing.T) {
	w := newWaves(t)
	edges := []string{"edge-000", "edge-001", "edge-002"}
	all, some := os.Getenv("KUBECONFIG"), reader(t, "topologyrevisions")
	same := func(what string, args ...string) {
		t.Helper()
		if code, r, text := w.diff(args...); code != 0 || !r.Same || text != "" {
			t.Errorf("%s: status %d, %+v\n%s", what, code, r, text)
		}
	}

	w.rollout(v1alpha1.RolloutRolledBack, "")
	w.report(w.was)
	same("rolled back")
	t.Setenv("KUBECONFIG", some)
	code, r, text := w.diff()
	if u := r.Untold; code != diffUnknown || r.Same || len(r.Members) != 0 || u == nil || u.Reason != "Forbidden" || !slices.Equal(u.Members, edges) ||
		u.MissingRight == nil || *u.MissingRight != (diffRight{"list", v1alpha1.GroupVersion.Group, "topologyrevisions"}) ||
		len(u.Topologies) != 1 || u.Topologies[0] != (diffRevision{"world", "RolledBack", w.before, w.now}) {
		t.Errorf("without the right: status %d, %+v, %+v", code, r, u)
	}
	for _, want := range []string{"topology world", "RolledBack", "revision " + w.before + " is in effect", "may not list topologyrevisions." + v1alpha1.GroupVersion.Group, "edge-000, edge-001, edge-002"} {
		if !strings.Contains(text, want) {
			t.Errorf("without the right: no %q in\n%s", want, text)
		}
	}
	same("a member that the rollout does not concern", "region-0")
	if code, r, text = w.diff("edge-001"); code != diffUnknown || r.Untold == nil || !slices.Equal(r.Untold.Members, edges[1:2]) {
		t.Errorf("one member: status %d\n%s", code, text)
	}

	// What differs elsewhere, and what the members themselves say, shows beside that.
	w.report(w.was, "region-0", "edge-001")
	code, r, text = w.diff()
	if code != diffFound || r.Untold == nil || len(r.Members) != 2 || r.Members[0].Name != "edge-001" || r.Members[1].Name != "region-0" || !strings.Contains(text, "cannot be told") {
		t.Errorf("links are down: status %d\n%s", code, text)
	}
	t.Setenv("KUBECONFIG", all)
	if code, r, text = w.diff(); code != diffFound || r.Untold != nil || len(r.Members) != 2 {
		t.Errorf("links are down, with the right: status %d\n%s", code, text)
	}

	// On the way: the hub wants of all what the objects say. The first has it, the others
	// do not yet, which takes no right to see.
	w.rollout(v1alpha1.RolloutOverBudget, "edge-000")
	w.report(w.says)
	w.hold(w.was, edges[1:]...)
	for _, kubeconfig := range []string{all, some} {
		t.Setenv("KUBECONFIG", kubeconfig)
		code, r, text = w.diff()
		if code != diffFound || r.Untold != nil || len(r.Members) != 2 || r.Members[0].Name != "edge-001" || r.Members[1].Name != "edge-002" {
			t.Errorf("on the way: status %d\n%s", code, text)
			continue
		}
		for _, m := range r.Members {
			if len(m.Found) != 1 || m.Found[0].What != "state" {
				t.Errorf("on the way: %+v", m)
			}
		}
	}

	// Who may read revisions is told for which wave a member waits, and what that waits
	// for.
	t.Setenv("KUBECONFIG", all)
	for _, state := range []v1alpha1.RolloutState{
		v1alpha1.RolloutProgressing, v1alpha1.RolloutBaking, v1alpha1.RolloutAwaitingApproval, v1alpha1.RolloutPaused, v1alpha1.RolloutOverBudget,
	} {
		w.rollout(state, "edge-000")
		_, r, text = w.diff()
		if len(r.Members) != 2 {
			t.Fatalf("%s: %s", state, text)
		}
		for i, m := range r.Members {
			want := diffWave{"world", int32(2 + i), string(state), "edge-000 failed"}
			if f := m.Found[0]; f.Reason != v1alpha1.ReasonAwaitingWave || f.Rollout == nil || *f.Rollout != want || !strings.Contains(text, want.String()) {
				t.Errorf("%s: %+v of %+v\n%s", state, f.Rollout, m, text)
			}
		}
		_, plan := planOf(t, strings.Replace(logYAML, `"log.>"`, `"log.>", "audit.>"`, 1))
		if len(plan.Rollouts) != 1 || plan.Rollouts[0].NextWave != 2 || plan.Rollouts[0].State != string(state) || plan.Rollouts[0].Message != "edge-000 failed" {
			t.Errorf("%s: a plan says %+v", state, plan.Rollouts)
		}
	}

	// Where nothing is kept, nothing has to be read.
	w.rollout(v1alpha1.RolloutComplete, "")
	w.report(w.says)
	same("complete, without the right")

	t.Setenv("KUBECONFIG", reader(t, "streams"))
	if code, stdout, stderr := call(t, "diff"); code != diffUnknown || stdout != "" || !strings.Contains(stderr, `cannot list resource "streams"`) {
		t.Errorf("without streams: status %d\n%s%s", code, stdout, stderr)
	}
}

// TestPlanOfARolloutWithAHub: a plan begins with what the hub's rollout keeps, and
// says where it cannot.
func TestPlanOfARolloutWithAHub(t *testing.T) {
	w := newWaves(t)
	w.rollout(v1alpha1.RolloutRolledBack, "")
	_, r := planOf(t, logYAML)
	if len(r.Members) != 0 || len(r.Rollouts) != 1 {
		t.Fatalf("back to what is in effect: %d members change, %+v", len(r.Members), r.Rollouts)
	}
	o := r.Rollouts[0]
	if o.Topology != "world" || o.State != "RolledBack" || o.InEffect != w.before || o.ObjectsSay != w.now || !o.All || !o.Waves || o.Unknown || len(o.Members) != 6 {
		t.Errorf("%+v", o)
	}
	t.Setenv("KUBECONFIG", reader(t, "topologyrevisions"))
	if _, r = planOf(t, logYAML); len(r.Members) != 3 || len(r.Rollouts) != 1 || !r.Rollouts[0].Unknown {
		t.Errorf("without the right: %d members change, %+v", len(r.Members), r.Rollouts)
	}
}
