//go:build linux || darwin || freebsd

package agent

import (
	"io/fs"
	"syscall"
)

// freeBytes is how much may still be written to the file system of a folder; 0
// if that is not known.
func freeBytes(dir string) int64 {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0
	}
	return int64(s.Bavail) * int64(s.Bsize) //nolint:unconvert // the types differ between systems
}

// fileBytes is how much of the disk a file takes.
func fileBytes(i fs.FileInfo) int64 {
	if s, ok := i.Sys().(*syscall.Stat_t); ok {
		return int64(s.Blocks) * 512 //nolint:unconvert // the types differ between systems
	}
	return i.Size()
}
