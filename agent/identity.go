package agent

import (
	"bytes"
	"crypto"
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
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

// identity is what makes this process a member: immutable, replaced as a whole
// by a renewal.
type identity struct {
	// name and trustDomain are those of the certificate.
	name        string
	trustDomain string
	cert        tls.Certificate
	authorities []*x509.Certificate
	pool        *x509.CertPool
}

func (id *identity) notBefore() time.Time { return id.cert.Leaf.NotBefore }
func (id *identity) notAfter() time.Time  { return id.cert.Leaf.NotAfter }

// linkTLS is the configuration of both sides of links.
func (id *identity) linkTLS() *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{id.cert},
		RootCAs:      id.pool,
		ClientCAs:    id.pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
	}
}

// identityDir keeps an identity in a folder. Two files must change together
// when a certificate is renewed, key and certificate: the next key is put
// beside the present one first, then the certificate is replaced, which decides
// what the present key is, then the key's file takes its place.
type identityDir string

func (d identityDir) path(name string) string { return filepath.Join(string(d), name) }

const (
	keyFile         = "key.pem"
	nextKeyFile     = "key.next.pem"
	certFile        = "cert.pem"
	authoritiesFile = "authorities.pem"
	hubFile         = "hub"
)

// errNotEnrolled says that there is no certificate yet.
var errNotEnrolled = errors.New("not enrolled")

// load reads the identity, finishing what a crash left half done. The error
// wraps errNotEnrolled if there is none.
func (d identityDir) load() (*identity, error) {
	chain, err := d.certificates(certFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNotEnrolled
	}
	if err != nil {
		return nil, err
	}
	authorities, err := d.certificates(authoritiesFile)
	if err != nil {
		return nil, err
	}
	key, err := d.key(keyFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if key == nil || !sameKey(chain[0], key) {
		next, nerr := d.key(nextKeyFile)
		if nerr != nil || !sameKey(chain[0], next) {
			return nil, fmt.Errorf("%s and %s do not belong together: restore %s from a backup, or remove it and enrol again with a new join token", d.path(keyFile), d.path(certFile), string(d))
		}
		if err := d.promoteKey(); err != nil {
			return nil, err
		}
		key = next
	}
	return newIdentity(chain, authorities, key)
}

// promoteKey makes the next key the present one.
func (d identityDir) promoteKey() error {
	if err := os.Rename(d.path(nextKeyFile), d.path(keyFile)); err != nil {
		return err
	}
	return broker.SyncDir(string(d))
}

// keyFor returns the key in a file, making it first if there is none: it is on
// the disk before anything is asked for with it, so that a request whose answer
// was lost can be repeated with the same key.
func (d identityDir) keyFor(file string) (*ecdsa.PrivateKey, error) {
	key, err := d.key(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return nil, err
	}
	return key, broker.WriteFile(d.path(file), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// store writes what the hub answered; the key is already in keyed. The
// certificate comes last of what it needs: it decides.
func (d identityDir) store(id *identity, keyed string) error {
	if err := broker.WriteFile(d.path(authoritiesFile), encodeCertificates(id.authorities), 0o644); err != nil {
		return err
	}
	var chain []*x509.Certificate
	for _, der := range id.cert.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		chain = append(chain, c)
	}
	if err := broker.WriteFile(d.path(certFile), encodeCertificates(chain), 0o644); err != nil {
		return err
	}
	if keyed == nextKeyFile {
		return d.promoteKey()
	}
	return nil
}

func (d identityDir) key(file string) (*ecdsa.PrivateKey, error) {
	path := d.path(file)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s is damaged: it is no PEM", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", path, err)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T instead of an ECDSA key", path, k)
	}
	return key, nil
}

func (d identityDir) certificates(file string) ([]*x509.Certificate, error) {
	path := d.path(file)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var l []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s is damaged: %w", path, err)
		}
		l = append(l, c)
	}
	if len(l) == 0 {
		return nil, fmt.Errorf("%s is damaged: it has no certificate", path)
	}
	return l, nil
}

