package hub

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// maxTokenMembers is how many names a JoinToken remembers.
const maxTokenMembers = 100

// enrolment admits new members.
type enrolment struct {
	federationv1.UnimplementedEnrolmentServer

	authority *Authority
	live      client.Reader
	writer    client.Client
	log       *slog.Logger
	metrics   *metrics
	now       func() time.Time
}

// applicant is a request to enrol that is well-formed, with a token's name and
// secret that are not verified yet.
type applicant struct {
	token   federationv1.JoinToken
	cluster string
	key     any
	keyHash string
}

// Enrol implements federationv1.EnrolmentServer.
func (e *enrolment) Enrol(ctx context.Context, req *federationv1.EnrolRequest) (*federationv1.EnrolResponse, error) {
	res, err := e.enrol(ctx, req)
	e.metrics.enrolments.WithLabelValues(status.Code(err).String()).Inc()
	log := e.log.With("member", clean(req.GetCluster(), 63), "from", peerAddr(ctx))
	if err != nil {
		log.Warn("enrolment refused", "error", err)
		return nil, err
	}
	log.Info("member enrolled")
	return res, nil
}

func (e *enrolment) enrol(ctx context.Context, req *federationv1.EnrolRequest) (*federationv1.EnrolResponse, error) {
	a, err := e.application(req)
	if err != nil {
		return nil, err
	}
	// What was begun is finished, or undone, even if the agent is gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	token, err := e.verify(ctx, a)
	if err != nil {
		return nil, err
	}
	held, err := e.holder(ctx, a, token)
	if err != nil {
		return nil, err
	}
	incarnation := newIncarnation(a.keyHash)
	if held != nil {
		incarnation = cmp.Or(held.Incarnation, incarnation)
	}
	der, notAfter, err := e.authority.Issue(a.cluster, incarnation, a.key)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "no certificate can be made for the key: %v", err)
	}
	member := v1alpha1.MemberIdentity{KeyHash: a.keyHash, Incarnation: incarnation, NotAfter: metav1.NewTime(notAfter), Token: a.token.Name}
	again, err := e.admit(ctx, a, token, held, member)
	if err != nil {
		return nil, err
	}
	if again {
		e.log.Info("certificate issued again to the same key", "member", a.cluster)
	}
	return &federationv1.EnrolResponse{
		Certificates: [][]byte{der},
		Authorities:  e.authority.Certificates(),
		TrustDomain:  e.authority.TrustDomain(),
	}, nil
}

// application judges what the request shows by itself.
func (e *enrolment) application(req *federationv1.EnrolRequest) (applicant, error) {
	a := applicant{cluster: req.GetCluster()}
	if !isLabel(a.cluster) {
		return a, status.Errorf(codes.InvalidArgument, "member name %q: expected a DNS label: a-z, 0-9 and '-', at most 63 characters", clean(a.cluster, 63))
	}
	var err error
	if a.key, a.keyHash, err = requestedKey(req.GetCsr()); err != nil {
		return a, status.Error(codes.InvalidArgument, err.Error())
	}
	if a.token, err = federationv1.ParseJoinToken(req.GetToken()); err != nil {
		return a, status.Error(codes.Unauthenticated, err.Error())
	}
	if fmt.Sprintf("%x", a.token.Authority) != e.authority.Hash() {
		return a, status.Error(codes.Unauthenticated, "unknown join token: it was made for another hub")
	}
	if !isLabel(a.token.Name) {
		return a, errUnknownToken
	}
	return a, nil
}

// errUnknownToken does not tell a wrong secret from a token that does not exist.
var errUnknownToken = status.Error(codes.Unauthenticated, "unknown join token: it does not exist (any more) or its secret is wrong; create one with \"sealane token create\"")

// verify reads the token of an applicant, and judges all but its uses.
func (e *enrolment) verify(ctx context.Context, a applicant) (*v1alpha1.JoinToken, error) {
	t := &v1alpha1.JoinToken{}
	err := e.live.Get(ctx, client.ObjectKey{Name: a.token.Name}, t)
	switch {
	case apierrors.IsNotFound(err):
		return nil, errUnknownToken
	case err != nil:
		return nil, unavailable(err)
	case subtle.ConstantTimeCompare([]byte(t.Spec.SecretHash), []byte(a.token.SecretHash())) != 1:
		return nil, errUnknownToken
	case !e.now().Before(t.Spec.ExpiresAt.Time):
		return nil, status.Errorf(codes.Unauthenticated, "join token %q expired at %s; create another with \"sealane token create\"", t.Name, t.Spec.ExpiresAt.UTC().Format(time.RFC3339))
	case !globMatch(t.Spec.Cluster, a.cluster):
		return nil, status.Errorf(codes.PermissionDenied, "join token %q is for a member named %q, not for %q", t.Name, t.Spec.Cluster, a.cluster)
	}
	return t, nil
}

