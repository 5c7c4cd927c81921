package statefulset

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	"github.com/sealane/sealane/broker/pod"
)

const (
	// callTimeout bounds one call to a server that only answers, applyTimeout one
	// that changes it, restartTimeout one that stops it.
	callTimeout    = 3 * time.Second
	applyTimeout   = 15 * time.Second
	restartTimeout = 60 * time.Second
	dialLimit      = 500 * time.Millisecond
)

// control is the control channel to one server.
type control struct {
	n    int
	addr Address
	conn *grpc.ClientConn
	c    brokerv1.ControlClient
	// lastSeen is when the server last answered.
	mu       sync.Mutex
	lastSeen time.Time
	last     *brokerv1.Observation
}

func dialControl(n int, p Place, l *local) (*control, error) {
	a := p.Address(n)
	conn, err := grpc.NewClient("passthrough:///"+a.Control,
		grpc.WithTransportCredentials(credentials.NewTLS(l.controlTLS())),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", resolve(p, addr))
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true}),
		// A server that comes back is told what it shall be within a second.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.5, MaxDelay: dialLimit},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(pod.MaxMessage), grpc.MaxCallSendMsgSize(pod.MaxMessage)),
	)
	if err != nil {
		return nil, err
	}
	return &control{n: n, addr: a, conn: conn, c: brokerv1.NewControlClient(conn)}, nil
}

func (c *control) close() { _ = c.conn.Close() } // nothing is waiting to be sent

// observe asks the server; nil: it does not answer.
func (c *control) observe(ctx context.Context, streams bool) *brokerv1.Observation {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	o, err := c.c.Observe(ctx, &brokerv1.ObserveRequest{Streams: streams})
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.last = nil
		return nil
	}
	c.last, c.lastSeen = o, time.Now()
	return o
}

// known is what the server last said, nil if it did not answer then.
func (c *control) known() *brokerv1.Observation {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// away tells that the server has not answered for so long that what it does not
// have is not waited for: it gets it before it listens again.
func (c *control) away(patience time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.lastSeen) > patience
}
