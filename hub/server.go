package hub

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

const (
	maxReceive   = 4 << 20
	streamWindow = 256 << 10
	writeBuffer  = 8 << 10
	// An agent has one stream and now and then a renewal.
	maxStreams = 8
	// helloTimeout bounds how long a stream may be open without its Hello, and
	// planTimeout how long a Hello waits for the first plan of a hub that starts.
	helloTimeout = 10 * time.Second
	planTimeout  = 10 * time.Second
	// pingTime is after how long of silence a connection is asked whether it lives. An
	// open session is ended sooner by its missing heartbeats: this is for what has none,
	// and rare because looking wakes a goroutine of each connection.
	pingTime = 3 * time.Minute
	// stopTimeout bounds the wait for calls that are under way at the end.
	stopTimeout = 5 * time.Second
)

// server is what agents talk to.
type server struct {
	federationv1.UnimplementedFederationServer

	fleet      *Fleet
	authority  *Authority
	relay      *relay // nil: this hub is the only one
	identities *identities
	renewals   *limits
	paces      *paces
	log        *slog.Logger
	grpc       *grpc.Server
}

// newServer returns the gRPC server of a fleet, for the given names and
// addresses of the hub.
func newServer(f *Fleet, a *Authority, ids *identities, names []string, log *slog.Logger) (*server, error) {
	certificate, err := a.Server(names)
	if err != nil {
		return nil, err
	}
	s := &server{fleet: f, authority: a, identities: ids, renewals: newLimits(1.0/10, 10), paces: newPaces(f.metrics), log: log}
	configs := tlsConfigs(a, certificate)
	guard := guard{identities: ids, enrolments: newEnrolmentLimits(), sessions: newLimits(1, 30), crowd: newCrowd(), metrics: f.metrics}
	s.grpc = grpc.NewServer(
		grpc.Creds(newPaced(newCounted(credentials.NewTLS(&tls.Config{
			MinVersion:         tls.VersionTLS13,
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return configs(), nil },
		}), a.trustDomain, f.metrics), f.metrics)),
		grpc.UnaryInterceptor(guard.unary),
		grpc.StreamInterceptor(guard.stream),
		grpc.MaxRecvMsgSize(maxReceive),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(8<<10),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.ForceServerCodecV2(newCodec()),
		// What an idle member costs: no growing windows and no buffers of its own. What
		// is written to many at a time takes a buffer of each.
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(streamWindow),
		grpc.ReadBufferSize(0), // TLS has one
		grpc.WriteBufferSize(writeBuffer),
		grpc.HeaderTableSize(0), // one call of a connection has nothing to compress against
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingTime, Timeout: 10 * time.Second, MaxConnectionIdle: time.Minute}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	federationv1.RegisterFederationServer(s.grpc, s)
	federationv1.RegisterEnrolmentServer(s.grpc, &enrolment{
		authority: a, live: ids.live, writer: ids.writer, log: log, metrics: f.metrics, now: time.Now,
	})
	return s, nil
}

// tlsConfigs makes the configuration of connections, once for each state of the
// authority.
func tlsConfigs(a *Authority, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) func() *tls.Config {
	var mu sync.Mutex
	var current *tls.Config
	var by *keys
	return func() *tls.Config {
		mu.Lock()
		defer mu.Unlock()
		if k := a.current.Load(); by != k {
			by, current = k, &tls.Config{
				MinVersion:     tls.VersionTLS13,
				GetCertificate: certificate,
				// Enrolment has no certificate yet; guard refuses all else without one.
				ClientAuth:             tls.VerifyClientCertIfGiven,
				ClientCAs:              a.pool(),
				SessionTicketsDisabled: true,
				// One write of an update, not one for each kilobyte of it.
				DynamicRecordSizingDisabled: true,
			}
		}
		return current
	}
}

