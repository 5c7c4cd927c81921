package broker

import (
	"context"
	"crypto/tls"
	"net/url"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// Config is everything about a member's NATS server that is not in its account
// claims.
type Config struct {
	// Cluster is the member's name: also the JetStream domain.
	Cluster string
	// Spec holds the limits. Nil: defaults (see DefaultSpec).
	Spec *federationv1.BrokerSpec
	// TLS is used by both sides of links: the member's certificate, the
	// federation's authority (RootCAs), both verified. Required as soon as there is
	// a remote or LinkListen is set. It is not modified, and must not be after it
	// was passed: a renewed certificate comes in a new one.
	TLS *tls.Config
	// Authorities are those of TLS.RootCAs in DER, for a runtime that must pass them
	// on to servers outside this process.
	Authorities [][]byte
	// TrustDomain of the federation; a remote's certificate must carry
	// federationv1.MemberDNSName of the peer, and IncarnationDNSName if that is known.
	TrustDomain string
	// Remotes are the leaf connections to open.
	Remotes []Remote
}

// Remote is one leaf connection to a peer.
type Remote struct {
	Peer string
	// Out tells the outgoing side (local account tx_PEER) from the incoming one
	// (local account rx_PEER).
	Out bool
	// Endpoints of the peer, host:port.
	Endpoints []string
	// Incarnation that the peer's certificate must carry beside its name; "": the name is
	// enough.
	Incarnation string
	// Proxy is the HTTP proxy (http or https, with user and password or neither) through
	// which they are dialled; nil: none.
	Proxy *url.URL
	// JWT is the peer's grant for this side, over Keyring.LinkUser.
	JWT string
	// Disabled keeps the remote configured without connecting.
	Disabled bool
	// Spoke makes this member the spoke of both connections of the link: each of
	// its servers opens them. Else the outgoing side is the hub, and one server
	// opens it.
	Spoke bool
	// Shared tells that the peer's account is shared by many: the incoming side has the
	// peer not tell it the interest of the others, and neither compresses, for which
	// NATS would keep 2.4 MiB at each end.
	Shared bool
}

// LeafConn is a leaf connection that is up.
type LeafConn struct {
	// Account is the local account's name: tx_PEER or rx_PEER.
	Account string
	// ID is the connection's id in the server.
	ID uint64
	// Server is the name that the server at the other end gave itself: that of its
	// member, if it stands alone and is honest.
	Server string
}

// Capacity is what a broker of several servers has, and how it is.
type Capacity struct {
	// Servers that run, of Wanted; Max is how many there can be.
	Servers, Wanted, Max int
	// Why so many are wanted, where the load decides; empty: nothing but the spec says so.
	Why string
	// Storage is what is free on the fullest volume, Memory what a server may use, in
	// bytes; 0: not known.
	Storage, Memory int64
	// Endpoints are the addresses at which peers reach the broker, as far as the place
	// where it runs knows them.
	Endpoints []string
	// Status says in words what the servers are about.
	Status string
}

// Measurer is a Runtime whose servers are elsewhere, so that only it knows what
// they have.
type Measurer interface {
	Capacity() Capacity
	// ClientCA is the authority, in PEM, of what the servers show to applications.
	ClientCA() []byte
}

// Warner is a Runtime that tells of what will soon do harm.
type Warner interface {
	// NearlyFull says which server has little room left for streams; empty: none.
	NearlyFull() string
}

// Shrinker is a Runtime of several servers, in which streams can have several replicas.
type Shrinker interface {
	// ToOneReplica brings a stream to a single replica without losing what it takes from
	// other members (ADR 22). It may take until after ctx, but not for long.
	ToOneReplica(ctx context.Context, account, stream string) error
	// Resting returns what is closed when streams of the account may begin to take from
	// other members; nil: they may.
	Resting(account string) <-chan struct{}
}

// Held marks, in its metadata, a stream that takes nothing for a moment (ADR 22): its
// value is what the limit of the size of messages was.
const Held = "sealane.dev/held"

// Runtime runs the NATS server, or servers, of one member. Its methods are safe
// for concurrent use. A Runtime does nothing until the first Configure.
type Runtime interface {
	// Configure makes c the running configuration. It starts the server, reloads
	// it or, only where NATS cannot reload the change, restarts it; clients stay
	// connected unless it restarts. A remote that cannot be configured is left out:
	// err then wraps a *RemoteError for each, and everything else is in effect. After
	// any other error the broker is as it was.
	Configure(ctx context.Context, c Config) (restarted bool, err error)
	// SetAccounts makes exactly these accounts exist, by name (the claims'
	// Name), beside the system account. It returns when they are in effect on
	// every server, with the error of each account that is not. Unchanged
	// accounts are left alone. The claims are contents: keys, issuer and times
	// are set by the runtime; they must not be modified after they were passed. While no server runs it only takes note and returns
	// nothing; the next Configure starts with these accounts. An account that is not
	// in effect is tried again by each call.
	SetAccounts(ctx context.Context, accounts map[string]*jwt.AccountClaims) map[string]error
	// Connect opens a connection in an account as the agent itself, also in
	// AgentAccount and SystemAccount. It fails if the account does not exist. The
	// connection comes back by itself after a restart.
	Connect(account string, opts ...nats.Option) (*nats.Conn, error)
	// LeafConns lists the leaf connections that are up, in both directions.
	LeafConns() ([]LeafConn, error)
	// KickLeaf closes a leaf connection; a remote dials again.
	KickLeaf(id uint64) error
	// ClientURL is where applications connect; known after the first Configure.
	ClientURL() string
	// LinkPort is the port on which links are accepted; 0: they are not.
	LinkPort() int
	// Version is the server's version.
	Version() string
	// Shutdown stops the server for good, letting clients go first as long as ctx
	// allows.
	Shutdown(ctx context.Context) error
}
