package hub

import (
	"bytes"
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

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

func TestEnrol(t *testing.T) {
	h := newTestHub(t)
	name, key := unique("paris"), newKey(t)
	token := h.newToken(t, func(r *v1alpha1.JoinToken) { r.Spec.Labels = map[string]string{"region": "eu"} })
	res, err := h.enrol(t, token.String(), name, request(t, key))
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Certificates) != 1 || len(res.Authorities) != 1 || !bytes.Equal(res.Authorities[0], h.authority.Certificate()) || res.TrustDomain != "test.local" {
		t.Errorf("%d certificates, %d authorities, trust domain %q", len(res.Certificates), len(res.Authorities), res.TrustDomain)
	}
	cert := pair(t, res.Certificates, key).Leaf
	if got, err := clusterOf(cert, "test.local"); err != nil || got != name {
		t.Errorf("the certificate is of %q, %v", got, err)
	}
	m := h.member(t, name)
	equal(t, "labels", m.Labels, map[string]string{"region": "eu"})
	if len(m.ManagedFields) > 0 {
		t.Errorf("who wrote the fields of the member is noted: %v", m.ManagedFields)
	}
	equal(t, "identity", m.Status.Identity, &v1alpha1.MemberIdentity{
		KeyHash: keyHash(cert.RawSubjectPublicKeyInfo), Incarnation: carried(cert, name), NotAfter: metav1.NewTime(cert.NotAfter.Local()), Token: token.Name,
	})
	used := h.token(t, token.Name)
	if used.Status.Uses != 1 || !slices.Equal(used.Status.Members, []string{name}) {
		t.Errorf("token: %d uses by %v", used.Status.Uses, used.Status.Members)
	}

	// The answer was lost: the same again, though the token is used up.
	res, err = h.enrol(t, token.String(), name, request(t, key))
	if err != nil {
		t.Fatal(err)
	}
	if again := pair(t, res.Certificates, key).Leaf; again.SerialNumber.Cmp(cert.SerialNumber) == 0 {
		t.Error("the same certificate again")
	} else if got := carried(again, name); got == "" || got != carried(cert, name) {
		t.Errorf("incarnation %q became %q", carried(cert, name), got)
	}
	if used := h.token(t, token.Name); used.Status.Uses != 1 {
		t.Errorf("a second answer cost a use: %d", used.Status.Uses)
	}
}

func TestEnrolAnnouncesToken(t *testing.T) {
	h := newTestHub(t)
	token := h.newToken(t, nil)
	eventually(t, "hub and authority in the token's status", func() bool {
		s := h.token(t, token.Name).Status
		return s.Hub == h.addr && s.Authority == h.authority.Hash()
	})
}

func TestEnrolAdoptsMember(t *testing.T) {
	h := newTestHub(t)
	name := unique("adopted")
	m := &v1alpha1.MemberCluster{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"region": "us", "own": "x"}},
		Spec:       v1alpha1.MemberClusterSpec{Endpoints: []string{"broker.example.com:7422"}},
	}
	if err := h.client.Create(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	token := h.newToken(t, func(r *v1alpha1.JoinToken) { r.Spec.Labels = map[string]string{"region": "eu", "tier": "gold"} })
	if _, err := h.enrol(t, token.String(), name, request(t, newKey(t))); err != nil {
		t.Fatal(err)
	}
	got := h.member(t, name)
	equal(t, "labels", got.Labels, map[string]string{"region": "us", "own": "x", "tier": "gold"})
	equal(t, "spec", got.Spec, m.Spec)
	if got.UID != m.UID || got.Status.Identity == nil {
		t.Error("not adopted")
	}
}

