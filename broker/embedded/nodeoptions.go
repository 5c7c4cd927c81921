package embedded

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

// TLSConfig makes the TLS configuration of an identity: it shows the certificate
// and believes the authorities, whichever side it is.
func TLSConfig(id *brokerv1.Identity) (*tls.Config, error) {
	if len(id.GetChain()) == 0 || len(id.GetAuthorities()) == 0 {
		return nil, errors.New("an identity needs a certificate and an authority")
	}
	key, err := x509.ParsePKCS8PrivateKey(id.Key)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	leaf, err := x509.ParseCertificate(id.Chain[0])
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	pool := x509.NewCertPool()
	for _, der := range id.Authorities {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("authority: %w", err)
		}
		pool.AddCert(ca)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{{Certificate: id.Chain, PrivateKey: key, Leaf: leaf}},
		RootCAs:      pool, ClientCAs: pool,
	}, nil
}

// checkState refuses a state from which no server can be made.
func checkState(s *brokerv1.State) error {
	switch {
	case s.GetMember() == "" || s.Generation == 0:
		return errors.New("it names no member or has no generation")
	case !nkeys.IsValidPublicOperatorKey(s.Operator):
		return errors.New("its operator is not one")
	case !nkeys.IsValidPublicAccountKey(s.SystemAccount):
		return errors.New("its system account is not one")
	case len(s.Servers) == 0:
		return errors.New("it names no servers")
	}
	if _, err := TLSConfig(s.Local); err != nil {
		return fmt.Errorf("its local identity: %w", err)
	}
	if s.Link != nil {
		if _, err := TLSConfig(s.Link); err != nil {
			return fmt.Errorf("its identity for links: %w", err)
		}
	}
	return checkAccounts(s)
}

// serverOptions makes the options of the server from a state; what is wrong with
// the remotes of single peers goes to bad.
func (n *Node) serverOptions(s *brokerv1.State, name string, bad map[string]string) (serverOptions, error) {
	local, err := TLSConfig(s.Local)
	if err != nil {
		return serverOptions{}, err
	}
	o := serverOptions{
		config:   broker.Config{Cluster: s.Member, Spec: broker.WithDefaults(s.Spec), TrustDomain: s.TrustDomain},
		operator: n.operator, resolver: n.resolver, storeDir: n.storeDir(), clientTLS: local,
		client: n.client,
		cluster: &clusterOptions{
			serverName: name, listen: n.route, tls: local, lameDuck: n.opts.LameDuck,
		},
	}
	for _, srv := range s.Servers {
		o.cluster.routes = append(o.cluster.routes, srv.Route)
	}
	if s.Link == nil {
		return o, nil
	}
	if o.config.TLS, err = TLSConfig(s.Link); err != nil {
		return serverOptions{}, err
	}
	o.link = n.link
	user, err := linkUser(s.LinkSeed)
	if err != nil && len(s.Remotes) > 0 {
		return serverOptions{}, err
	}
	keys := map[string]string{}
	for _, a := range s.Accounts {
		keys[a.Name] = a.Key
	}
	used := map[string]bool{}
	for _, m := range s.Remotes {
		r := broker.Remote{Peer: m.Peer, Out: m.Out, Endpoints: m.Endpoints, JWT: m.Jwt, Disabled: m.Disabled, Spoke: m.Spoke, Shared: m.Shared, Incarnation: m.Incarnation}
		if m.Proxy != "" {
			if r.Proxy, err = url.Parse(m.Proxy); err != nil {
				bad[m.Peer] = err.Error()
				continue
			}
		}
		// The hub side of a connection has it once for all servers.
		if r.Out && !r.Spoke && n.opts.Name != s.Servers[0].Name {
			r.Disabled = true
		}
		ro, path, err := n.remote(o.config, r, user, keys[remoteAccount(r)])
		if err != nil {
			bad[m.Peer] = err.Error()
			continue
		}
		used[path] = true
		o.remotes = append(o.remotes, ro)
	}
	if err := removeCreds(n.path("links"), used); err != nil {
		n.log.Warn("old link credentials are not removed", "error", err)
	}
	return o, nil
}

