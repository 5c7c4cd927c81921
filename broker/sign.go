package broker

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/nats-io/jwt/v2"
)

// jwtVersion is the version of the claims that package jwt writes.
const jwtVersion = 2

const jwtHeader = `{"typ":"JWT","alg":"ed25519-nkey"}`

// Sign encodes claims as a token that depends on nothing but the claims, the key
// and the time. Package jwt's Encode takes the time from the clock and an id
// from which the body is left out, so that of two different accounts signed in
// the same second a resolver keeps the first. Sign sets issuer, issue time and
// id of c, and sorts its imports and exports.
func Sign(c jwt.Claims, signer KeyPair, issuedAt time.Time) (string, error) {
	d := c.Claims()
	d.Issuer, d.IssuedAt, d.ID = signer.Public, issuedAt.Unix(), ""
	switch x := c.(type) {
	case *jwt.AccountClaims:
		x.Type, x.Version = jwt.AccountClaim, jwtVersion
		sortAccount(x)
	case *jwt.UserClaims:
		x.Type, x.Version = jwt.UserClaim, jwtVersion
	case *jwt.OperatorClaims:
		x.Type, x.Version = jwt.OperatorClaim, jwtVersion
	default:
		return "", fmt.Errorf("cannot sign %T", c)
	}
	body, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	id := sha512.Sum512_256(body)
	d.ID = base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(id[:])
	if body, err = json.Marshal(c); err != nil {
		return "", err
	}
	enc := base64.RawURLEncoding
	token := enc.EncodeToString([]byte(jwtHeader)) + "." + enc.EncodeToString(body)
	sig, err := signer.Sign([]byte(token))
	if err != nil {
		return "", err
	}
	return token + "." + enc.EncodeToString(sig), nil
}

// ContentHash is the hash of what an account's claims say, whoever signed them
// and when. The claims are not modified.
func ContentHash(c *jwt.AccountClaims) ([sha256.Size]byte, error) {
	cp := *c
	cp.Issuer, cp.IssuedAt, cp.ID = "", 0, ""
	cp.Type, cp.Version = jwt.AccountClaim, jwtVersion
	cp.Imports, cp.Exports = slices.Clone(c.Imports), slices.Clone(c.Exports)
	sortAccount(&cp)
	body, err := json.Marshal(&cp)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	return sha256.Sum256(body), nil
}

func sortAccount(a *jwt.AccountClaims) {
	sort.SliceStable(a.Exports, func(i, j int) bool { return exportKey(a.Exports[i]) < exportKey(a.Exports[j]) })
	sort.SliceStable(a.Imports, func(i, j int) bool { return importKey(a.Imports[i]) < importKey(a.Imports[j]) })
}

func exportKey(e *jwt.Export) string {
	return string(e.Subject) + " " + e.Type.String()
}

func importKey(i *jwt.Import) string {
	return string(i.Subject) + " " + i.Type.String() + " " + i.Account + " " + string(i.LocalSubject)
}