func TestEnrolRefusals(t *testing.T) {
	h := newTestHub(t)
	taken := unique("taken")
	h.join(t, taken)
	good := h.newToken(t, nil)
	bound := h.newToken(t, func(r *v1alpha1.JoinToken) { r.Spec.Cluster = "edge-*" })
	expired := h.newToken(t, func(r *v1alpha1.JoinToken) { r.Spec.ExpiresAt = metav1.NewTime(time.Now().Add(-time.Second)) })
	used := h.newToken(t, nil)
	if _, err := h.enrol(t, used.String(), unique("first"), request(t, newKey(t))); err != nil {
		t.Fatal(err)
	}
	wrong, foreign, absent, dotted := good, good, good, good
	wrong.Secret = make([]byte, 32)
	foreign.Authority[0] ^= 1
	absent.Name = "no-such-token"
	dotted.Name = "UPPER"
	csr := request(t, newKey(t))
	tests := []struct {
		name, token, cluster string
		csr                  []byte
		code                 codes.Code
		text                 string
	}{
		{"no token", "", "a", csr, codes.Unauthenticated, "sealane token create"},
		{"malformed token", "slj1.x.y.z", "a", csr, codes.Unauthenticated, "malformed join token"},
		{"token that does not exist", absent.String(), "a", csr, codes.Unauthenticated, "unknown join token"},
		{"token with an impossible name", dotted.String(), "a", csr, codes.Unauthenticated, "unknown join token"},
		{"wrong secret", wrong.String(), "a", csr, codes.Unauthenticated, "unknown join token"},
		{"token of another hub", foreign.String(), "a", csr, codes.Unauthenticated, "made for another hub"},
		{"expired", expired.String(), "a", csr, codes.Unauthenticated, "expired at"},
		{"used up", used.String(), "a", csr, codes.Unauthenticated, "used up (1 of 1)"},
		{"token for other names", bound.String(), "hedge-1", csr, codes.PermissionDenied, `is for a member named "edge-*", not for "hedge-1"`},
		{"name taken", good.String(), taken, csr, codes.AlreadyExists, "sealane remove " + taken + " --forget"},
		{"malformed name", good.String(), "Paris", csr, codes.InvalidArgument, "DNS label"},
		{"name with a path", good.String(), "a/b", csr, codes.InvalidArgument, "DNS label"},
		{"no name", good.String(), "", csr, codes.InvalidArgument, "DNS label"},
		{"no request", good.String(), "a", nil, codes.InvalidArgument, "certificate request"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := h.enrol(t, tt.token, tt.cluster, tt.csr)
			wantStatus(t, err, tt.code, tt.text)
		})
	}
	for _, token := range []federationv1.JoinToken{good, bound, expired} {
		if uses := h.token(t, token.Name).Status.Uses; uses != 0 {
			t.Errorf("a refusal cost %d uses", uses)
		}
	}
	var a v1alpha1.MemberCluster
	if err := h.client.Get(t.Context(), client.ObjectKey{Name: "a"}, &a); err == nil {
		t.Error("a refused member exists")
	}
}

