package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/datadir"
	"go.uber.org/zap"
)

const (
	// maxSocketPath is what the shortest of the usual systems (104 bytes, and a
	// final zero) takes as the path of a unix socket.
	maxSocketPath = 103
	// storeQuota bounds the database file. A hub of 10,000 members holds about
	// 100 MB; the rest is room for history between two compactions. At the quota
	// etcd refuses writes, so this is set well above any real size.
	storeQuota = 4 << 30
	// defragMB: at start the database file is rewritten when that frees this many
	// megabytes. While running, freed pages are reused.
	defragMB = 64
	// walRecords is how many writes lie between two snapshots, and walKept how
	// many are kept in memory after one. They are meant for followers that lag;
	// here there is none, and each record is a whole object.
	walRecords, walKept = 2000, 10
	// slow is how long a write takes that is worth a warning: by default, every one
	// on a busy machine is.
	slow = 2 * time.Second
)

// store is the embedded etcd. It listens on a unix socket in a folder that only
// this user may enter: whoever can open the socket can do everything.
type store struct {
	etcd *embed.Etcd
	// endpoint is what the API server dials.
	endpoint string
	// tempDir holds the socket when the data folder's path is too long for one.
	tempDir string
	// loud lets the store's warnings through while it runs.
	loud atomic.Bool
}

// startStore returns when the store answers.
func startStore(ctx context.Context, dir string, log *slog.Logger) (_ *store, err error) {
	s := &store{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	socket, err := s.socketPath(dir)
	if err != nil {
		return nil, err
	}
	cfg, err := storeConfig(dir, socket, newZap(log.With("component", "etcd"), &s.loud))
	if err != nil {
		return nil, err
	}
	s.endpoint = cfg.ListenClientUrls[0].String()
	if s.etcd, err = openStore(cfg); err != nil {
		return nil, fmt.Errorf("start the store: %w", err)
	}
	select {
	case <-s.etcd.Server.ReadyNotify():
		return s, nil
	case err := <-s.etcd.Err():
		return nil, fmt.Errorf("start the store: %w", err)
	case <-s.etcd.Server.StopNotify():
		return nil, errors.New("start the store: it stopped")
	case <-ctx.Done():
		return nil, fmt.Errorf("start the store: %w", context.Cause(ctx))
	}
}

// openStore turns etcd's way of saying that it cannot make sense of its files, to
// panic, into an error.
func openStore(cfg *embed.Config) (_ *embed.Etcd, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
		if err != nil {
			err = fmt.Errorf("the files in %s cannot be used (if they are damaged: restore the data folder from a copy, or move that folder away to begin anew): %w", cfg.Dir, err)
		}
	}()
	// This file etcd opens in a goroutine, where nobody can catch it.
	db := datadir.ToBackendFileName(cfg.Dir)
	if _, err := os.Stat(db); err == nil {
		b, err := bbolt.Open(db, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", db, err)
		}
		if err := b.Close(); err != nil {
			return nil, err
		}
	}
	return embed.StartEtcd(cfg)
}

func (s *store) socketPath(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	run := filepath.Join(abs, "run")
	if path := filepath.Join(run, "etcd.sock"); len(path) <= maxSocketPath {
		if err := os.MkdirAll(run, 0o700); err != nil {
			return "", err
		}
		// MkdirAll leaves an existing folder as it is.
		if err := os.Chmod(run, 0o700); err != nil {
			return "", err
		}
		return path, nil
	}
	if s.tempDir, err = os.MkdirTemp("", "sealane-"); err != nil {
		return "", err
	}
	path := filepath.Join(s.tempDir, "etcd.sock")
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("the paths of the data folder and of the temporary folder %s are both too long for a unix socket: set TMPDIR to a shorter one", s.tempDir)
	}
	return path, nil
}

func storeConfig(dir, socket string, log *zap.Logger) (*embed.Config, error) {
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(dir, "etcd")
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	client := url.URL{Scheme: "unix", Path: socket}
	cfg.ListenClientUrls = []url.URL{client}
	cfg.AdvertiseClientUrls = []url.URL{client}
	// One member, so nobody to talk to. The peer URL is only a name in the
	// membership, where it must stay the same for ever: no socket is opened.
	cfg.ListenPeerUrls = nil
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.EnableGRPCGateway = false
	// A lone member elects itself after one tick; ten of them are the minimum
	// that raft accepts as an election time-out.
	cfg.TickMs, cfg.ElectionMs = 50, 500
	cfg.QuotaBackendBytes = storeQuota
	cfg.BootstrapDefragThresholdMegabytes = defragMB
	cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = walRecords, walKept
	cfg.MaxSnapFiles, cfg.MaxWalFiles = 2, 2
	cfg.WarningApplyDuration, cfg.WarningUnaryRequestDuration = slow, slow
	// The API server compacts the history every five minutes; a second compactor
	// here would cut watches short.
	cfg.AutoCompactionRetention = "0"
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure the store: %w", err)
	}
	return cfg, nil
}

// failed reports an error that ends the store by itself.
func (s *store) failed() <-chan error { return s.etcd.Err() }

func (s *store) close() {
	s.loud.Store(false)
	if s.etcd != nil {
		s.etcd.Close()
		if s.etcd.Server != nil {
			<-s.etcd.Server.StopNotify()
		}
	}
	if s.tempDir != "" {
		_ = os.RemoveAll(s.tempDir)
	}
}
