package agent

import (
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/nats-io/jwt/v2"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

// Of sites that share their links each can be shut out alone, and stays so after a
// restart; one that comes back with another key is let in by a new grant only.
func TestGrantsOfGroups(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keyring, err := broker.LoadOrCreateKeyring(filepath.Join(dir, "seed"))
	check(t, err)
	var a *applier
	open := func() {
		holder, err := openHolder(&journal{dir: filepath.Join(dir, "journal"), log: slog.Default()})
		check(t, err)
		a = &applier{member: &member{name: "west", log: slog.New(slog.DiscardHandler), keyring: keyring, holder: holder}}
	}
	open()
	hold := func(links ...*federationv1.Part) {
		t.Helper()
		_, err := a.holder.change(func(h *held) bool {
			clear(h.parts)
			for _, p := range append(links, accountPart("tx_@edge"), accountPart("rx_@edge")) {
				h.parts[p.Id] = p
			}
			return true
		})
		check(t, err)
		a.issueGrants(a.holder.now())
	}
	accept := func(site, key, group string) *federationv1.Part {
		p := acceptPart(site, key)
		if group != "" {
			p.GetLink().Group = &federationv1.LinkGroup{Name: group, Origins: []string{group + "@west", site}}
		}
		return p
	}
	revoked := func() jwt.RevocationList {
		h := a.holder.now()
		parts := make([]*federationv1.Part, 0, len(h.parts))
		for _, p := range h.parts {
			parts = append(parts, p)
		}
		claims, errs := keyring.Accounts("west", parts)
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		revokeEnded(claims, h)
		if in, out := claims["rx_@edge"].Revocations, claims["tx_@edge"].Revocations; len(in) != len(out) {
			t.Errorf("revoked %v and %v", in, out)
		}
		return claims["rx_@edge"].Revocations
	}
	grant := func(site string) *federationv1.Grant {
		h := a.holder.now()
		g, err := a.grant(h, h.parts[federationv1.LinkID(site)].GetLink())
		check(t, err)
		return g
	}
	one, two, other := newUserKey(t), newUserKey(t), newUserKey(t)
	hold(accept("site1", one, "edge"), accept("site2", two, "edge"))
	if r := revoked(); len(r) > 0 {
		t.Errorf("revoked %v at first", r)
	}
	first := grant("site1")

	hold(accept("site2", two, "edge"))
	open()
	if r := revoked(); len(r) != 1 || r[one] == 0 {
		t.Errorf("revoked %v when site1 is gone", r)
	}
	hold(accept("site1", one, "edge"), accept("site2", two, "edge"))
	if r := revoked(); len(r) > 0 || grant("site1").Out != first.Out {
		t.Errorf("revoked %v when it is back", r)
	}
	hold(accept("site1", other, "edge"), accept("site2", two, "edge"))
	if r := revoked(); len(r) != 1 || r[one] == 0 {
		t.Errorf("revoked %v when it is back with another key", r)
	}
	hold(accept("site1", one, "edge"), accept("site2", two, ""))
	open()
	c, err := jwt.DecodeUserClaims(grant("site1").Out)
	check(t, err)
	if r := revoked(); len(r) != 3 || r[one] >= c.IssuedAt || r[other] == 0 || r[two] == 0 {
		t.Errorf("revoked %v when site1 has its old key again, by a grant of %d, and site2 a link of its own", r, c.IssuedAt)
	}
	if len(a.holder.now().ended) != 3 {
		t.Errorf("ended: %v", a.holder.now().ended)
	}
}
