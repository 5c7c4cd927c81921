package hub

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/hub/apiserver/apiservertest"
	"github.com/sealane/sealane/topology"
)

// testHub is a hub without Reconciler: real gRPC, TLS and API server, and plans
// that tests publish themselves.
type testHub struct {
	fleet     *Fleet
	authority *Authority
	cluster   cluster.Cluster
	client    client.Client // not cached
	addr      string
	stop      func()
}

func newTestHub(t testing.TB) *testHub {
	t.Helper()
	cfg := apiservertest.Start(t)
	cfg.QPS = -1
	log := slog.New(slog.DiscardHandler)
	authority := newAuthority(t)
	h := &testHub{authority: authority, fleet: NewFleet(1, log)}
	o := Options{Log: log, TrustDomain: "test.local", ServerNames: []string{replicaName("test.local")}}
	parts := newStack(t.Context())
	t.Cleanup(func() {
		if err := parts.stop(); err != nil {
			t.Error(err)
		}
		noneLeft(t)
	})
	var err error
	if h.cluster, err = o.startCache(t.Context(), parts, cfg); err != nil {
		t.Fatal(err)
	}
	if h.client, err = client.New(cfg, client.Options{Scheme: h.cluster.GetScheme()}); err != nil {
		t.Fatal(err)
	}
	var where Addresses
	o.Listen = "127.0.0.1:0"
	l, err := o.listen(t.Context(), &where)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := o.startServer(t.Context(), parts, l, h.fleet, authority, nil, h.cluster, &where)
	if err != nil {
		t.Fatal(err)
	}
	parts.start("announcer", func(ctx context.Context) error { return tokens.run(ctx, h.cluster.GetCache()) })
	h.addr = where.Agents
	h.stop = func() {
		if err := parts.stop(); err != nil {
			t.Error(err)
		}
	}
	return h
}

// noneLeft fails if goroutines of this package outlive what they worked for. The
// API server in this process has many more of its own.
func noneLeft(t testing.TB) {
	t.Helper()
	var left []string
	ok := poll(func() bool {
		buf := make([]byte, 8<<20)
		buf = buf[:runtime.Stack(buf, true)]
		left = slices.DeleteFunc(strings.Split(string(buf), "\n\n"), func(g string) bool {
			return !strings.Contains(g, "sealane/hub.(*server)") && !strings.Contains(g, "sealane/hub.(*announcer)") && !strings.Contains(g, "sealane/hub.(*stack)")
		})
		return len(left) == 0
	})
	if !ok {
		t.Errorf("goroutines are left:\n%s", strings.Join(left, "\n\n"))
	}
}