// admit makes the applicant the member of its name: it uses up one use of the
// token, then claims the name, and gives the use back if that fails. An
// applicant that is the member already (the answer was lost) costs no use.
func (e *enrolment) admit(ctx context.Context, a applicant, t *v1alpha1.JoinToken, held *v1alpha1.MemberIdentity, id v1alpha1.MemberIdentity) (again bool, err error) {
	if held == nil {
		if err := e.consume(ctx, a, t); err != nil {
			return false, err
		}
		if err = e.claim(ctx, a, t.Spec.Labels, id); err != nil {
			e.giveBack(ctx, a)
		}
		return false, err
	}
	if held.KeyHash != a.keyHash {
		return false, errTaken(a.cluster)
	}
	return true, e.reissue(ctx, a, id)
}

func errTaken(cluster string) error {
	return status.Errorf(codes.AlreadyExists, "the name %q is taken by another member. Choose another name; or, if that member is gone for good, free the name on the hub with \"sealane remove %s --forget\"", cluster, cluster)
}

func unavailable(err error) error {
	return status.Errorf(codes.Unavailable, "the hub cannot reach its API server now: %v", err)
}

// holder is who has the name; nil: it is free.
func (e *enrolment) holder(ctx context.Context, a applicant, t *v1alpha1.JoinToken) (*v1alpha1.MemberIdentity, error) {
	var m v1alpha1.MemberCluster
	err := e.live.Get(ctx, client.ObjectKey{Name: a.cluster}, &m)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, unavailable(err)
	}
	if err == nil && !m.DeletionTimestamp.IsZero() {
		return nil, status.Errorf(codes.FailedPrecondition, "the member %q that had this name is leaving: try again when it has left, or end that with \"sealane remove %s --forget\"", m.Name, m.Name)
	}
	if err == nil && len(m.Spec.RevokedKeys) > 0 {
		if err := approved(&m, a.keyHash, t); err != nil {
			return nil, err
		}
		if mayReturn(&m, a.keyHash) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, nil
	}
	return m.Status.Identity, nil
}

// consume counts one use of the token. Of several that compete for the last
// use, the API server lets one through.
func (e *enrolment) consume(ctx context.Context, a applicant, t *v1alpha1.JoinToken) error {
	for {
		if t.Status.Uses >= max(t.Spec.MaxUses, 1) {
			return status.Errorf(codes.Unauthenticated, "join token %q is used up (%d of %d); create another with \"sealane token create\"", t.Name, t.Status.Uses, max(t.Spec.MaxUses, 1))
		}
		t.Status.Uses++
		if !slices.Contains(t.Status.Members, a.cluster) {
			t.Status.Members = append(t.Status.Members, a.cluster)
			t.Status.Members = t.Status.Members[max(0, len(t.Status.Members)-maxTokenMembers):]
		}
		err := e.writer.Status().Update(ctx, t)
		switch {
		case err == nil:
			return nil
		case apierrors.IsNotFound(err):
			return errUnknownToken
		case !apierrors.IsConflict(err):
			return unavailable(err)
		}
		if t, err = e.verify(ctx, a); err != nil {
			return err
		}
	}
}

// giveBack undoes consume as well as it can.
func (e *enrolment) giveBack(ctx context.Context, a applicant) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err := retry.RetryOnConflict(claimBackoff, func() error {
		t := &v1alpha1.JoinToken{}
		if err := e.live.Get(ctx, client.ObjectKey{Name: a.token.Name}, t); err != nil {
			return client.IgnoreNotFound(err)
		}
		t.Status.Uses = max(t.Status.Uses-1, 0)
		t.Status.Members = slices.DeleteFunc(t.Status.Members, func(m string) bool { return m == a.cluster })
		return e.writer.Status().Update(ctx, t)
	})
	if err != nil {
		e.log.Error("a use of a join token was lost", "token", a.token.Name, "member", a.cluster, "error", err)
	}
}

