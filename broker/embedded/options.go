package embedded

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

const (
	// pingInterval finds dead clients and, at the latest, half-open leaf
	// connections (after three intervals). NATS has one setting for both, so it
	// is what a suspended client can stand; the agent's probes find half-open
	// links sooner.
	pingInterval = 10 * time.Second
	pingMax      = 2
	// leafReconnect cannot be reloaded.
	leafReconnect  = 250 * time.Millisecond
	leafDial       = 3 * time.Second
	leafTLSSeconds = 5.0
	// Clients are told and then let go over this time when the server stops.
	lameDuck      = 600 * time.Millisecond
	lameDuckGrace = 100 * time.Millisecond
	syncInterval  = time.Second
)

// serverOptions is everything that the server's options depend on.
type serverOptions struct {
	config    broker.Config
	operator  *jwt.OperatorClaims
	resolver  *server.DirAccResolver
	storeDir  string
	client    listener
	link      listener
	clientTLS *tls.Config
	remotes   []*server.RemoteLeafOpts
	// cluster is what makes the server one of several; nil: it stands alone.
	cluster *clusterOptions
}

// clusterOptions say how a server finds the others of its cluster.
type clusterOptions struct {
	// serverName is unique in the federation and new whenever the server's data is.
	serverName string
	listen     listener
	// routes name every server, also this one: without a route NATS does not make a
	// cluster of one.
	routes []string
	tls    *tls.Config
	// lameDuck is over how long clients are let go.
	lameDuck time.Duration
}

// build makes the whole options anew: the server changes the ones that it is
// given, and options that were validated once are refused the second time.
func (o serverOptions) build() *server.Options {
	spec := o.config.Spec
	so := &server.Options{
		ServerName:             o.config.Cluster,
		Host:                   o.client.host,
		Port:                   o.client.port,
		NoSigs:                 true,
		NoLog:                  true,
		MaxConn:                int(spec.GetMaxConnections()),
		MaxPayload:             spec.GetMaxPayload(),
		PingInterval:           pingInterval,
		MaxPingsOut:            pingMax,
		NoFastProducerStall:    true,
		LameDuckDuration:       lameDuck,
		LameDuckGracePeriod:    lameDuckGrace,
		TrustedOperators:       []*jwt.OperatorClaims{o.operator},
		SystemAccount:          o.operator.SystemAccount,
		AccountResolver:        o.resolver,
		JetStream:              true,
		JetStreamDomain:        o.config.Cluster,
		StoreDir:               o.storeDir,
		JetStreamMaxMemory:     spec.GetMaxMemory(),
		JetStreamMaxStore:      spec.GetMaxStorage(),
		SyncInterval:           syncInterval,
		SyncAlways:             spec.GetSyncAlways(),
		DisableJetStreamBanner: true,
	}
	// Set also where there are no remotes yet: the first one that is added later
	// must not change it.
	so.Cluster.Name = o.config.Cluster
	if o.clientTLS != nil {
		so.TLSConfig = o.clientTLS.Clone()
		so.TLSTimeout = leafTLSSeconds
	}
	so.LeafNode.ReconnectInterval = leafReconnect
	so.LeafNode.DialTimeout = leafDial
	so.LeafNode.NoAdvertise = true
	if o.link.enabled() {
		so.LeafNode.Host, so.LeafNode.Port = o.link.host, o.link.port
		so.LeafNode.TLSConfig = acceptTLS(o.config.TLS)
		so.LeafNode.TLSTimeout = leafTLSSeconds
		// Nothing is said in the clear, not even the server's version; and what
		// stands in between can route by the name in the handshake.
		so.LeafNode.TLSHandshakeFirst = true
	}
	so.LeafNode.Remotes = cloneRemotes(o.remotes)
	if o.cluster != nil {
		o.cluster.apply(so)
	}
	return so
}

func (c *clusterOptions) apply(so *server.Options) {
	so.ServerName = c.serverName
	// In the first half clients are let go one by one, see letGo.
	so.LameDuckDuration, so.LameDuckGracePeriod = c.lameDuck, c.lameDuck/2
	so.Cluster.Host, so.Cluster.Port = c.listen.host, c.listen.port
	so.Cluster.TLSConfig = acceptTLS(c.tls)
	so.Cluster.TLSTimeout = leafTLSSeconds
	// Clients and peers find the servers by the names that they were given.
	so.Cluster.NoAdvertise = true
	// With a pool of routes the first request of a fresh connection can go out
	// before the others know where to answer.
	so.Cluster.PoolSize = -1
	// A replica knows how far the stream has taken what it takes also if the messages that
	// tell are gone already, as from a queue. All servers of a member have one version.
	so.FeatureFlags = map[string]bool{server.FeatureFlagJsSnapshotSources: true}
	for _, r := range c.routes {
		so.Routes = append(so.Routes, &url.URL{Scheme: "nats-route", Host: r})
	}
}

