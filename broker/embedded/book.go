package embedded

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/sealane/sealane/broker"
)

// book is the accounts of one server: what is wanted, what its folder holds.
type book struct {
	dir     string
	keyring *broker.Keyring
	log     *slog.Logger
	// resolver and says are the running server's; nil while none runs.
	resolver *server.DirAccResolver
	says     *serverLog
	stale    staleInterest
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

// keys are the public keys of all accounts, in no order.
func (b *book) keys() []string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return slices.Collect(maps.Keys(b.names))
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
	// The server would store what it then refuses, and not know the account any more
	// after a restart.
	vr := jwt.CreateValidationResults()
	if c.Validate(vr); vr.IsBlocking(true) {
		return t, false, fmt.Errorf("the claims are not valid: %w", errors.Join(vr.Errors()...))
	}
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
	if err := broker.WriteFile(b.path(t.key), []byte(t.token), 0o600); err != nil {
		return err
	}
	b.note(name, t)
	return nil
}

func (b *book) path(key string) string { return filepath.Join(b.dir, key+jwtSuffix) }
