package pod

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	"github.com/sealane/sealane/broker/embedded"
)

// ServerName is the DNS name by which the agent knows the servers of its broker,
// wherever they are: it is in all their certificates.
const ServerName = "broker.sealane.internal"

// MaxMessage bounds one message on the control channel.
const MaxMessage = 256 << 20

// AgentID is the URI in the certificate of a member's agent; only who has it is
// obeyed.
func AgentID(member string) string { return "sealane://" + member + "/agent" }

// ServerID is the URI in the certificate of a member's servers.
func ServerID(member string) string { return "sealane://" + member + "/broker" }

// control serves brokerv1.Control.
type control struct {
	brokerv1.UnimplementedControlServer
	node *embedded.Node
	// heard is filled when the agent has applied something.
	heard chan struct{}
}

func newServer(c *control) *grpc.Server {
	return grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: c.tls})),
		grpc.UnaryInterceptor(c.authorize),
		grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveFloor, PermitWithoutStream: true}),
	)
}

// tls is what the process shows and believes now.
func (c *control) tls(*tls.ClientHelloInfo) (*tls.Config, error) {
	s := c.node.State()
	if s == nil {
		return nil, errors.New("the server has no identity yet")
	}
	t, err := embedded.TLSConfig(s.Local)
	if err != nil {
		return nil, err
	}
	t.MinVersion = tls.VersionTLS13
	t.ClientAuth = tls.RequireAndVerifyClientCert
	t.NextProtos = []string{"h2"}
	return t, nil
}

// authorize lets only the member's agent in; its servers have certificates of the
// same authority.
func (c *control) authorize(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return nil, status.Error(codes.Unauthenticated, "no verified certificate")
	}
	var ids []string
	for _, u := range info.State.PeerCertificates[0].URIs {
		ids = append(ids, u.String())
	}
	if !slices.Equal(ids, []string{AgentID(c.node.State().GetMember())}) {
		return nil, status.Error(codes.PermissionDenied, "only the agent of this member is obeyed")
	}
	return handler(ctx, req)
}

// Apply implements brokerv1.ControlServer.
func (c *control) Apply(ctx context.Context, s *brokerv1.State) (*brokerv1.Applied, error) {
	a, err := c.node.Apply(ctx, s)
	switch {
	case errors.Is(err, embedded.ErrOlderState):
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	case errors.Is(err, embedded.ErrBadState):
		return nil, status.Error(codes.InvalidArgument, err.Error())
	case err != nil:
		return nil, status.Error(codes.Internal, err.Error())
	}
	select {
	case c.heard <- struct{}{}:
	default:
	}
	return a, nil
}

// Begin implements brokerv1.ControlServer.
func (c *control) Begin(ctx context.Context, r *brokerv1.BeginRequest) (*brokerv1.BeginResponse, error) {
	return &brokerv1.BeginResponse{}, precondition(c.node.Begin(ctx, r.Found))
}

// Observe implements brokerv1.ControlServer.
func (c *control) Observe(_ context.Context, r *brokerv1.ObserveRequest) (*brokerv1.Observation, error) {
	return c.node.Observe(r.Streams), nil
}

// Restart implements brokerv1.ControlServer. It ends what it began, also if the
// agent goes away.
func (c *control) Restart(ctx context.Context, _ *brokerv1.RestartRequest) (*brokerv1.RestartResponse, error) {
	return &brokerv1.RestartResponse{}, precondition(c.node.Restart(context.WithoutCancel(ctx)))
}

// Retire implements brokerv1.ControlServer.
func (c *control) Retire(ctx context.Context, _ *brokerv1.RetireRequest) (*brokerv1.RetireResponse, error) {
	return &brokerv1.RetireResponse{}, precondition(c.node.Retire(context.WithoutCancel(ctx)))
}

// Kick implements brokerv1.ControlServer.
func (c *control) Kick(_ context.Context, r *brokerv1.KickRequest) (*brokerv1.KickResponse, error) {
	return &brokerv1.KickResponse{}, precondition(c.node.Kick(r.Id))
}

func precondition(err error) error {
	if err == nil {
		return nil
	}
	return status.Error(codes.FailedPrecondition, err.Error())
}
