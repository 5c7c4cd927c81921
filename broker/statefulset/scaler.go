package statefulset

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
	"github.com/sealane/sealane/broker/autoscale"
)

const (
	// Load is looked at no more often than minSample, at least each maxSample, and so
	// often that some looks fall into each window.
	minSample, maxSample = time.Second, 15 * time.Second
	looksPerWindow       = 4
	// maxSamples bounds what is remembered for long windows.
	maxSamples = 4000
	// Whatever the windows are, a choice is good for dwell, and what is said of targets
	// for saidFor: others follow what this member says.
	dwell, saidFor = 10 * time.Second, time.Minute
)

// chosen is how many servers there shall be where the load decides. It is on the
// disk, so that an agent that comes back goes on with it: what the load was it does
// not know then.
type chosen struct {
	Servers int    `json:"servers"`
	Why     string `json:"why,omitempty"`
}

func (r *Runtime) chosenFile() string { return filepath.Join(r.dir, "servers.json") }

func (r *Runtime) loadChosen() (c chosen, err error) {
	b, err := os.ReadFile(r.chosenFile())
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return c, err
}

// aim sets how many servers there shall be, as far as it does not depend on the
// load: it is what the spec says, or what was chosen last, within the bounds. The
// turn is held, and the number of servers that exist is known.
func (r *Runtime) aim(spec *federationv1.BrokerSpec) {
	auto := spec.GetAutoscaling()
	if auto == nil {
		if err := os.Remove(r.chosenFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.log.Error("the chosen number of servers is not forgotten", "error", err)
		}
		r.setWant(nil, chosen{Servers: max(1, int(spec.GetReplicas()))})
		return
	}
	r.mu.RLock()
	c := r.want
	r.mu.RUnlock()
	if c.Servers == 0 {
		var err error
		if c, err = r.loadChosen(); err != nil {
			r.log.Error("the chosen number of servers cannot be read, going on with those that are there", "error", err)
		}
	}
	if c.Servers == 0 {
		c.Servers = r.count | 1 // one that grows shall be whole
	}
	if d := autoscale.Decide(auto, c.Servers, nil); d.Servers != c.Servers {
		c = chosen{d.Servers, d.Why}
	}
	r.choose(auto, c)
}

// choose makes a choice on the disk first.
func (r *Runtime) choose(auto *federationv1.Autoscaling, c chosen) {
	b, err := json.Marshal(c)
	if err == nil {
		err = broker.WriteFile(r.chosenFile(), b, 0o600)
	}
	if err != nil {
		r.log.Error("the chosen number of servers is not on the disk", "error", err)
	}
	r.setWant(auto, c)
}

func (r *Runtime) setWant(auto *federationv1.Autoscaling, c chosen) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auto, r.want, r.short = auto, c, nil
}

// follow looks at the load and has the number of servers follow it, if it shall.
func (s *steward) follow(servers []serverView, now time.Time) {
	s.mu.RLock()
	auto, want := s.auto, s.want
	s.mu.RUnlock()
	if auto == nil {
		s.scaler = scaler{}
		return
	}
	if !s.scaler.look(auto, servers, now) {
		return
	}
	d := autoscale.Decide(auto, want.Servers, s.scaler.history)
	select {
	case s.turn <- struct{}{}: // whoever has it may be about to change the bounds
	default:
		return
	}
	defer s.release()
	if s.auto != auto {
		return
	}
	if d.Servers != want.Servers {
		if now.Sub(s.scaler.chose) < dwell {
			return
		}
		s.scaler.chose = now
		s.log.Info("the number of servers follows the load", "from", want.Servers, "to", d.Servers, "why", d.Why)
		s.choose(auto, chosen{d.Servers, d.Why})
		return
	}
	short := autoscale.Short(auto, want.Servers, s.scaler.history)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.short, short) && now.Sub(s.scaler.said) >= saidFor {
		s.short, s.scaler.said = short, now
	}
}

// whyWanted says why so many servers are wanted; "": nothing but the spec says so.
// mu is held.
func (r *Runtime) whyWanted() string {
	why := r.want.Why
	if len(r.short) > 0 {
		if why != "" {
			why += "; "
		}
		why += "more are not allowed, and it is more than the target: " + strings.Join(r.short, ", ")
	}
	return why
}

// scaler remembers what the servers did.
type scaler struct {
	history []autoscale.Sample
	marks   map[string]mark
	// When it looked last, chose last, and said something else of the targets.
	looked, chose, said time.Time
}

// mark is what a server had counted at some time.
type mark struct {
	at            time.Time
	messages, cpu int64
}

// look takes a sample, if it is time to, and tells whether it did. While a server is
// not seen there is none: what is not known must not look like little load.
func (s *scaler) look(spec *federationv1.Autoscaling, servers []serverView, now time.Time) bool {
	keep := autoscale.Keep(spec)
	every := time.Duration(min(spec.GetUpSeconds(), spec.GetDownSeconds())) * time.Second / looksPerWindow
	every = max(min(every, maxSample), minSample, keep/maxSamples)
	if !s.looked.IsZero() && now.Sub(s.looked) < every {
		return false
	}
	s.looked = now
	sample, ok := s.sample(servers, now)
	if !ok {
		return false
	}
	old := 0
	for old < len(s.history) && now.Sub(s.history[old].At) > keep {
		old++
	}
	s.history = append(s.history[old:], sample)
	return true
}

func (s *scaler) sample(servers []serverView, now time.Time) (autoscale.Sample, bool) {
	out := autoscale.Sample{At: now, Servers: len(servers), CPUPercent: -1}
	marks := map[string]mark{}
	whole, timed, cpu := len(servers) > 0, 0, 0.0
	for _, v := range servers {
		u := v.seen.GetUsage()
		if v.seen.GetPhase() != brokerv1.Observation_RUNNING || u == nil {
			whole = false
			continue
		}
		was, ok := s.marks[v.seen.Server]
		marks[v.seen.Server] = mark{now, u.Messages, u.Cpu}
		seconds := now.Sub(was.at).Seconds()
		if !ok || seconds <= 0 || u.Messages < was.messages || u.Cpu < was.cpu { // it has just started
			whole = false
			continue
		}
		out.Connections += u.Connections
		out.MessageRate += float64(u.Messages-was.messages) / seconds
		if u.StorageLimit > 0 {
			out.StoragePercent = max(out.StoragePercent, 100*float64(u.Storage)/float64(u.StorageLimit))
		}
		if u.Processors > 0 {
			cpu += 100 * float64(u.Cpu-was.cpu) / float64(time.Second) / seconds / u.Processors
			timed++
		}
	}
	s.marks = marks
	if timed > 0 && timed == len(servers) {
		out.CPUPercent = cpu / float64(timed)
	}
	return out, whole
}
