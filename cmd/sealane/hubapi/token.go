package hubapi

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// ErrHubSilent says that the API took a token but no hub has seen it.
var ErrHubSilent = errors.New("no hub has seen the token")

// TokenRequest is a wanted join token.
type TokenRequest struct {
	// Name of the JoinToken. Empty: made from Cluster.
	Name string
	// Cluster is the name, or the pattern of names, that may join.
	Cluster string
	Uses    int32
	TTL     time.Duration
	Labels  map[string]string
}

// Token is a join token that agents can use.
type Token struct {
	Name    string    `json:"name"`
	Cluster string    `json:"cluster"`
	Uses    int32     `json:"uses"`
	Expires time.Time `json:"expires"`
	// Text is the token itself: a secret that exists nowhere else.
	Text string `json:"token"`
	// Hub is where agents reach the hub.
	Hub string `json:"hub"`
	// Command starts an agent with the token.
	Command string `json:"command"`
}

// CreateToken makes a token and waits, as long as ctx allows, until the hub has
// said where it is and which authority to trust. If the hub does not, the
// JoinToken is removed again, since nobody could use it.
func (h *Hub) CreateToken(ctx context.Context, r TokenRequest) (*Token, error) {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails: crypto/rand ends the program instead
	if r.Name == "" {
		r.Name = tokenName(r.Cluster)
	}
	text := federationv1.JoinToken{Name: r.Name, Secret: secret}
	obj := &v1alpha1.JoinToken{
		ObjectMeta: metav1.ObjectMeta{Name: r.Name},
		Spec: v1alpha1.JoinTokenSpec{
			SecretHash: text.SecretHash(),
			ExpiresAt:  metav1.NewTime(time.Now().Add(r.TTL).Truncate(time.Second)),
			MaxUses:    r.Uses,
			Cluster:    r.Cluster,
			Labels:     r.Labels,
		},
	}
	if err := h.Create(ctx, obj); err != nil {
		if apierrors.IsAlreadyExists(err) {
			return nil, fmt.Errorf("there is a token %q already: choose another --name, or remove it with: sealane token delete %s", r.Name, r.Name)
		}
		return nil, h.Explain(err)
	}
	err := h.awaitHub(ctx, obj)
	if err == nil {
		var sum []byte
		if sum, err = hex.DecodeString(obj.Status.Authority); err != nil || len(sum) != len(text.Authority) {
			err = fmt.Errorf("the hub published %q as the hash of its authority: it is not a SHA-256 in hex", obj.Status.Authority)
		}
		copy(text.Authority[:], sum)
	}
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return nil, errors.Join(err, client.IgnoreNotFound(h.Delete(undo, obj)))
	}
	t := &Token{
		Name: r.Name, Cluster: r.Cluster, Uses: obj.Spec.MaxUses, Expires: obj.Spec.ExpiresAt.UTC(),
		Text: text.String(), Hub: obj.Status.Hub,
	}
	t.Command = fmt.Sprintf("sealane-agent --name %s --hub %s --token %s", t.Member(), t.Hub, t.Text)
	return t, nil
}

// Member is the name of the member that joins with the token, or NAME if the
// token is for a pattern of names.
func (t *Token) Member() string {
	if strings.Contains(t.Cluster, "*") {
		return "NAME"
	}
	return t.Cluster
}

func (h *Hub) awaitHub(ctx context.Context, obj *v1alpha1.JoinToken) error {
	err := Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		if err := h.Get(ctx, client.ObjectKeyFromObject(obj), obj); err != nil {
			return false, err
		}
		return obj.Status.Hub != "" && obj.Status.Authority != "", nil
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: the API at %s stored it, but nothing answered it in time. Is sealane-hub running, against this API? Its log says why not", ErrHubSilent, h.Server)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("the token %s was deleted while it was being made", obj.Name)
	}
	return h.Explain(err)
}

func tokenName(cluster string) string {
	b := make([]byte, 4)
	_, _ = rand.Read(b)
	base := strings.Trim(strings.ReplaceAll(cluster, "*", ""), "-")
	if base == "" {
		base = "join"
	}
	return base[:min(len(base), 54)] + "-" + hex.EncodeToString(b)
}

// Poll calls done at once and then every interval, until it is true or fails,
// or ctx ends.
func Poll(ctx context.Context, interval time.Duration, done func() (bool, error)) error {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		ok, err := done()
		if ctx.Err() != nil && !ok {
			return ctx.Err()
		}
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}
