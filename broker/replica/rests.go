package replica

import (
	"sync"
	"time"
)

// Rests are the accounts that rest: whose streams do not begin to take from other
// members for a moment. The zero value is ready for use. A rest ends by itself, and with
// the process.
type Rests struct {
	mu sync.Mutex
	of map[string]*resting
}

type resting struct {
	// ends are why the account rests, and what ends that.
	ends map[string]*time.Timer
	over chan struct{}
}

// Hold has an account rest for as long as d from now, whatever was said before for the
// same reason.
func (r *Rests) Hold(account, why string, d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = map[string]*resting{}
	}
	a := r.of[account]
	if a == nil {
		a = &resting{ends: map[string]*time.Timer{}, over: make(chan struct{})}
		r.of[account] = a
	}
	if t := a.ends[why]; t != nil {
		t.Stop()
	}
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		// Another rest for the same reason may have begun.
		if r.of[account] == a && a.ends[why] == t {
			r.end(account, why)
		}
	})
	a.ends[why] = t
}

// Release ends what Hold began.
func (r *Rests) Release(account, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end(account, why)
}

func (r *Rests) end(account, why string) {
	a := r.of[account]
	if a == nil || a.ends[why] == nil {
		return
	}
	a.ends[why].Stop()
	delete(a.ends, why)
	if len(a.ends) == 0 {
		delete(r.of, account)
		close(a.over)
	}
}

// Until returns what is closed when the account rests no more; nil: it does not rest.
func (r *Rests) Until(account string) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.of[account]; a != nil {
		return a.over
	}
	return nil
}
