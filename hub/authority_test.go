package hub

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

func newAuthority(t testing.TB) *Authority {
	t.Helper()
	a, err := OpenAuthority(t.TempDir(), "test.local")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// request is a certificate request that asks for everything a hub must ignore.
func request(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	id, _ := url.Parse("spiffe://test.local/cluster/somebody-else")
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "somebody-else"},
		DNSNames: []string{"somebody-else.cluster.test.local"},
		URIs:     []*url.URL{id},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestAuthorityIsMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	a, err := OpenAuthority(dir, "test.local")
	if err != nil {
		t.Fatal(err)
	}
	b, err := OpenAuthority(dir, "test.local")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Certificate(), b.Certificate()) || a.Hash() != b.Hash() || len(a.Hash()) != 64 {
		t.Error("a second start has another authority")
	}
	info, err := os.Stat(filepath.Join(dir, "ca.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("ca.key: mode %v, %v; want 0600", info.Mode(), err)
	}
	left, _ := os.ReadDir(dir)
	if len(left) != 2 {
		t.Errorf("left behind: %v", left)
	}
}

func TestAuthorityIsNeverReplaced(t *testing.T) {
	other := t.TempDir()
	if _, err := OpenAuthority(other, "test.local"); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, domain, want string
		damage             func(dir string) error
	}{
		{"no key", "test.local", "ca.key does not", func(d string) error { return os.Remove(filepath.Join(d, "ca.key")) }},
		{"no certificate", "test.local", "ca.crt does not", func(d string) error { return os.Remove(filepath.Join(d, "ca.crt")) }},
		{"damaged key", "test.local", "damaged", func(d string) error { return os.WriteFile(filepath.Join(d, "ca.key"), []byte("x"), 0o600) }},
		{"empty certificate", "test.local", "damaged", func(d string) error { return os.WriteFile(filepath.Join(d, "ca.crt"), nil, 0o600) }},
		{"another's key", "test.local", "belong together", func(d string) error {
			b, err := os.ReadFile(filepath.Join(other, "ca.key"))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(d, "ca.key"), b, 0o600)
		}},
		{"another trust domain", "prod.example.com", "--trust-domain", func(string) error { return nil }},
		{"bad trust domain", "Prod/x", "--trust-domain", func(string) error { return nil }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := OpenAuthority(dir, "test.local"); err != nil {
				t.Fatal(err)
			}
			if err := tt.damage(dir); err != nil {
				t.Fatal(err)
			}
			before := files(t, dir)
			_, err := OpenAuthority(dir, tt.domain)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
			if d := cmp.Diff(before, files(t, dir)); d != "" {
				t.Error("files changed: ", d)
			}
		})
	}
}

func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(b)
	}
	return out
}

// anIncarnation is what a certificate carries of which no test asks.
const anIncarnation = "00112233445566778899aabbccddeeff"

func TestIssueTakesOnlyTheKey(t *testing.T) {
	a, key := newAuthority(t), newKey(t)
	public, hash, err := requestedKey(request(t, key))
	if err != nil {
		t.Fatal(err)
	}
	der, notAfter, err := a.Issue("paris", anIncarnation, public)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"paris.cluster.test.local", anIncarnation + ".paris.cluster.test.local"}, cert.DNSNames); d != "" {
		t.Error(d)
	}
	if len(cert.URIs) != 1 || cert.URIs[0].String() != "spiffe://test.local/cluster/paris" || len(cert.IPAddresses)+len(cert.EmailAddresses) > 0 {
		t.Errorf("names: %v %v %v", cert.URIs, cert.IPAddresses, cert.EmailAddresses)
	}
	if cert.Subject.CommonName != "paris" || cert.IsCA || !key.PublicKey.Equal(cert.PublicKey) || keyHash(cert.RawSubjectPublicKeyInfo) != hash {
		t.Errorf("subject %v, CA %v, key %v", cert.Subject, cert.IsCA, cert.PublicKey)
	}
	now := time.Now()
	if cert.NotBefore.After(now.Add(-time.Minute)) || cert.NotAfter.Sub(now).Round(time.Hour) != 7*24*time.Hour || !cert.NotAfter.Equal(notAfter) {
		t.Errorf("valid from %v to %v, stated %v", cert.NotBefore, cert.NotAfter, notAfter)
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: a.pool(), KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
			t.Errorf("usage %v: %v", use, err)
		}
	}
	if name, err := clusterOf(cert, "test.local"); err != nil || name != "paris" {
		t.Errorf("clusterOf: %q, %v", name, err)
	}
}

