package hub

import (
	"context"
	"net"
	"strings"
	"sync"

	"golang.org/x/time/rate"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// guard stands before every call: enrolment is for anyone, at a bounded rate,
// everything else for members.
type guard struct {
	identities *identities
	enrolments *enrolmentLimits
	sessions   *limits
	crowd      *rate.Limiter // of new sessions
	metrics    *metrics
}

var enrolmentPrefix = "/" + federationv1.Enrolment_ServiceDesc.ServiceName + "/"

func (g guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if strings.HasPrefix(info.FullMethod, enrolmentPrefix) {
		if !g.enrolments.allow(ctx) {
			g.metrics.enrolments.WithLabelValues(codes.ResourceExhausted.String()).Inc()
			g.metrics.refused.WithLabelValues(reasonRate).Inc()
			return nil, status.Error(codes.ResourceExhausted, "too many enrolments at once: try again in a few seconds")
		}
		return next(ctx, req)
	}
	id, err := g.identities.fromContext(ctx)
	if err != nil {
		g.metrics.refusedFor(err)
		return nil, err
	}
	res, err := next(context.WithValue(ctx, identityKey{}, id), req)
	g.metrics.refusedFor(err)
	return res, err
}

func (g guard) stream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	err := g.session(srv, stream, next)
	g.metrics.refusedFor(err)
	return err
}

func (g guard) session(srv any, stream grpc.ServerStream, next grpc.StreamHandler) error {
	id, err := g.identities.fromStream(stream.Context())
	if err != nil {
		return err
	}
	if !g.sessions.allow(id.cluster) {
		return refused(reasonRate, codes.ResourceExhausted, "too many sessions were opened by this member: is a second agent running with a copy of its data folder?")
	}
	if err := admit(stream.Context(), g.crowd); err != nil {
		return err
	}
	return next(srv, &memberStream{stream, context.WithValue(stream.Context(), identityKey{}, id)})
}

type memberStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *memberStream) Context() context.Context { return s.ctx }

// enrolmentLimits bound the rate of Enrol, which costs the hub some requests to
// its API server. They are not what protects tokens: those are not guessable.
type enrolmentLimits struct {
	all  *rate.Limiter
	each *limits
}

func newEnrolmentLimits() *enrolmentLimits {
	return &enrolmentLimits{all: rate.NewLimiter(100, 400), each: newLimits(20, 200)}
}

func (l *enrolmentLimits) allow(ctx context.Context) bool {
	return l.each.allow(network(ctx)) && l.all.Allow()
}

// network is from where a call comes: an IPv4 address, or an IPv6 network as
// one site usually has.
func network(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	tcp, ok := p.Addr.(*net.TCPAddr)
	if !ok {
		return ""
	}
	ip := tcp.AddrPort().Addr().Unmap()
	if ip.Is6() {
		if n, err := ip.Prefix(64); err == nil {
			return n.Masked().String()
		}
	}
	return ip.String()
}

// limits is a rate limiter for each key, of which it forgets those at rest when
// they get many.
type limits struct {
	rate  rate.Limit
	burst int

	mu    sync.Mutex
	byKey map[string]*rate.Limiter
}

const maxLimiters = 10_000

func newLimits(r rate.Limit, burst int) *limits {
	return &limits{rate: r, burst: burst, byKey: map[string]*rate.Limiter{}}
}

func (l *limits) allow(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	lim := l.byKey[key]
	if lim == nil {
		if len(l.byKey) >= maxLimiters {
			for k, old := range l.byKey {
				if old.Tokens() >= float64(l.burst) {
					delete(l.byKey, k)
				}
			}
		}
		if len(l.byKey) >= maxLimiters {
			return false
		}
		lim = rate.NewLimiter(l.rate, l.burst)
		l.byKey[key] = lim
	}
	return lim.Allow()
}
