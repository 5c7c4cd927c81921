package hub

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// fakeSecrets holds Secrets as an API server would.
type fakeSecrets struct {
	mu sync.Mutex
	m  map[string]*corev1.Secret
}

func (f *fakeSecrets) Get(_ context.Context, name string, _ metav1.GetOptions) (*corev1.Secret, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.m[name]; s != nil {
		return s.DeepCopy(), nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}

func (f *fakeSecrets) Create(_ context.Context, s *corev1.Secret, _ metav1.CreateOptions) (*corev1.Secret, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.m[s.Name] != nil {
		return nil, apierrors.NewAlreadyExists(schema.GroupResource{Resource: "secrets"}, s.Name)
	}
	f.put(s)
	return s, nil
}

func (f *fakeSecrets) put(s *corev1.Secret) {
	if f.m == nil {
		f.m = map[string]*corev1.Secret{}
	}
	f.m[s.Name] = s.DeepCopy()
}

func (f *fakeSecrets) set(name string, data map[string][]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.put(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data})
}

func newSecret(f *fakeSecrets, create bool) *authoritySecret {
	return &authoritySecret{secrets: f, name: "authority", trustDomain: "test.local", create: create, interval: time.Millisecond, log: slog.New(slog.DiscardHandler)}
}

func TestReplicasShareOneAuthority(t *testing.T) {
	f := &fakeSecrets{}
	hashes := make(chan string, 8)
	var wg sync.WaitGroup
	for range cap(hashes) {
		wg.Go(func() {
			a, err := newSecret(f, true).open(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			hashes <- a.Hash()
		})
	}
	wg.Wait()
	close(hashes)
	seen := map[string]bool{}
	for h := range hashes {
		seen[h] = true
	}
	if len(seen) != 1 {
		t.Errorf("%d authorities: %v", len(seen), seen)
	}
}

func TestAuthoritySecretOfSomebodyElse(t *testing.T) {
	f := &fakeSecrets{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newSecret(f, false).open(ctx); !errors.Is(err, context.Canceled) || len(f.m) != 0 {
		t.Errorf("%v, and %d Secrets: it must wait and make none", err, len(f.m))
	}
	got := make(chan error, 1)
	go func() {
		_, err := newSecret(f, false).open(t.Context())
		got <- err
	}()
	f.set("authority", generated(t))
	if err := <-got; err != nil {
		t.Error(err)
	}
	bad := generated(t)
	bad[secretKey] = []byte("x")
	f.set("authority", bad)
	if _, err := newSecret(f, true).open(t.Context()); err == nil || !strings.Contains(err.Error(), "Secret authority") {
		t.Errorf("got %v: a damaged authority must not be replaced", err)
	}
}

func generated(t *testing.T) map[string][]byte {
	t.Helper()
	certPEM, keyPEM, err := generateKeys("test.local")
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{secretCert: certPEM, secretKey: keyPEM}
}

// rotate says what the Secret is and what came of it.
func TestAuthorityRotation(t *testing.T) {
	one, two := generated(t), generated(t)
	parse := func(d map[string][]byte) *keys {
		k, err := parseKeys(d[secretCert], d[secretKey], d[secretTrusted], "test.local")
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	with := func(d, trusted map[string][]byte) *keys {
		return parse(map[string][]byte{secretCert: d[secretCert], secretKey: d[secretKey], secretTrusted: trusted[secretCert]})
	}
	a := newAuthorityOf("test.local", parse(one))
	server, err := a.Server([]string{"localhost"})
	if err != nil {
		t.Fatal(err)
	}
	serving := func() *x509.Certificate {
		c, err := server(&tls.ClientHelloInfo{})
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf
	}
	member := func() *x509.Certificate {
		der, _, err := a.Issue("m", anIncarnation, newKey(t).Public())
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	trusted := func(c *x509.Certificate, roots *x509.CertPool) bool {
		_, err := c.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		return err == nil
	}
	before, rootsBefore := member(), a.pool()
	steps := []struct {
		name    string
		keys    *keys
		err     error
		changed bool
	}{
		{"at once", parse(two), errUnannounced, false},
		{"announced", with(one, two), nil, true},
		{"again", with(one, two), nil, false},
		{"the old one is dropped too early", parse(two), errForsaken, false},
		{"changed over", with(two, one), nil, true},
	}
	for _, s := range steps {
		changed, err := a.replace(s.keys)
		if !errors.Is(err, s.err) || changed != s.changed {
			t.Fatalf("%s: changed %v, %v", s.name, changed, err)
		}
		if !trusted(before, a.pool()) {
			t.Errorf("%s: a member is cut off", s.name)
		}
		if s.name == "announced" {
			rootsBefore = a.pool() // what a member that renews now trusts
		}
		if !trusted(serving(), rootsBefore) || !trusted(member(), rootsBefore) {
			t.Errorf("%s: members that renewed do not trust what is signed now", s.name)
		}
	}
	if n := len(a.Certificates()); n != 2 {
		t.Errorf("members are told of %d authorities", n)
	}
	if changed, err := a.replace(parse(two)); err != nil || !changed || trusted(before, a.pool()) {
		t.Errorf("the old authority is still trusted (changed %v, %v)", changed, err)
	}
}

func TestAuthorityFollowsItsSecret(t *testing.T) {
	f, one, two := &fakeSecrets{}, generated(t), generated(t)
	f.set("authority", one)
	s := newSecret(f, true)
	log := &lockedBuffer{}
	s.log = slog.New(slog.NewTextHandler(log, nil))
	a, err := s.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	changes, done := make(chan struct{}, 10), make(chan struct{})
	go func() { s.follow(ctx, a, func() { changes <- struct{}{} }); close(done) }()
	first := a.Hash()
	f.set("authority", two)
	eventually(t, "the refusal is told", func() bool { return strings.Contains(log.String(), "do not know the new authority") })
	f.set("authority", map[string][]byte{secretCert: one[secretCert], secretKey: one[secretKey], secretTrusted: slices.Concat(one[secretCert], two[secretCert])})
	<-changes
	f.set("authority", map[string][]byte{secretCert: two[secretCert], secretKey: two[secretKey], secretTrusted: one[secretCert]})
	<-changes
	if a.Hash() == first {
		t.Error("the authority is the old one")
	}
	cancel()
	<-done
	if n := strings.Count(log.String(), "stays as it was"); n != 1 {
		t.Errorf("told %d times", n)
	}
}