// poll looks until ok or too late.
func poll(ok func() bool) bool {
	for deadline := time.Now().Add(30 * time.Second); ; {
		if ok() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(5 * time.Millisecond) //nolint:forbidigo // the pause between two looks
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !poll(ok) {
		t.Fatalf("not in time: %s", what)
	}
}

// unique makes a name that no other test on the shared API server has.
func unique(prefix string) string {
	return prefix + "-" + strings.ToLower(rand.Text()[:8])
}

func keyOf(name string) client.ObjectKey { return client.ObjectKey{Name: name} }

// newToken creates a JoinToken; change may edit it first. It returns its text.
func (h *testHub) newToken(t *testing.T, change func(*v1alpha1.JoinToken)) federationv1.JoinToken {
	t.Helper()
	token := federationv1.JoinToken{Name: unique("token"), Secret: make([]byte, 32)}
	_, _ = rand.Read(token.Secret)
	token.Authority = sha256.Sum256(h.authority.Certificate())
	r := &v1alpha1.JoinToken{
		ObjectMeta: metav1.ObjectMeta{Name: token.Name},
		Spec: v1alpha1.JoinTokenSpec{
			SecretHash: token.SecretHash(), Cluster: "*", MaxUses: 1,
			ExpiresAt: metav1.NewTime(time.Now().Add(time.Hour)),
		},
	}
	if change != nil {
		change(r)
	}
	if err := h.client.Create(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	return token
}

func (h *testHub) token(t *testing.T, name string) *v1alpha1.JoinToken {
	t.Helper()
	r := &v1alpha1.JoinToken{}
	if err := h.client.Get(t.Context(), client.ObjectKey{Name: name}, r); err != nil {
		t.Fatal(err)
	}
	return r
}

func (h *testHub) member(t *testing.T, name string) *v1alpha1.MemberCluster {
	t.Helper()
	m := &v1alpha1.MemberCluster{}
	if err := h.client.Get(t.Context(), client.ObjectKey{Name: name}, m); err != nil {
		t.Fatal(err)
	}
	return m
}

// dial connects with a certificate, or without any.
func (h *testHub) dial(t *testing.T, certs ...tls.Certificate) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+h.addr,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			RootCAs: h.authority.pool(), ServerName: "localhost", MinVersion: tls.VersionTLS13,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if len(certs) == 0 {
					return &tls.Certificate{}, nil
				}
				return &certs[0], nil
			},
		})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (h *testHub) enrol(t *testing.T, token, cluster string, csr []byte) (*federationv1.EnrolResponse, error) {
	t.Helper()
	return federationv1.NewEnrolmentClient(h.dial(t)).Enrol(t.Context(), &federationv1.EnrolRequest{Token: token, Cluster: cluster, Csr: csr})
}

// join enrols a new member and returns its certificate.
func (h *testHub) join(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	res, err := h.enrol(t, h.newToken(t, nil).String(), name, request(t, key))
	if err != nil {
		t.Fatal(err)
	}
	return pair(t, res.Certificates, key)
}

func pair(t testing.TB, chain [][]byte, key *ecdsa.PrivateKey) tls.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}
}

// script is an agent that says what the test tells it to.
type script struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[federationv1.AgentMessage, federationv1.HubMessage]
	leave  context.CancelFunc
	got    chan *federationv1.HubMessage
	err    error // after got is closed
}

var allFeatures = []string{"broker", "account", "link", "stream", "outlet"}

func hello(held string) *federationv1.Hello {
	return &federationv1.Hello{Protocol: 1, Features: allFeatures, HeldHash: held, Agent: &federationv1.AgentInfo{Version: "v1"}}
}

// sync opens a stream and says hello.
func (h *testHub) sync(t *testing.T, cert tls.Certificate, hi *federationv1.Hello) *script {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	stream, err := federationv1.NewFederationClient(h.dial(t, cert)).Sync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s := &script{t: t, stream: stream, leave: cancel, got: make(chan *federationv1.HubMessage, 100)}
	go func() {
		defer close(s.got)
		for {
			m, err := stream.Recv()
			if err != nil {
				s.err = err
				return
			}
			s.got <- m
		}
	}()
	s.send(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Hello{Hello: hi}})
	return s
}

func (s *script) send(m *federationv1.AgentMessage) {
	s.t.Helper()
	if err := s.stream.Send(m); err != nil {
		s.t.Logf("send: %v", err) // what the hub said is in ended
	}
}

func (s *script) report(r *federationv1.Report) {
	s.t.Helper()
	s.send(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Report{Report: r}})
}

func (s *script) heartbeat(held string) {
	s.t.Helper()
	s.send(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Heartbeat{Heartbeat: &federationv1.Heartbeat{HeldHash: held}}})
}

func (s *script) inventory(held map[string]string) {
	s.t.Helper()
	inv := &federationv1.Inventory{HeldHash: federationv1.StateHash(held)}
	for id, hash := range held {
		inv.Parts = append(inv.Parts, &federationv1.HeldPart{Id: id, Hash: hash})
	}
	s.send(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Inventory{Inventory: inv}})
}

