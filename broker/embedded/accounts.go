package embedded

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
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

// book is the accounts of one server: what is wanted, what its folder holds.
type book struct {
	dir     string
	keyring *broker.Keyring
	log     *slog.Logger
	// resolver of the running server; nil while none runs.
	resolver *server.DirAccResolver
	// wanted accounts by name; nil: nobody has said yet.
	wanted map[string]*jwt.AccountClaims
	// tokens by public key: the files in dir; contents are their content hashes.
	// exports are the hashes of their exports alone.
	tokens   map[string]string
	contents map[string][sha256.Size]byte
	exports  map[string][sha256.Size]byte
	// issued is the latest issue time of each account, also of removed ones: the
	// server goes on knowing those.
	issued map[string]time.Time
	// doubtful accounts were not in effect when last looked at.
	doubtful map[string]bool

	// mu guards names.
	mu    sync.RWMutex
	names map[string]string
}

// openBook reads the folder. Files that are not accounts of this member's
// operator are of no use to the server and are removed.
func openBook(dir string, k *broker.Keyring, log *slog.Logger) (*book, error) {
	b := &book{
		dir: dir, keyring: k, log: log, tokens: map[string]string{}, contents: map[string][sha256.Size]byte{},
		exports: map[string][sha256.Size]byte{}, issued: map[string]time.Time{},
		doubtful: map[string]bool{}, names: map[string]string{},
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		key, ok := strings.CutSuffix(f.Name(), jwtSuffix)
		if !ok {
			continue
		}
		path := filepath.Join(dir, f.Name())
		token, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		c, err := jwt.DecodeAccountClaims(string(token))
		if err == nil && (c.Subject != key || c.Issuer != k.Operator().Public) {
			err = errors.New("it is not an account of this member")
		}
		if err != nil {
			log.Warn("removing an unusable account file", "file", path, "error", err)
			if err := os.Remove(path); err != nil {
				return nil, err
			}
			continue
		}
		t := signed{key: key, token: string(token), issued: time.Unix(c.IssuedAt, 0)}
		if t.content, t.exports, err = hashes(c); err != nil {
			return nil, err
		}
		b.note(c.Name, t)
	}
	return b, nil
}

// signed is the token of an account.
type signed struct {
	key, token string
	content    [sha256.Size]byte
	exports    [sha256.Size]byte
	issued     time.Time
}

// note says that the folder has t.
func (b *book) note(name string, t signed) {
	b.tokens[t.key], b.issued[t.key] = t.token, t.issued
	b.contents[t.key], b.exports[t.key] = t.content, t.exports
	b.mu.Lock()
	defer b.mu.Unlock()
	b.names[t.key] = name
}

// nameOf is the name of an account given by its public key; ok is false if there
// is no such account.
func (b *book) nameOf(key string) (name string, ok bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	name, ok = b.names[key]
	return name, ok
}

// label names an account in messages, also one that does not exist.
func (b *book) label(key string) string {
	if name, ok := b.nameOf(key); ok {
		return name
	}
	return key
}

// forget drops an account whose file is gone.
func (b *book) forget(key string) {
	delete(b.tokens, key)
	delete(b.contents, key)
	delete(b.exports, key)
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.names, key)
}

// sign makes the token of an account, newer than any that there was: the issue
// time of an account strictly increases, whatever the clock says. If the folder
// has a token that says the same, there is nothing to sign, unless fresh.
func (b *book) sign(name string, claims *jwt.AccountClaims, fresh bool) (t signed, changed bool, err error) {
	c := *claims
	c.Imports, c.Exports = slices.Clone(claims.Imports), slices.Clone(claims.Exports)
	t.key = b.keyring.Account(name).Public
	c.Name, c.Subject = name, t.key
	if t.content, t.exports, err = hashes(&c); err != nil {
		return t, false, err
	}
	if b.tokens[t.key] != "" && b.contents[t.key] == t.content && !fresh {
		return t, false, nil
	}
	t.issued = time.Now().Truncate(time.Second)
	if last := b.issued[t.key]; !t.issued.After(last) {
		t.issued = last.Add(time.Second)
	}
	if t.token, err = broker.Sign(&c, b.keyring.Operator(), t.issued); err != nil {
		return t, false, err
	}
	if len(t.token) > jwt.MaxTokenSize {
		return t, false, fmt.Errorf("the account has too many imports: its claims have %d bytes, of %d allowed", len(t.token), jwt.MaxTokenSize)
	}
	b.issued[t.key] = t.issued
	return t, true, nil
}

func hashes(c *jwt.AccountClaims) (content, exports [sha256.Size]byte, err error) {
	if content, err = broker.ContentHash(c); err != nil {
		return content, exports, err
	}
	exports, err = broker.ContentHash(&jwt.AccountClaims{Account: jwt.Account{Exports: c.Exports}})
	return content, exports, err
}

func (b *book) systemClaims() *jwt.AccountClaims {
	c := jwt.NewAccountClaims(b.keyring.Account(broker.SystemAccount).Public)
	c.Limits.LeafNodeConn = 0
	return c
}

// settle makes the folder hold what is wanted, while no server runs. An account
// that cannot be signed keeps the file that it has.
func (b *book) settle() error {
	if err := b.settleOne(broker.SystemAccount, b.systemClaims()); err != nil {
		return err
	}
	if b.wanted == nil {
		return nil
	}
	keep := map[string]bool{b.keyring.Account(broker.SystemAccount).Public: true}
	for name, claims := range b.wanted {
		keep[b.keyring.Account(name).Public] = true
		if err := b.settleOne(name, claims); err != nil {
			var perr *fs.PathError
			if errors.As(err, &perr) {
				return err
			}
			b.log.Warn("account cannot be made", "account", name, "error", err)
		}
	}
	for key := range b.tokens {
		if !keep[key] {
			if err := os.Remove(b.path(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			b.forget(key)
		}
	}
	return nil
}

func (b *book) settleOne(name string, claims *jwt.AccountClaims) error {
	t, changed, err := b.sign(name, claims, false)
	if err != nil || !changed {
		return err
	}
	if err := writeFile(b.path(t.key), []byte(t.token)); err != nil {
		return err
	}
	b.note(name, t)
	return nil
}

func (b *book) path(key string) string { return filepath.Join(b.dir, key+jwtSuffix) }

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
	if err := b.resolver.Store(t.key, t.token); err != nil {
		return false, err
	}
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
	z, err := srv.Accountz(&server.AccountzOptions{Account: key})
	if err != nil {
		return err
	}
	info := z.Account
	want := b.wanted[name]
	switch {
	case info.Jwt != b.tokens[key]:
		return errors.New("the server has other claims")
	case info.Expired:
		return errors.New("the account is expired")
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
			missing = append(missing, fmt.Sprintf("%q from %q", i.Subject, b.label(i.Account)))
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
			return fmt.Errorf("the import of %q from %q is without effect", i.Subject, b.label(i.Account))
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
