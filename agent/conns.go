package agent

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealane/sealane/broker"
)

// apiTimeout bounds one call to the broker.
const apiTimeout = 5 * time.Second

// accountConn is the agent's own connection in an account.
type accountConn struct {
	nc *nats.Conn
	js jetstream.JetStream
	// asked are the resets that streams of the account asked for.
	asked *askedResets
}

// accountConns keeps one connection per account, opened at first use.
type accountConns struct {
	rt broker.Runtime
	// advised is called with what JetStream tells of changes, by whomever, to
	// streams and consumers of an account.
	advised func(account, subject string)
	log     *slog.Logger

	// feeding is held by whoever changes streams: one that is set up anew has less than
	// it shall have for a moment.
	feeding sync.Mutex

	mu     sync.Mutex
	open   map[string]*accountConn
	closed bool
}

// advisories tell of changes to what the agent looks after.
var advisories = []string{
	advisoryPrefix + "STREAM.DELETED.>",
	advisoryPrefix + "STREAM.UPDATED.>",
	advisoryPrefix + "CONSUMER.DELETED.>",
}

const advisoryPrefix = "$JS.EVENT.ADVISORY."

// logErrors keeps what a connection complains of out of standard error.
func logErrors(log *slog.Logger, account string) nats.Option {
	return nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		log.Debug("connection of the agent", "account", account, "error", err)
	})
}

// get returns the connection in an account that exists.
func (c *accountConns) get(account string) (*accountConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nats.ErrConnectionClosed
	}
	if ac := c.open[account]; ac != nil {
		if ac.nc.IsConnected() {
			return ac, nil
		}
		if !ac.nc.IsClosed() {
			return nil, fmt.Errorf("account %q: %w", account, nats.ErrConnectionReconnecting)
		}
		delete(c.open, account)
	}
	nc, err := c.rt.Connect(account, nats.Timeout(apiTimeout), logErrors(c.log, account))
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(apiTimeout))
	if err != nil {
		nc.Close()
		return nil, err
	}
	for _, subject := range advisories {
		if _, err := nc.Subscribe(subject, func(m *nats.Msg) { c.advised(account, m.Subject) }); err != nil {
			nc.Close()
			return nil, err
		}
	}
	asked := &askedResets{}
	var resting func() <-chan struct{}
	if rt, ok := c.rt.(broker.Shrinker); ok {
		resting = func() <-chan struct{} { return rt.Resting(account) }
	}
	if err := serveResets(nc, asked, resting); err != nil {
		nc.Close()
		return nil, err
	}
	ac := &accountConn{nc: nc, js: js, asked: asked}
	c.open[account] = ac
	return ac, nil
}

// existing returns the connection in an account if it is open already.
func (c *accountConns) existing(account string) (*accountConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ac := c.open[account]; ac != nil && ac.nc.IsConnected() {
		return ac, nil
	}
	return nil, fmt.Errorf("account %q: %w", account, nats.ErrConnectionClosed)
}

// keep closes the connections in all accounts but these.
func (c *accountConns) keep(accounts map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for account, ac := range c.open {
		if !accounts[account] {
			ac.nc.Close()
			delete(c.open, account)
		}
	}
}

// close closes all connections for good.
func (c *accountConns) close() {
	c.keep(nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
}
