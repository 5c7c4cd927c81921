package hub

import "testing"

func TestTidier(t *testing.T) {
	const mib = 1 << 20
	var tidy tidier
	allocated := uint64(0)
	for i, step := range []struct {
		mib     uint64
		collect bool
	}{
		{0, false}, {40, false}, {2, false}, {0, true}, {0, false}, // a start, and rest
		{2, false}, {3, false}, {0, false}, // never much
		{4, false}, {30, false}, {1, false}, {5, false}, {0, true}, {0, false},
	} {
		if allocated += step.mib * mib; tidy.look(allocated) != step.collect {
			t.Errorf("step %d: collect is %v", i, !step.collect)
		}
	}
}
