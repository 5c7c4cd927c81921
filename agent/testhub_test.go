package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// testHub speaks the protocol over real mutual TLS, as a test tells it to.
type testHub struct {
	federationv1.UnimplementedEnrolmentServer
	federationv1.UnimplementedFederationServer

	t     testing.TB
	ca    *testCA
	shown *x509.Certificate // the authority that it shows
	addr  string
	token federationv1.JoinToken
	srv   *grpc.Server

	mu    sync.Mutex
	epoch uint64
	// traceparent is put into all updates.
	traceparent string
	enrol       func(*federationv1.EnrolRequest) error // judges an enrolment
	life        time.Duration
	keys        map[string]string // public key that enrolled, by member
	renewed     map[string]int
	members     map[string]*hubMember
}

// hubMember is what the hub knows of a member, and wants of it.
type hubMember struct {
	sessions int
	open     *hubSession
	hello    *federationv1.Hello
	held     map[string]string // nil: unknown
	parts    map[string]*federationv1.PartStatus
	grants   map[string]*federationv1.Grant
	links    map[string]*federationv1.LinkHealth
	flows    map[flowKey]*federationv1.FlowHealth
	facts    *federationv1.Facts
	refusals []string
	// reports counts what came, inventories how often one did.
	reports, inventories, heartbeats int
	linkLog                          []*federationv1.LinkHealth
	want                             map[string]*federationv1.Part
	inflight                         *federationv1.Update
	// hold keeps the hub from sending by itself.
	hold bool
}

type hubSession struct {
	stream grpc.BidiStreamingServer[federationv1.AgentMessage, federationv1.HubMessage]
	out    chan *federationv1.HubMessage
	end    chan error
}

func startHub(t testing.TB, ca *testCA) *testHub {
	t.Helper()
	h := &testHub{
		t: t, ca: ca, shown: ca.cert, epoch: 1, keys: map[string]string{}, renewed: map[string]int{}, members: map[string]*hubMember{},
	}
	h.token = federationv1.JoinToken{Name: "any", Secret: make([]byte, 32), Authority: sha256.Sum256(ca.cert.Raw)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	h.addr = l.Addr().String()
	h.serve(l)
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *testHub) serve(l net.Listener) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(h.t, err)
	der, err := h.ca.sign(key.Public(), func(c *x509.Certificate) {
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	})
	check(h.t, err)
	pool := x509.NewCertPool()
	pool.AddCert(h.ca.cert)
	h.srv = grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion:   tls.VersionTLS13,
			Certificates: []tls.Certificate{{Certificate: [][]byte{der, h.shown.Raw}, PrivateKey: key}},
			ClientAuth:   tls.VerifyClientCertIfGiven,
			ClientCAs:    pool,
		})),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
	federationv1.RegisterEnrolmentServer(h.srv, h)
	federationv1.RegisterFederationServer(h.srv, h)
	srv := h.srv
	go srv.Serve(l)
}

func (h *testHub) stop() { h.srv.Stop() }

// restart makes the hub be there again at the same address, remembering nothing
// of what members hold.
func (h *testHub) restart() {
	h.t.Helper()
	var l net.Listener
	eventually(h.t, "the hub's port is free", func() error {
		var err error
		l, err = net.Listen("tcp", h.addr)
		return err
	})
	h.serve(l)
}

func (h *testHub) Enrol(_ context.Context, r *federationv1.EnrolRequest) (*federationv1.EnrolResponse, error) {
	csr, err := x509.ParseCertificateRequest(r.Csr)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	pub := fmt.Sprintf("%x", csr.RawSubjectPublicKeyInfo)
	if old := h.keys[r.Cluster]; old != "" && old != pub {
		return nil, status.Errorf(codes.AlreadyExists, "member %q exists", r.Cluster)
	}
	h.keys[r.Cluster] = pub
	if h.enrol != nil {
		if err := h.enrol(r); err != nil {
			return nil, err
		}
	}
	der, err := h.ca.member(csr.PublicKey, r.Cluster, h.life)
	if err != nil {
		return nil, err
	}
	return &federationv1.EnrolResponse{Certificates: [][]byte{der}, Authorities: [][]byte{h.ca.cert.Raw}, TrustDomain: testDomain}, nil
}

// caller is the member whose certificate was shown.
func caller(ctx context.Context) (string, error) {
	p, _ := peer.FromContext(ctx)
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return "", status.Error(codes.Unauthenticated, "no certificate")
	}
	_, name, err := memberOf(info.State.PeerCertificates[0])
	return name, err
}

