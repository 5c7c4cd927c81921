package agent

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// capacity is what may be stored in a folder in all: what is free, and what its
// files take. It stays the same as streams fill. 0 if it is not known.
func capacity(free int64, dir string) int64 {
	if free <= 0 {
		return 0
	}
	// Files come and go meanwhile; those that are gone take nothing.
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			free += fileBytes(info)
		}
		return nil
	})
	return free
}

// cgroupLimits are the files in which Linux says how much memory a container has.
var cgroupLimits = []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}

// memoryLimit is the memory of the machine, or less if the container has less.
func memoryLimit(machine int64, files []string) int64 {
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		if err == nil && n > 0 && (machine <= 0 || n < machine) {
			machine = n
		}
	}
	return machine
}
