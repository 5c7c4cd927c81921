package hub

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/hub/apiserver/apiservertest"
	"github.com/sealane/sealane/topology"
)

// serveLeases makes the test's API server, which has no kinds of Kubernetes' own,
// serve Leases as far as an election needs them.
func serveLeases(t *testing.T, c client.Client) {
	t.Helper()
	anything := map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
	crd := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{
			"name":        "leases.coordination.k8s.io",
			"annotations": map[string]any{"api-approved.kubernetes.io": "unapproved, for tests"},
		},
		"spec": map[string]any{
			"group": "coordination.k8s.io", "scope": "Namespaced",
			"names": map[string]any{"plural": "leases", "singular": "lease", "kind": "Lease", "listKind": "LeaseList"},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true, "schema": map[string]any{"openAPIV3Schema": anything},
			}},
		},
	}}
	if err := c.Create(t.Context(), crd); err != nil {
		t.Fatal(err)
	}
	eventually(t, "leases are served", func() bool {
		l := &unstructured.UnstructuredList{}
		l.SetAPIVersion("coordination.k8s.io/v1")
		l.SetKind("LeaseList")
		return c.List(t.Context(), l, client.InNamespace("default")) == nil
	})
}

// robot is an agent that does whatever it is told, at any replica.
type robot struct {
	t    *testing.T
	name string
	cert tls.Certificate

	mu   sync.Mutex
	held map[string]string
	// sessions that were welcomed, and how the last one ended.
	sessions int
	ended    error
}

func (r *robot) has(part string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held[part] != ""
}

// session is one session at a hub; it is over when it returns.
func (r *robot) session(ctx context.Context, h *testHub) error {
	conn, err := grpc.NewClient("passthrough:///"+h.addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: h.authority.pool(), ServerName: "localhost", Certificates: []tls.Certificate{r.cert}, MinVersion: tls.VersionTLS13,
	})))
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := federationv1.NewFederationClient(conn).Sync(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	hi := hello(federationv1.StateHash(r.held))
	r.mu.Unlock()
	hi.Agent.Runtime = "embedded"
	hi.Facts = &federationv1.Facts{LinkKey: "U" + keyBody(strings.ToUpper(r.name[len(r.name)-4:])[0]), Endpoints: []string{r.name + ":7422"}, Storage: 1 << 40, Memory: 1 << 40}
	report := &federationv1.Report{}
	for first := true; ; first = false {
		msg := &federationv1.AgentMessage{Body: &federationv1.AgentMessage_Report{Report: report}}
		if first {
			msg = &federationv1.AgentMessage{Body: &federationv1.AgentMessage_Hello{Hello: hi}}
		}
		if err := stream.Send(msg); err != nil {
			_, err = stream.Recv()
			return err
		}
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		r.mu.Lock()
		report = &federationv1.Report{}
		if u := m.GetUpdate(); u != nil {
			report = done(u)
			r.held = apply(&topology.MemberProgress{Held: r.held}, u.Upserts, u.Removals)
			for _, p := range u.Upserts {
				if l := p.GetLink(); l != nil {
					if l.Role == federationv1.LinkSpec_ACCEPT {
						report.Grants = append(report.Grants, &federationv1.Grant{Peer: l.Peer, Key: l.PeerKey, Out: "a.b.c", In: "d.e.f"})
					}
					report.Links = append(report.Links, &federationv1.LinkHealth{Peer: l.Peer, State: federationv1.Health_UP, Since: 1})
				}
			}
		} else if w := m.GetWelcome(); w != nil {
			r.sessions++
			for id := range r.held {
				if peer := federationv1.IDPeer(id); strings.HasPrefix(id, "link/") {
					report.Links = append(report.Links, &federationv1.LinkHealth{Peer: peer, State: federationv1.Health_UP, Since: 1})
				}
			}
		}
		report.HeldHash = federationv1.StateHash(r.held)
		inventory := &federationv1.Inventory{HeldHash: report.HeldHash}
		for id, hash := range r.held {
			inventory.Parts = append(inventory.Parts, &federationv1.HeldPart{Id: id, Hash: hash})
		}
		r.mu.Unlock()
		if m.GetWelcome().GetWantInventory() {
			if err := stream.Send(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Inventory{Inventory: inventory}}); err != nil {
				return err
			}
		}
	}
}