func (h *testHub) Renew(ctx context.Context, r *federationv1.RenewRequest) (*federationv1.RenewResponse, error) {
	name, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(r.Csr)
	if err != nil {
		return nil, err
	}
	der, err := h.ca.member(csr.PublicKey, name, time.Hour)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.renewed[name]++
	h.mu.Unlock()
	return &federationv1.RenewResponse{Certificates: [][]byte{der}, Authorities: [][]byte{h.ca.cert.Raw}}, nil
}

func (h *testHub) Sync(stream grpc.BidiStreamingServer[federationv1.AgentMessage, federationv1.HubMessage]) error {
	name, err := caller(stream.Context())
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	s := &hubSession{stream: stream, out: make(chan *federationv1.HubMessage, 16), end: make(chan error, 1)}
	h.mu.Lock()
	m := h.memberLocked(name)
	m.sessions++
	m.open, m.hello, m.inflight = s, first.GetHello(), nil
	m.parts, m.grants = map[string]*federationv1.PartStatus{}, map[string]*federationv1.Grant{}
	m.links, m.flows = map[string]*federationv1.LinkHealth{}, map[flowKey]*federationv1.FlowHealth{}
	want := m.held == nil || federationv1.StateHash(m.held) != m.hello.HeldHash
	if want {
		m.held = nil
	}
	s.out <- &federationv1.HubMessage{Body: &federationv1.HubMessage_Welcome{Welcome: &federationv1.Welcome{Epoch: h.epoch, HeartbeatSeconds: 1, WantInventory: want}}}
	h.sendLocked(m)
	h.mu.Unlock()
	fail := make(chan error, 1)
	go func() {
		for {
			msg, err := stream.Recv()
			if err != nil {
				fail <- err
				return
			}
			h.take(m, s, msg)
		}
	}()
	defer func() {
		h.mu.Lock()
		if m.open == s {
			m.open = nil
		}
		h.mu.Unlock()
	}()
	for {
		select {
		case msg := <-s.out:
			if err := stream.Send(msg); err != nil {
				return err
			}
		case err := <-fail:
			return err
		case err := <-s.end:
			return err
		}
	}
}

func (h *testHub) memberLocked(name string) *hubMember {
	m := h.members[name]
	if m == nil {
		m = &hubMember{}
		h.members[name] = m
	}
	return m
}

func (h *testHub) take(m *hubMember, s *hubSession, msg *federationv1.AgentMessage) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m.open != s {
		return
	}
	switch b := msg.Body.(type) {
	case *federationv1.AgentMessage_Inventory:
		m.inventories++
		m.held, m.inflight = map[string]string{}, nil
		for _, p := range b.Inventory.Parts {
			m.held[p.Id] = p.Hash
		}
	case *federationv1.AgentMessage_Heartbeat:
		m.heartbeats++
	case *federationv1.AgentMessage_Report:
		h.report(m, b.Report)
	}
	h.sendLocked(m)
}

func (h *testHub) report(m *hubMember, r *federationv1.Report) {
	m.reports++
	if u := m.inflight; u != nil {
		switch {
		case r.Refusal != "":
			m.inflight = nil
			m.refusals = append(m.refusals, r.Refusal)
			m.hold = true
		case r.HeldHash == u.TargetHash:
			m.inflight = nil
			for _, p := range u.Upserts {
				m.held[p.Id] = p.Hash
			}
			for _, id := range u.Removals {
				delete(m.held, id)
				delete(m.parts, id)
			}
		}
	}
	for _, p := range r.Parts {
		m.parts[p.Id] = p
	}
	for _, g := range r.Grants {
		m.grants[g.Peer] = g
	}
	for _, l := range r.Links {
		m.linkLog = append(m.linkLog, l)
		if l.Removed {
			delete(m.links, l.Peer)
		} else {
			m.links[l.Peer] = l
		}
	}
	for _, f := range r.Flows {
		k := flowKey{f.Bridge, f.Origin, f.Account, f.Stream}
		if f.Removed {
			delete(m.flows, k)
		} else {
			m.flows[k] = f
		}
	}
	if r.Facts != nil {
		m.facts = r.Facts
	}
}

