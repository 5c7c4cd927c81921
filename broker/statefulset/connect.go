package statefulset

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/nats-io/nats.go"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	"github.com/sealane/sealane/broker"
	"github.com/sealane/sealane/broker/pod"
)

const (
	// userLife is how long the agent is let in with one token; it takes another with
	// each connection.
	userLife = 24 * time.Hour
	dialTime = 2 * time.Second
)

// ErrNoAccount says that an account does not exist.
var ErrNoAccount = errors.New("there is no such account")

func (r *Runtime) dialAny() (net.Conn, error) {
	err := ErrNotRunning
	for _, c := range r.bySuitability() {
		var conn net.Conn
		d := net.Dialer{Timeout: dialTime}
		if conn, err = d.DialContext(context.Background(), "tcp", resolve(r.opts.Place, c.addr.Client)); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// bySuitability is the servers, those first that said last that they run and are
// not about to go.
func (r *Runtime) bySuitability() []*control {
	var good, others []*control
	for _, c := range r.pods() {
		if o := c.known(); o.GetPhase() == brokerv1.Observation_RUNNING && o.Meta.GetLeader() != "" {
			good = append(good, c)
		} else {
			others = append(others, c)
		}
	}
	return append(good, others...)
}

// Connect implements broker.Runtime.
func (r *Runtime) Connect(account string, opts ...nats.Option) (*nats.Conn, error) {
	k := r.opts.Keyring
	r.mu.RLock()
	_, ok := r.names[k.Account(account).Public]
	r.mu.RUnlock()
	if !ok {
		return nil, fmt.Errorf("connect to account %q: %w", account, ErrNoAccount)
	}
	user := k.AgentUser(account)
	all := append([]nats.Option{
		nats.Name("sealane-agent"),
		nats.SetCustomDialer(dialer{r}),
		nats.Secure(r.local.clientTLS()),
		nats.UserJWT(
			func() (string, error) { return broker.AgentJWTUntil(k, account, time.Now().Add(userLife)) },
			func(nonce []byte) ([]byte, error) { return user.Sign(nonce) }),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(50 * time.Millisecond),
		nats.ReconnectJitter(20*time.Millisecond, 20*time.Millisecond),
		// There is one name for all servers.
		nats.IgnoreDiscoveredServers(),
		nats.PingInterval(5 * time.Second), nats.MaxPingsOutstanding(2),
		nats.IgnoreAuthErrorAbort(),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			r.log.Debug("agent's connection", "account", account, "error", err)
		}),
	}, opts...)
	nc, err := nats.Connect("tls://"+pod.ServerName+":4222", all...)
	if err != nil {
		return nil, fmt.Errorf("connect to account %q: %w", account, err)
	}
	return nc, nil
}

// dialer keeps Dial out of what a Runtime shows.
type dialer struct{ r *Runtime }

// Dial connects to a server that runs, whatever address it is given: connections
// of the agent outlive every single server.
func (d dialer) Dial(_, _ string) (net.Conn, error) { return d.r.dialAny() }

// idBits is what a connection's id leaves to the number of its server.
const idBits = 56

// LeafConns implements broker.Runtime: those of all servers that can be reached.
func (r *Runtime) LeafConns() ([]broker.LeafConn, error) {
	r.mu.RLock()
	names := r.names
	r.mu.RUnlock()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	var conns []broker.LeafConn
	reached := false
	for _, o := range r.observeAll(ctx, false) {
		if o == nil {
			continue
		}
		reached = true
		for _, l := range o.o.Leafs {
			if name, ok := names[l.Account]; ok {
				conns = append(conns, broker.LeafConn{Account: name, ID: uint64(o.n)<<idBits | l.Id})
			}
		}
	}
	if !reached {
		return nil, ErrNotRunning
	}
	return conns, nil
}

// KickLeaf implements broker.Runtime.
func (r *Runtime) KickLeaf(id uint64) error {
	n, pods := int(id>>idBits), r.pods()
	if n >= len(pods) {
		return ErrNotRunning
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	_, err := pods[n].c.Kick(ctx, &brokerv1.KickRequest{Id: id & (1<<idBits - 1)})
	return err
}
