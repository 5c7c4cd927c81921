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
	"sync"
	"time"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

const (
	// memberValidity is long enough that a hub that is down for days cuts nothing
	// (agents renew at a third of it).
	memberValidity = 7 * 24 * time.Hour
	serverValidity = 30 * 24 * time.Hour
	// The authority's certificate is what agents pin; it is not rotated.
	authorityValidity = 25 * 365 * 24 * time.Hour
	// clockSkew is how far the clocks of members may be behind the hub's.
	clockSkew = 10 * time.Minute

	maxCSR = 16 << 10
)

// Authority is the federation's certificate authority. Its key is a file of the
// hub and leaves it for nothing.
type Authority struct {
	trustDomain string
	cert        *x509.Certificate
	key         crypto.Signer
	now         func() time.Time
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
	a, err := parseAuthority(certPEM, keyPEM, trustDomain)
	if err != nil {
		return nil, fmt.Errorf("the federation's authority in %s: %w", dir, err)
	}
	return a, nil
}

func parseAuthority(certPEM, keyPEM []byte, trustDomain string) (*Authority, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("ca.crt and ca.key are damaged or do not belong together: %w", err)
	}
	cert := pair.Leaf
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, errors.New("ca.crt is not a certificate that may sign others")
	}
	if time.Now().After(cert.NotAfter) {
		return nil, fmt.Errorf("ca.crt expired at %s", cert.NotAfter.Format(time.RFC3339))
	}
	if want := "spiffe://" + trustDomain; len(cert.URIs) != 1 || cert.URIs[0].String() != want {
		return nil, fmt.Errorf("ca.crt is of %v, not of %s: start with the --trust-domain that the federation was made with", cert.URIs, want)
	}
	return &Authority{trustDomain: trustDomain, cert: cert, key: key, now: time.Now}, nil
}

func createAuthority(certFile, keyFile, trustDomain string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Sealane federation " + trustDomain},
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(authorityValidity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	if err := os.MkdirAll(filepath.Dir(keyFile), 0o700); err != nil {
		return nil, err
	}
	if err := writeFile(keyFile, keyPEM, 0o600); err != nil {
		return nil, err
	}
	if err := writeFile(certFile, certPEM, 0o644); err != nil {
		return nil, err
	}
	return parseAuthority(certPEM, keyPEM, trustDomain)
}

// TrustDomain is the authority's.
func (a *Authority) TrustDomain() string { return a.trustDomain }

// Certificate is the authority's own, in DER.
func (a *Authority) Certificate() []byte { return a.cert.Raw }

// Hash is the SHA-256 of Certificate, in hex: what join tokens carry.
func (a *Authority) Hash() string {
	sum := sha256.Sum256(a.cert.Raw)
	return hex.EncodeToString(sum[:])
}

func (a *Authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// Issue makes a member's certificate for a key. Everything in it but the key is
// the hub's choice.
func (a *Authority) Issue(cluster string, key crypto.PublicKey) (der []byte, notAfter time.Time, err error) {
	id, err := url.Parse(federationv1.MemberID(a.trustDomain, cluster))
	if err != nil {
		return nil, time.Time{}, err
	}
	now := a.now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: cluster},
		URIs:                  []*url.URL{id},
		DNSNames:              []string{federationv1.MemberDNSName(a.trustDomain, cluster)},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(memberValidity).Truncate(time.Second),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	der, err = x509.CreateCertificate(rand.Reader, tmpl, a.cert, key, a.key)
	return der, tmpl.NotAfter, err
}

// Server returns a source of the hub's own certificate for these names (host
// names and IP addresses). The certificate lives in memory and is made anew
// well before it expires. The chain includes the authority, by whose hash an
// agent that enrols recognises its hub.
func (a *Authority) Server(names []string) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	var mu sync.Mutex
	var current *tls.Certificate
	get := func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		if current != nil && a.now().Before(current.Leaf.NotAfter.Add(-serverValidity/3)) {
			return current, nil
		}
		c, err := a.issueServer(names)
		if err != nil {
			return nil, err
		}
		current = c
		return c, nil
	}
	_, err := get(nil)
	return get, err
}

func (a *Authority) issueServer(names []string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := a.now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "sealane-hub"},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(serverValidity),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else if n != "" && !slices.Contains(tmpl.DNSNames, n) {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
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
