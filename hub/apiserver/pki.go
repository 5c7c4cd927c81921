package apiserver

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
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	certLife = 365 * 24 * time.Hour
	// backdate lets certificates work on a machine whose clock is a little behind.
	backdate = 5 * time.Minute
)

// keyPair is a certificate and its key, both as PEM.
type keyPair struct{ cert, key []byte }

// pki is the certificate authority of the API: it vouches for the server and for
// those who may call it, and for nothing else. It has no part in the
// federation's own authority, which agents trust.
type pki struct {
	dir    string
	now    func() time.Time
	caPEM  []byte
	caCert *x509.Certificate
	caKey  *ecdsa.PrivateKey
}

// openPKI reads the authority in dir, or makes one when there is none or it is
// at the end of its life. Every other certificate is checked against the
// authority in force, and so is reissued after a new one was made.
func openPKI(dir string, now func() time.Time) (*pki, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	p := &pki{dir: dir, now: now}
	pair, err := p.read("api-ca")
	if err != nil {
		return nil, err
	}
	if pair != nil {
		cert, key, err := parsePair(*pair)
		if err != nil {
			// Not replaced in silence: that would cut off every kubeconfig.
			return nil, fmt.Errorf("%s is damaged (remove it to make a new authority for the API, which ends every kubeconfig made so far): %w", p.path("api-ca"), err)
		}
		// It must outlive what it signs.
		if p.now().Add(certLife + backdate).Before(cert.NotAfter) {
			p.caPEM, p.caCert, p.caKey = pair.cert, cert, key
			return p, nil
		}
	}
	if err := p.create(); err != nil {
		return nil, fmt.Errorf("make the API's authority: %w", err)
	}
	return p, nil
}

func (p *pki) create() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "sealane-api-ca"},
		NotBefore:             p.now().Add(-backdate),
		NotAfter:              p.now().Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return err
	}
	if p.caCert, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	pair, err := encodePair(der, key)
	if err != nil {
		return err
	}
	p.caPEM, p.caKey = pair.cert, key
	return p.write("api-ca", pair)
}

// issue signs a certificate over a new key. The serial number is chosen by
// CreateCertificate.
func (p *pki) issue(tmpl *x509.Certificate, life time.Duration) (keyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return keyPair{}, err
	}
	tmpl.NotBefore = p.now().Add(-backdate)
	tmpl.NotAfter = p.now().Add(life)
	if tmpl.NotAfter.After(p.caCert.NotAfter) {
		tmpl.NotAfter = p.caCert.NotAfter
	}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, tmpl, p.caCert, key.Public(), p.caKey)
	if err != nil {
		return keyPair{}, err
	}
	return encodePair(der, key)
}

// server returns the serving certificate for hosts, from the folder if that one
// will do, and whether it is a new one.
func (p *pki) server(hosts []string) (keyPair, bool, error) {
	pair, err := p.read("api-server")
	if err != nil {
		return keyPair{}, false, err
	}
	if pair != nil && p.fits(*pair, x509.ExtKeyUsageServerAuth, hosts) {
		return *pair, false, nil
	}
	tmpl := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "sealane-api"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	fresh, err := p.issue(tmpl, certLife)
	if err != nil {
		return keyPair{}, false, fmt.Errorf("issue the API's serving certificate: %w", err)
	}
	return fresh, true, p.write("api-server", fresh)
}

// client issues a certificate with all rights.
func (p *pki) client(name string, life time.Duration) (keyPair, error) {
	pair, err := p.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name, Organization: []string{user.SystemPrivilegedGroup}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, life)
	if err != nil {
		return keyPair{}, fmt.Errorf("issue the client certificate of %s: %w", name, err)
	}
	return pair, nil
}

// fits says whether a certificate is of this authority, for this use and these
// hosts exactly, and has at least a third of its life left.
func (p *pki) fits(pair keyPair, use x509.ExtKeyUsage, hosts []string) bool {
	cert, _, err := parsePair(pair)
	if err != nil || cert.CheckSignatureFrom(p.caCert) != nil || !slices.Contains(cert.ExtKeyUsage, use) {
		return false
	}
	life := cert.NotAfter.Sub(cert.NotBefore)
	if now := p.now(); now.Before(cert.NotBefore) || cert.NotAfter.Sub(now) < life/3 {
		return false
	}
	have := slices.Clone(cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		have = append(have, ip.String())
	}
	want := make([]string, 0, len(hosts))
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			h = ip.String()
		}
		want = append(want, h)
	}
	slices.Sort(have)
	slices.Sort(want)
	return slices.Equal(have, want)
}

// read returns nil when there is no such pair yet.
func (p *pki) read(name string) (*keyPair, error) {
	b, err := os.ReadFile(p.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	pair := &keyPair{}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			pair.cert = pem.EncodeToMemory(block)
		} else {
			pair.key = pem.EncodeToMemory(block)
		}
	}
	return pair, nil
}

// write keeps certificate and key in one file, so that a crash never leaves one
// without the other.
func (p *pki) write(name string, pair keyPair) error {
	return writeFile(p.path(name), slices.Concat(pair.cert, pair.key))
}

func (p *pki) path(name string) string { return filepath.Join(p.dir, name+".pem") }

func encodePair(der []byte, key *ecdsa.PrivateKey) (keyPair, error) {
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return keyPair{}, err
	}
	return keyPair{
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k}),
	}, nil
}

func parsePair(pair keyPair) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	c, err := tls.X509KeyPair(pair.cert, pair.key)
	if err != nil {
		return nil, nil, err
	}
	key, ok := c.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("the key is of type %T", c.PrivateKey)
	}
	return c.Leaf, key, nil
}
