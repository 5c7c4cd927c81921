package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/e2e/freeport"
)

// tokenSpec is a token for one name whose secret nobody knows.
func tokenSpec(cluster string) v1alpha1.JoinTokenSpec {
	return v1alpha1.JoinTokenSpec{Cluster: cluster, SecretHash: strings.Repeat("0a", 32), ExpiresAt: metav1.NewTime(time.Now().Add(time.Hour))}
}

// TestEnrolmentRefused starts agents with every token that must not let them
// in: each ends with an error that says what to do, and the hub logs why.
func TestEnrolmentRefused(t *testing.T) {
	t.Parallel()
	f, other := newFederation(t), newFederation(t)
	f.join("berlin")

	used := f.token(v1alpha1.JoinTokenSpec{Cluster: "used-*"})
	f.launchWith("used-1", used)
	f.connected("used-1")
	wrong, err := federationv1.ParseJoinToken(f.token(v1alpha1.JoinTokenSpec{Cluster: "wrong"}))
	if err != nil {
		t.Fatal(err)
	}
	wrong.Secret[0] ^= 1
	unknown := wrong
	unknown.Name = "unheard-of"
	foreign := other.token(v1alpha1.JoinTokenSpec{Cluster: "foreign"})

	for _, c := range []struct {
		member, token string
		agent, hub    string // what each says
	}{
		{"wrong", wrong.String(), "does not accept the join token: unknown join token", "its secret is wrong"},
		{"unknown", unknown.String(), "does not accept the join token: unknown join token", "it does not exist"},
		{"expired", f.token(v1alpha1.JoinTokenSpec{Cluster: "expired", ExpiresAt: metav1.NewTime(time.Now().Add(-time.Minute))}), "expired at", "expired at"},
		{"used-2", used, "is used up (1 of 1)", "is used up (1 of 1)"},
		{"rome", f.token(v1alpha1.JoinTokenSpec{Cluster: "paris"}), `is for a member named "paris", not for "rome"`, `is for a member named "paris"`},
		{"berlin", f.token(v1alpha1.JoinTokenSpec{Cluster: "berlin"}), `the name "berlin" is taken`, "is taken by another member"},
		// The agent sees by itself that this hub is another, and shows it nothing.
		{"foreign", foreign, "is not the one that this join token is for", ""},
		{"garbled", "slj1.garbled", "join token", ""},
	} {
		t.Run(c.member, func(t *testing.T) {
			dir := filepath.Join(f.dir, "refused", c.member)
			agent := start(t, dir, "sealane-agent", "--name", c.member, "--hub", f.address, "--data", dir,
				"--client-listen", freeport.Addr(t), "--token", c.token)
			if code := agent.exits(); code != 1 {
				t.Errorf("exit status %d, want 1", code)
			}
			said := agent.logged()
			if !strings.Contains(said, c.agent) || strings.Contains(said, c.token) {
				t.Errorf("the agent says not %q, or too much:\n%s", c.agent, said)
			}
			if _, err := os.Stat(filepath.Join(dir, "identity", "cert.pem")); err == nil {
				t.Error("it has a certificate")
			}
			if c.hub == "" {
				return
			}
			for line := range strings.Lines(strings.ReplaceAll(f.hub.logged(), `\`, "")) {
				if strings.Contains(line, "enrolment refused") && strings.Contains(line, c.member) && strings.Contains(line, c.hub) {
					return
				}
			}
			t.Errorf("the hub does not log the refusal of %s with %q", c.member, c.hub)
		})
	}

	members := &v1alpha1.MemberClusterList{}
	if err := f.kube.List(t.Context(), members); err != nil {
		t.Fatal(err)
	}
	for _, m := range members.Items {
		if m.Name != "berlin" && m.Name != "used-1" {
			t.Errorf("%s became a member", m.Name)
		}
	}
	tokens := &v1alpha1.JoinTokenList{}
	if err := f.kube.List(t.Context(), tokens); err != nil {
		t.Fatal(err)
	}
	uses := 0
	for _, tok := range tokens.Items {
		uses += int(tok.Status.Uses)
	}
	if uses != 2 {
		t.Errorf("%d uses of tokens for 2 members", uses)
	}
	f.connected("berlin") // which nobody has replaced
}

// launchWith starts a member that only dials, with a token of the caller's.
func (f *federation) launchWith(name, token string) {
	f.t.Helper()
	m := f.member(name)
	m.process = start(f.t, m.dir, "sealane-agent", "--name", name, "--hub", f.address, "--data", m.dir,
		"--client-listen", freeport.Addr(f.t), "--token", token)
}

// TestRequestsForOtherNames asks the hub, over raw gRPC, for certificates of
// other names than the token's.
func TestRequestsForOtherNames(t *testing.T) {
	t.Parallel()
	f, other := newFederation(t), newFederation(t)
	f.join("berlin")
	token := f.token(v1alpha1.JoinTokenSpec{Cluster: "oslo"})
	parsed, err := federationv1.ParseJoinToken(token)
	if err != nil {
		t.Fatal(err)
	}
	hub := f.dialHub(nil)
	csr := requestFor(t, "berlin")
	enrol := func(cluster, token string) (*federationv1.EnrolResponse, error) {
		return federationv1.NewEnrolmentClient(hub).Enrol(t.Context(), &federationv1.EnrolRequest{Token: token, Cluster: cluster, Csr: csr})
	}
	for _, c := range []struct {
		cluster, token string
		want           codes.Code
	}{
		{"berlin", token, codes.PermissionDenied},
		{"oslo.berlin", token, codes.InvalidArgument},
		{"../cluster/berlin", token, codes.InvalidArgument},
		{"oslo", other.token(v1alpha1.JoinTokenSpec{Cluster: "oslo"}), codes.Unauthenticated},
		{"oslo", federationv1.JoinToken{Name: parsed.Name, Authority: parsed.Authority, Secret: make([]byte, 32)}.String(), codes.Unauthenticated},
	} {
		if _, err := enrol(c.cluster, c.token); status.Code(err) != c.want {
			t.Errorf("%s: %v, want %s", c.cluster, err, c.want)
		}
	}
	if !strings.Contains(f.hub.logged(), "it was made for another hub") {
		t.Error("the hub does not log that a token was made for another hub")
	}

	// Of a request the hub takes the key, and nothing else.
	got, err := enrol("oslo", token)
	if err != nil {
		t.Fatal(err)
	}
	onlyNames(t, got.Certificates[0], got.TrustDomain, "oslo")

	// Without a certificate nothing but enrolment is answered.
	if _, err := federationv1.NewFederationClient(hub).Renew(t.Context(), &federationv1.RenewRequest{Csr: csr}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a renewal without a certificate: %v", err)
	}
	sync, err := federationv1.NewFederationClient(hub).Sync(t.Context())
	if err == nil {
		_, err = sync.Recv()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("a session without a certificate: %v", err)
	}
	f.connected("berlin")
}

// dialHub connects to the hub as its agents do, with a certificate or without.
func (f *federation) dialHub(cert *tls.Certificate) *grpc.ClientConn {
	f.t.Helper()
	config := &tls.Config{RootCAs: f.authorities(), ServerName: "127.0.0.1", MinVersion: tls.VersionTLS13}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	conn, err := grpc.NewClient("passthrough:///"+f.address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	return conn
}

// authorities are those that berlin trusts.
func (f *federation) authorities() *x509.CertPool {
	f.t.Helper()
	b, err := os.ReadFile(filepath.Join(f.members["berlin"].dir, "identity", "authorities.pem"))
	if err != nil {
		f.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		f.t.Fatal("no authority")
	}
	return pool
}

// requestFor is a certificate request that asks, in every way, for a name.
func requestFor(t testing.TB, name string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := url.Parse(federationv1.MemberID("sealane.local", name))
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: name}, URIs: []*url.URL{id}, DNSNames: []string{federationv1.MemberDNSName("sealane.local", name), "localhost"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// onlyNames checks that a certificate is of one member and nothing else.
func onlyNames(t testing.TB, der []byte, domain, name string) {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	incarnation := federationv1.IncarnationOf(c.DNSNames, domain, name)
	got := fmt.Sprint(c.URIs, c.DNSNames, len(c.IPAddresses), len(c.EmailAddresses), c.IsCA)
	if want := fmt.Sprint([]string{federationv1.MemberID(domain, name)}, []string{federationv1.MemberDNSName(domain, name), federationv1.IncarnationDNSName(domain, name, incarnation)}, 0, 0, false); got != want {
		t.Errorf("the certificate is for %s, want %s", got, want)
	}
	if cn := c.Subject.CommonName; cn != "" && cn != name {
		t.Errorf("the subject is %s", c.Subject)
	}
}
