package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	"github.com/sealane/sealane/broker"
)

// never is the interval at which servers of a cluster compare their accounts: the
// agent alone says which there are. A server that was down would otherwise bring
// removed ones back.
const never = 100 * 365 * 24 * time.Hour

func newNodeResolver(dir string) (*server.DirAccResolver, error) {
	return server.NewDirAccResolver(dir, 0, never, server.HardDelete, server.FetchTimeout(fetchTimeout))
}

// checkAccounts refuses tokens that the server would not believe.
func checkAccounts(s *brokerv1.State) error {
	system := false
	for _, a := range s.Accounts {
		c, err := jwt.DecodeAccountClaims(a.Token)
		switch {
		case err != nil:
			return fmt.Errorf("account %q: %w", a.Name, err)
		case c.Subject != a.Key || c.Issuer != s.Operator:
			return fmt.Errorf("account %q: the token is not for its key or not of the operator", a.Name)
		}
		system = system || a.Key == s.SystemAccount
	}
	if !system {
		return errors.New("it has no system account")
	}
	return nil
}

// nodeAccounts is the folder of accounts of one node. It holds exactly what the
// state says. A running server also knows the accounts that were removed since it
// started: their last token leaves nothing of them but a name.
type nodeAccounts struct {
	dir string
	log *slog.Logger
	// resolver and says are the running server's.
	resolver *server.DirAccResolver
	says     *serverLog
	stale    staleInterest
	// doubtful accounts, by key, were not in effect when last looked at.
	doubtful map[string]bool
}

func (n *nodeAccounts) path(key string) string { return filepath.Join(n.dir, key+jwtSuffix) }

func (n *nodeAccounts) token(key string) string {
	b, err := os.ReadFile(n.path(key))
	if err != nil {
		return ""
	}
	return string(b)
}

// settle makes the folder hold exactly these accounts.
func (n *nodeAccounts) settle(accounts []*brokerv1.Account) error {
	for _, a := range accounts {
		if n.token(a.Key) == a.Token {
			continue
		}
		if err := broker.WriteFile(n.path(a.Key), []byte(a.Token), 0o600); err != nil {
			return err
		}
	}
	return n.prune(accounts)
}

func (n *nodeAccounts) prune(accounts []*brokerv1.Account) error {
	keep := map[string]bool{}
	for _, a := range accounts {
		keep[a.Key+jwtSuffix] = true
	}
	files, err := os.ReadDir(n.dir)
	errs := []error{err}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), jwtSuffix) && !keep[f.Name()] {
			if err := os.Remove(filepath.Join(n.dir, f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// load makes a server that has just started know all accounts, and says which are
// not in effect.
func (n *nodeAccounts) load(srv *server.Server, accounts []*brokerv1.Account, bad map[string]string) {
	for _, a := range accounts {
		if _, err := srv.LookupAccount(a.Key); err != nil {
			n.log.Debug("account does not load", "account", a.Name, "error", err)
		}
	}
	n.verify(srv, accounts, nil, bad)
}

// apply brings a running server to these accounts. New ones are in the folder
// before anything that imports from them is pushed.
func (n *nodeAccounts) apply(ctx context.Context, srv *server.Server, accounts []*brokerv1.Account, bad map[string]string) {
	fresh, changed := map[string]bool{}, map[string]bool{}
	for _, a := range accounts {
		if n.token(a.Key) != "" {
			continue
		}
		changed[a.Key] = true
		fresh[a.Key] = true
		if _, err := srv.LookupAccount(a.Key); err == nil {
			// It was there before, and the server remembers it.
			fresh[a.Key] = false
			continue
		}
		if err := broker.WriteFile(n.path(a.Key), []byte(a.Token), 0o600); err != nil {
			bad[a.Name] = err.Error()
		}
	}
	for _, a := range accounts {
		if fresh[a.Key] {
			n.says.forgetProblem(a.Key)
			if _, err := srv.LookupAccount(a.Key); err != nil {
				bad[a.Name] = err.Error()
			}
			continue
		}
		old := n.token(a.Key)
		if old == a.Token || ctx.Err() != nil {
			continue
		}
		changed[a.Key] = true
		n.says.forgetProblem(a.Key)
		if err := n.resolver.Store(a.Key, a.Token); err != nil {
			bad[a.Name] = err.Error()
		}
		n.stale.note(srv, old, a.Token)
	}
	if err := n.prune(accounts); err != nil {
		n.log.Error("removed accounts are still in the folder", "error", err)
	}
	n.verify(srv, accounts, changed, bad)
}

// verify looks whether accounts are in effect: those that changed, those that
// import from them, and those that were not the last time. Nil: all.
func (n *nodeAccounts) verify(srv *server.Server, accounts []*brokerv1.Account, changed map[string]bool, bad map[string]string) {
	names := map[string]string{}
	for _, a := range accounts {
		names[a.Key] = a.Name
	}
	label := func(key string) string {
		if name, ok := names[key]; ok {
			return name
		}
		return key
	}
	for _, a := range accounts {
		want, err := jwt.DecodeAccountClaims(a.Token)
		if err != nil {
			bad[a.Name] = err.Error()
			continue
		}
		suspect := changed == nil || changed[a.Key] || n.doubtful[a.Key]
		for _, i := range want.Imports {
			suspect = suspect || changed[i.Account]
		}
		if !suspect || bad[a.Name] != "" {
			continue
		}
		delete(n.doubtful, a.Key)
		if err := inEffect(srv, n.says, a.Key, a.Token, want, label); err != nil {
			n.doubtful[a.Key] = true
			bad[a.Name] = err.Error()
		}
	}
}
