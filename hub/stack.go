package hub

import (
	"context"
	"errors"
	"fmt"
)

// stack runs things that are stopped in the reverse order of their start.
type stack struct {
	// ctx ends when the caller's does, or when anything that runs fails: with
	// that as its cause. It does not stop what runs; stop does.
	ctx     context.Context
	caller  context.Context
	fail    context.CancelCauseFunc
	running []running
}

type running struct {
	stop context.CancelFunc
	done <-chan error
}

func newStack(ctx context.Context) *stack {
	s := &stack{caller: ctx}
	s.ctx, s.fail = context.WithCancelCause(ctx)
	return s
}

// start runs f until its context ends.
func (s *stack) start(name string, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.ctx))
	done := make(chan error, 1)
	s.running = append(s.running, running{cancel, done})
	go func() {
		err := f(ctx)
		switch {
		case ctx.Err() == nil && err == nil:
			s.fail(fmt.Errorf("the %s stopped by itself", name))
		case ctx.Err() == nil:
			s.fail(fmt.Errorf("the %s failed: %w", name, err))
		case err != nil && !errors.Is(err, context.Canceled):
			done <- fmt.Errorf("stop the %s: %w", name, err)
		}
		close(done)
	}()
}

// outcome is the error of what was done with ctx: nothing if the caller wanted
// the end, what failed if something did, else err.
func (s *stack) outcome(err error) error {
	switch {
	case s.caller.Err() != nil:
		return nil
	case s.ctx.Err() != nil:
		return context.Cause(s.ctx)
	}
	return err
}

// stop stops what runs, the newest first.
func (s *stack) stop() error {
	var errs []error
	for i := len(s.running) - 1; i >= 0; i-- {
		s.running[i].stop()
		errs = append(errs, <-s.running[i].done)
	}
	s.running = nil
	s.fail(nil)
	return errors.Join(errs...)
}
