package apiserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// TestAccess: who is let in, and who may do anything.
func TestAccess(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	install(t, s.RESTConfig())
	ca, caKey := authority(t, dir)
	foreign, foreignKey := selfSigned(t)
	masters := pkix.Name{CommonName: "x", Organization: []string{"system:masters"}}

	now := time.Now()
	for name, test := range map[string]struct {
		cert *tls.Certificate
		with func(*rest.Config)
		want int
	}{
		"admin":                    {cert: sign(t, ca, caKey, masters, now.Add(time.Hour), x509.ExtKeyUsageClientAuth), want: 200},
		"nobody":                   {want: 401},
		"bearer token":             {with: func(c *rest.Config) { c.BearerToken = "x" }, want: 401},
		"password":                 {with: func(c *rest.Config) { c.Username, c.Password = "admin", "admin" }, want: 401},
		"name in a header":         {with: header("X-Remote-User", "x", "X-Remote-Group", "system:masters"), want: 401},
		"impersonation by nobody":  {with: header("Impersonate-User", "x", "Impersonate-Group", "system:masters"), want: 401},
		"another authority":        {cert: sign(t, foreign, foreignKey, masters, now.Add(time.Hour), x509.ExtKeyUsageClientAuth), want: 401},
		"self-signed":              {cert: &tls.Certificate{Certificate: [][]byte{foreign.Raw}, PrivateKey: foreignKey}, want: 401},
		"expired":                  {cert: sign(t, ca, caKey, masters, now.Add(-time.Minute), x509.ExtKeyUsageClientAuth), want: 401},
		"certificate for a server": {cert: sign(t, ca, caKey, masters, now.Add(time.Hour), x509.ExtKeyUsageServerAuth), want: 401},
		"no group":                 {cert: sign(t, ca, caKey, pkix.Name{CommonName: "system:masters"}, now.Add(time.Hour), x509.ExtKeyUsageClientAuth), want: 403},
		"another group":            {cert: sign(t, ca, caKey, pkix.Name{CommonName: "x", Organization: []string{"system:authenticated"}}, now.Add(time.Hour), x509.ExtKeyUsageClientAuth), want: 403},
		"impersonation by another group": {
			cert: sign(t, ca, caKey, pkix.Name{CommonName: "x", Organization: []string{"y"}}, now.Add(time.Hour), x509.ExtKeyUsageClientAuth),
			with: header("Impersonate-User", "x", "Impersonate-Group", "system:masters"), want: 403,
		},
		"admin as another group": {
			cert: sign(t, ca, caKey, masters, now.Add(time.Hour), x509.ExtKeyUsageClientAuth),
			with: header("Impersonate-User", "x"), want: 403,
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := rest.AnonymousClientConfig(s.RESTConfig())
			if test.cert != nil {
				cfg.CertData, cfg.KeyData = encode(t, test.cert)
			}
			if test.with != nil {
				test.with(cfg)
			}
			for _, path := range []string{
				"/apis", "/apis/messaging.sealane.dev/v1alpha1", "/apis/messaging.sealane.dev/v1alpha1/streams",
				"/apis/messaging.sealane.dev/v1alpha1/namespaces/x/streams", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
				"/api/v1/namespaces/x", "/openapi/v2", "/openapi/v3", "/version", "/healthz", "/livez", "/readyz", "/metrics",
			} {
				if got := get(t, cfg, path); got != test.want {
					t.Errorf("%s: status %d, want %d", path, got, test.want)
				}
			}
		})
	}
}

// TestTLS: nothing below TLS 1.3 is spoken, and the server proves who it is.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	ca, _ := authority(t, dir)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	addr := strings.TrimPrefix(s.RESTConfig().Host, "https://")
	c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	for name, cfg := range map[string]*tls.Config{
		"old version":    {RootCAs: pool, MaxVersion: tls.VersionTLS12}, // refused, is the point
		"no authority":   {},
		"unknown server": {RootCAs: pool, ServerName: "example.com"},
	} {
		if c, err := tls.Dial("tcp", addr, cfg); err == nil {
			t.Errorf("%s: connected", name)
			_ = c.Close()
		}
	}
}

func header(kv ...string) func(*rest.Config) {
	return func(cfg *rest.Config) {
		cfg.Wrap(func(rt http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				r = r.Clone(r.Context())
				for i := 0; i < len(kv); i += 2 {
					r.Header.Set(kv[i], kv[i+1])
				}
				return rt.RoundTrip(r)
			})
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// authority is the server's own, as a thief of the data folder would have it.
func authority(t *testing.T, dir string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	b := readFile(t, filepath.Join(dir, "pki", "api-ca.pem"))
	pair, err := tls.X509KeyPair(b, b)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey)
}

func selfSigned(t *testing.T) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		// The name of the real one.
		Subject:               pkix.Name{CommonName: "sealane-api-ca", Organization: []string{"system:masters"}},
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func sign(t *testing.T, ca *x509.Certificate, caKey *ecdsa.PrivateKey, subject pkix.Name, until time.Time, use x509.ExtKeyUsage) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		Subject:     subject,
		NotBefore:   until.Add(-2 * time.Hour),
		NotAfter:    until,
		ExtKeyUsage: []x509.ExtKeyUsage{use},
	}, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func encode(t *testing.T, c *tls.Certificate) (cert, key []byte) {
	t.Helper()
	k, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k})
}
