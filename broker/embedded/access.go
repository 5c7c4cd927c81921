package embedded

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/sealane/sealane/broker"
)

// InProcessConn lets connections of the agent find the server that runs now.
func (r *Runtime) InProcessConn() (net.Conn, error) {
	srv := r.server()
	if srv == nil {
		return nil, ErrNotRunning
	}
	return srv.InProcessConn()
}

// Connect implements broker.Runtime. The connection does not use the network,
// and connects again after the server restarted.
func (r *Runtime) Connect(account string, opts ...nats.Option) (*nats.Conn, error) {
	if r.server() == nil {
		return nil, fmt.Errorf("connect to account %q: %w", account, ErrNotRunning)
	}
	// The server would say so too, but over a pipe only after 10 s: it does not read
	// on while it refuses, nor does the client before it has written.
	if _, ok := r.book.nameOf(r.opts.Keyring.Account(account).Public); !ok {
		return nil, fmt.Errorf("connect to account %q: %w", account, ErrNoAccount)
	}
	token, err := broker.AgentJWT(r.opts.Keyring, account)
	if err != nil {
		return nil, err
	}
	user := r.opts.Keyring.AgentUser(account)
	all := append([]nats.Option{
		nats.Name("sealane-agent"),
		nats.InProcessServer(r),
		nats.UserJWT(func() (string, error) { return token, nil }, func(nonce []byte) ([]byte, error) { return user.Sign(nonce) }),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(50 * time.Millisecond),
		nats.ReconnectJitter(20*time.Millisecond, 20*time.Millisecond),
		nats.IgnoreAuthErrorAbort(),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			r.log.Debug("agent's connection", "account", account, "error", err)
		}),
	}, opts...)
	nc, err := nats.Connect("", all...)
	if err != nil {
		return nil, fmt.Errorf("connect to account %q: %w", account, err)
	}
	return nc, nil
}

// LeafConns implements broker.Runtime.
func (r *Runtime) LeafConns() ([]broker.LeafConn, error) {
	srv := r.server()
	if srv == nil {
		return nil, ErrNotRunning
	}
	z, err := srv.Leafz(nil)
	if err != nil {
		return nil, err
	}
	var conns []broker.LeafConn
	for _, l := range z.Leafs {
		if name, ok := r.book.nameOf(l.Account); ok {
			conns = append(conns, broker.LeafConn{Account: name, ID: l.ID, Server: l.Name})
		}
	}
	trimDomainMappings(srv, r.book.keys())
	kick, _ := r.book.stale.look(srv, time.Now())
	kickStale(srv, r.log, kick)
	return conns, nil
}

// KickLeaf implements broker.Runtime.
func (r *Runtime) KickLeaf(id uint64) error {
	srv := r.server()
	if srv == nil {
		return ErrNotRunning
	}
	return srv.DisconnectClientByID(id)
}

// ClientURL implements broker.Runtime. It is known from the first Configure on.
func (r *Runtime) ClientURL() string {
	scheme := "nats"
	if r.opts.ClientTLS != nil {
		scheme = "tls"
	}
	host := r.client.host
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return scheme + "://" + net.JoinHostPort(host, strconv.Itoa(r.chosenPorts().Client))
}

// LinkPort implements broker.Runtime. It is known from the first Configure on.
func (r *Runtime) LinkPort() int { return r.chosenPorts().Link }

// Version implements broker.Runtime.
func (r *Runtime) Version() string { return server.VERSION }
