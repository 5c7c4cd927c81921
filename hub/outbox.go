package hub

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
)

// outbox is the queue of sessions that may have something to send. A few
// goroutines look through it, instead of one of each session: a change that
// concerns everybody wakes them once, and not a thousand.
//
// A session is in the queue at most once, and one goroutine at a time is at it:
// what it is nudged for meanwhile is looked at again.
type outbox struct {
	mu    sync.Mutex
	more  sync.Cond
	queue []*session
	ended bool
	busy  int // goroutines that are at sessions
	gate  gate
}

// turn is where a session is, guarded by the outbox's mu.
type turn uint8

const (
	// turnTaken: somebody is at it. It is also how a session begins: until its
	// Welcome is out, nothing else may be.
	turnTaken turn = iota
	// turnAgain: somebody is at it, and there may be more.
	turnAgain
	turnIdle
	turnQueued
)

func newOutbox() *outbox {
	o := &outbox{}
	o.more.L = &o.mu
	return o
}

// add has sessions looked at. It never blocks for long.
func (o *outbox) add(some ...*session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range some {
		switch s.turn {
		case turnTaken:
			s.turn = turnAgain
		case turnIdle:
			o.enqueue(s)
		}
	}
}

func (o *outbox) enqueue(s *session) {
	s.turn = turnQueued
	o.queue = append(o.queue, s)
	o.more.Signal()
}

// done says that nobody is at a session any more.
func (o *outbox) done(s *session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s.turn == turnAgain {
		o.enqueue(s)
	} else {
		s.turn = turnIdle
	}
}

// batch is how many sessions are taken from the queue at a time. What is written
// to them then goes out before more is: the buffers for that are shared.
const batch = 16

// take waits for sessions to be looked at; none: the outbox is closed.
func (o *outbox) take(some []*session) []*session {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.busy--; o.busy == 0 && len(o.queue) == 0 {
		o.gate.open()
	}
	for len(o.queue) == 0 && !o.ended {
		o.more.Wait()
	}
	o.busy++
	some = append(some[:0], o.queue[:min(batch, len(o.queue))]...)
	clear(o.queue[:len(some)])
	if o.queue = o.queue[len(some):]; len(o.queue) == 0 {
		o.queue = nil
	}
	for _, s := range some {
		s.turn = turnTaken
	}
	return some
}

// first has everything that is in the queue sent before anything else is heard.
func (o *outbox) first() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.busy > 0 || len(o.queue) > 0 {
		o.gate.close()
	}
}

// run has push called for each session in the queue, until ctx ends.
func (o *outbox) run(ctx context.Context, push func(*session)) {
	stop := context.AfterFunc(ctx, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.ended = true
		o.more.Broadcast()
	})
	defer stop()
	var workers sync.WaitGroup
	n := runtime.GOMAXPROCS(0)
	o.mu.Lock()
	o.busy = n // each will take
	o.mu.Unlock()
	for range n {
		workers.Go(func() {
			var some []*session
			for {
				if some = o.take(some); len(some) == 0 {
					return
				}
				for i, s := range some {
					push(s)
					o.done(s)
					some[i] = nil
				}
				runtime.Gosched() // what was sent is written by others
			}
		})
	}
	workers.Wait()
}

// line is the way to a session's agent. A message is sent when the one before is
// written to the connection: so sending never blocks, whatever an agent does not
// read, and what waits for it is bounded.
type line struct {
	mu     sync.Mutex
	stream syncStream // nil: there is none

	unwritten, missed atomic.Bool
}

func (l *line) open(stream syncStream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stream = stream
}

// close waits until nobody sends any more.
func (l *line) close() { l.open(nil) }

// busy tells whether the last message is not written yet. Once it is, written says
// that somebody asked.
func (l *line) busy() bool {
	if !l.unwritten.Load() {
		return false
	}
	l.missed.Store(true)
	return l.unwritten.Load()
}

func (l *line) written() (missed bool) {
	l.unwritten.Store(false)
	return l.missed.Swap(false)
}

func (l *line) send(p *parcel) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stream == nil {
		return context.Canceled
	}
	l.unwritten.Store(true)
	return l.stream.SendMsg(p)
}
