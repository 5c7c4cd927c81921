package hub

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// identity is a member that proved who it is.
type identity struct {
	cluster string
	uid     types.UID // of the MemberCluster: one that is made anew is another
	keyHash string
	cert    *x509.Certificate
	// via is the replica that passed the session on; from is where the member
	// called it from. Both are empty if the member called this one.
	via, from string
}

// identities decides whose certificate may speak for which member now. The
// MemberCluster rules: only the key in its status is the member, and without
// the object there is no member.
type identities struct {
	trustDomain string
	authority   *Authority
	// cached reads are enough to accept (a change ends the session at once, see
	// watchIdentities) but a refusal is always by a live one.
	cached client.Reader
	live   client.Reader
	writer client.Client
}

// incarnation is what a new certificate of the member carries: what the present one
// does.
func (i identity) incarnation(trustDomain string) string {
	return cmp.Or(federationv1.IncarnationOf(i.cert.DNSNames, trustDomain, i.cluster), newIncarnation(i.keyHash))
}

// newIncarnation is that of a member that enrols with a key, which nobody had before
// it and nobody has after it.
func newIncarnation(keyHash string) string { return keyHash[:32] }

// incarnationOf is what the certificate of a member carries, as far as is known.
func incarnationOf(m *v1alpha1.MemberCluster) string {
	if m.Status.Identity == nil {
		return ""
	}
	return m.Status.Identity.Incarnation
}

type identityKey struct{}

// identityOf is the member that the interceptors authenticated.
func identityOf(ctx context.Context) identity { return ctx.Value(identityKey{}).(identity) }

// fromContext authenticates the peer of a gRPC call.
func (i *identities) fromContext(ctx context.Context) (identity, error) {
	cert, err := peerCertificate(ctx)
	if err != nil {
		return identity{}, err
	}
	return i.authenticate(ctx, cert)
}

// fromStream does the same for a stream, which a replica may have passed on.
func (i *identities) fromStream(ctx context.Context) (identity, error) {
	cert, err := peerCertificate(ctx)
	if err != nil || !isReplica(cert, i.trustDomain) {
		return i.fromContext(ctx)
	}
	cert, from, err := i.relayed(ctx)
	if err != nil {
		return identity{}, err
	}
	id, err := i.authenticate(ctx, cert)
	id.via, id.from = peerAddr(ctx), from
	return id, err
}

func peerCertificate(ctx context.Context) (*x509.Certificate, error) {
	p, _ := peer.FromContext(ctx)
	if p == nil {
		return nil, status.Error(codes.Unauthenticated, "no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return nil, status.Error(codes.Unauthenticated, "a member's certificate is required: enrol first")
	}
	return info.State.VerifiedChains[0][0], nil
}

// authenticate tells which member a verified certificate speaks for. The error
// is a gRPC status.
func (i *identities) authenticate(ctx context.Context, cert *x509.Certificate) (identity, error) {
	cluster, err := clusterOf(cert, i.trustDomain)
	if err != nil {
		return identity{}, status.Error(codes.Unauthenticated, err.Error())
	}
	id := identity{cluster: cluster, keyHash: keyHash(cert.RawSubjectPublicKeyInfo), cert: cert}
	var m v1alpha1.MemberCluster
	if err := i.cached.Get(ctx, client.ObjectKey{Name: cluster}, &m); err == nil {
		if have := m.Status.Identity; have != nil && have.KeyHash == id.keyHash && !slices.Contains(m.Spec.RevokedKeys, id.keyHash) {
			id.uid = m.UID
			return id, nil
		}
	}
	err = retry.RetryOnConflict(claimBackoff, func() error {
		m = v1alpha1.MemberCluster{}
		if err := i.live.Get(ctx, client.ObjectKey{Name: cluster}, &m); err != nil {
			return err
		}
		id.uid = m.UID
		have := m.Status.Identity
		if have == nil || have.NextKeyHash != id.keyHash || have.KeyHash == id.keyHash ||
			slices.Contains(m.Spec.RevokedKeys, id.keyHash) || slices.Contains(m.Spec.RevokedKeys, have.KeyHash) {
			return nil // a revoked key has no successor
		}
		have.KeyHash, have.NextKeyHash = id.keyHash, "" // the renewal is in use: the old key is void
		// Those who dial the member may insist on what it shows from now on.
		have.Incarnation = federationv1.IncarnationOf(cert.DNSNames, i.trustDomain, cluster)
		return i.writer.Status().Update(ctx, &m)
	})
	switch have := m.Status.Identity; {
	case apierrors.IsNotFound(err):
		return identity{}, status.Errorf(codes.PermissionDenied, "member %q is not in this federation (it was removed): enrol again with a new join token and an empty data folder", cluster)
	case err != nil:
		return identity{}, status.Errorf(codes.Unavailable, "the hub cannot read member %q now: %v", cluster, err)
	case slices.Contains(m.Spec.RevokedKeys, id.keyHash):
		return identity{}, errRevoked(cluster)
	case have == nil:
		return identity{}, status.Errorf(codes.PermissionDenied, "member %q has not enrolled in this federation", cluster)
	case have.KeyHash != id.keyHash:
		return identity{}, status.Errorf(codes.PermissionDenied, "member %q has another key now: this certificate was replaced or belongs to a removed member of that name", cluster)
	}
	return id, nil
}

func errRevoked(cluster string) error {
	return status.Errorf(codes.PermissionDenied, "the key of member %q is revoked: it can join again with an empty data folder and a new join token for this very name", cluster)
}

// clusterOf is the member that a certificate names: exactly one URI, which is
// compared as a whole.
func clusterOf(cert *x509.Certificate, trustDomain string) (string, error) {
	if len(cert.URIs) != 1 {
		return "", fmt.Errorf("the certificate has %d URI names: a member's has exactly one", len(cert.URIs))
	}
	uri := cert.URIs[0].String()
	cluster := uri[strings.LastIndexByte(uri, '/')+1:]
	if !isLabel(cluster) || uri != federationv1.MemberID(trustDomain, cluster) {
		return "", fmt.Errorf("the certificate is of %q, which is no member of trust domain %q", uri, trustDomain)
	}
	return cluster, nil
}
