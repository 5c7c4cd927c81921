package hub

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Keys of the Secret that holds the authority. The first two are those of any
// TLS Secret, so that others can fill it; the third may be absent.
const (
	secretCert    = corev1.TLSCertKey
	secretKey     = corev1.TLSPrivateKeyKey
	secretTrusted = "trusted.crt"
)

// secretInterval is how often the Secret is looked at.
const secretInterval = 30 * time.Second

// authoritySecret keeps the authority in a Secret, which all replicas share.
type authoritySecret struct {
	secrets     secrets
	name        string
	trustDomain string
	// create makes the Secret if it is absent; otherwise somebody else does.
	create   bool
	interval time.Duration
	log      *slog.Logger
}

// secrets is what is needed of a namespace's Secrets.
type secrets interface {
	Get(ctx context.Context, name string, o metav1.GetOptions) (*corev1.Secret, error)
	Create(ctx context.Context, s *corev1.Secret, o metav1.CreateOptions) (*corev1.Secret, error)
}

// open reads the authority, which it makes or waits for if there is none. Of
// replicas that make one at the same time, the first wins.
func (s *authoritySecret) open(ctx context.Context) (*Authority, error) {
	for said := false; ; {
		k, err := s.read(ctx)
		if apierrors.IsNotFound(err) && s.create {
			err = s.make(ctx)
			if err == nil || apierrors.IsAlreadyExists(err) {
				continue
			}
		}
		switch {
		case err == nil:
			return newAuthorityOf(s.trustDomain, k), nil
		case !apierrors.IsNotFound(err):
			return nil, fmt.Errorf("the federation's authority in Secret %s: %w", s.name, err)
		case !said:
			s.log.Warn("waiting for the Secret with the federation's authority", "secret", s.name)
			said = true
		}
		pause(ctx, min(s.interval, 2*time.Second))
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
}

func (s *authoritySecret) read(ctx context.Context) (*keys, error) {
	secret, err := s.secrets.Get(ctx, s.name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return parseKeys(secret.Data[secretCert], secret.Data[secretKey], secret.Data[secretTrusted], s.trustDomain)
}

func (s *authoritySecret) make(ctx context.Context) error {
	certPEM, keyPEM, err := generateKeys(s.trustDomain)
	if err != nil {
		return err
	}
	_, err = s.secrets.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name:   s.name,
			Labels: map[string]string{"app.kubernetes.io/managed-by": "sealane-hub", "app.kubernetes.io/part-of": "sealane"},
		},
		Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{secretCert: certPEM, secretKey: keyPEM},
	}, metav1.CreateOptions{})
	if err == nil {
		s.log.Info("made the federation's authority: back up this Secret", "secret", s.name)
	}
	return err
}

// follow brings a up to date with the Secret until ctx ends, and calls changed
// when it did. What cannot be used is told, once, and changes nothing.
func (s *authoritySecret) follow(ctx context.Context, a *Authority, changed func()) {
	for last := ""; ; {
		pause(ctx, s.interval)
		if ctx.Err() != nil {
			return
		}
		did := false
		k, err := s.read(ctx)
		if err == nil {
			did, err = a.replace(k)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && err.Error() != last:
			last = err.Error()
			s.log.Error("the authority stays as it was", "secret", s.name, "error", err)
		case err == nil:
			last = ""
		}
		if did {
			s.log.Info("authority changed", "secret", s.name, "authority", a.Hash(), "trusted", len(a.Certificates()))
			changed()
		}
	}
}
