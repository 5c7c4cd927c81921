package statefulset

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"
	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	"github.com/sealane/sealane/broker"
)

// composer makes states. It remembers only the last one: in it are the tokens of
// accounts, and so when each was issued.
type composer struct {
	keyring *broker.Keyring
	local   *local
	// last is the last state; nil before the first.
	last *brokerv1.State
}

// wanted is what states are made of.
type wanted struct {
	config broker.Config
	// accounts by name; nil: nobody has said yet, those that were stay.
	accounts map[string]*jwt.AccountClaims
	// fresh accounts get a new token although theirs says the right thing: some
	// server does not have it in effect.
	fresh map[string]bool
	// done are removed accounts, by key, of which nothing is left anywhere.
	done  map[string]bool
	names []string
	// servers there are.
	servers []*brokerv1.Server
}

// compose makes the state for w. If it says what the last one does, it is the last
// one. errs are the errors of accounts that cannot be signed.
func (c *composer) compose(w wanted) (s *brokerv1.State, errs map[string]error, err error) {
	s = &brokerv1.State{
		Generation: c.last.GetGeneration(), Member: w.config.Cluster, TrustDomain: w.config.TrustDomain,
		Operator: c.keyring.Operator().Public, SystemAccount: c.keyring.Account(broker.SystemAccount).Public,
		Spec: broker.WithDefaults(w.config.Spec), Servers: w.servers,
	}
	for _, k := range c.keyring.SpareSigners() {
		s.Signers = append(s.Signers, k.Public)
	}
	if s.Local, err = c.local.serverIdentity(c.last.GetLocal(), w.names); err != nil {
		return nil, nil, err
	}
	if s.Link, err = linkIdentity(w.config.TLS, w.config.Authorities); err != nil {
		return nil, nil, err
	}
	if s.LinkSeed, err = c.keyring.LinkUser().Seed(); err != nil {
		return nil, nil, err
	}
	for _, r := range w.config.Remotes {
		m := &brokerv1.Remote{
			Peer: r.Peer, Out: r.Out, Endpoints: r.Endpoints, Jwt: r.JWT, Disabled: r.Disabled, Spoke: r.Spoke, Shared: r.Shared,
			Incarnation: r.Incarnation,
		}
		if r.Proxy != nil {
			m.Proxy = r.Proxy.String()
		}
		s.Remotes = append(s.Remotes, m)
	}
	slices.SortStableFunc(s.Remotes, func(a, b *brokerv1.Remote) int {
		switch {
		case a.Peer != b.Peer && a.Peer < b.Peer, a.Peer == b.Peer && a.Out && !b.Out:
			return -1
		case a.Peer == b.Peer && a.Out == b.Out:
			return 0
		}
		return 1
	})
	if s.Accounts, errs, err = c.accounts(w); err != nil {
		return nil, nil, err
	}
	if c.last != nil && proto.Equal(c.last, s) {
		return c.last, errs, nil
	}
	s.Generation++
	return s, errs, nil
}

// linkIdentity is the member's own identity in a form that servers understand.
func linkIdentity(c *tls.Config, authorities [][]byte) (*brokerv1.Identity, error) {
	if c == nil {
		return nil, nil
	}
	if len(c.Certificates) != 1 || len(authorities) == 0 {
		return nil, errors.New("configure broker: links need one certificate, and the authorities in DER")
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.Certificates[0].PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("configure broker: the key for links: %w", err)
	}
	return &brokerv1.Identity{Chain: c.Certificates[0].Certificate, Key: key, Authorities: authorities}, nil
}

// accounts makes the accounts of a state: what is wanted, and of what is not wanted
// any more a token that leaves nothing of it, until it is done.
func (c *composer) accounts(w wanted) ([]*brokerv1.Account, map[string]error, error) {
	old := map[string]*brokerv1.Account{}
	for _, a := range c.last.GetAccounts() {
		old[a.Key] = a
	}
	system := jwt.NewAccountClaims(c.keyring.Account(broker.SystemAccount).Public)
	system.Limits.LeafNodeConn = 0
	out := map[string]*brokerv1.Account{}
	errs := map[string]error{}
	a, err := c.account(broker.SystemAccount, system, old, false)
	if err != nil {
		return nil, nil, err
	}
	out[a.Key] = a
	for name, claims := range w.accounts {
		key := c.keyring.Account(name).Public
		a, err := c.account(name, claims, old, w.fresh[name])
		switch {
		case err != nil:
			errs[name] = err
			if old[key] != nil {
				out[key] = old[key]
			}
		default:
			out[key] = a
		}
	}
	for key, a := range old {
		switch {
		case out[key] != nil:
		case w.accounts == nil:
			out[key] = a
		case !w.done[key]:
			t, err := c.tombstone(a)
			if err != nil {
				return nil, nil, err
			}
			out[key] = t
		}
	}
	var l []*brokerv1.Account
	for _, key := range sortedKeys(out) {
		l = append(l, out[key])
	}
	return l, errs, nil
}

// account signs the claims of an account, unless the token that it has says the
// same. Issue times of an account strictly increase, whatever the clock says.
func (c *composer) account(name string, claims *jwt.AccountClaims, old map[string]*brokerv1.Account, fresh bool) (*brokerv1.Account, error) {
	cp := *claims
	cp.Imports, cp.Exports = slices.Clone(claims.Imports), slices.Clone(claims.Exports)
	key := c.keyring.Account(name).Public
	cp.Name, cp.Subject = name, key
	vr := jwt.CreateValidationResults()
	if cp.Validate(vr); vr.IsBlocking(true) {
		return nil, fmt.Errorf("the claims are not valid: %w", errors.Join(vr.Errors()...))
	}
	issued := time.Now().Truncate(time.Second)
	if o := old[key]; o != nil {
		was, err := jwt.DecodeAccountClaims(o.Token)
		if err != nil {
			return nil, err
		}
		a, err := broker.ContentHash(was)
		if err != nil {
			return nil, err
		}
		b, err := broker.ContentHash(&cp)
		if err != nil {
			return nil, err
		}
		if a == b && !fresh {
			return o, nil
		}
		if last := time.Unix(was.IssuedAt, 0); !issued.After(last) {
			issued = last.Add(time.Second)
		}
	}
	token, err := broker.Sign(&cp, c.keyring.Operator(), issued)
	if err != nil {
		return nil, err
	}
	if len(token) > jwt.MaxTokenSize {
		return nil, fmt.Errorf("the account has too many imports: its claims have %d bytes, of %d allowed", len(token), jwt.MaxTokenSize)
	}
	return &brokerv1.Account{Name: name, Key: key, Token: token}, nil
}

// tombstone ends an account: no imports, exports or users. JetStream it keeps: a
// cluster does not find the streams again of an account that was without it, and
// retained ones shall be there when the account is.
func (c *composer) tombstone(a *brokerv1.Account) (*brokerv1.Account, error) {
	was, err := jwt.DecodeAccountClaims(a.Token)
	if err != nil {
		return nil, err
	}
	if isTombstone(was) {
		return a, nil
	}
	t := jwt.NewAccountClaims(a.Key)
	t.Limits = was.Limits
	t.Limits.Conn, t.Limits.LeafNodeConn = 0, 0
	t.Revocations = jwt.RevocationList{jwt.All: time.Now().Add(time.Minute).Unix()}
	return c.account(a.Name, t, map[string]*brokerv1.Account{a.Key: a}, false)
}

func isTombstone(c *jwt.AccountClaims) bool {
	return c.Revocations[jwt.All] != 0 && c.Limits.Conn == 0 && len(c.Imports) == 0 && len(c.Exports) == 0
}