func TestClusterOfComparesTheWholeName(t *testing.T) {
	uris := func(ss ...string) (out []*url.URL) {
		for _, s := range ss {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, u)
		}
		return out
	}
	for _, bad := range [][]*url.URL{
		nil,
		uris("spiffe://test.local/cluster/a", "spiffe://test.local/cluster/b"),
		uris("spiffe://test.local.evil/cluster/a"),
		uris("spiffe://test.local/cluster/a/b"),
		uris("spiffe://test.local/clusters/a"),
		uris("spiffe://test.local/cluster/"),
		uris("spiffe://test.local/cluster/A"),
		uris("spiffe://test.local/cluster/a?x=y"),
		uris("spiffe://test.local/cluster/a#x"),
		uris("https://test.local/cluster/a"),
		uris("spiffe://user@test.local/cluster/a"),
		uris("spiffe://test.local/cluster/%61"),
		uris("spiffe://test.local"),
	} {
		if name, err := clusterOf(&x509.Certificate{URIs: bad}, "test.local"); err == nil {
			t.Errorf("%v was taken for %q", bad, name)
		}
	}
}

func TestRequestedKey(t *testing.T) {
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	forged := request(t, newKey(t))
	forged[len(forged)-1] ^= 1
	tests := []struct {
		name, want string
		der        []byte
	}{
		{"P-256", "", request(t, newKey(t))},
		{"P-384", "", request(t, p384)},
		{"Ed25519", "", request(t, ed)},
		{"RSA", "not accepted", request(t, rsaKey)},
		{"P-224", "not accepted", request(t, p224)},
		{"P-521", "not accepted", request(t, p521)},
		{"signature of another key", "certificate request", forged},
		{"empty", "0 bytes", nil},
		{"huge", "bytes", make([]byte, maxCSR+1)},
		{"noise", "certificate request", []byte("no request")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, hash, err := requestedKey(tt.der)
			switch {
			case tt.want == "" && (err != nil || len(hash) != 64):
				t.Errorf("hash %q, error %v", hash, err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestServerCertificate(t *testing.T) {
	a := newAuthority(t)
	now := time.Now()
	a.now = func() time.Time { return now }
	get, err := a.Server([]string{"hub.example.com", "localhost", "127.0.0.1", "::1"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := get(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"hub.example.com", "localhost", "127.0.0.1", "::1"} {
		if err := first.Leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if len(first.Certificate) != 2 || !bytes.Equal(first.Certificate[1], a.Certificate()) {
		t.Error("the chain lacks the authority, by which agents that enrol know the hub")
	}
	if _, err := first.Leaf.Verify(x509.VerifyOptions{Roots: a.pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("the hub's certificate passes for a member's")
	}
	known, err := get(&tls.ClientHelloInfo{SupportedProtos: []string{"h2", federationv1.EnrolledProtocol}})
	if err != nil || len(known.Certificate) != 1 || !bytes.Equal(known.Certificate[0], first.Certificate[0]) {
		t.Errorf("a chain of %d for who has the authority: %v", len(known.Certificate), err)
	}
	if again, _ := get(&tls.ClientHelloInfo{}); again != first {
		t.Error("made anew without need")
	}
	now = now.Add(25 * 24 * time.Hour)
	if again, err := get(&tls.ClientHelloInfo{}); err != nil || again == first || !again.Leaf.NotAfter.After(now.Add(29*24*time.Hour)) {
		t.Errorf("not renewed before it expires: %v", err)
	}
}
