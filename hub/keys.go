package hub

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
	"net/url"
	"slices"
	"time"
)

// keys are what an Authority signs with and trusts: immutable, replaced as a
// whole.
type keys struct {
	cert *x509.Certificate
	key  crypto.Signer
	// others are trusted as well: the authority to come, or the one before.
	others []*x509.Certificate
}

// parseKeys judges an authority. Other authorities, to be trusted beside it, may
// be in a bundle.
func parseKeys(certPEM, keyPEM, bundle []byte, trustDomain string) (*keys, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate and key are damaged or do not belong together: %w", err)
	}
	cert := pair.Leaf
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("the key cannot sign")
	}
	if err := checkAuthority(cert, trustDomain); err != nil {
		return nil, err
	}
	k := &keys{cert: cert, key: key}
	for rest := bundle; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return k, nil
		}
		other, err := x509.ParseCertificate(block.Bytes)
		if err == nil && time.Now().After(other.NotAfter) {
			continue // nobody can have anything of it any more
		}
		if err == nil {
			err = checkAuthority(other, trustDomain)
		}
		if err != nil {
			return nil, fmt.Errorf("another authority that is to be trusted: %w", err)
		}
		if !other.Equal(cert) {
			k.others = append(k.others, other)
		}
	}
}

func checkAuthority(cert *x509.Certificate, trustDomain string) error {
	if !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("the certificate is not one that may sign others")
	}
	if time.Now().After(cert.NotAfter) {
		return fmt.Errorf("the certificate expired at %s", cert.NotAfter.Format(time.RFC3339))
	}
	if want := "spiffe://" + trustDomain; len(cert.URIs) != 1 || cert.URIs[0].String() != want {
		return fmt.Errorf("the certificate is of %v, not of %s: start with the --trust-domain that the federation was made with", cert.URIs, want)
	}
	return nil
}

// generateKeys makes a new authority.
func generateKeys(trustDomain string) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
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
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), nil
}

// The ways in which members could not follow a change of the authority.
var (
	errUnannounced = errors.New("members do not know the new authority yet: put its certificate into trusted.crt and leave the rest as it was, until all members have renewed theirs")
	errForsaken    = errors.New("members have certificates of the present authority: put it into trusted.crt, until all members have renewed theirs")
)

// replace changes to other keys; changed tells whether they are others. Members
// must be able to follow: the new signer has the key of the old one, or was
// trusted before, and the old one still is.
func (a *Authority) replace(k *keys) (changed bool, err error) {
	old := a.current.Load()
	switch {
	case sameAuthority(old.cert)(k.cert):
	case !slices.ContainsFunc(old.others, sameAuthority(k.cert)):
		return false, errUnannounced
	case !slices.ContainsFunc(k.others, sameAuthority(old.cert)):
		return false, errForsaken
	}
	if old.cert.Equal(k.cert) && slices.EqualFunc(old.others, k.others, (*x509.Certificate).Equal) {
		return false, nil
	}
	a.current.Store(k)
	return true, nil
}

// sameAuthority compares keys: a certificate that was made anew over the same
// key verifies what the old one signed.
func sameAuthority(a *x509.Certificate) func(*x509.Certificate) bool {
	return func(b *x509.Certificate) bool {
		return bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo) && bytes.Equal(a.RawSubject, b.RawSubject)
	}
}

// certify makes a certificate of the hub's own, with a new key.
func (k *keys) certify(tmpl *x509.Certificate) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, k.cert, key.Public(), k.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, k.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}
