package broker

import (
	"crypto/sha512"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"fmt"
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

// SignAccount signs the claims of an account such that a resolver which holds
// previous ("": nothing) takes them for newer whatever the clock says: the issue
// time of an account strictly increases. If the content is that of previous,
// previous itself is returned, with changed false. The claims are not modified.
func SignAccount(c *jwt.AccountClaims, signer KeyPair, previous string, now time.Time) (token string, changed bool, err error) {
	cp := *c
	cp.Imports = append(jwt.Imports(nil), c.Imports...)
	cp.Exports = append(jwt.Exports(nil), c.Exports...)
	if p, perr := jwt.DecodeAccountClaims(previous); perr == nil {
		was := time.Unix(p.IssuedAt, 0)
		same, err := Sign(&cp, signer, was)
		if err != nil {
			return "", false, err
		}
		if same == previous {
			return previous, false, nil
		}
		if !now.Truncate(time.Second).After(was) {
			now = was.Add(time.Second)
		}
	}
	token, err = Sign(&cp, signer, now)
	return token, err == nil, err
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
