package brokertest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
)

// TestDir has somebody write into folders while they are removed.
func TestDir(t *testing.T) {
	var made []string
	for range 20 {
		t.Run("", func(t *testing.T) {
			dir := Dir(t)
			made = append(made, dir)
			inner := filepath.Join(dir, "obs")
			if err := os.Mkdir(inner, 0o700); err != nil {
				t.Fatal(err)
			}
			var begun sync.WaitGroup
			begun.Add(1)
			go func() {
				for n := range 100_000 {
					if os.WriteFile(filepath.Join(inner, strconv.Itoa(n)), nil, 0o600) != nil {
						return
					}
					if n == 100 {
						begun.Done()
					}
				}
			}()
			begun.Wait()
		})
	}
	for _, dir := range made {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", dir, err)
		}
	}
}
