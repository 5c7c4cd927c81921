package agent

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

const (
	dialTimeout = 10 * time.Second
	// retryQuiet is how often a failure that lasts is logged again.
	retryQuiet = time.Minute
)

// fatalError is a failure that trying again cannot mend.
type fatalError struct{ error }

func (e fatalError) Unwrap() error { return e.error }

func fatalf(format string, args ...any) error { return fatalError{fmt.Errorf(format, args...)} }

// enrolment is one member's way from a join token to an identity.
type enrolment struct {
	dir   identityDir
	name  string
	hub   string
	token federationv1.JoinToken
	log   *slog.Logger
	// retry is the wait between attempts.
	retry backoff
}

// run enrols, trying again for as long as that can help.
func (e *enrolment) run(ctx context.Context) (*identity, error) {
	for {
		id, err := e.try(ctx)
		if err == nil {
			return id, nil
		}
		var fatal fatalError
		if errors.As(err, &fatal) {
			return nil, err
		}
		wait := e.retry.next()
		e.log.Warn("enrolment failed, trying again", "hub", e.hub, "error", err, "wait", wait.Round(time.Millisecond))
		if !sleep(ctx, wait) {
			return nil, ctx.Err()
		}
	}
}

// try enrols once and keeps the identity. The error is a fatalError if another try is
// useless.
func (e *enrolment) try(ctx context.Context) (*identity, error) {
	key, err := e.dir.keyFor(keyFile)
	if err != nil {
		return nil, fatalError{err}
	}
	csr, err := certificateRequest(e.name, key)
	if err != nil {
		return nil, fatalError{err}
	}
	id, err := e.once(ctx, csr)
	if err != nil {
		return nil, err
	}
	if err := e.dir.store(id, keyFile); err != nil {
		return nil, fatalError{err}
	}
	return id, nil
}

// once tries to enrol. The error is a fatalError if another try is useless.
func (e *enrolment) once(ctx context.Context, csr []byte) (*identity, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*dialTimeout)
	defer cancel()
	authority, err := findAuthority(ctx, e.hub, e.token.Authority)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(authority)
	host, _, err := net.SplitHostPort(e.hub)
	if err != nil {
		return nil, fatalf("hub address %q: %w", e.hub, err)
	}
	conn, err := grpc.NewClient("passthrough:///"+e.hub, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    pool,
		ServerName: host,
	})))
	if err != nil {
		return nil, fatalf("hub address %q: %w", e.hub, err)
	}
	defer func() { _ = conn.Close() }() // nothing is waiting to be sent
	resp, err := federationv1.NewEnrolmentClient(conn).Enrol(ctx, &federationv1.EnrolRequest{
		Token:   e.token.String(),
		Cluster: e.name,
		Csr:     csr,
	})
	if err != nil {
		return nil, e.explain(err)
	}
	key, err := e.dir.key(keyFile)
	if err != nil {
		return nil, err
	}
	id, err := parseIssued(resp.Certificates, resp.Authorities, key)
	if err != nil {
		return nil, fatalf("what the hub at %s issued cannot be used: %w", e.hub, err)
	}
	if id.name != e.name || id.trustDomain != resp.TrustDomain {
		return nil, fatalf("the hub at %s issued a certificate for %s instead of %s", e.hub,
			federationv1.MemberID(id.trustDomain, id.name), federationv1.MemberID(resp.TrustDomain, e.name))
	}
	for _, a := range id.authorities {
		if sha256.Sum256(a.Raw) == e.token.Authority {
			return id, nil
		}
	}
	return nil, fatalf("the hub at %s answered with another authority than that of the join token", e.hub)
}

// explain says what a refusal means and how to go on.
func (e *enrolment) explain(err error) error {
	s := status.Convert(err)
	switch s.Code() {
	case codes.Unauthenticated:
		return fatalf("the hub at %s does not accept the join token: %s (make a new one with \"sealane token create --cluster %s\")", e.hub, s.Message(), e.name)
	case codes.PermissionDenied:
		return fatalf("the hub at %s does not let this member join as %q: %s (use the name that the token is for, or make a token for this one)", e.hub, e.name, s.Message())
	case codes.AlreadyExists:
		return fatalf("the name %q is taken: %s (choose another with --name; if the member that has it is gone for good, delete its MemberCluster first)", e.name, s.Message())
	case codes.InvalidArgument:
		return fatalf("the hub at %s refuses the request: %s", e.hub, s.Message())
	case codes.Unimplemented:
		return fatalf("what answers at %s is no sealane hub of this version: %s (check --hub)", e.hub, s.Message())
	default:
		return fmt.Errorf("%s: %s", s.Code(), s.Message())
	}
}

// findAuthority connects to the hub without trusting anything, just to see
// which certificates it shows, and returns the one that the join token names.
// It is the only root of the connection that then carries the token.
func findAuthority(ctx context.Context, hub string, hash [sha256.Size]byte) (*x509.Certificate, error) {
	host, _, err := net.SplitHostPort(hub)
	if err != nil {
		return nil, fatalf("hub address %q: expected host:port: %w", hub, err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", hub)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	// Nothing verifies against an empty pool, so the handshake fails before this
	// side has said anything, and the error tells what was shown.
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    x509.NewCertPool(),
		ServerName: host,
		NextProtos: []string{"h2"},
	})
	err = conn.HandshakeContext(ctx)
	var shown *tls.CertificateVerificationError
	var header tls.RecordHeaderError
	switch {
	case errors.As(err, &shown):
	case errors.As(err, &header):
		return nil, fatalf("what answers at %s does not speak TLS: it is no sealane hub (check --hub)", hub)
	case err == nil:
		return nil, fatalf("the hub at %s was trusted without any authority", hub)
	default:
		return nil, fmt.Errorf("TLS handshake with %s: %w", hub, err)
	}
	var authority *x509.Certificate
	for _, c := range shown.UnverifiedCertificates {
		if sha256.Sum256(c.Raw) == hash {
			authority = c
		}
	}
	if authority == nil {
		return nil, fatalf("the hub at %s is not the one that this join token is for: it does not show the authority with SHA-256 %x (check --hub, or make a token on that hub)", hub, hash)
	}
	return authority, checkHub(hub, host, authority, shown.UnverifiedCertificates)
}

// checkHub verifies what the hub showed, to say plainly what is wrong with it.
// The connection that is used verifies again.
func checkHub(hub, host string, authority *x509.Certificate, chain []*x509.Certificate) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(authority)
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, DNSName: host})
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &name):
		return fatalf("the certificate of the hub at %s is not for %q: %w (use a name that it is for, or start the hub with --advertise %s)", hub, host, name, hub)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("the certificate of the hub at %s is not valid now: %w (check the clocks of both machines)", hub, err)
	default:
		return fatalf("the certificate of the hub at %s does not verify: %w", hub, err)
	}
}