func (n *Node) remote(c broker.Config, r broker.Remote, user broker.KeyPair, account string) (*server.RemoteLeafOpts, string, error) {
	if account == "" {
		return nil, "", errors.New("its account does not exist")
	}
	path, err := writeCreds(n.path("links"), user, r)
	if err != nil {
		return nil, "", err
	}
	ro, err := remoteOptions(account, c, r, path)
	return ro, path, err
}

func linkUser(seed []byte) (broker.KeyPair, error) {
	k, err := nkeys.FromSeed(seed)
	if err != nil {
		return broker.KeyPair{}, fmt.Errorf("link user: %w", err)
	}
	public, err := k.PublicKey()
	return broker.KeyPair{KeyPair: k, Public: public}, err
}

// reload changes the running server to s, but for what it cannot change.
func (n *Node) reload(ctx context.Context, srv *server.Server, s *brokerv1.State, bad map[string]string) error {
	next := withSpec(s, n.running)
	o, err := n.serverOptions(next, srv.Name(), bad)
	if err != nil || sameOptions(n.running, next) {
		return err
	}
	return reload(ctx, srv, o.build)
}

// sameOptions tells whether two states differ in nothing that options are made of.
func sameOptions(a, b *brokerv1.State) bool {
	return proto.Equal(optionsPart(a), optionsPart(b))
}

func optionsPart(s *brokerv1.State) *brokerv1.State {
	return &brokerv1.State{
		Member: s.Member, TrustDomain: s.TrustDomain, Spec: s.Spec, Local: s.Local, Link: s.Link,
		Remotes: s.Remotes, LinkSeed: s.LinkSeed, Servers: s.Servers,
	}
}

// withSpec is s with what a server that was started with running cannot change.
func withSpec(s, running *brokerv1.State) *brokerv1.State {
	next := proto.Clone(s).(*brokerv1.State)
	next.Spec = federationv1.WithoutRestarts(broker.WithDefaults(running.Spec), broker.WithDefaults(s.Spec))
	return next
}

// needsNodeRestart says what of s a server that runs with spec cannot reload.
func needsNodeRestart(running *federationv1.BrokerSpec, s *brokerv1.State) string {
	var l []string
	for _, why := range federationv1.Restarts(broker.WithDefaults(running), broker.WithDefaults(s.Spec)) {
		l = append(l, string(why))
	}
	return strings.Join(l, ", ")
}

// newServerName names a server that begins without data. Names of members have no
// dots, so it is that of no other server of the federation.
func newServerName(member, process string) (string, error) {
	b := make([]byte, 3)
	if _, err := rand.Read(b); err != nil {
		return "", err
	}
	return member + "." + process + "." + hex.EncodeToString(b), nil
}

// peersFile is where NATS keeps the peers of the group that assigns streams. It
// exists from the server's first start as one of a cluster.
func (n *Node) peersFile(s *brokerv1.State) string {
	return filepath.Join(n.storeDir(), server.JetStreamStoreDir, s.SystemAccount, "_js_", "_meta_", "peers.idx")
}

// writeFounder makes a server the only peer of its group. By itself NATS begins
// with two at least and a cluster of one would never have a leader. The format is
// that of nats-server 2.15: size, number of peers, their ids, an extension.
func writeFounder(path, serverName string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	b := binary.LittleEndian.AppendUint32(nil, 1)
	b = binary.LittleEndian.AppendUint32(b, 1)
	b = append(b, PeerID(serverName)...)
	b = binary.LittleEndian.AppendUint16(b, 0)
	return broker.WriteFile(path, b, 0o600)
}

// PeerID is the id of a server, by its name, among its peers.
func PeerID(serverName string) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	sum := sha256.Sum256([]byte(serverName))
	id := sum[:8]
	for i := range id {
		id[i] = digits[int(id[i])%len(digits)]
	}
	return string(id)
}
