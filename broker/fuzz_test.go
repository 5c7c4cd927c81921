package broker

import (
	"testing"
	"time"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// A grant comes from another member by way of the hub: whatever it holds, it is
// refused unless both tokens are what the acceptor signed for this key.
func FuzzVerifyGrant(f *testing.F) {
	acceptor, dialer := testKeyring(f, 1), testKeyring(f, 2)
	own := dialer.LinkUser().Public
	g, err := IssueGrant(acceptor, "dialer", own, time.Unix(1_800_000_000, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(g.Key, g.Out, g.In)
	f.Add(g.Key, g.In, g.Out)
	f.Add(g.Key, g.Out, g.Out)
	f.Add("", "a.b.c", "")
	f.Fuzz(func(t *testing.T, key, out, in string) {
		err := VerifyGrant(&federationv1.Grant{Peer: "acceptor", Key: key, Out: out, In: in}, own)
		known := func(token string) bool { return token == g.Out || token == g.In }
		if err == nil && (key != own || out == in || !known(out) || !known(in)) {
			t.Errorf("accepted %q %q %q", key, out, in)
		}
	})
}
