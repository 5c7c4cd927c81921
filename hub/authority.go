package hub

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

const (
	// memberValidity is long enough that a hub that is down for days cuts nothing
	// (agents renew at a third of it).
	memberValidity = 7 * 24 * time.Hour
	serverValidity = 30 * 24 * time.Hour
	// The authority's certificate is what agents pin; it is rotated by hand only.
	authorityValidity = 25 * 365 * 24 * time.Hour
	// clockSkew is how far the clocks of members may be behind the hub's.
	clockSkew = 10 * time.Minute

	maxCSR = 16 << 10
)

// Authority is the federation's certificate authority. Its key is the hub's and
// leaves it for nothing.
type Authority struct {
	trustDomain string
	now         func() time.Time
	current     atomic.Pointer[keys]
}

func newAuthorityOf(trustDomain string, k *keys) *Authority {
	a := &Authority{trustDomain: trustDomain, now: time.Now}
	a.current.Store(k)
	return a
}

// OpenAuthority reads the authority from dir (ca.crt and ca.key). If dir has
// neither file, it makes one for the trust domain. It never replaces one: a
// pair that is incomplete, damaged or of another trust domain is an error.
func OpenAuthority(dir, trustDomain string) (*Authority, error) {
	if err := validTrustDomain(trustDomain); err != nil {
		return nil, err
	}
	certFile, keyFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	certPEM, certErr := os.ReadFile(certFile)
	keyPEM, keyErr := os.ReadFile(keyFile)
	switch {
	case errors.Is(certErr, fs.ErrNotExist) && errors.Is(keyErr, fs.ErrNotExist):
		return createAuthority(certFile, keyFile, trustDomain)
	case errors.Is(certErr, fs.ErrNotExist):
		return nil, fmt.Errorf("%s exists but %s does not: restore it from a backup; only if no member has ever enrolled, delete the first to start afresh", keyFile, certFile)
	case errors.Is(keyErr, fs.ErrNotExist):
		return nil, fmt.Errorf("%s exists but %s does not: restore it from a backup; only if no member has ever enrolled, delete the first to start afresh", certFile, keyFile)
	case certErr != nil:
		return nil, certErr
	case keyErr != nil:
		return nil, keyErr
	}
	k, err := parseKeys(certPEM, keyPEM, nil, trustDomain)
	if err != nil {
		return nil, fmt.Errorf("the federation's authority in %s: %w", dir, err)
	}
	return newAuthorityOf(trustDomain, k), nil
}

func createAuthority(certFile, keyFile, trustDomain string) (*Authority, error) {
	certPEM, keyPEM, err := generateKeys(trustDomain)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(keyFile), 0o700); err != nil {
		return nil, err
	}
	if err := writeFile(keyFile, keyPEM, 0o600); err != nil {
		return nil, err
	}
	if err := writeFile(certFile, certPEM, 0o644); err != nil {
		return nil, err
	}
	k, err := parseKeys(certPEM, keyPEM, nil, trustDomain)
	if err != nil {
		return nil, err
	}
	return newAuthorityOf(trustDomain, k), nil
}

// TrustDomain is the authority's.
func (a *Authority) TrustDomain() string { return a.trustDomain }

// Certificate is the authority's own, in DER.
func (a *Authority) Certificate() []byte { return a.current.Load().cert.Raw }

// Certificates are all that members shall trust, in DER: the authority's own
// first.
func (a *Authority) Certificates() [][]byte {
	k := a.current.Load()
	out := [][]byte{k.cert.Raw}
	for _, c := range k.others {
		out = append(out, c.Raw)
	}
	return out
}

// Hash is the SHA-256 of Certificate, in hex: what join tokens carry.
func (a *Authority) Hash() string {
	sum := sha256.Sum256(a.Certificate())
	return hex.EncodeToString(sum[:])
}

func (a *Authority) pool() *x509.CertPool {
	k, p := a.current.Load(), x509.NewCertPool()
	p.AddCert(k.cert)
	for _, c := range k.others {
		p.AddCert(c)
	}
	return p
}

// Issue makes a member's certificate for a key. Everything in it but the key is
// the hub's choice.
func (a *Authority) Issue(cluster, incarnation string, key crypto.PublicKey) (der []byte, notAfter time.Time, err error) {
	id, err := url.Parse(federationv1.MemberID(a.trustDomain, cluster))
	if err != nil {
		return nil, time.Time{}, err
	}
	now := a.now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: cluster},
		URIs:                  []*url.URL{id},
		DNSNames:              []string{federationv1.MemberDNSName(a.trustDomain, cluster), federationv1.IncarnationDNSName(a.trustDomain, cluster, incarnation)},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(memberValidity).Truncate(time.Second),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	k := a.current.Load()
	der, err = x509.CreateCertificate(rand.Reader, tmpl, k.cert, key, k.key)
	return der, tmpl.NotAfter, err
}

// Server returns a source of the hub's own certificate for these names (host
// names and IP addresses). The certificate lives in memory and is made anew
// well before it expires. The chain includes the authority, by whose hash an
// agent that enrols recognises its hub, unless the agent says that it has it.
func (a *Authority) Server(names []string) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	get := a.source(func(k *keys) (*tls.Certificate, error) { return a.issueServer(k, names) })
	_, err := get()
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		c, err := get()
		if err != nil || !slices.Contains(hello.SupportedProtos, federationv1.EnrolledProtocol) {
			return c, err
		}
		alone := *c
		alone.Certificate = c.Certificate[:1]
		return &alone, nil
	}, err
}

// source keeps what issue makes until it is old, or the authority another.
func (a *Authority) source(issue func(*keys) (*tls.Certificate, error)) func() (*tls.Certificate, error) {
	var mu sync.Mutex
	var current *tls.Certificate
	var by *keys
	return func() (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		k := a.current.Load()
		if current != nil && by == k && a.now().Before(current.Leaf.NotAfter.Add(-serverValidity/3)) {
			return current, nil
		}
		c, err := issue(k)
		if err != nil {
			return nil, err
		}
		current, by = c, k
		return c, nil
	}
}

func (a *Authority) issueServer(k *keys, names []string) (*tls.Certificate, error) {
	tmpl := a.hubTemplate()
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else if n != "" && !slices.Contains(tmpl.DNSNames, n) {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	return k.certify(tmpl)
}

func (a *Authority) hubTemplate() *x509.Certificate {
	now := a.now()
	return &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "sealane-hub"},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(serverValidity),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
}

// requestedKey takes the public key out of a certificate request, and nothing
// else. The request must be signed by it.
func requestedKey(der []byte) (key crypto.PublicKey, hash string, err error) {
	if len(der) == 0 || len(der) > maxCSR {
		return nil, "", fmt.Errorf("certificate request of %d bytes: expected 1 to %d", len(der), maxCSR)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, "", fmt.Errorf("certificate request: %w", err)
	}
	switch k := csr.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return nil, "", fmt.Errorf("certificate request: curve %s is not accepted: use P-256 or P-384", k.Params().Name)
		}
	case ed25519.PublicKey:
	default:
		return nil, "", fmt.Errorf("certificate request: key of type %s is not accepted: use ECDSA P-256 or P-384, or Ed25519", csr.PublicKeyAlgorithm)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, "", fmt.Errorf("certificate request: %w", err)
	}
	return csr.PublicKey, keyHash(csr.RawSubjectPublicKeyInfo), nil
}

// keyHash names a public key: the SHA-256 of its SPKI, in hex.
func keyHash(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

func serial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}
