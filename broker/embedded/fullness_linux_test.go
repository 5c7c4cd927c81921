package embedded

import (
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
	if before, after, warned := fillUp(t, m, "of the volume is free"); before == 0 || after == 0 || !warned {
		t.Errorf("%d messages, warned is %v, then %d more; at last %q", before, warned, after, m.rt.NearlyFull())
	}
}
