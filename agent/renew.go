package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// renewRetry bounds the wait between attempts to renew.
const (
	renewRetryBase  = 5 * time.Second
	renewRetryLimit = 10 * time.Minute
	renewTimeout    = 30 * time.Second
)

// renewal replaces the certificate long before it expires: once a third of its
// life has passed.
type renewal struct {
	dir   identityDir
	ident *atomic.Pointer[identity]
	// conn is the session's connection, nil without one.
	conn func() *grpc.ClientConn
	// enrol gets another certificate for the same key when the present one has expired;
	// nil: there is no token for that.
	enrol func(context.Context) (*identity, error)
	// renewed is called when the identity is another.
	renewed func()
	log     *slog.Logger
	retry   backoff
}

// renewAt is when to renew: after a third of the life and a random bit more, so
// that members that joined together do not renew together.
func renewAt(notBefore, notAfter time.Time, random float64) time.Time {
	life := notAfter.Sub(notBefore)
	return notBefore.Add(life/3 + time.Duration(random*float64(life)/20))
}

// run renews until ctx ends.
func (r *renewal) run(ctx context.Context) {
	if r.retry.base == 0 {
		r.retry = backoff{base: renewRetryBase, limit: renewRetryLimit}
	}
	for {
		id := r.ident.Load()
		at := renewAt(id.notBefore(), id.notAfter(), rand.Float64()) //nolint:gosec // jitter is no secret
		if !sleep(ctx, time.Until(at)) {
			return
		}
		for {
			err := r.once(ctx)
			if err != nil && r.enrol != nil && time.Until(r.ident.Load().notAfter()) <= 0 {
				err = r.again(ctx)
			}
			if err == nil {
				r.retry.reset()
				break
			}
			if ctx.Err() != nil {
				return
			}
			wait := r.retry.next()
			left := time.Until(r.ident.Load().notAfter())
			if left <= 0 {
				r.log.Error("the certificate of this member has expired, or the clock of this machine is wrong: links that are up stay up, but none can be opened; start the agent with a new join token", "error", err)
			} else {
				r.log.Warn("certificate not renewed, trying again", "error", err, "expires_in", left.Round(time.Second), "wait", wait.Round(time.Second))
			}
			if !sleep(ctx, wait) {
				return
			}
		}
	}
}

// again enrols with the join token: whoever has expired does so while it serves its
// applications.
func (r *renewal) again(ctx context.Context) error {
	id, err := r.enrol(ctx)
	if err != nil {
		return err
	}
	r.log.Info("enrolled again", "expires", id.notAfter())
	r.use(id)
	return nil
}

func (r *renewal) use(id *identity) {
	r.ident.Store(id)
	r.renewed()
}

var errNoSession = errors.New("no session with the hub")

// once renews the certificate over the session's connection.
func (r *renewal) once(ctx context.Context) error {
	conn := r.conn()
	if conn == nil {
		return errNoSession
	}
	old := r.ident.Load()
	key, err := r.dir.keyFor(nextKeyFile)
	if err != nil {
		return err
	}
	csr, err := certificateRequest(old.name, key)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	resp, err := federationv1.NewFederationClient(conn).Renew(ctx, &federationv1.RenewRequest{Csr: csr})
	if err != nil {
		return explainSession(err)
	}
	id, err := parseIssued(resp.Certificates, resp.Authorities, key)
	if err != nil {
		return err
	}
	if id.name != old.name || id.trustDomain != old.trustDomain {
		return fmt.Errorf("the hub issued a certificate for %s instead of %s",
			federationv1.MemberID(id.trustDomain, id.name), federationv1.MemberID(old.trustDomain, old.name))
	}
	if err := r.dir.store(id, nextKeyFile); err != nil {
		return err
	}
	r.log.Info("certificate renewed", "expires", id.notAfter())
	r.use(id)
	return nil
}
