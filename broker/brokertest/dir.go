// Package brokertest is what tests of several packages need to run brokers.
package brokertest

import (
	"errors"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// Dir is a folder for the data of a broker that runs in this process. It is gone when
// the test is over, as one of t.TempDir is, which fails a test when files arrive while
// it removes: nats-server 2.15.2 waits 100 ms for the state of a consumer to be written,
// and is then shut down, whereas a busy disk takes longer.
func Dir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); runtime.Gosched() {
			if err := os.RemoveAll(dir); !errors.Is(err, syscall.ENOTEMPTY) {
				return
			}
		}
	})
	return dir
}
