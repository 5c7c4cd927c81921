package statefulset

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	"github.com/sealane/sealane/broker"
	"github.com/sealane/sealane/broker/pod"
)

const (
	caFile      = "ca.pem"
	caLife      = 20 * 365 * 24 * time.Hour
	serverLife  = 90 * 24 * time.Hour
	agentLife   = 24 * time.Hour
	clockLeeway = 10 * time.Minute
)

// local is the authority of one member's servers. It has nothing to do with the
// federation's: it says who controls servers, and what applications find.
type local struct {
	member string
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
}

// loadLocal reads the authority in dir, or makes one.
func loadLocal(dir, member string) (*local, error) {
	path := filepath.Join(dir, caFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return createLocal(dir, path, member)
	}
	if err != nil {
		return nil, err
	}
	l := &local{member: member}
	for len(b) > 0 {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		switch block.Type {
		case "CERTIFICATE":
			l.cert, err = x509.ParseCertificate(block.Bytes)
		case "PRIVATE KEY":
			var key any
			if key, err = x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
				l.key, _ = key.(*ecdsa.PrivateKey)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("local authority %s: %w", path, err)
		}
	}
	if l.cert == nil || l.key == nil {
		return nil, fmt.Errorf("local authority %s is damaged: restore it, or remove it to have another (servers and applications then need new certificates)", path)
	}
	return l, nil
}

func createLocal(dir, path, member string) (*local, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		Subject: pkix.Name{CommonName: "servers of " + member}, IsCA: true, BasicConstraintsValid: true,
		MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := sign(tmpl, tmpl, key, key, caLife)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	content := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
	if err := broker.WriteFile(path, content, 0o600); err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &local{member: member, cert: cert, key: key}, err
}

func sign(tmpl, parent *x509.Certificate, key, signer *ecdsa.PrivateKey, life time.Duration) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = serial, now.Add(-clockLeeway), now.Add(life)
	return x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
}

// caPEM is the authority's certificate for applications.
func (l *local) caPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.cert.Raw})
}

func (l *local) issue(id string, names []string, life time.Duration) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	u, err := url.Parse(id)
	if err != nil {
		return nil, nil, err
	}
	tmpl := &x509.Certificate{
		Subject: pkix.Name{CommonName: l.member}, URIs: []*url.URL{u}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if len(names) > 0 {
		tmpl.ExtKeyUsage = append(tmpl.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	der, err := sign(tmpl, l.cert, key, l.key, life)
	return key, der, err
}

// serverNames are all names under which servers are known.
func serverNames(names []string) []string {
	// The loopback address is where a server finds its own companion.
	all := append([]string{pod.ServerName, "localhost", "127.0.0.1"}, names...)
	slices.Sort(all)
	return slices.Compact(all)
}

// serverIdentity is what servers show: old as long as it will do.
func (l *local) serverIdentity(old *brokerv1.Identity, names []string) (*brokerv1.Identity, error) {
	names = serverNames(names)
	if l.willDo(old, names) {
		return old, nil
	}
	key, der, err := l.issue(pod.ServerID(l.member), names, serverLife)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &brokerv1.Identity{Chain: [][]byte{der}, Key: pkcs8, Authorities: [][]byte{l.cert.Raw}}, nil
}

// willDo tells whether an identity has these names and two thirds of its life left.
func (l *local) willDo(old *brokerv1.Identity, names []string) bool {
	if len(old.GetChain()) == 0 {
		return false
	}
	c, err := x509.ParseCertificate(old.Chain[0])
	if err != nil || c.CheckSignatureFrom(l.cert) != nil {
		return false
	}
	have := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		have = append(have, ip.String())
	}
	slices.Sort(have)
	return slices.Equal(have, names) && time.Until(c.NotAfter) > serverLife*2/3
}

// agentCert is what the agent shows to servers. It is made anew for each
// connection and known to nobody else.
func (l *local) agentCert() (*tls.Certificate, error) {
	key, der, err := l.issue(pod.AgentID(l.member), nil, agentLife)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// pool holds the authority.
func (l *local) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(l.cert)
	return p
}

// controlTLS is the agent's side of the control channel.
func (l *local) controlTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: l.pool(), ServerName: pod.ServerName,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return l.agentCert() },
	}
}

// clientTLS is that of the agent as a client.
func (l *local) clientTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: l.pool(), ServerName: pod.ServerName}
}
