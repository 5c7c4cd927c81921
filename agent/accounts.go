package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	journalv1 "github.com/sealane/sealane/api/journal/v1"
	"github.com/sealane/sealane/broker"
)

// issueGrants journals, for each peer that may dial, since when it may: the
// grant is then the same bytes each time it is made.
func (a *applier) issueGrants(h *held) *held {
	fresh := map[string]*journalv1.IssuedGrant{}
	var ended []*journalv1.IssuedGrant
	for _, p := range h.parts {
		l := p.GetLink()
		if l.GetRole() != federationv1.LinkSpec_ACCEPT {
			continue
		}
		old := h.grants[l.Peer]
		if isFor(old, l) {
			continue
		}
		// Strictly later than the one that it replaces, which is revoked by time.
		at := max(time.Now().Unix(), old.GetIssuedAt()+1)
		fresh[l.Peer] = &journalv1.IssuedGrant{Peer: l.Peer, Key: l.PeerKey, IssuedAt: at, Group: l.Group}
		if old.GetGroup() != nil {
			ended = append(ended, old)
		}
	}
	if len(fresh) == 0 {
		return h
	}
	next, err := a.holder.change(func(n *held) bool {
		maps.Copy(n.grants, fresh)
		for _, g := range ended {
			n.ended = slices.DeleteFunc(slices.Clone(n.ended), func(o *journalv1.IssuedGrant) bool {
				return o.Key == g.Key && o.GetGroup().GetName() == g.GetGroup().GetName()
			})
			n.ended = append(n.ended, g)
		}
		return true
	})
	if err != nil {
		a.log.Error("cannot write grants to the journal", "error", err)
		return h
	}
	return next
}

// isFor tells whether a grant was issued for a link as it is now.
func isFor(g *journalv1.IssuedGrant, l *federationv1.LinkSpec) bool {
	return g != nil && g.Key == l.PeerKey && proto.Equal(g.Group, l.Group)
}

// grant makes the grant of a link that this member accepts.
func (a *applier) grant(h *held, l *federationv1.LinkSpec) (*federationv1.Grant, error) {
	g := h.grants[l.Peer]
	if !isFor(g, l) {
		return nil, failf(codeCannotWrite, "the grant for %s is not in the journal", l.Peer)
	}
	grant, err := broker.IssueLinkGrant(a.keyring, l, time.Unix(g.IssuedAt, 0))
	if err != nil {
		return nil, &failure{codeBadLink, err}
	}
	return grant, nil
}

// announce shows the grants that were in effect when the agent stopped: their
// links stand, whether or not the broker is up by the time the hub asks.
func (a *applier) announce() {
	h := a.holder.now()
	grants := map[string]*federationv1.Grant{}
	for _, p := range h.parts {
		if l := p.GetLink(); l.GetRole() == federationv1.LinkSpec_ACCEPT {
			if g, err := a.grant(h, l); err == nil {
				grants[l.Peer] = g
			}
		}
	}
	a.pic.setGrants(grants)
}

// setAccounts makes the accounts of what is held exist, and those of what is
// doomed still, but for the parts named in leaving. It returns the error of
// each account that is not in effect.
func (a *applier) setAccounts(ctx context.Context, h *held, leaving map[string]bool) map[string]error {
	parts := make([]*federationv1.Part, 0, len(h.parts))
	links := map[string]bool{}
	for _, p := range h.parts {
		if p.GetAccount() != nil || p.GetLink() != nil {
			parts = append(parts, p)
		}
	}
	for id, p := range h.doomed {
		if (p.GetAccount() != nil || p.GetLink() != nil) && !leaving[id] {
			parts = append(parts, p)
		}
	}
	claims, errs := a.keyring.Accounts(a.name, parts)
	for _, p := range parts {
		l := p.GetLink()
		if l == nil || links[l.Peer] {
			continue
		}
		links[l.Peer] = true
		if g := h.grants[l.Peer]; g != nil && l.Group == nil {
			revokeBefore(claims, l.Peer, g.IssuedAt)
		}
	}
	revokeEnded(claims, h)
	accounts := map[string]bool{}
	for name, c := range claims {
		accounts[name] = true
		if a.secrets == nil {
			continue
		}
		if err := a.secrets.revoke(name, c); err != nil {
			errs[name] = errors.Join(errs[name], err)
		}
	}
	a.conns.keep(accounts)
	for name, err := range a.rt.SetAccounts(ctx, claims) {
		errs[name] = errors.Join(errs[name], err)
	}
	return errs
}

