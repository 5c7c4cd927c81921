package hub

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/url"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// What a replica tells the leader of the member whose session it passes on: its
// certificate, which the leader verifies by itself, and where it called from.
const (
	memberHeader = "sealane-member-bin"
	fromHeader   = "sealane-from"
)

// replicaName and replicaID are the names of the hub towards itself: no member
// can have them, because those of members are under "cluster".
func replicaName(trustDomain string) string { return "hub." + trustDomain }
func replicaID(trustDomain string) string   { return "spiffe://" + trustDomain + "/hub" }

// replica is a source of the certificate with which replicas dial the leader.
func (a *Authority) replica() func() (*tls.Certificate, error) {
	return a.source(func(k *keys) (*tls.Certificate, error) {
		id, err := url.Parse(replicaID(a.trustDomain))
		if err != nil {
			return nil, err
		}
		tmpl := a.hubTemplate()
		tmpl.URIs = []*url.URL{id}
		tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		return k.certify(tmpl)
	})
}

// isReplica tells whether a verified certificate is that of a replica.
func isReplica(cert *x509.Certificate, trustDomain string) bool {
	return len(cert.URIs) == 1 && cert.URIs[0].String() == replicaID(trustDomain)
}

// relay passes sessions on to the leader, message by message. Which replica an
// agent reaches is chance; the order in which members change takes one process
// that knows what all of them did.
type relay struct {
	lease     leadership
	authority *Authority
	replica   func() (*tls.Certificate, error)
	metrics   *metrics
	paces     *paces
	stopped   chan struct{}
}

// leadership knows where the leader is; mine: it is this replica.
type leadership interface {
	leader() (address string, mine bool)
}

func newRelay(l leadership, a *Authority, m *metrics) *relay {
	return &relay{lease: l, authority: a, replica: a.replica(), metrics: m, paces: newPaces(m), stopped: make(chan struct{})}
}

// pass is the life of a session that the leader at addr has.
func (r *relay) pass(stream syncStream, id identity, addr string) error {
	if addr == "" {
		return errNoLeader
	}
	conn, err := r.dial(addr)
	if err != nil {
		return status.Errorf(codes.Unavailable, "the leading replica of the hub: %v", err)
	}
	defer conn.Close() //nolint:errcheck // nothing is left to be done with it
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(stream.Context(),
		memberHeader, string(id.cert.Raw), fromHeader, peerAddr(stream.Context())))
	defer cancel()
	go func() { // conn.Close ends the session as well, but says less
		select {
		case <-r.stopped:
			cancel()
		case <-ctx.Done():
		}
	}()
	up, err := federationv1.NewFederationClient(conn).Sync(ctx)
	if err != nil {
		return err
	}
	r.metrics.relayed.Inc()
	defer r.metrics.relayed.Dec()
	unread := make(chan error, 1) // why a message of the member cannot be passed on
	go func() {
		// Whatever ends this direction is seen, or told, in the other. What does not
		// reach the leader as it came is slowed down here.
		pace := r.paces.take(id.cluster)
		defer r.paces.giveBack(pace)
		if pace.resume(ctx) != nil {
			return
		}
		for {
			m, size, err := hear(stream)
			if err != nil {
				if r := (*refusal)(nil); errors.As(err, &r) {
					unread <- err
				}
				if !errors.Is(err, io.EOF) || up.CloseSend() != nil {
					cancel()
				}
				return
			}
			if up.Send(m) != nil || pace.wait(ctx, size) != nil {
				return
			}
		}
	}()
	for {
		m, err := up.Recv()
		select {
		case <-r.stopped:
			return errStopping
		case err := <-unread:
			return err
		default:
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
}

// A hub without a leader has one again within seconds; agents try again.
var (
	errNoLeader  = later(leaderRetry, "no replica of the hub leads at the moment")
	errNotLeader = later(leaderRetry, "this replica of the hub does not lead")
	errStopping  = status.Error(codes.Unavailable, "the hub is shutting down")
)

// dial connects for one session, so that no session waits for another's flow.
func (r *relay) dial(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			MinVersion: tls.VersionTLS13,
			RootCAs:    r.authority.pool(),
			ServerName: replicaName(r.authority.trustDomain),
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return r.replica()
			},
		})),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxRelayed)),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(streamWindow),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDisableServiceConfig(),
	)
}

// maxRelayed bounds a message of the leader: agents take no larger ones either.
const maxRelayed = 64 << 20

// relayed is the member for which a replica calls: the certificate that the
// member showed there, verified again.
func (i *identities) relayed(ctx context.Context) (*x509.Certificate, string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	raw, from := md.Get(memberHeader), md.Get(fromHeader)
	if len(raw) != 1 || len(from) != 1 {
		return nil, "", status.Error(codes.Unauthenticated, "a replica of the hub calls for no member")
	}
	cert, err := x509.ParseCertificate([]byte(raw[0]))
	if err == nil {
		_, err = cert.Verify(x509.VerifyOptions{Roots: i.authority.pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	}
	if err != nil {
		return nil, "", status.Errorf(codes.Unauthenticated, "the certificate of the member: %v", err)
	}
	return cert, from[0], nil
}
