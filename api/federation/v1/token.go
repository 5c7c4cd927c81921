package federationv1

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

const tokenPrefix = "slj1"

// JoinToken is what a new agent is given: it names the JoinToken resource,
// proves the right to use it, and tells which hub to trust.
type JoinToken struct {
	// Name of the JoinToken resource.
	Name string
	// Secret is 32 random bytes.
	Secret []byte
	// Authority is the SHA-256 of the DER of the hub's authority certificate.
	Authority [sha256.Size]byte
}

// ErrMalformedToken says that a text is no join token.
var ErrMalformedToken = errors.New("malformed join token: expected the whole text printed by \"sealane token create\", starting with \"" + tokenPrefix + ".\"")

// String is the token's text. It is a secret.
func (t JoinToken) String() string {
	e := base64.RawURLEncoding
	return strings.Join([]string{tokenPrefix, t.Name, e.EncodeToString(t.Secret), e.EncodeToString(t.Authority[:])}, ".")
}

// SecretHash is the value of a JoinToken resource's spec.secretHash.
func (t JoinToken) SecretHash() string {
	sum := sha256.Sum256(t.Secret)
	return hex.EncodeToString(sum[:])
}

// ParseJoinToken reads the text of a token. The error wraps ErrMalformedToken.
func ParseJoinToken(s string) (JoinToken, error) {
	f := strings.Split(strings.TrimSpace(s), ".")
	if len(f) != 4 || f[0] != tokenPrefix || f[1] == "" || len(f[1]) > 253 {
		return JoinToken{}, ErrMalformedToken
	}
	secret, err := base64.RawURLEncoding.Strict().DecodeString(f[2])
	if err != nil || len(secret) != 32 {
		return JoinToken{}, fmt.Errorf("%w (its secret is damaged)", ErrMalformedToken)
	}
	authority, err := base64.RawURLEncoding.Strict().DecodeString(f[3])
	if err != nil || len(authority) != sha256.Size {
		return JoinToken{}, fmt.Errorf("%w (its authority hash is damaged)", ErrMalformedToken)
	}
	t := JoinToken{Name: f[1], Secret: secret}
	copy(t.Authority[:], authority)
	return t, nil
}
