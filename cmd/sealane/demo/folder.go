package demo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// marker is a file that says that a folder is a demo's, who may thus clear it.
// It is locked while the demo runs.
const marker = ".sealane-demo"

// owned lists what a demo makes in its folder.
var owned = []string{"hub", "members", "manifests"}

// folder is where a demo keeps everything.
type folder struct {
	path string
	// temporary folders are removed at the end.
	temporary bool
	lock      *os.File
}

// openFolder prepares dir, or a temporary folder if dir is empty. What an
// earlier demo left there is removed; anything else is left alone and refused.
func openFolder(dir string, keep bool) (*folder, error) {
	if dir == "" {
		path, err := os.MkdirTemp("", "sealane-demo-")
		if err != nil {
			return nil, err
		}
		return (&folder{path: path, temporary: !keep}).claim()
	}
	path, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	f := &folder{path: path}
	if _, err := os.Stat(filepath.Join(path, marker)); errors.Is(err, fs.ErrNotExist) {
		for _, name := range owned {
			if _, err := os.Lstat(filepath.Join(path, name)); err == nil {
				return nil, fmt.Errorf("--dir %s: there is %q in it, which no demo has made: choose an empty folder", path, name)
			}
		}
	}
	if _, err := f.claim(); err != nil {
		return nil, err
	}
	for _, name := range owned {
		if err := os.RemoveAll(filepath.Join(path, name)); err != nil {
			f.close()
			return nil, err
		}
	}
	return f, nil
}

func (f *folder) claim() (*folder, error) {
	lock, err := os.OpenFile(filepath.Join(f.path, marker), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("--dir %s: another demo is running there", f.path)
	}
	f.lock = lock
	return f, nil
}

// close lets go of the folder, and removes it if it is temporary.
func (f *folder) close() {
	if f.temporary {
		_ = os.RemoveAll(f.path) // what remains of a temporary folder hurts nobody
	}
	f.lock.Close()
}

func (f *folder) hub() string               { return filepath.Join(f.path, "hub") }
func (f *folder) member(name string) string { return filepath.Join(f.path, "members", name) }
func (f *folder) manifests() string         { return filepath.Join(f.path, "manifests") }