// revokeBefore ends every grant of a link but the one that was issued at that
// time: a peer that came back with another key leaves the old one worthless.
func revokeBefore(claims map[string]*jwt.AccountClaims, peer string, issued int64) {
	for _, name := range []string{federationv1.OutAccount(peer), federationv1.InAccount(peer)} {
		if c := claims[name]; c != nil {
			if c.Revocations == nil {
				c.Revocations = jwt.RevocationList{}
			}
			c.Revocations[jwt.All] = issued - 1
		}
	}
}

// revokeEnded ends the grants in accounts that links share which are for no link that
// is held: the accounts go on for the others.
func revokeEnded(claims map[string]*jwt.AccountClaims, h *held) {
	ended := slices.Clone(h.ended)
	for peer, g := range h.grants {
		l := h.parts[federationv1.LinkID(peer)].GetLink()
		if g.Group != nil && (l.GetRole() != federationv1.LinkSpec_ACCEPT || !isFor(g, l)) {
			ended = append(ended, g)
		}
	}
	for _, g := range ended {
		group := federationv1.GroupPeer(g.GetGroup().GetName())
		for _, name := range []string{federationv1.OutAccount(group), federationv1.InAccount(group)} {
			c := claims[name]
			if c == nil {
				continue
			}
			if c.Revocations == nil {
				c.Revocations = jwt.RevocationList{}
			}
			c.Revocations[g.Key] = max(c.Revocations[g.Key], g.IssuedAt)
		}
	}
}

// noteAccounts records what came of the accounts, and keeps the credentials of
// applications.
func (a *applier) noteAccounts(h *held, errs map[string]error) {
	credsErr := a.keepCreds(h)
	for _, id := range h.ids() {
		p := h.parts[id]
		s := p.GetAccount()
		if s == nil {
			continue
		}
		var err error
		switch {
		case errs[s.Name] != nil:
			err = &failure{codeAccount, errs[s.Name]}
		case s.Application && credsErr != nil:
			err = &failure{codeCannotWrite, credsErr}
		}
		a.note(p, err)
	}
}

// credsDir is where the credentials of applications are.
func credsDir(dataDir string) string { return filepath.Join(dataDir, "creds") }

const credsSuffix = ".creds"

// keepCreds makes the folder of credentials hold a file for each application
// account, and nothing else.
func (a *applier) keepCreds(h *held) error {
	dir := credsDir(a.dataDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	want := map[string]bool{}
	var errs []error
	for _, p := range h.parts {
		s := p.GetAccount()
		if !s.GetApplication() {
			continue
		}
		want[s.Name+credsSuffix] = true
		errs = append(errs, a.writeCreds(filepath.Join(dir, s.Name+credsSuffix), s.Name))
	}
	files, err := os.ReadDir(dir)
	errs = append(errs, err)
	for _, f := range files {
		if strings.HasSuffix(f.Name(), credsSuffix) && !want[f.Name()] {
			if err := os.Remove(filepath.Join(dir, f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func (a *applier) writeCreds(path, account string) error {
	want, err := broker.UserCreds(a.keyring, account)
	if err != nil {
		return fmt.Errorf("credentials of account %q: %w", account, err)
	}
	have, err := os.ReadFile(path)
	if err == nil && bytes.Equal(have, want) {
		return nil
	}
	return broker.WriteFile(path, want, 0o600)
}