// run opens sessions at whichever hub it is told of, as long as ctx.
func (r *robot) run(ctx context.Context, at func() *testHub) {
	for ctx.Err() == nil {
		err := r.session(ctx, at())
		r.mu.Lock()
		r.ended = err
		r.mu.Unlock()
		pause(ctx, 50*time.Millisecond)
	}
}

// TestReplicas runs two hubs on one API server: both admit members, each has an
// agent, and what they hold is brought about in the right order across both.
// Then the leader goes.
func TestReplicas(t *testing.T) {
	kubeconfig := apiservertest.Kubeconfig(t)
	c := clientOf(t, kubeconfig)
	serveLeases(t, c)
	leaseName := unique("hub")
	pki := t.TempDir()
	authority, err := OpenAuthority(filepath.Join(pki, "pki"), "test.local")
	if err != nil {
		t.Fatal(err)
	}
	start := func() (*testHub, Addresses, func() error) {
		dir := t.TempDir()
		if err := os.CopyFS(filepath.Join(dir, "pki"), os.DirFS(filepath.Join(pki, "pki"))); err != nil {
			t.Fatal(err)
		}
		where, stop := runHub(t, Options{
			Kubeconfig: kubeconfig, SkipCRDs: true, DataDir: dir, TrustDomain: "test.local", MetricsListen: "127.0.0.1:0",
			Lease: leaseName, Namespace: "default", ReplicaHost: "127.0.0.1", Advertise: "hub.example.com:7443", Epoch: 3,
		})
		return &testHub{authority: authority, client: c, addr: where.Agents}, where, stop
	}
	leader, leaderAt, stopLeader := start()
	standby, standbyAt, _ := start()
	says := func(at Addresses, what string) bool {
		_, body := get(t, "http://"+at.Metrics+"/metrics")
		return strings.Contains(body, what)
	}
	if !says(leaderAt, "sealane_hub_leader 1") || !says(standbyAt, "sealane_hub_leader 0") {
		t.Error("the metrics do not say who leads")
	}
	for _, at := range []Addresses{leaderAt, standbyAt} {
		if code, body := get(t, "http://"+at.Metrics+"/readyz"); code != 200 {
			t.Errorf("not ready: %s", body)
		}
	}

	// Both count the uses of one token together.
	label := unique("fleet")
	token := leader.newToken(t, func(j *v1alpha1.JoinToken) { j.Spec.MaxUses = 3 })
	codesSeen := make(chan codes.Code, 10)
	var joining sync.WaitGroup
	for i := range cap(codesSeen) {
		joining.Go(func() {
			h := []*testHub{leader, standby}[i%2]
			_, err := h.enrol(t, token.String(), fmt.Sprintf("%s-%d", label, i), request(t, newKey(t)))
			codesSeen <- status.Code(err)
		})
	}
	joining.Wait()
	count := map[codes.Code]int{}
	for range cap(codesSeen) {
		count[<-codesSeen]++
	}
	if count[codes.OK] != 3 || count[codes.Unauthenticated] != 7 || leader.token(t, token.Name).Status.Uses != 3 {
		t.Errorf("a token of 3 uses at two hubs: %v", count)
	}

	// One member at each.
	east, west := label+"-east", label+"-west"
	robots := map[string]*robot{
		east: {t: t, name: east, cert: leader.join(t, east), held: map[string]string{}},
		west: {t: t, name: west, cert: standby.join(t, west), held: map[string]string{}},
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var mu sync.Mutex
	at := map[string]*testHub{east: leader, west: standby}
	for name, r := range robots {
		running.Go(func() {
			r.run(ctx, func() *testHub { mu.Lock(); defer mu.Unlock(); return at[name] })
		})
	}
	top := &v1alpha1.MessagingTopology{ObjectMeta: metav1.ObjectMeta{Name: label}, Spec: v1alpha1.MessagingTopologySpec{
		Groups:   []v1alpha1.Group{{Name: "all", Clusters: []string{east, west}}},
		Links:    []v1alpha1.LinkRule{{Name: "mesh", Type: v1alpha1.LinkMesh, Groups: []string{"all"}}},
		Accounts: []v1alpha1.Account{{Name: "orders", Namespaces: []string{"*"}}},
	}}
	if err := c.Create(t.Context(), top); err != nil {
		t.Fatal(err)
	}
	ready := func() bool {
		var now v1alpha1.MessagingTopology
		if err := c.Get(t.Context(), keyOf(label), &now); err != nil {
			return false
		}
		cond := meta.FindStatusCondition(now.Status.Conditions, v1alpha1.ConditionReady)
		return cond != nil && cond.Status == metav1.ConditionTrue && cond.ObservedGeneration == now.Generation
	}
	eventuallyLong(t, "the topology is ready across both hubs", ready)
	if !says(standbyAt, "sealane_hub_relayed_sessions 1") {
		t.Error("the standby passes no session on")
	}
	if !robots[east].has("link/"+west) || !robots[west].has("link/"+east) {
		t.Error("links are missing")
	}

	// A member that is removed is cut off at the standby as well.
	gone := label + "-gone"
	g := &robot{t: t, name: gone, cert: standby.join(t, gone), held: map[string]string{}}
	running.Go(func() { g.run(ctx, func() *testHub { return standby }) })
	eventuallyLong(t, "its session", func() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.sessions > 0 })
	remove(t, c, gone)
	eventuallyLong(t, "the end of its session", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return status.Code(g.ended) == codes.PermissionDenied
	})

	// The leader goes: the other one leads, and has both.
	if err := stopLeader(); err != nil {
		t.Errorf("stop: %v", err)
	}
	mu.Lock()
	at[east] = standby
	mu.Unlock()
	eventuallyLong(t, "the standby leads", func() bool { return says(standbyAt, "sealane_hub_leader 1") })
	if err := c.Get(t.Context(), keyOf(label), top); err != nil {
		t.Fatal(err)
	}
	top.Spec.Accounts = append(top.Spec.Accounts, v1alpha1.Account{Name: "parcels", Namespaces: []string{"*"}})
	if err := c.Update(t.Context(), top); err != nil {
		t.Fatal(err)
	}
	eventuallyLong(t, "the change is everywhere", func() bool {
		return robots[east].has("account/parcels") && robots[west].has("account/parcels") && ready()
	})
	if err := c.Delete(t.Context(), top); err != nil {
		t.Fatal(err)
	}
}

