package replica

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func rests(over <-chan struct{}) bool {
	select {
	case <-over:
		return false
	default:
		return over != nil
	}
}

// An account rests as long as there is a reason to, and no reason is forever.
func TestRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Rests
		if r.Until("app") != nil {
			t.Error("it rests before it shall")
		}
		r.Release("app", "never begun")
		r.Hold("app", "one", 10*time.Second)
		r.Hold("app", "two", 4*time.Second)
		over := r.Until("app")
		if !rests(over) || rests(r.Until("other")) {
			t.Error("one account rests and no other does")
		}
		<-time.After(3 * time.Second)
		r.Hold("app", "two", 4*time.Second)
		r.Release("app", "one")
		<-time.After(3 * time.Second)
		if !rests(over) {
			t.Error("what was said again does not hold for as long")
		}
		<-time.After(2 * time.Second)
		if synctest.Wait(); rests(over) || r.Until("app") != nil {
			t.Error("it rests for ever")
		}
		r.Hold("app", "one", time.Second)
		over = r.Until("app")
		if r.Release("app", "one"); rests(over) || r.Until("app") != nil {
			t.Error("it rests although it need not")
		}
	})
}