// sendLocked sends what the member lacks, if nothing is on its way.
func (h *testHub) sendLocked(m *hubMember) {
	if m.open == nil || m.held == nil || m.inflight != nil || m.want == nil || m.hold {
		return
	}
	u := &federationv1.Update{Epoch: h.epoch, BaseHash: federationv1.StateHash(m.held)}
	after := map[string]string{}
	for id, p := range m.want {
		after[id] = p.Hash
		if m.held[id] != p.Hash {
			u.Upserts = append(u.Upserts, p)
		}
	}
	for id := range m.held {
		if m.want[id] == nil {
			u.Removals = append(u.Removals, id)
		}
	}
	if len(u.Upserts)+len(u.Removals) == 0 {
		return
	}
	u.TargetHash = federationv1.StateHash(after)
	h.sendUpdateLocked(m, u)
}

func (h *testHub) sendUpdateLocked(m *hubMember, u *federationv1.Update) {
	m.inflight, u.Traceparent = u, h.traceparent
	m.open.out <- &federationv1.HubMessage{Body: &federationv1.HubMessage_Update{Update: u}}
}

// raw sends an update as it is.
func (h *testHub) raw(name string, u *federationv1.Update) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sendUpdateLocked(h.members[name], u)
}

// want makes parts the wanted state of a member.
func (h *testHub) want(name string, parts ...*federationv1.Part) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.memberLocked(name)
	m.hold = false
	m.want = map[string]*federationv1.Part{}
	for _, p := range parts {
		m.want[p.Id] = p
	}
	h.sendLocked(m)
}

// look calls f with what is known of a member.
func (h *testHub) look(name string, f func(*hubMember)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h.memberLocked(name))
}

// applied waits until a member reported every wanted part applied.
func (h *testHub) applied(name string) {
	h.t.Helper()
	eventually(h.t, name+" applies everything", func() (err error) {
		h.look(name, func(m *hubMember) {
			for id, p := range m.want {
				s := m.parts[id]
				if s.GetHash() != p.Hash || s.GetState() != federationv1.PartStatus_APPLIED {
					err = fmt.Errorf("%s: %v (refusals %q)", id, s, m.refusals)
					return
				}
			}
			want := map[string]string{}
			for id, p := range m.want {
				want[id] = p.Hash
			}
			if !maps.Equal(want, m.held) {
				err = fmt.Errorf("held: %v", m.held)
			}
		})
		return err
	})
}

// status waits until the status of a part satisfies f.
func (h *testHub) status(name, id string, f func(*federationv1.PartStatus) bool) *federationv1.PartStatus {
	h.t.Helper()
	var got *federationv1.PartStatus
	eventually(h.t, "status of "+id, func() (err error) {
		h.look(name, func(m *hubMember) {
			if got = m.parts[id]; got == nil || !f(got) {
				err = fmt.Errorf("%v", got)
			}
		})
		return err
	})
	return proto.CloneOf(got)
}

// failed waits until a part failed with a code.
func (h *testHub) failed(name, id, code string) *federationv1.PartStatus {
	h.t.Helper()
	return h.status(name, id, func(s *federationv1.PartStatus) bool {
		return s.State == federationv1.PartStatus_FAILED && s.Code == code
	})
}

// link waits until a member reports a link in a state.
func (h *testHub) link(name, peer string, state federationv1.Health) *federationv1.LinkHealth {
	h.t.Helper()
	var got *federationv1.LinkHealth
	eventually(h.t, fmt.Sprintf("link of %s to %s is %v", name, peer, state), func() (err error) {
		h.look(name, func(m *hubMember) {
			if got = m.links[peer]; got.GetState() != state {
				err = fmt.Errorf("%v", got)
			}
		})
		return err
	})
	return got
}

// grant waits for the grant that a member issued.
func (h *testHub) grant(acceptor, dialer string) *federationv1.Grant {
	h.t.Helper()
	var g *federationv1.Grant
	eventually(h.t, "grant of "+acceptor+" for "+dialer, func() (err error) {
		h.look(acceptor, func(m *hubMember) {
			if g = m.grants[dialer]; g == nil {
				err = fmt.Errorf("none; parts %v", m.parts)
			}
		})
		return err
	})
	return g
}

// linkKey waits for a member's link key.
func (h *testHub) linkKey(name string) string {
	h.t.Helper()
	key := ""
	eventually(h.t, "link key of "+name, func() error {
		h.look(name, func(m *hubMember) { key = m.facts.GetLinkKey() })
		if key == "" {
			return fmt.Errorf("no report yet")
		}
		return nil
	})
	return key
}