// hub is the address that was last given, "" if none was.
func (d identityDir) hub() string {
	b, err := os.ReadFile(d.path(hubFile))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (d identityDir) setHub(hub string) error {
	if d.hub() == hub {
		return nil
	}
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return err
	}
	return broker.WriteFile(d.path(hubFile), []byte(hub+"\n"), 0o644)
}

func encodeCertificates(l []*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range l {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a Buffer takes everything
	}
	return b.Bytes()
}

func sameKey(c *x509.Certificate, key *ecdsa.PrivateKey) bool {
	pub, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key != nil && pub.Equal(key.Public())
}

// certificateRequest is a PKCS#10 request. The hub takes the public key from it
// and nothing else.
func certificateRequest(name string, key *ecdsa.PrivateKey) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
}

// parseIssued makes an identity of what a hub answered.
func parseIssued(certificates, authorities [][]byte, key *ecdsa.PrivateKey) (*identity, error) {
	chain, err := parseCertificates(certificates)
	if err != nil {
		return nil, err
	}
	roots, err := parseCertificates(authorities)
	if err != nil {
		return nil, err
	}
	if len(chain) == 0 || len(roots) == 0 {
		return nil, errors.New("the hub answered without a certificate or without its authority")
	}
	return newIdentity(chain, roots, key)
}

func parseCertificates(ders [][]byte) ([]*x509.Certificate, error) {
	if len(ders) > 16 {
		return nil, fmt.Errorf("the hub answered with %d certificates", len(ders))
	}
	var l []*x509.Certificate
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("the hub answered with a damaged certificate: %w", err)
		}
		l = append(l, c)
	}
	return l, nil
}

// newIdentity checks that chain, authorities and key belong together and say
// who the member is.
func newIdentity(chain, authorities []*x509.Certificate, key *ecdsa.PrivateKey) (*identity, error) {
	leaf := chain[0]
	if !sameKey(leaf, key) {
		return nil, errors.New("the certificate is not for the key of this member")
	}
	domain, name, err := memberOf(leaf)
	if err != nil {
		return nil, err
	}
	id := &identity{name: name, trustDomain: domain, authorities: authorities, pool: x509.NewCertPool()}
	for _, a := range authorities {
		id.pool.AddCert(a)
	}
	intermediates := x509.NewCertPool()
	id.cert = tls.Certificate{PrivateKey: key, Leaf: leaf}
	for i, c := range chain {
		id.cert.Certificate = append(id.cert.Certificate, c.Raw)
		if i > 0 {
			intermediates.AddCert(c)
		}
	}
	// Whether it has expired is for those to judge who are shown it.
	at := leaf.NotBefore
	for _, c := range slices.Concat(chain[1:], authorities) {
		if c.NotBefore.After(at) && c.NotBefore.Before(leaf.NotAfter) {
			at = c.NotBefore
		}
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		_, err := leaf.Verify(x509.VerifyOptions{
			Roots:         id.pool,
			Intermediates: intermediates,
			DNSName:       federationv1.MemberDNSName(domain, name),
			KeyUsages:     []x509.ExtKeyUsage{usage},
			CurrentTime:   at,
		})
		if err != nil {
			return nil, fmt.Errorf("the certificate of this member does not verify: %w", err)
		}
	}
	return id, nil
}

// memberOf reads trust domain and name from a member's certificate, which has
// exactly one URI.
func memberOf(c *x509.Certificate) (domain, name string, err error) {
	if len(c.URIs) != 1 {
		return "", "", fmt.Errorf("the certificate of a member has one URI, not %d", len(c.URIs))
	}
	u := c.URIs[0]
	name, ok := strings.CutPrefix(u.Path, "/cluster/")
	if !ok || u.String() != federationv1.MemberID(u.Host, name) || u.Host == "" || !memberName.MatchString(name) {
		return "", "", fmt.Errorf("%q is not the id of a member", u)
	}
	return u.Host, name, nil
}
