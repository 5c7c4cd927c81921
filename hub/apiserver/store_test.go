package apiserver

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	etcderrors "go.etcd.io/etcd/server/v3/etcdserver/errors"
)

// TestFull: a store that is full refuses writes. A restart gives it room if only
// its history is big, and lets it be read in any case.
func TestFull(t *testing.T) {
	const quota = 48 << 20
	// The file grows by 16 MB at a time, so that more or less can be in it when it is
	// full. Too much, in any case, for the smaller one.
	const smaller = quota / 2
	for name, test := range map[string]struct {
		keys int
		then int64 // quota after the restart
		says string
		want error
	}{
		"of history": {keys: 1, then: quota, says: "its history was removed"},
		"of objects": {keys: 1000, then: smaller, says: "The store is full", want: etcderrors.ErrNoSpace},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			b, log := capture(slog.LevelWarn)
			s, err := startStore(t.Context(), dir, quota, log)
			must(t, err)
			put := func(n int) error {
				_, err := s.etcd.Server.Put(t.Context(), &pb.PutRequest{Key: []byte{byte(n % test.keys), byte(n % test.keys >> 8)}, Value: make([]byte, 1<<20)})
				return err
			}
			for n := 0; err == nil; n++ {
				if n == 1000 {
					t.Fatal("the quota has no effect")
				}
				err = put(n)
			}
			s.close()
			if !errors.Is(err, etcderrors.ErrNoSpace) {
				t.Fatal(err)
			}

			s, err = startStore(t.Context(), dir, test.then, log)
			must(t, err)
			defer s.close()
			if err := put(0); !errors.Is(err, test.want) {
				t.Errorf("after a restart: %v, want %v", err, test.want)
			}
			r, err := s.etcd.Server.Range(t.Context(), &pb.RangeRequest{Key: []byte{0, 0}})
			if err != nil || len(r.Kvs) != 1 || !bytes.Equal(r.Kvs[0].Value, make([]byte, 1<<20)) {
				t.Errorf("cannot be read: %v", err)
			}
			if !strings.Contains(b.String(), test.says) {
				t.Errorf("the log does not tell:\n%s", b)
			}
		})
	}
}
