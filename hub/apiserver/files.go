package apiserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
)

// lockDir makes this process the only user of a data folder until the returned
// function is called. The kernel drops the lock when the process dies, however
// it dies, so that a crash leaves nothing to clean up.
func lockDir(dir string) (unlock func(), err error) {
	path := filepath.Join(dir, "apiserver.lock")
	f, err := fileutil.TryLockFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	switch {
	case errors.Is(err, fileutil.ErrLocked):
		return nil, fmt.Errorf("data folder %s is in use by another process (%s): stop that one, or use another folder: %w", dir, path, ErrInUse)
	case err != nil:
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	return func() { _ = f.Close() }, nil
}

// writeFile replaces a file as a whole: a reader, or a crash, sees the old
// content or the new one and never a part.
func writeFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	// CreateTemp gives mode 0600.
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
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
	defer func() { _ = d.Close() }()
	return d.Sync()
}
