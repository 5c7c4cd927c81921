package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/datadir"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
)

const (
	// maxSocketPath is what the shortest of the usual systems (104 bytes, and a
	// final zero) takes as the path of a unix socket.
	maxSocketPath = 103
	// storeQuota bounds the database file. A hub of 10,000 members holds about
	// 100 MB; the rest is room for history. At the quota etcd refuses writes until
	// makeRoom was called, so this is set well above any real size.
	storeQuota = 8 << 30
	// history is how far back watches and paged lists can be resumed. What is older
	// is removed, and its place in the file used again.
	history = 5 * time.Minute
	// bookmark is how often a watch is told how far it is; well within history.
	bookmark = time.Minute
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

// The write-ahead log grows by whole files, allocated ahead: two of the usual
// 64 MB would dwarf the data of most hubs.
func init() { wal.SegmentSizeBytes = 16 << 20 }

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
func startStore(ctx context.Context, dir string, quota int64, log *slog.Logger) (_ *store, err error) {
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
	cfg, err := storeConfig(dir, socket, quota, newZap(log.With("component", "etcd"), &s.loud))
	if err != nil {
		return nil, err
	}
	s.endpoint = cfg.ListenClientUrls[0].String()
	if s.etcd, err = openStore(cfg); err != nil {
		return nil, fmt.Errorf("start the store: %w", err)
	}
	select {
	case <-s.etcd.Server.ReadyNotify():
		return s, s.makeRoom(ctx, log)
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

func storeConfig(dir, socket string, quota int64, log *zap.Logger) (*embed.Config, error) {
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
	cfg.QuotaBackendBytes = quota
	cfg.BootstrapDefragThresholdMegabytes = defragMB
	cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = walRecords, walKept
	cfg.MaxSnapFiles, cfg.MaxWalFiles = 2, 2
	cfg.WarningApplyDuration, cfg.WarningUnaryRequestDuration = slow, slow
	cfg.AutoCompactionMode = embed.CompactorModePeriodic
	cfg.AutoCompactionRetention = history.String()
	cfg.WatchProgressNotifyInterval = bookmark
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure the store: %w", err)
	}
	return cfg, nil
}

// makeRoom lifts the ban on writes that etcd imposes at the quota, and which
// outlasts its cause: the history is removed, the file rewritten, and if that
// helped, writing allowed again. A restart is thus all that it takes.
func (s *store) makeRoom(ctx context.Context, log *slog.Logger) error {
	etcd := s.etcd.Server
	full := func(a *pb.AlarmMember) bool { return a.Alarm == pb.AlarmType_NOSPACE }
	if !slices.ContainsFunc(etcd.Alarms(), full) {
		return nil
	}
	_, err := etcd.Compact(ctx, &pb.CompactionRequest{Revision: etcd.KV().Rev(), Physical: true})
	if err != nil && !errors.Is(err, mvcc.ErrCompacted) {
		return fmt.Errorf("make room in the store: %w", err)
	}
	if err := etcd.Backend().Defrag(); err != nil {
		return fmt.Errorf("make room in the store: %w", err)
	}
	size, quota := etcd.Backend().Size(), etcd.Cfg.QuotaBackendBytes
	if size > quota/10*8 {
		log.Error("The store is full; nothing can be written before something is deleted and the process restarted", "bytes", size, "quota", quota)
		return nil
	}
	log.Warn("The store was full; its history was removed", "bytes", size, "quota", quota)
	_, err = etcd.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_NOSPACE, MemberID: uint64(etcd.MemberID())})
	return err
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