// remoteAccount is the name of the local account of a remote.
func remoteAccount(r broker.Remote) string {
	if r.Out {
		return federationv1.OutAccount(r.Peer)
	}
	return federationv1.InAccount(r.Peer)
}

// remoteOptions makes the options of one remote; account is the public key of its
// local account, creds the path of its credentials.
func remoteOptions(account string, c broker.Config, r broker.Remote, creds string) (*server.RemoteLeafOpts, error) {
	urls, err := endpointURLs(r.Endpoints)
	if err != nil {
		return nil, err
	}
	compression := server.CompressionOpts{}
	if r.Shared {
		compression.Mode = server.CompressionOff
	}
	t := linkTLS(c.TLS)
	t.ServerName = federationv1.MemberDNSName(c.TrustDomain, r.Peer)
	if r.Incarnation != "" {
		t.VerifyConnection = verifyIncarnation(r.Peer, federationv1.IncarnationDNSName(c.TrustDomain, r.Peer, r.Incarnation))
	}
	ro := &server.RemoteLeafOpts{
		LocalAccount:      account,
		URLs:              urls,
		NoRandomize:       true,
		Credentials:       creds,
		TLS:               true,
		TLSConfig:         t,
		TLSTimeout:        leafTLSSeconds,
		TLSHandshakeFirst: true,
		// Between single servers the tx side of a directed link is its hub side, whoever
		// dials: a member in transit then is never a spoke on both of the connections
		// that it joins. Of an acceptor with more servers only some would be connected.
		Hub:                     r.Out && !r.Spoke,
		IgnoreDiscoveredServers: true,
		DenyImports:             broker.LinkDenied(),
		DenyExports:             broker.LinkDenied(),
		Disabled:                r.Disabled,
		RequestIsolation:        r.Shared && !r.Out,
		Compression:             compression,
	}
	if p := r.Proxy; p != nil {
		ro.Proxy.URL = (&url.URL{Scheme: p.Scheme, Host: p.Host}).String()
		ro.Proxy.Username = p.User.Username()
		ro.Proxy.Password, _ = p.User.Password()
	}
	return ro, nil
}

// verifyIncarnation refuses, of all whose certificate is good for the peer's name, those
// who had it before. It comes on top of Go's verification. The name is not the one that
// is dialled, because gateways go by that. NATS takes over the TLS of remotes with every
// reload without comparing it, which it could not do with functions.
func verifyIncarnation(peer, name string) func(tls.ConnectionState) error {
	return func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 || !slices.Contains(s.PeerCertificates[0].DNSNames, name) {
			return fmt.Errorf("the certificate is of a former member %s, or of one that is too new to be known", peer)
		}
		return nil
	}
}

// endpointURLs reads endpoints.
func endpointURLs(endpoints []string) ([]*url.URL, error) {
	var urls []*url.URL
	for _, e := range endpoints {
		host, port, err := net.SplitHostPort(e)
		if n, perr := strconv.Atoi(port); err != nil || host == "" || perr != nil || n <= 0 || n > 65535 || strings.ContainsAny(host, "/@?# ") {
			return nil, fmt.Errorf("endpoint %q is not HOST:PORT", e)
		}
		urls = append(urls, &url.URL{Scheme: "tls", Host: e})
	}
	if len(urls) == 0 {
		return nil, errors.New("the peer has no endpoints")
	}
	return urls, nil
}

func cloneRemotes(rs []*server.RemoteLeafOpts) []*server.RemoteLeafOpts {
	var out []*server.RemoteLeafOpts
	for _, r := range rs {
		cp := *r
		cp.URLs = nil
		for _, u := range r.URLs {
			v := *u
			cp.URLs = append(cp.URLs, &v)
		}
		cp.TLSConfig = r.TLSConfig.Clone()
		out = append(out, &cp)
	}
	return out
}

// linkTLS is the TLS of both sides of links: never below 1.3.
func linkTLS(c *tls.Config) *tls.Config {
	t := c.Clone()
	t.MinVersion = tls.VersionTLS13
	return t
}

// acceptTLS is the TLS of the accepting side: the peer shows a certificate of
// the federation, or it does not get to say anything.
func acceptTLS(c *tls.Config) *tls.Config {
	t := linkTLS(c)
	t.ClientAuth = tls.RequireAndVerifyClientCert
	if t.ClientCAs == nil {
		t.ClientCAs = t.RootCAs
	}
	return t
}

// sortedRemotes copies the remotes in the order of peer and side.
func sortedRemotes(rs []broker.Remote) []broker.Remote {
	out := slices.Clone(rs)
	for i := range out {
		out[i].Endpoints = slices.Clone(out[i].Endpoints)
	}
	sort.SliceStable(out, func(i, j int) bool {
		if out[i].Peer != out[j].Peer {
			return out[i].Peer < out[j].Peer
		}
		return out[i].Out && !out[j].Out
	})
	return out
}
