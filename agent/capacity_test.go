package agent

import (
	"os"
	"path/filepath"
	"testing"
)

func TestCapacity(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if got := capacity(0, dir); got != 0 {
		t.Errorf("unknown free space makes %d", got)
	}
	empty := capacity(1<<30, dir)
	if err := os.MkdirAll(filepath.Join(dir, "nats", "js"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "nats", "js", "1.blk"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if d := capacity(1<<30, dir) - empty; d < 1<<19 || d > 1<<21 {
		t.Errorf("1 MiB that is stored counts as %d", d)
	}
}

func TestUnlessMuch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ old, now, want int64 }{{100, 110, 100}, {100, 90, 100}, {100, 111, 111}, {100, 89, 89}, {0, 1, 1}, {5, 0, 0}} {
		if got := unlessMuch(c.old, c.now); got != c.want {
			t.Errorf("%d after %d: %d, want %d", c.now, c.old, got, c.want)
		}
	}
}

func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "memory.max")
	for text, want := range map[string]int64{"max\n": 1000, "400\n": 400, "9223372036854771712\n": 1000, "": 1000} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := memoryLimit(1000, []string{file + ".none", file}); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}
