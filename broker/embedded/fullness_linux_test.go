package embedded

import (
	"strings"
	"syscall"
	"testing"
)

// A broker whose volume fills up says so before a message is refused.
func TestVolumeNearlyFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("a small volume cannot be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	m := newMember(t, newAuthority(t), "a")
	m.dir = dir
	m.newRuntime()
	m.account("app")
	m.start()
	if w := m.rt.NearlyFull(); w != "" {
		t.Fatalf("an empty volume: %s", w)
	}
	before, after, warning := fillUp(t, m)
	if before == 0 || after == 0 || !strings.Contains(warning, "of the volume is free") {
		t.Errorf("%d messages, then %q, and %d more", before, warning, after)
	}
}
