package broker

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"pgregory.net/rapid"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

func testKeyring(t testing.TB, fill byte) *Keyring {
	t.Helper()
	k, err := NewKeyring(bytes.Repeat([]byte{fill}, SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// The keys of a seed are for ever: links and credentials in use depend on them.
func TestDerivation(t *testing.T) {
	k := testKeyring(t, 7)
	got := map[string]string{
		"operator":  k.Operator().Public,
		"spare 1":   k.SpareSigners()[0].Public,
		"spare 2":   k.SpareSigners()[1].Public,
		"link":      k.LinkUser().Public,
		"account":   k.Account("app").Public,
		"system":    k.Account(SystemAccount).Public,
		"agent app": k.AgentUser("app").Public,
		"app app":   k.AppUser("app").Public,
		"in shop":   k.AppUserIn("app", "shop").Public,
		"in web":    k.AppUserIn("app", "web").Public,
	}
	want := map[string]string{
		"operator":  "OCBDD3OOBLV7AQDERI3O7RBOFM7QHR4DKHGOZRCVN4BTXW3NQJYBD7FF",
		"spare 1":   "OD3SDQO3XWQNUDOQBIW6YY3XIMF2HXOWS2ALLTXR35X4PBIQKVZDTMCX",
		"spare 2":   "OCRORHHXCT3JWD257753UIDA7XPDNJ7I3RPSG4WH2AJ5BZRFWHSRFCGN",
		"link":      "UBZHAANNXJR2UOOHK4AH7G446YSF7FM4FBDXPIO5OZWIYJ6BVX5RVPLB",
		"account":   "ADDTSAL76OGU7Q4HFJFTHTSYCHHXATDLGXV45TG6HNNOPMSPO243YLJH",
		"system":    "AABBD4Q62DMNK2ZWJRWM2MWKF57FIOA2II3P4HDYK7TGHUUOXLBF3O3L",
		"agent app": "UBTS5QO5UV7AA7QBWQAR6B4LXB4YPENWIJKE5YWPBGLWIITIV2XNFMDU",
		"app app":   "UDF57HF6BHHETANM23O7X5V5YVAKMI3BTRYXX57SNGO3NKUP7H3D7E4Z",
		"in shop":   "UCT2RL7C7XFQRFD6MCNEOC27WGYYVNSPW7ECU6S5TQMUTZLD3Z6GQ3HD",
		"in web":    "UAD3CL4ZFDEVDE2IIJIPJ6V2KAEYNKRQK777VI6IYPL2BN5BHA7V22CV",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys changed (-want +got):\n%s", diff)
	}
	seen := map[string]string{}
	for name, key := range got {
		if seen[key] != "" {
			t.Errorf("%s and %s are the same key", name, seen[key])
		}
		seen[key] = name
	}
	if testKeyring(t, 8).Account("app").Public == k.Account("app").Public {
		t.Error("another seed gives the same key")
	}
}

func TestSeedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "seed")
	var wg sync.WaitGroup
	keys := make([]string, 8)
	for i := range keys {
		wg.Go(func() {
			k, err := LoadOrCreateKeyring(path)
			if err != nil {
				t.Error(err)
				return
			}
			keys[i] = k.LinkUser().Public
		})
	}
	wg.Wait()
	for _, key := range keys {
		if key != keys[0] || key == "" {
			t.Fatalf("concurrent starts have different keys: %v", keys)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() != SeedSize {
		t.Errorf("seed file: %v, %v", info, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".seed-*")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKeyring(path); err == nil || !strings.Contains(err.Error(), "0600") {
		t.Errorf("a seed that others can read: %v", err)
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKeyring(path); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged seed: %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "short" {
		t.Error("a damaged seed was replaced")
	}
}

func TestGrant(t *testing.T) {
	acceptor, dialer, other := testKeyring(t, 1), testKeyring(t, 2), testKeyring(t, 3)
	at := time.Unix(1_800_000_000, 999)
	own := dialer.LinkUser().Public
	g, err := IssueGrant(acceptor, "dialer", own, at)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := IssueGrant(acceptor, "dialer", own, at)
	if g.String() != again.String() {
		t.Error("the same grant has other bytes")
	}
	if err := VerifyGrant(g, own); err != nil {
		t.Error(err)
	}
	if _, err := IssueGrant(acceptor, "dialer", acceptor.Account("x").Public, at); err == nil {
		t.Error("granted to what is not a user key")
	}
	for side, token := range map[string]string{federationv1.InAccount("dialer"): g.Out, federationv1.OutAccount("dialer"): g.In} {
		c, err := jwt.DecodeUserClaims(token)
		if err != nil {
			t.Fatal(err)
		}
		if c.Issuer != acceptor.Account(side).Public || c.Subject != own || c.Expires != 0 {
			t.Errorf("%s: %v", side, c)
		}
	}

	sign := func(change func(*jwt.UserClaims)) string {
		c, err := jwt.DecodeUserClaims(g.Out)
		if err != nil {
			t.Fatal(err)
		}
		change(c)
		token, err := Sign(c, acceptor.Account("rx_dialer"), at)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	account, _ := Sign(jwt.NewAccountClaims(acceptor.Account("x").Public), acceptor.Operator(), at)
	for name, bad := range map[string]*federationv1.Grant{
		"nothing":       nil,
		"another key":   {Peer: "a", Key: other.LinkUser().Public, Out: g.Out, In: g.In},
		"no tokens":     {Peer: "a", Key: own},
		"garbage":       {Peer: "a", Key: own, Out: "a.b.c", In: g.In},
		"tampered":      {Peer: "a", Key: own, Out: g.Out[:len(g.Out)-4] + "AAAA", In: g.In},
		"one account":   {Peer: "a", Key: own, Out: g.Out, In: g.Out},
		"not a user":    {Peer: "a", Key: own, Out: account, In: g.In},
		"other subject": {Peer: "a", Key: own, Out: sign(func(c *jwt.UserClaims) { c.Subject = other.LinkUser().Public }), In: g.In},
		"expires":       {Peer: "a", Key: own, Out: sign(func(c *jwt.UserClaims) { c.Expires = time.Now().Add(time.Hour).Unix() }), In: g.In},
		"bearer":        {Peer: "a", Key: own, Out: sign(func(c *jwt.UserClaims) { c.BearerToken = true }), In: g.In},
		"any type":      {Peer: "a", Key: own, Out: sign(func(c *jwt.UserClaims) { c.AllowedConnectionTypes = nil }), In: g.In},
		"client":        {Peer: "a", Key: own, Out: sign(func(c *jwt.UserClaims) { c.AllowedConnectionTypes[0] = jwt.ConnectionTypeStandard }), In: g.In},
		"undenied":      {Peer: "a", Key: own, Out: sign(func(c *jwt.UserClaims) { c.Pub.Deny = nil }), In: g.In},
	} {
		if err := VerifyGrant(bad, own); err == nil || !strings.Contains(err.Error(), ErrBadGrant.Error()) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A grant in accounts that others share confines its user, and is of them.
func TestGroupGrant(t *testing.T) {
	acceptor, dialer := testKeyring(t, 1), testKeyring(t, 2)
	own := dialer.LinkUser().Public
	l := &federationv1.LinkSpec{Peer: "dialer", Role: federationv1.LinkSpec_ACCEPT, PeerKey: own, Group: &federationv1.LinkGroup{Name: "edge", Origins: []string{"edge@a", "dialer"}}}
	g, err := IssueLinkGrant(acceptor, l, time.Unix(1_800_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyGrant(g, own); err != nil {
		t.Error(err)
	}
	out, in := l.Group.Scopes("dialer")
	for account, x := range map[string]struct {
		token string
		scope federationv1.Scope
	}{"rx_@edge": {g.Out, out}, "tx_@edge": {g.In, in}} {
		c, err := jwt.DecodeUserClaims(x.token)
		if err != nil {
			t.Fatal(err)
		}
		if c.Issuer != acceptor.Account(account).Public {
			t.Errorf("%s: issued by another account", account)
		}
		if !slices.Equal(c.Pub.Allow, x.scope.Publish) || !slices.Equal(c.Sub.Allow, x.scope.Subscribe) || len(c.Pub.Allow) == 0 || len(c.Pub.Deny) == 0 {
			t.Errorf("%s: may publish %v and subscribe to %v", account, c.Pub, c.Sub)
		}
	}
}

func TestCreds(t *testing.T) {
	k := testKeyring(t, 1)
	b, err := UserCreds(k, "app")
	if err != nil {
		t.Fatal(err)
	}
	token, err := nkeys.ParseDecoratedJWT(b)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := nkeys.ParseDecoratedUserNKey(b)
	if err != nil {
		t.Fatal(err)
	}
	public, _ := pair.PublicKey()
	c, err := jwt.DecodeUserClaims(token)
	if err != nil {
		t.Fatal(err)
	}
	if c.Issuer != k.Account("app").Public || c.Subject != public || c.AllowedConnectionTypes.Contains(jwt.ConnectionTypeLeafnode) {
		t.Errorf("%v", c)
	}
	revoked := jwt.NewAccountClaims(k.Account("app").Public)
	revoked.Revoke(jwt.All)
	if !revoked.IsClaimRevoked(c) {
		t.Error("a revocation of everything misses the credentials")
	}
}

// Two claims have the same content hash if and only if they ask for the same;
// signing leaves the content alone.
func TestContentHash(t *testing.T) {
	k := testKeyring(t, 1)
	rapid.Check(t, func(rt *rapid.T) {
		claims, _ := k.Accounts("self", drawParts(rt))
		seen := map[[32]byte]string{}
		for name, c := range claims {
			before, err := ContentHash(c)
			if err != nil {
				rt.Fatal(err)
			}
			if seen[before] != "" {
				rt.Fatalf("%s and %s have one hash", name, seen[before])
			}
			seen[before] = name
			token, err := Sign(c, k.Operator(), time.Unix(rapid.Int64Range(1, 1<<40).Draw(rt, "at"), 0))
			if err != nil {
				rt.Fatal(err)
			}
			read, err := jwt.DecodeAccountClaims(token)
			if err != nil {
				rt.Fatal(err)
			}
			if after, _ := ContentHash(read); after != before {
				rt.Fatalf("%s: the hash of what was read is another", name)
			}
			read.Limits.Subs = 12345
			if after, _ := ContentHash(read); after == before {
				rt.Fatalf("%s: a change does not change the hash", name)
			}
		}
	})
}