// serve accepts agents until ctx ends, then tells them and returns.
func (s *server) serve(ctx context.Context, l net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(gatedListener{l, &s.fleet.outbox.gate}) }()
	var pushing sync.WaitGroup
	pushes, stopPushing := context.WithCancel(context.WithoutCancel(ctx))
	pushing.Go(func() { s.fleet.outbox.run(pushes, s.push) })
	pushing.Go(func() { tidy(pushes) })
	defer pushing.Wait()
	defer stopPushing()
	tick := time.NewTicker(s.fleet.heartbeat)
	defer tick.Stop()
	for {
		select {
		case err := <-served:
			s.stop()
			return err
		case <-tick.C:
			s.fleet.sweep()
		case <-ctx.Done():
			s.stop()
			if err := <-served; !errors.Is(err, grpc.ErrServerStopped) {
				return err
			}
			return nil
		}
	}
}

// stop ends all sessions, which their agents are told, and then the server.
func (s *server) stop() {
	s.fleet.shut(errStopping)
	if s.relay != nil {
		close(s.relay.stopped)
	}
	done := make(chan struct{})
	go func() { s.grpc.GracefulStop(); close(done) }()
	t := time.NewTimer(stopTimeout)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		s.grpc.Stop()
		<-done
	}
}

// Renew implements federationv1.FederationServer.
func (s *server) Renew(ctx context.Context, req *federationv1.RenewRequest) (*federationv1.RenewResponse, error) {
	id := identityOf(ctx)
	if !s.renewals.allow(id.cluster) {
		return nil, refused(reasonRate, codes.ResourceExhausted, "too many renewals: try again in a minute")
	}
	key, hash, err := requestedKey(req.GetCsr())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	der, notAfter, err := s.authority.Issue(id.cluster, id.incarnation(s.authority.TrustDomain()), key)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "no certificate can be made for the key: %v", err)
	}
	if err := s.identities.renewed(ctx, id, hash, notAfter); err != nil {
		return nil, err
	}
	s.log.Info("certificate renewed", "member", id.cluster, "not_after", notAfter)
	return &federationv1.RenewResponse{Certificates: [][]byte{der}, Authorities: s.authority.Certificates()}, nil
}

// renewed notes the key of a renewal. The present key stays valid until the new
// one is used, because the answer may not arrive.
func (i *identities) renewed(ctx context.Context, id identity, hash string, notAfter time.Time) error {
	return asStatus(retry.RetryOnConflict(claimBackoff, func() error {
		m := &v1alpha1.MemberCluster{}
		if err := i.live.Get(ctx, client.ObjectKey{Name: id.cluster}, m); err != nil {
			return err
		}
		have := m.Status.Identity
		if m.UID != id.uid || have == nil || have.KeyHash != id.keyHash {
			return errRemoved(id.cluster)
		}
		if slices.Contains(m.Spec.RevokedKeys, id.keyHash) {
			return errRevoked(id.cluster)
		}
		have.NotAfter = metav1.NewTime(notAfter)
		have.NextKeyHash = ""
		if hash != have.KeyHash {
			have.NextKeyHash = hash
		}
		return i.writer.Status().Update(ctx, m)
	}))
}

type syncStream = grpc.BidiStreamingServer[federationv1.AgentMessage, federationv1.HubMessage]

// Sync implements federationv1.FederationServer.
func (s *server) Sync(stream syncStream) error {
	ctx := stream.Context()
	id := identityOf(ctx)
	if s.relay != nil {
		switch leader, leads := s.relay.lease.leader(); {
		case leads:
		case id.via != "":
			return errNotLeader // never a second time
		default:
			return s.relay.pass(stream, id, leader)
		}
	}
	hello, err := s.hello(stream)
	if err != nil {
		return err
	}
	session, welcome, err := s.fleet.open(id, hello)
	if err != nil {
		s.log.Warn("session refused", "member", id.cluster, "error", err)
		return err
	}
	defer s.fleet.close(session)
	// Again, now that a revocation would end the session: it may have come between.
	switch now, err := s.identities.authenticate(ctx, id.cert); {
	case err != nil:
		session.end(err)
	case now.uid != id.uid:
		session.end(errRemoved(id.cluster))
	}
	s.log.Info("session opened", "member", id.cluster, "from", cmp.Or(id.from, peerAddr(ctx)), "via", id.via, "agent", hello.GetAgent().GetVersion(), "inventory", welcome.WantInventory)
	err = s.run(stream, session, welcome)
	session.end(err)
	s.log.Info("session ended", "member", id.cluster, "reason", session.err)
	return session.err
}

