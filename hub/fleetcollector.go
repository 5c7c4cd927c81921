package hub

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealane/sealane/topology"
)

// fleetCollector shows the fleet as sums: what a single member does is in its
// status, and in the metrics of its agent.
type fleetCollector struct {
	*fleetMetrics
	fleet *Fleet
}

// Describe implements prometheus.Collector.
func (c *fleetCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.all() {
		ch <- d
	}
}

// rttBuckets are upper bounds, in seconds.
var rttBuckets = []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1}

// Collect implements prometheus.Collector.
func (c *fleetCollector) Collect(ch chan<- prometheus.Metric) {
	planned, behind, progress := c.fleet.standing()
	var unapplied, failed int
	var count uint64
	var sum, lag, maxLag float64
	links, flows, buckets := stateCounts(), stateCounts(), map[float64]uint64{}
	for _, bound := range rttBuckets {
		buckets[bound] = 0
	}
	for _, pr := range progress {
		if !pr.Connected {
			continue // what it said is not what is
		}
		if len(pr.Unapplied) > 0 {
			unapplied++
		}
		for _, why := range pr.Unapplied {
			if why.Code != "" {
				failed++
			}
		}
		for _, l := range pr.Links {
			links[knownState(l.State)]++
			if l.RTTMicros <= 0 {
				continue
			}
			rtt := float64(l.RTTMicros) / 1e6
			count++
			sum += rtt
			for _, bound := range rttBuckets {
				if rtt <= bound {
					buckets[bound]++
				}
			}
		}
		for _, w := range pr.Flows {
			flows[knownState(w.State)]++
			n := float64(max(w.Lag, 0))
			lag, maxLag = lag+n, max(maxLag, n)
		}
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(c.members, float64(planned))
	gauge(c.behind, float64(behind))
	gauge(c.unapplied, float64(unapplied))
	gauge(c.failed, float64(failed))
	gauge(c.oldest, c.fleet.follow.oldest().Seconds())
	for state, n := range links {
		gauge(c.links, float64(n), state)
	}
	for state, n := range flows {
		gauge(c.flows, float64(n), state)
	}
	ch <- prometheus.MustNewConstHistogram(c.rtt, count, sum, buckets)
	gauge(c.lag, lag)
	gauge(c.maxLag, maxLag)
}

// stateCounts has all states, so that none is missing where it counts nothing.
func stateCounts() map[string]int {
	return map[string]int{"Up": 0, "Down": 0, "Standby": 0, "Pending": 0, "Unknown": 0}
}

func knownState(s string) string {
	switch s {
	case "Up", "Down", "Standby", "Pending":
		return s
	}
	return "Unknown"
}

// standing is how many members are planned, how many of those that are connected
// do not hold what is planned for them, and what all of them reported.
func (f *Fleet) standing() (planned, behind int, progress []*topology.MemberProgress) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.plan != nil {
		planned = len(f.plan.Members)
	}
	progress = make([]*topology.MemberProgress, 0, len(f.progress))
	for name, pr := range f.progress {
		progress = append(progress, pr)
		if desired, m := f.desired(name), f.members[name]; pr.Connected && desired != nil && m != nil && m.heldHash != desired.Hash {
			behind++
		}
	}
	return planned, behind, progress
}

// refusedObjects is how many objects have a problem that does not pass by itself.
func refusedObjects(p *topology.Plan) int {
	n := 0
	var last topology.ObjectRef
	for _, x := range p.Problems { // sorted by object
		if !x.Waiting && !x.Note && x.Object != last {
			n, last = n+1, x.Object
		}
	}
	return n
}
