package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/sealane/sealane/broker"
)

const (
	jwtSuffix = ".jwt"
	// verifyTries bounds how often an account that is not in effect is pushed.
	verifyTries = 3
	// fetchTimeout is how long the server asks others for an account that it does
	// not have: there are none.
	fetchTimeout = 10 * time.Millisecond
)

// newResolver serves the folder of accounts. Its hourly comparison with other
// servers is of no use to one.
func newResolver(dir string) (*server.DirAccResolver, error) {
	return server.NewDirAccResolver(dir, 0, time.Hour, server.HardDelete, server.FetchTimeout(fetchTimeout))
}

// load makes a server that has just started know all accounts, and verifies
// them.
func (b *book) load(ctx context.Context, srv *server.Server) map[string]error {
	for key := range b.tokens {
		if _, err := srv.LookupAccount(key); err != nil {
			b.log.Debug("account does not load", "account", b.label(key), "error", err)
		}
	}
	errs := map[string]error{}
	b.verify(ctx, srv, b.wantedNames(), errs)
	return errs
}

func (b *book) wantedNames() []string {
	var names []string
	for n := range b.wanted {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// SetAccounts implements broker.Runtime.
func (r *Runtime) SetAccounts(ctx context.Context, accounts map[string]*jwt.AccountClaims) map[string]error {
	errs := map[string]error{}
	if err := r.take(ctx); err != nil {
		for name := range accounts {
			errs[name] = err
		}
		return errs
	}
	defer r.release()
	wanted := map[string]*jwt.AccountClaims{}
	for name, c := range accounts {
		if name == broker.SystemAccount || c == nil {
			errs[name] = errors.New("this account is not to be set")
			continue
		}
		wanted[name] = c
	}
	r.book.wanted = wanted
	if srv := r.server(); srv != nil {
		r.book.apply(ctx, srv, errs)
	}
	return errs
}

// apply brings the running server to what is wanted, in three phases: an account
// must exist before anything imports from it, and is removed when nothing does
// any more.
func (b *book) apply(ctx context.Context, srv *server.Server, errs map[string]error) {
	names := b.wantedNames()
	for _, name := range names {
		if key := b.keyring.Account(name).Public; b.tokens[key] == "" && len(b.wanted[name].Imports) > 0 {
			bare := *b.wanted[name]
			bare.Imports = nil
			if _, err := b.push(srv, name, &bare, false); err != nil {
				errs[name] = err
			}
		}
	}
	suspect := map[string]bool{}
	offers := map[string]bool{}
	for _, name := range names {
		if errs[name] != nil {
			continue
		}
		key := b.keyring.Account(name).Public
		before := b.exports[key]
		pushed, err := b.push(srv, name, b.wanted[name], false)
		if err != nil {
			errs[name] = err
			continue
		}
		suspect[name] = pushed || b.doubtful[name]
		offers[key] = pushed && before != b.exports[key]
	}
	b.removeUnwanted(ctx, srv, errs)
	// Other exports may invalidate the imports of others.
	var doubt []string
	for _, name := range names {
		for _, i := range b.wanted[name].Imports {
			suspect[name] = suspect[name] || offers[i.Account]
		}
		if suspect[name] && errs[name] == nil {
			doubt = append(doubt, name)
		}
	}
	b.verify(ctx, srv, doubt, errs)
}

// push stores an account's claims in the server if they changed, or anyway if
// fresh.
func (b *book) push(srv *server.Server, name string, claims *jwt.AccountClaims, fresh bool) (bool, error) {
	t, changed, err := b.sign(name, claims, fresh)
	if err != nil || !changed {
		return false, err
	}
	b.says.forgetProblem(t.key)
	if err := b.resolver.Store(t.key, t.token); err != nil {
		return false, err
	}
	b.stale.note(srv, b.tokens[t.key], t.token)
	b.note(name, t)
	// The server learns of an account that it does not know only when asked.
	if _, err := srv.LookupAccount(t.key); err != nil {
		return true, err
	}
	return true, nil
}

// verify looks whether accounts are in effect, and pushes those that are not
// again: the server takes almost any claims and drops silently what it cannot do
// at that moment.
func (b *book) verify(ctx context.Context, srv *server.Server, names []string, errs map[string]error) {
	for try := 1; ; try++ {
		var bad []string
		for _, name := range names {
			delete(errs, name)
			delete(b.doubtful, name)
			if err := b.inEffect(srv, name); err != nil {
				errs[name] = err
				b.doubtful[name] = true
				bad = append(bad, name)
			}
		}
		if len(bad) == 0 || try == verifyTries || ctx.Err() != nil {
			return
		}
		t := time.NewTimer(time.Duration(try) * 20 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		for _, name := range bad {
			if _, err := b.push(srv, name, b.wanted[name], true); err != nil {
				errs[name] = err
			}
		}
		names = bad
	}
}

// inEffect returns nil if the server does what the account's token says.
func (b *book) inEffect(srv *server.Server, name string) error {
	key := b.keyring.Account(name).Public
	return inEffect(srv, b.says, key, b.tokens[key], b.wanted[name], b.label)
}

// inEffect returns nil if the server does what the token of the account with that
// key says, which is want.
func inEffect(srv *server.Server, says *serverLog, key, token string, want *jwt.AccountClaims, label func(string) string) error {
	z, err := srv.Accountz(&server.AccountzOptions{Account: key})
	if err != nil {
		return err
	}
	info := z.Account
	switch {
	case info.Jwt != token:
		return errors.New("the server has other claims")
	case info.Expired:
		return errors.New("the account is expired")
	case says.jetstreamProblem(key) != "":
		return fmt.Errorf("its limits are not in effect: %s (NATS reserves the storage and memory limits of accounts: all together must fit into the broker's)", says.jetstreamProblem(key))
	case want.Limits.IsJSEnabled() && !info.JetStream:
		return errors.New("JetStream is not enabled for the account")
	}
	have := map[string]bool{}
	for _, i := range info.Imports {
		if !i.Invalid {
			have[i.Account+" "+string(i.Subject)] = true
		}
	}
	var missing []string
	for _, i := range want.Imports {
		if i.Type == jwt.Stream && !have[i.Account+" "+string(i.Subject)] {
			missing = append(missing, fmt.Sprintf("%q from %q", i.Subject, label(i.Account)))
		}
	}
	switch {
	case len(missing) > 0:
		sort.Strings(missing)
		return fmt.Errorf("imports without effect: %s", strings.Join(missing, ", "))
	case !info.Complete:
		return errors.New("some import is without effect")
	}
	for _, i := range info.Imports {
		if i.Invalid {
			return fmt.Errorf("the import of %q from %q is without effect", i.Subject, label(i.Account))
		}
	}
	return nil
}

// removeUnwanted removes the accounts that are not wanted any more: first their
// content and their users' connections, then themselves.
func (b *book) removeUnwanted(ctx context.Context, srv *server.Server, errs map[string]error) {
	keep := map[string]bool{b.keyring.Account(broker.SystemAccount).Public: true}
	for name := range b.wanted {
		keep[b.keyring.Account(name).Public] = true
	}
	var gone []string
	for key := range b.tokens {
		if keep[key] {
			continue
		}
		name := b.label(key)
		tombstone := jwt.NewAccountClaims(key)
		tombstone.Revocations = jwt.RevocationList{jwt.All: time.Now().Unix()}
		if _, err := b.push(srv, name, tombstone, true); err != nil {
			errs[name] = fmt.Errorf("remove: %w", err)
			continue
		}
		gone = append(gone, key)
	}
	if len(gone) == 0 {
		return
	}
	sort.Strings(gone)
	if err := b.delete(ctx, srv, gone); err != nil {
		for _, key := range gone {
			errs[b.label(key)] = fmt.Errorf("remove: %w", err)
		}
		return
	}
	for _, key := range gone {
		b.forget(key)
	}
}

// delete has the server forget accounts.
func (b *book) delete(ctx context.Context, srv *server.Server, keys []string) error {
	op := b.keyring.Operator()
	g := jwt.NewGenericClaims(op.Public)
	g.Data["accounts"] = keys
	request, err := g.Encode(op)
	if err != nil {
		return err
	}
	token, err := broker.AgentJWT(b.keyring, broker.SystemAccount)
	if err != nil {
		return err
	}
	user := b.keyring.AgentUser(broker.SystemAccount)
	nc, err := nats.Connect("", nats.InProcessServer(srv),
		nats.UserJWT(func() (string, error) { return token, nil }, func(nonce []byte) ([]byte, error) { return user.Sign(nonce) }))
	if err != nil {
		return err
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	reply, err := nc.RequestWithContext(ctx, "$SYS.REQ.CLAIMS.DELETE", []byte(request))
	if err != nil {
		return err
	}
	var answer struct {
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return errors.New(answer.Error.Description)
	}
	return nil
}
