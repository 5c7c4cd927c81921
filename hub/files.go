package hub

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// writeFile makes a file appear at once, whole, and durably.
func writeFile(path string, data []byte, mode os.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// openEpoch reads the epoch of the hub's data, which it makes 1 at first start.
// Agents refuse a hub of a lower epoch than they have seen: who restores the
// hub from a backup and wants its older resources to rule, raises it.
func openEpoch(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 1, writeFile(path, []byte("1\n"), 0o644)
	}
	if err != nil {
		return 0, err
	}
	epoch, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || epoch == 0 {
		return 0, fmt.Errorf("%s: expected one number, 1 or more: restore it from a backup, or write a number that is higher than any the hub had", path)
	}
	return epoch, nil
}
