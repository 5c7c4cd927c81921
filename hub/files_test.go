package hub

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEpoch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "epoch")
	for range 2 {
		if e, err := openEpoch(path); err != nil || e != 1 {
			t.Fatalf("epoch %d, %v; want 1", e, err)
		}
	}
	if err := os.WriteFile(path, []byte(" 7 \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if e, err := openEpoch(path); err != nil || e != 7 {
		t.Errorf("epoch %d, %v; want 7", e, err)
	}
	for _, bad := range []string{"", "0", "-1", "x", "1 2"} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openEpoch(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: got %v, want an error that names the file", bad, err)
		}
	}
}

func TestGlobMatch(t *testing.T) {
	tests := []struct {
		pattern, name string
		want          bool
	}{
		{"paris", "paris", true}, {"paris", "paris-2", false}, {"paris", "", false},
		{"*", "paris", true}, {"*", "", true},
		{"edge-*", "edge-7", true}, {"edge-*", "edge-", true}, {"edge-*", "edge", false}, {"edge-*", "xedge-1", false},
		{"*-eu", "paris-eu", true}, {"*-eu", "paris-eu-2", false},
		{"a*a", "a", false}, {"a*a", "aa", true}, {"a*a", "aba", true},
		{"a*b*c", "a-b-c", true}, {"a*b*c", "acb", false}, {"a*b*c", "abcbc", true}, {"*a*", "bab", true}, {"**", "x", true},
	}
	for _, tt := range tests {
		if got := globMatch(tt.pattern, tt.name); got != tt.want {
			t.Errorf("globMatch(%q, %q) = %v", tt.pattern, tt.name, got)
		}
	}
}
