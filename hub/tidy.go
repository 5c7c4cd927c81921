package hub

import (
	"context"
	"runtime/debug"
	"time"
)

const (
	// tidyLook is how often it is looked whether the hub has come to rest, and
	// tidyWork how much it must have done before that matters: updates that were
	// sent, sessions, and statuses that were written.
	tidyLook = 250 * time.Millisecond
	tidyWork = 50
)

// worked counts something after which there is garbage.
func (f *Fleet) worked() { f.work.Add(1) }

// tidy collects garbage when the hub comes to rest after it did much, and gives
// back the memory. Else that would happen in the midst of what comes next: to mark
// what a thousand members take costs as much as to send something to all of them.
func (f *Fleet) tidy(ctx context.Context) {
	look := time.NewTicker(tidyLook)
	defer look.Stop()
	last := f.work.Load() // as of the last look
	done := last          // as of the last collection
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		now := f.work.Load()
		if now == last && now-done >= tidyWork {
			debug.FreeOSMemory()
			done = now
		}
		last = now
	}
}
