// Package autoscale decides how many servers a member's broker should have for the
// load that was observed. It computes: it has no clock, asks no server and changes
// nothing. Start reading at Decide.
package autoscale

import (
	"fmt"
	"slices"
	"strings"
	"time"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// Sample is what all servers of a broker did at one moment.
type Sample struct {
	At time.Time
	// Servers that ran, over which the load was spread.
	Servers int
	// Connections of clients, of all servers together.
	Connections int64
	// MessageRate is messages in and out in a second, of all servers together.
	MessageRate float64
	// StoragePercent is the used part of the storage of the fullest server.
	StoragePercent float64
	// CPUPercent is the used part of the processor time that a server may use, of
	// all servers on average. Below 0: not known.
	CPUPercent float64
}

// Decision is how many servers there should be.
type Decision struct {
	Servers int
	// Why is a sentence for people: empty if nothing changes. It says no times and
	// no measured values that differ with every sample.
	Why string
	// Pressed names the targets that are exceeded at the last sample, sorted, also
	// those for which there are no more servers.
	Pressed []string
}

const (
	// Fewer servers must stay below this part of the targets, so that they are not
	// too few again at once.
	headroom = 0.9
	// maxGap is the longest time between two samples over which nothing is taken to
	// have happened: what was before a longer one does not count.
	maxGap = 90 * time.Second
)

// sizes are the numbers of servers that have a majority to lose.
var sizes = []int{1, 3, 5}

// Decide tells how many servers a broker should have that shall have current ones
// now. History is sorted by time; what is older than Keep may be left out.
//
// More servers are wanted when the smallest number with which no target is exceeded
// has been larger all through the window for more, fewer when it has been smaller
// all through the window for fewer. A window that was not seen whole decides nothing.
// A number outside of the bounds is brought within them at once.
func Decide(spec *federationv1.Autoscaling, current int, history []Sample) Decision {
	least, most := bounds(spec)
	if fit := min(max(current, least), most); fit != current {
		return Decision{Servers: fit, Why: fmt.Sprintf("between %d and %d servers are allowed", least, most)}
	}
	history = recent(history)
	if len(history) == 0 {
		return Decision{Servers: current}
	}
	last := history[len(history)-1]
	d := Decision{Servers: current, Pressed: exceeded(spec, last, current, 1)}
	if up := slices.Min(wants(spec, window(history, spec.GetUpSeconds()), 1, most)); up > current {
		d.Servers, d.Why = up, "more than the target with fewer: "+strings.Join(d.Pressed, ", ")
		return d
	}
	if down := slices.Max(wants(spec, window(history, spec.GetDownSeconds()), headroom, most)); down < current {
		d.Servers, d.Why = down, fmt.Sprintf("all targets hold with %d", down)
	}
	return d
}

// Keep is how long samples matter.
func Keep(spec *federationv1.Autoscaling) time.Duration {
	return time.Duration(max(spec.GetUpSeconds(), spec.GetDownSeconds(), 0))*time.Second + maxGap
}

func bounds(spec *federationv1.Autoscaling) (least, most int) {
	least = max(int(spec.GetMin()), 1)
	return least, max(int(spec.GetMax()), least)
}

// recent is the history since the last gap.
func recent(history []Sample) []Sample {
	for i := len(history) - 1; i > 0; i-- {
		if history[i].At.Sub(history[i-1].At) > maxGap {
			return history[i:]
		}
	}
	return history
}

// window is the last part of the history, with the sample before it, at which what
// was seen held until its begin. Nil if the history does not reach so far back.
func window(history []Sample, seconds int32) []Sample {
	begin := history[len(history)-1].At.Add(-time.Duration(seconds) * time.Second)
	for i := len(history) - 1; i >= 0; i-- {
		if !history[i].At.After(begin) {
			return history[i:]
		}
	}
	return nil
}

// Both are wanted where a window was not seen whole: so that the least of what was
// wanted is not more, and the most not less than any number.
const (
	lowest  = -1
	highest = 1 << 30
)

// wants are the smallest numbers of servers that suffice at each sample.
func wants(spec *federationv1.Autoscaling, samples []Sample, part float64, most int) []int {
	if samples == nil {
		return []int{lowest, highest}
	}
	least, _ := bounds(spec)
	out := make([]int, len(samples))
	for i, s := range samples {
		out[i] = most
		for _, n := range sizes {
			if n >= least && n <= most && len(exceeded(spec, s, n, part)) == 0 {
				out[i] = n
				break
			}
		}
	}
	return out
}

// exceeded names the targets of which n servers would be above the given part.
func exceeded(spec *federationv1.Autoscaling, s Sample, n int, part float64) []string {
	spread := float64(max(s.Servers, 1)) / float64(n)
	var out []string
	for _, t := range []struct {
		name   string
		each   float64
		target int32
	}{
		{"connections", float64(s.Connections) / float64(n), spec.GetConnections()},
		{"cpuPercent", s.CPUPercent * spread, spec.GetCpuPercent()},
		{"messageRate", s.MessageRate / float64(n), spec.GetMessageRate()},
		{"storagePercent", s.StoragePercent * spread, spec.GetStoragePercent()},
	} {
		if t.target > 0 && t.each > part*float64(t.target) {
			out = append(out, t.name)
		}
	}
	return out
}

// Short names the targets that were exceeded all through the window for more
// although current servers are as many as are allowed, sorted.
func Short(spec *federationv1.Autoscaling, current int, history []Sample) []string {
	if _, most := bounds(spec); current < most {
		return nil
	}
	history = recent(history)
	if len(history) == 0 {
		return nil
	}
	var short []string
	for i, s := range window(history, spec.GetUpSeconds()) {
		names := exceeded(spec, s, current, 1)
		if i == 0 {
			short = names
		}
		short = slices.DeleteFunc(short, func(name string) bool { return !slices.Contains(names, name) })
	}
	return short
}
