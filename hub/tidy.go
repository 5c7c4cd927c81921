package hub

import (
	"context"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"time"
)

const (
	// tidyLook is how often it is looked whether the hub has come to rest.
	tidyLook = 250 * time.Millisecond
	// muchAllocated from one look to the next is something that the hub did, such as
	// to write the statuses of a change; littleAllocated is rest: heartbeats.
	muchAllocated   = 4 << 20
	littleAllocated = 1 << 20
)

// tidier tells when garbage is best collected: when the hub has come to rest after it
// did much. Else that would happen in the midst of what comes next, and to mark what a
// thousand members take costs as much as to send something to all of them.
type tidier struct {
	last uint64 // allocated, as of the last look
	busy bool   // much was, since the last collection
}

// look is told how much was ever allocated, at each look.
func (t *tidier) look(allocated uint64) (collect bool) {
	n := allocated - t.last
	t.last = allocated
	if n >= muchAllocated {
		t.busy = true
	}
	collect = t.busy && n < littleAllocated
	if collect {
		t.busy = false
	}
	return collect
}

// tidy collects garbage, and gives the memory back, when it is time.
func tidy(ctx context.Context) {
	look := time.NewTicker(tidyLook)
	defer look.Stop()
	var t tidier
	allocated := []runtimemetrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	for {
		runtimemetrics.Read(allocated)
		if t.look(allocated[0].Value.Uint64()) {
			debug.FreeOSMemory()
		}
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}
