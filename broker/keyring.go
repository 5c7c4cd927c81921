package broker

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/nats-io/nkeys"
)

// Names of the accounts that no user of the federation can name: an underscore
// is not allowed in the names of theirs.
const (
	// SystemAccount is the name of a broker's own system account.
	SystemAccount = "_system"
	// AgentAccount is the name of the account in which agents probe links.
	AgentAccount = "_agent"
)

// SeedSize is the size of a member's seed in bytes.
const SeedSize = 32

// spareSigners is how many operator signing keys lie ready beside the operator
// key: the operator's claims cannot be reloaded, so they are in from the start.
const spareSigners = 2

// KeyPair is an nkey with its public part at hand.
type KeyPair struct {
	nkeys.KeyPair
	// Public is the public key in text form.
	Public string
}

// Keyring holds every data-plane key of one member, all derived from one secret
// seed that never leaves it: the same seed and name always give the same key.
// It does not change and is safe for concurrent use.
type Keyring struct {
	seed     []byte
	operator KeyPair
	spares   []KeyPair
	link     KeyPair
	// accounts keeps what was derived: an account's key is asked for often.
	accounts sync.Map
}

// NewKeyring returns the keyring of a seed of SeedSize bytes.
func NewKeyring(seed []byte) (*Keyring, error) {
	if len(seed) != SeedSize {
		return nil, fmt.Errorf("a seed has %d bytes, not %d", SeedSize, len(seed))
	}
	k := &Keyring{seed: append([]byte(nil), seed...)}
	k.operator = k.derive(nkeys.PrefixByteOperator, "operator")
	for i := range spareSigners {
		k.spares = append(k.spares, k.derive(nkeys.PrefixByteOperator, fmt.Sprintf("operator/spare/%d", i+1)))
	}
	k.link = k.derive(nkeys.PrefixByteUser, "user/link")
	return k, nil
}

// LoadOrCreateKeyring reads the seed file at path, or creates it with a random
// seed: complete or not at all, on the disk before it is used, readable by its
// owner only. Losing the file means new keys: links must then be granted anew
// and applications need new credentials.
func LoadOrCreateKeyring(path string) (*Keyring, error) {
	seed, err := readSeed(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = createSeed(path); err == nil {
			seed, err = readSeed(path)
		}
	}
	if err != nil {
		return nil, err
	}
	return NewKeyring(seed)
}

func readSeed(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("seed %s is a secret but others may access it (mode %04o): make it 0600, and if they may have read it, remove it to get new keys", path, perm)
	}
	seed, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(seed) != SeedSize {
		return nil, fmt.Errorf("seed %s is damaged: it has %d bytes instead of %d: restore it from a backup, or remove it to get new keys", path, len(seed), SeedSize)
	}
	return seed, nil
}

// createSeed links a finished file into place, so that of two processes that
// start at once both end up with the seed of one.
func createSeed(path string) error {
	seed := make([]byte, SeedSize)
	if _, err := rand.Read(seed); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".seed-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(seed)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write seed: %w", err)
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(dir)
}

// Operator is the key that signs the accounts of this member's broker.
func (k *Keyring) Operator() KeyPair { return k.operator }

// SpareSigners are operator signing keys that the broker trusts from its first
// start, for use when the operator key must be replaced.
func (k *Keyring) SpareSigners() []KeyPair { return append([]KeyPair(nil), k.spares...) }

// LinkUser is the key with which this member presents itself to the brokers of
// its peers: its public part is Facts.link_key.
func (k *Keyring) LinkUser() KeyPair { return k.link }

// Account is the key of the account of that name.
func (k *Keyring) Account(name string) KeyPair {
	if p, ok := k.accounts.Load(name); ok {
		return p.(KeyPair)
	}
	p := k.derive(nkeys.PrefixByteAccount, "account/"+name)
	k.accounts.Store(name, p)
	return p
}

// AgentUser is the key of the agent itself in an account.
func (k *Keyring) AgentUser(account string) KeyPair {
	return k.derive(nkeys.PrefixByteUser, "user/agent/"+account)
}

// AppUser is the key that the applications of an account share.
func (k *Keyring) AppUser(account string) KeyPair {
	return k.derive(nkeys.PrefixByteUser, "user/app/"+account)
}

// AppUserIn is the key that the applications of an account share in one namespace of
// a cluster.
func (k *Keyring) AppUserIn(account, namespace string) KeyPair {
	return k.derive(nkeys.PrefixByteUser, "user/app/"+account+"/in/"+namespace)
}

// derive makes the key for a purpose. It cannot fail: HKDF-SHA256 gives 32
// bytes for any input, and any 32 bytes are an nkey seed.
func (k *Keyring) derive(prefix nkeys.PrefixByte, purpose string) KeyPair {
	raw, err := hkdf.Key(sha256.New, k.seed, nil, "sealane/v1/"+purpose, SeedSize)
	if err != nil {
		panic(fmt.Sprintf("broker: derive %s: %v", purpose, err))
	}
	pair, err := nkeys.FromRawSeed(prefix, raw)
	if err != nil {
		panic(fmt.Sprintf("broker: derive %s: %v", purpose, err))
	}
	public, err := pair.PublicKey()
	if err != nil {
		panic(fmt.Sprintf("broker: derive %s: %v", purpose, err))
	}
	return KeyPair{KeyPair: pair, Public: public}
}