func (s *script) welcome() *federationv1.Welcome {
	s.t.Helper()
	m, ok := <-s.got
	if !ok {
		s.t.Fatalf("the session ended: %v", s.err)
	}
	if m.GetWelcome() == nil {
		s.t.Fatalf("got %v, want a welcome", m)
	}
	return m.GetWelcome()
}

// update takes the next message, which must be an update.
func (s *script) update() *federationv1.Update {
	s.t.Helper()
	select {
	case m, ok := <-s.got:
		if !ok {
			s.t.Fatalf("the session ended: %v", s.err)
		}
		if m.GetUpdate() == nil {
			s.t.Fatalf("got %v, want an update", m)
		}
		return m.GetUpdate()
	case <-time.After(10 * time.Second):
		s.t.Fatal("no update came")
		return nil
	}
}

// applied reports an update as held and all its parts as applied.
func (s *script) applied(u *federationv1.Update) {
	s.t.Helper()
	r := &federationv1.Report{HeldHash: u.TargetHash}
	for _, p := range u.Upserts {
		r.Parts = append(r.Parts, &federationv1.PartStatus{Id: p.Id, Hash: p.Hash, State: federationv1.PartStatus_APPLIED})
	}
	s.report(r)
}

// ended waits for the end of the session and checks how it ended.
func (s *script) ended(code codes.Code, text string) {
	s.t.Helper()
	deadline := time.After(15 * time.Second)
	for {
		select {
		case m, ok := <-s.got:
			if ok {
				s.t.Logf("before the end: %v", m)
				continue
			}
			wantStatus(s.t, s.err, code, text)
			return
		case <-deadline:
			s.t.Fatal("the session did not end")
		}
	}
}

func wantStatus(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("got %v, want %v with %q", err, code, text)
	}
}

func account(name string, imports ...string) *topology.PlannedPart {
	spec := &federationv1.AccountSpec{Name: name, Application: true}
	for _, i := range imports {
		spec.Imports = append(spec.Imports, &federationv1.Import{Account: "rx_x", Subject: i})
	}
	return &topology.PlannedPart{Part: federationv1.Seal(&federationv1.Part{
		Id: federationv1.AccountID(name), Spec: &federationv1.Part_Account{Account: spec},
	})}
}

func link(peer string, role federationv1.LinkSpec_Role, key string) *topology.PlannedPart {
	return &topology.PlannedPart{Part: federationv1.Seal(&federationv1.Part{
		Id: federationv1.LinkID(peer), Spec: &federationv1.Part_Link{Link: &federationv1.LinkSpec{Peer: peer, Role: role, PeerKey: key}},
	})}
}

func after(p *topology.PlannedPart, cluster, id string) *topology.PlannedPart {
	p.After = append(p.After, topology.PartRef{Cluster: cluster, ID: id})
	return p
}

// state is a member's planned state.
func state(cluster string, parts ...*topology.PlannedPart) *topology.MemberState {
	slices.SortFunc(parts, func(a, b *topology.PlannedPart) int { return strings.Compare(a.Part.Id, b.Part.Id) })
	held := map[string]string{}
	for _, p := range parts {
		held[p.Part.Id] = p.Part.Hash
	}
	return &topology.MemberState{Cluster: cluster, Hash: federationv1.StateHash(held), Parts: parts}
}

func plan(states ...*topology.MemberState) *topology.Plan {
	p := &topology.Plan{Members: map[string]*topology.MemberState{}}
	for _, s := range states {
		p.Members[s.Cluster] = s
	}
	return p
}

func heldOf(s *topology.MemberState) map[string]string {
	held := map[string]string{}
	for _, p := range s.Parts {
		held[p.Part.Id] = p.Part.Hash
	}
	return held
}

// holding is what a member holds, as the hub knows it; nil: it does not.
func holding(p *topology.MemberProgress) map[string]string {
	if !p.Known() {
		return nil
	}
	return maps.Collect(p.All())
}

func upserted(u *federationv1.Update) (ids []string) {
	for _, p := range u.Upserts {
		ids = append(ids, p.Id)
	}
	return ids
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}