// One use is one member, whoever is how fast.
func TestEnrolOneUseConcurrently(t *testing.T) {
	h := newTestHub(t)
	token := h.newToken(t, nil)
	const rivals = 8
	prefix := unique("rival")
	errs := make([]error, rivals)
	var wg sync.WaitGroup
	for i := range rivals {
		csr := request(t, newKey(t))
		wg.Go(func() {
			_, errs[i] = h.enrol(t, token.String(), prefix+string(rune('a'+i)), csr)
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			wantStatus(t, err, codes.Unauthenticated, "used up")
		}
	}
	if uses := h.token(t, token.Name).Status.Uses; won != 1 || uses != 1 {
		t.Errorf("%d of %d enrolled, %d uses counted; want 1", won, rivals, uses)
	}
	var members v1alpha1.MemberClusterList
	if err := h.client.List(t.Context(), &members); err != nil {
		t.Fatal(err)
	}
	exist := 0
	for _, m := range members.Items {
		if strings.HasPrefix(m.Name, prefix) {
			exist++
		}
	}
	if exist != 1 {
		t.Errorf("%d members exist, want 1", exist)
	}
}

// One name is one member: rivals with a token each.
func TestEnrolOneNameConcurrently(t *testing.T) {
	h := newTestHub(t)
	const rivals = 6
	name := unique("wanted")
	token := h.newToken(t, func(r *v1alpha1.JoinToken) { r.Spec.MaxUses = rivals })
	errs := make([]error, rivals)
	var wg sync.WaitGroup
	for i := range rivals {
		csr := request(t, newKey(t))
		wg.Go(func() { _, errs[i] = h.enrol(t, token.String(), name, csr) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			wantStatus(t, err, codes.AlreadyExists, "taken")
		}
	}
	if uses := h.token(t, token.Name).Status.Uses; won != 1 || uses != 1 {
		t.Errorf("%d enrolled, %d uses counted; want 1: a failed claim gives its use back", won, uses)
	}
}

// A failure after the use was counted gives it back and leaves no member.
func TestEnrolUndoesItself(t *testing.T) {
	h := newTestHub(t)
	broken := errors.New("no space left on device")
	tests := map[string]interceptor.Funcs{
		"create": {Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error { return broken }},
		"status": {SubResourceUpdate: func(ctx context.Context, c client.Client, sub string, obj client.Object, opts ...client.SubResourceUpdateOption) error {
			if _, member := obj.(*v1alpha1.MemberCluster); member {
				return broken
			}
			return c.SubResource(sub).Update(ctx, obj, opts...)
		}},
	}
	for what, funcs := range tests {
		t.Run(what, func(t *testing.T) {
			w, err := client.NewWithWatch(h.cluster.GetConfig(), client.Options{Scheme: h.cluster.GetScheme()})
			if err != nil {
				t.Fatal(err)
			}
			e := &enrolment{
				authority: h.authority, live: h.client, writer: interceptor.NewClient(w, funcs),
				log: slog.New(slog.DiscardHandler), metrics: newMetrics(), now: time.Now,
			}
			token, name := h.newToken(t, nil), unique("broken")
			_, err = e.Enrol(t.Context(), &federationv1.EnrolRequest{Token: token.String(), Cluster: name, Csr: request(t, newKey(t))})
			wantStatus(t, err, codes.Unavailable, broken.Error())
			if s := h.token(t, token.Name).Status; s.Uses != 0 || len(s.Members) != 0 {
				t.Errorf("the use was not given back: %+v", s)
			}
			if err := h.client.Get(t.Context(), client.ObjectKey{Name: name}, &v1alpha1.MemberCluster{}); client.IgnoreNotFound(err) != nil || err == nil {
				t.Errorf("the member is left: %v", err)
			}
		})
	}
}

func TestEnrolNeverLogsSecrets(t *testing.T) {
	h := newTestHub(t)
	var log bytes.Buffer
	e := &enrolment{
		authority: h.authority, live: h.client, writer: h.client,
		log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), metrics: newMetrics(), now: time.Now,
	}
	token := h.newToken(t, func(r *v1alpha1.JoinToken) { r.Spec.Cluster = "x" })
	_, err := e.Enrol(t.Context(), &federationv1.EnrolRequest{Token: token.String(), Cluster: "y\x1b[31m", Csr: request(t, newKey(t))})
	wantStatus(t, err, codes.InvalidArgument, "DNS label")
	_, err = e.Enrol(t.Context(), &federationv1.EnrolRequest{Token: token.String(), Cluster: "y", Csr: request(t, newKey(t))})
	wantStatus(t, err, codes.PermissionDenied, token.Name)
	secret := strings.Split(token.String(), ".")[2]
	if s := log.String(); !strings.Contains(s, "PermissionDenied") || strings.Contains(s, secret) || strings.ContainsRune(s, '\x1b') {
		t.Errorf("log:\n%s", s)
	}
}

// carried is the incarnation that a certificate carries.
func carried(cert *x509.Certificate, name string) string {
	return federationv1.IncarnationOf(cert.DNSNames, "test.local", name)
}

// A member keeps its incarnation over renewals and enrolments of its own. One that
// enrolled before there were incarnations has none until it uses a certificate that
// carries one. Whoever takes its name gets another.
func TestIncarnation(t *testing.T) {
	h := newTestHub(t)
	h.fleet.Publish(plan())
	name := unique("again")
	known := func(want string) {
		t.Helper()
		if got := h.member(t, name).Status.Identity.Incarnation; got != want {
			t.Errorf("the hub knows incarnation %q, want %q", got, want)
		}
	}
	next := func(cert tls.Certificate) tls.Certificate {
		t.Helper()
		key := newKey(t)
		res, err := federationv1.NewFederationClient(h.dial(t, cert)).Renew(t.Context(), &federationv1.RenewRequest{Csr: request(t, key)})
		if err != nil {
			t.Fatal(err)
		}
		return pair(t, res.Certificates, key)
	}
	use := func(cert tls.Certificate) {
		t.Helper()
		s := h.sync(t, cert, hello(federationv1.EmptyHash))
		s.welcome()
	}

	first := h.join(t, name)
	inc := carried(first.Leaf, name)
	known(inc)
	renewed := next(first)
	if got := carried(renewed.Leaf, name); inc == "" || got != inc {
		t.Errorf("incarnation %q became %q", inc, got)
	}
	use(renewed)
	known(inc)

	m := h.member(t, name)
	m.Status.Identity.Incarnation = "" // as if enrolled by an older hub
	if err := h.client.Status().Update(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	use(renewed)
	known("")
	newer := next(renewed)
	known("") // it may show the older one still
	use(newer)
	known(inc)

	m = h.member(t, name)
	m.Finalizers = nil
	if err := h.client.Update(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if err := h.client.Delete(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	other := h.join(t, name)
	if got := carried(other.Leaf, name); got == "" || got == inc {
		t.Errorf("who takes the name has incarnation %q, the former has %q", got, inc)
	}
	known(carried(other.Leaf, name))
}

func TestRenew(t *testing.T) {
	h := newTestHub(t)
	h.fleet.Publish(plan())
	name := unique("renewed")
	old := h.join(t, name)
	key := newKey(t)
	first := newKey(t) // of a renewal whose answer is lost
	renew := func(csr []byte) *federationv1.RenewResponse {
		t.Helper()
		res, err := federationv1.NewFederationClient(h.dial(t, old)).Renew(t.Context(), &federationv1.RenewRequest{Csr: csr})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	lost := pair(t, renew(request(t, first)).Certificates, first)
	renewed := pair(t, renew(request(t, key)).Certificates, key)
	if got, err := clusterOf(renewed.Leaf, "test.local"); err != nil || got != name {
		t.Errorf("renewed for %q, %v", got, err)
	}
	if _, err := renewed.Leaf.Verify(x509.VerifyOptions{Roots: h.authority.pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	id := h.member(t, name).Status.Identity
	if id.NextKeyHash != keyHash(renewed.Leaf.RawSubjectPublicKeyInfo) || id.KeyHash != keyHash(old.Leaf.RawSubjectPublicKeyInfo) || !id.NotAfter.Time.Equal(renewed.Leaf.NotAfter) {
		t.Errorf("identity after the renewal: %+v", id)
	}

	// The old key is good until the new one is used; one session replaces the other.
	before := h.sync(t, old, hello(federationv1.EmptyHash))
	before.welcome()
	h.sync(t, lost, hello(federationv1.EmptyHash)).ended(codes.PermissionDenied, "another key")
	now := h.sync(t, renewed, hello(federationv1.EmptyHash))
	now.welcome()
	if s := status.Code(awaitEnd(before)); s != codes.Aborted && s != codes.PermissionDenied {
		t.Errorf("the older session ended with %v", before.err)
	}
	id = h.member(t, name).Status.Identity
	if id.KeyHash != keyHash(renewed.Leaf.RawSubjectPublicKeyInfo) || id.NextKeyHash != "" {
		t.Errorf("identity after the first use: %+v", id)
	}
	h.sync(t, old, hello(federationv1.EmptyHash)).ended(codes.PermissionDenied, "another key")
	_, err := federationv1.NewFederationClient(h.dial(t, renewed)).Renew(t.Context(), &federationv1.RenewRequest{Csr: []byte("x")})
	wantStatus(t, err, codes.InvalidArgument, "certificate request")
}

func awaitEnd(s *script) error {
	for range s.got { // drains
	}
	return s.err
}