// hello waits for the first message, and for the hub to have a plan: a cold hub
// does not know what a held hash stands for.
func (s *server) hello(stream syncStream) (*federationv1.Hello, error) {
	type first struct {
		msg *federationv1.AgentMessage
		err error
	}
	got := make(chan first, 1)
	go func() {
		m, err := judged(stream.Recv())
		got <- first{m, err}
	}()
	var hello *federationv1.Hello
	t := time.NewTimer(helloTimeout)
	defer t.Stop()
	select {
	case f := <-got:
		if f.err != nil {
			return nil, f.err
		}
		if hello = f.msg.GetHello(); hello == nil {
			return nil, invalid("the first message of a session must be Hello")
		}
	case <-t.C:
		return nil, refused(reasonHello, codes.DeadlineExceeded, "no Hello came")
	}
	t.Reset(planTimeout)
	select {
	case <-s.fleet.planned:
		return hello, nil
	case <-stream.Context().Done():
		return nil, stream.Context().Err()
	case <-t.C:
		return nil, later(startingRetry, "the hub is starting: it has not read its resources yet")
	}
}

// run is the life of an open session. Whatever ends the session ends the stream at
// once: nobody waits here for the agent.
func (s *server) run(stream syncStream, session *session, welcome *federationv1.Welcome) error {
	// The first message of a stream does not wait for the agent to read.
	if err := stream.Send(&federationv1.HubMessage{Body: &federationv1.HubMessage_Welcome{Welcome: welcome}}); err != nil {
		return err
	}
	hangUp, err := hangUpOf(stream.Context())
	if err != nil {
		return err
	}
	session.line.open(stream)
	defer session.line.close()
	s.fleet.outbox.done(session)
	session.onEnd(hangUp)
	return s.receive(stream, session)
}

// hangUpOf returns what ends a stream with a status, and so the receive in which its
// handler waits. A receive that is cut short in any other way tells the agent of that
// instead, and to wait for the end elsewhere takes another goroutine for each member.
// gRPC ends streams by the same call when their handler returns, which then does nothing.
func hangUpOf(ctx context.Context) (func(error), error) {
	s, ok := grpc.ServerTransportStreamFromContext(ctx).(interface{ WriteStatus(*status.Status) error })
	if !ok {
		return nil, status.Error(codes.Internal, "this version of gRPC cannot end a stream from outside")
	}
	return func(err error) {
		st, ok := status.FromError(err)
		if !ok {
			st = status.FromContextError(err)
		}
		_ = s.WriteStatus(st) // the agent sees that the connection is gone
	}, nil
}

// push sends what may be sent to a session's member.
func (s *server) push(session *session) {
	if session.line.busy() {
		return // it is looked at again
	}
	u := s.fleet.next(session)
	if u == nil {
		return
	}
	p := &parcel{update: u, parts: &s.fleet.encoded, written: func() {
		if session.line.written() {
			s.fleet.outbox.add(session)
		}
	}}
	if err := session.line.send(p); err != nil {
		session.end(err)
		return
	}
	s.fleet.sent(session, u, p.size)
}

// receive takes what the agent says until the stream is over, and returns why it is.
func (s *server) receive(stream syncStream, session *session) error {
	pace := s.paces.take(session.cluster)
	defer s.paces.giveBack(pace)
	if pace.resume(stream.Context()) != nil {
		return stream.Context().Err()
	}
	for {
		m, size, err := hear(stream)
		if err == nil {
			err = s.fleet.handle(session, m)
		}
		if errors.Is(err, io.EOF) {
			return nil // the agent says goodbye
		}
		if err != nil {
			return err
		}
		if pace.wait(stream.Context(), size) != nil {
			return stream.Context().Err()
		}
	}
}

// peerAddr is where a call comes from, for the log.
func peerAddr(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}