// claim writes the applicant's key into the MemberCluster of its name, which it
// creates if need be. It fails if another key is there.
func (e *enrolment) claim(ctx context.Context, a applicant, labels map[string]string, id v1alpha1.MemberIdentity) error {
	retriable := func(err error) bool {
		return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
	}
	return asStatus(retry.OnError(claimBackoff, retriable, func() error {
		m := &v1alpha1.MemberCluster{}
		err := e.live.Get(ctx, client.ObjectKey{Name: a.cluster}, m)
		created := apierrors.IsNotFound(err)
		switch {
		case created:
			m = &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: a.cluster, Labels: labels, Finalizers: []string{v1alpha1.LeaveFinalizer}}}
			if err = e.writer.Create(ctx, m); err == nil {
				e.untrack(ctx, m)
			}
		case err == nil && m.Status.Identity == nil && addLabels(m, labels):
			err = e.writer.Update(ctx, m)
		}
		if err != nil {
			return err
		}
		if have := m.Status.Identity; have != nil && have.KeyHash != a.keyHash {
			if !mayReturn(m, a.keyHash) {
				return errTaken(a.cluster)
			}
			m.Status = v1alpha1.MemberClusterStatus{} // it was of another
		}
		m.Status.Identity = &id
		err = e.writer.Status().Update(ctx, m)
		if err != nil && created {
			e.discard(ctx, m)
		}
		return err
	}))
}

// untrack takes off a member that was just created who wrote which of its fields.
// The API server then notes that no more, unless somebody applies the object on the
// server's side: it would be a third of the object, and some of the work of writing its
// status, which the hub does for every member and change. Nothing depends on it.
func (e *enrolment) untrack(ctx context.Context, m *v1alpha1.MemberCluster) {
	m.ManagedFields = []metav1.ManagedFieldsEntry{{}} // that is how it is asked for
	if err := e.writer.Update(ctx, m); err != nil {
		m.ManagedFields = nil
		e.log.Debug("who wrote the fields of a member is noted with it", "member", m.Name, "error", err)
	}
}

// reissue notes the new certificate of a member that has the key already. It
// never creates a member: that takes a use of a token.
func (e *enrolment) reissue(ctx context.Context, a applicant, id v1alpha1.MemberIdentity) error {
	return asStatus(retry.RetryOnConflict(claimBackoff, func() error {
		m := &v1alpha1.MemberCluster{}
		if err := e.live.Get(ctx, client.ObjectKey{Name: a.cluster}, m); err != nil {
			return err
		}
		if have := m.Status.Identity; have == nil || have.KeyHash != a.keyHash {
			return errTaken(a.cluster)
		}
		m.Status.Identity = &id
		return e.writer.Status().Update(ctx, m)
	}))
}

// claimBackoff outlasts, for some seconds, others that write the same object.
var claimBackoff = wait.Backoff{Steps: 15, Duration: 5 * time.Millisecond, Factor: 1.5, Jitter: 0.5}

// asStatus makes what the API server answered a gRPC status.
func asStatus(err error) error {
	if err == nil || errors.As(err, new(interface{ GRPCStatus() *status.Status })) {
		return err
	}
	return unavailable(err)
}

// discard deletes a member that was created for an enrolment that failed,
// unless it was touched since.
func (e *enrolment) discard(ctx context.Context, m *v1alpha1.MemberCluster) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	m.Finalizers = nil
	if err := e.writer.Update(ctx, m); err != nil {
		e.log.Warn("a member without identity may be left of a failed enrolment", "member", m.Name, "error", err)
		return
	}
	pre := client.Preconditions{UID: &m.UID, ResourceVersion: &m.ResourceVersion}
	if err := e.writer.Delete(ctx, m, pre); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		e.log.Warn("a member without identity is left of a failed enrolment", "member", m.Name, "error", err)
	}
}

// addLabels adds what is missing. Labels that somebody gave the member by name
// win over those of the token.
func addLabels(m *v1alpha1.MemberCluster, labels map[string]string) (changed bool) {
	for k, v := range labels {
		if _, has := m.Labels[k]; has {
			continue
		}
		if m.Labels == nil {
			m.Labels = map[string]string{}
		}
		m.Labels[k] = v
		changed = true
	}
	return changed
}
