package hub

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"sync"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

const (
	// An agent has one connection; while it changes over, or its network comes
	// back, older ones of it may linger.
	memberConns = 8
	// Connections without a certificate are those of agents that enrol.
	networkConns   = 256
	anonymousConns = 1024
)

var errConnections = errors.New("too many connections of one member, or of agents that enrol")

// counted bounds how many connections each member has, and how many there are
// without a certificate: what a stream may cost is bounded by gRPC, how many
// connections carry streams is not.
type counted struct {
	credentials.TransportCredentials

	trustDomain string
	metrics     *metrics

	mu        sync.Mutex
	open      map[string]int
	anonymous int
}

func newCounted(inner credentials.TransportCredentials, trustDomain string, m *metrics) *counted {
	return &counted{TransportCredentials: inner, trustDomain: trustDomain, metrics: m, open: map[string]int{}}
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *counted) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		if !errors.Is(err, io.EOF) { // a probe of the port
			c.metrics.refused.WithLabelValues(reasonHandshake).Inc()
		}
		return nil, nil, err
	}
	release, ok := c.admit(conn, info)
	if !ok {
		c.metrics.refused.WithLabelValues(reasonConnections).Inc()
		_ = conn.Close()
		return nil, nil, errConnections
	}
	return &countedConn{Conn: conn, release: release}, info, nil
}

// Clone implements credentials.TransportCredentials: the count is one.
func (c *counted) Clone() credentials.TransportCredentials { return c }

func (c *counted) admit(conn net.Conn, info credentials.AuthInfo) (release func(), ok bool) {
	key, limit, anonymous := c.caller(conn, info)
	if key == "" {
		return func() {}, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[key] >= limit || anonymous && c.anonymous >= anonymousConns {
		return nil, false
	}
	c.open[key]++
	if anonymous {
		c.anonymous++
	}
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.open[key]--; c.open[key] == 0 {
			delete(c.open, key)
		}
		if anonymous {
			c.anonymous--
		}
	}), true
}

// caller says as whom a connection counts, and how many that one may have. An
// empty key: a replica, which has one for each session that it passes on.
func (c *counted) caller(conn net.Conn, info credentials.AuthInfo) (key string, limit int, anonymous bool) {
	if cert := verified(info); cert != nil {
		if isReplica(cert, c.trustDomain) {
			return "", 0, false
		}
		if cluster, err := clusterOf(cert, c.trustDomain); err == nil {
			// By key: whoever has an old certificate of that name takes none away.
			return "member " + cluster + " " + keyHash(cert.RawSubjectPublicKeyInfo), memberConns, false
		}
	}
	ctx := peer.NewContext(context.Background(), &peer.Peer{Addr: conn.RemoteAddr()})
	return "network " + network(ctx), networkConns, true
}

func verified(info credentials.AuthInfo) *x509.Certificate {
	if t, ok := info.(credentials.TLSInfo); ok && len(t.State.VerifiedChains) > 0 {
		return t.State.VerifiedChains[0][0]
	}
	return nil
}

type countedConn struct {
	net.Conn
	release func()
}

func (c *countedConn) Close() error {
	c.release()
	return c.Conn.Close()
}