// eventuallyLong is for what waits for a lease.
func eventuallyLong(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 9 {
		if poll(ok) {
			return
		}
	}
	t.Fatalf("not in time: %s", what)
}

// TestRelayedCertificates: a replica may speak for members only with their
// certificates, and members cannot play the replica.
func TestRelayedCertificates(t *testing.T) {
	h := newTestHub(t)
	h.fleet.Publish(plan())
	member := h.join(t, unique("m"))
	replica, err := h.authority.replica()()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := newAuthority(t).replica()()
	if err != nil {
		t.Fatal(err)
	}
	call := func(cert tls.Certificate, members ...*x509.Certificate) error {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var pairs []string
		for _, c := range members {
			pairs = append(pairs, memberHeader, string(c.Raw), fromHeader, "192.0.2.1:1")
		}
		stream, err := federationv1.NewFederationClient(h.dial(t, cert)).Sync(metadata.AppendToOutgoingContext(ctx, pairs...))
		if err != nil {
			return err
		}
		_ = stream.Send(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Hello{Hello: hello(federationv1.EmptyHash)}})
		_, err = stream.Recv()
		return err
	}
	if err := call(*replica, member.Leaf); err != nil {
		t.Errorf("a replica cannot pass on a session: %v", err)
	}
	wantStatus(t, call(*replica), codes.Unauthenticated, "for no member")
	wantStatus(t, call(*replica, member.Leaf, member.Leaf), codes.Unauthenticated, "for no member")
	wantStatus(t, call(*replica, replica.Leaf), codes.Unauthenticated, "no member of trust domain")
	wantStatus(t, call(*replica, foreign.Leaf), codes.Unauthenticated, "the certificate of the member")
	wantStatus(t, call(*foreign, member.Leaf), codes.Unavailable, "") // at TLS
	other := h.join(t, unique("m"))
	if err := call(other, member.Leaf); err != nil {
		t.Errorf("a member's own session: %v", err)
	}
	h.fleet.mu.RLock()
	defer h.fleet.mu.RUnlock()
	for name := range maps.Keys(h.fleet.members) {
		if !slices.Contains([]string{member.Leaf.Subject.CommonName, other.Leaf.Subject.CommonName}, name) {
			t.Errorf("a session of %s", name)
		}
	}
}

func TestReplicaOptions(t *testing.T) {
	for want, o := range map[string]Options{
		"--embedded excludes": {Embedded: true, Lease: "x"},
		"--namespace":         {Lease: "x", ReplicaHost: "127.0.0.1"},
		"--replica-host":      {Lease: "x", Namespace: "default"},
	} {
		o.DataDir = t.TempDir()
		if err := o.complete(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}
