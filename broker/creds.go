package broker

import (
	"fmt"
	"time"

	"github.com/nats-io/jwt/v2"
)

// userEpoch is the issue time of the users that a member makes for itself. It is
// fixed so that the same keyring always gives the same credentials; a revocation
// of everything issued until now covers them.
var userEpoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

var (
	appTypes   = []string{jwt.ConnectionTypeStandard, jwt.ConnectionTypeWebsocket}
	agentTypes = []string{jwt.ConnectionTypeInProcess, jwt.ConnectionTypeStandard}
)

// UserCreds is the content of the credentials file with which applications
// connect to an account. The same keyring and account give the same bytes. It
// holds a secret.
func UserCreds(k *Keyring, account string) ([]byte, error) {
	user := k.AppUser(account)
	token, err := signUser(k, account, user.Public, account, appTypes, userEpoch)
	if err != nil {
		return nil, err
	}
	return FormatCreds(token, user)
}

// UserCredsIn is UserCreds for the applications in one namespace: with a key of its
// own, so that it can be revoked alone, an issue time and an end.
func UserCredsIn(k *Keyring, account, namespace string, issuedAt, end time.Time) ([]byte, error) {
	user := k.AppUserIn(account, namespace)
	c := newUser(user.Public, account+" in "+namespace, appTypes)
	c.Expires = end.Unix()
	token, err := Sign(c, k.Account(account), issuedAt)
	if err != nil {
		return nil, err
	}
	return FormatCreds(token, user)
}

// RevokeUser ends what was issued to a user until some time.
func RevokeUser(c *jwt.AccountClaims, user KeyPair, until time.Time) {
	if c.Revocations == nil {
		c.Revocations = jwt.RevocationList{}
	}
	c.Revocations[user.Public] = max(c.Revocations[user.Public], until.Unix())
}

// AgentJWT is the user JWT of the agent itself in an account, over
// Keyring.AgentUser.
func AgentJWT(k *Keyring, account string) (string, error) {
	return signUser(k, account, k.AgentUser(account).Public, "agent", agentTypes, userEpoch)
}

// AgentJWTUntil is AgentJWT with an end.
func AgentJWTUntil(k *Keyring, account string, end time.Time) (string, error) {
	c := newUser(k.AgentUser(account).Public, "agent", agentTypes)
	c.Expires = end.Unix()
	return Sign(c, k.Account(account), time.Now())
}

// FormatCreds is the content of a credentials file: a user JWT and its key.
func FormatCreds(token string, user KeyPair) ([]byte, error) {
	seed, err := user.Seed()
	if err != nil {
		return nil, err
	}
	b, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		return nil, fmt.Errorf("format credentials: %w", err)
	}
	return b, nil
}

func signUser(k *Keyring, account, publicKey, name string, types []string, issuedAt time.Time) (string, error) {
	return Sign(newUser(publicKey, name, types), k.Account(account), issuedAt)
}

func newUser(publicKey, name string, types []string) *jwt.UserClaims {
	c := jwt.NewUserClaims(publicKey)
	c.Name = name
	c.AllowedConnectionTypes = append(jwt.StringList(nil), types...)
	return c
}
