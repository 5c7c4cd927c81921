//go:build linux || darwin || freebsd

package embedded

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/nats-io/nats-server/v2/server/sysmem"
)

// diskSpace is what is free for us and what there is of the disk that holds dir.
func diskSpace(dir string) (free, size int64) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, 0
	}
	return int64(s.Bavail) * int64(s.Bsize), int64(s.Blocks) * int64(s.Bsize) //nolint:unconvert // the types differ between systems
}

// memoryTotal is what this process may use: the limit of its container, or the
// machine's memory.
func memoryTotal() int64 {
	all := max(sysmem.Memory(), 0)
	b, err := os.ReadFile("/sys/fs/cgroup/memory.max")
	if err != nil {
		return all
	}
	limit, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || limit <= 0 || all > 0 && limit > all {
		return all
	}
	return limit
}

// processorTime is how long this process has run, in nanoseconds, and on how many
// processors it may.
func processorTime() (nanos int64, processors float64) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, 0
	}
	return u.Utime.Nano() + u.Stime.Nano(), float64(runtime.GOMAXPROCS(0))
}
