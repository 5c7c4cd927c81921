package statefulset

import (
	"strings"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	"github.com/sealane/sealane/broker"
	"github.com/sealane/sealane/broker/embedded"
)

// MaxServers is how many servers a broker can have.
const MaxServers = 5

var (
	_ broker.Measurer = (*Runtime)(nil)
	_ broker.Warner   = (*Runtime)(nil)
)

// Capacity implements broker.Measurer from what the servers said last.
func (r *Runtime) Capacity() broker.Capacity {
	r.mu.RLock()
	c := broker.Capacity{Wanted: r.want.Servers, Why: r.whyWanted(), Max: MaxServers, Status: r.status}
	r.mu.RUnlock()
	for _, p := range r.pods() {
		o := p.known()
		if o == nil {
			continue
		}
		if o.Phase == brokerv1.Observation_RUNNING {
			c.Servers++
		}
		u := o.Usage
		if c.Storage == 0 || u.DiskFree < c.Storage {
			c.Storage = u.DiskFree
		}
		if u.MemoryTotal > 0 && (c.Memory == 0 || u.MemoryTotal < c.Memory) {
			c.Memory = u.MemoryTotal
		}
	}
	if e, ok := r.opts.Place.(interface{ Endpoints() []string }); ok {
		c.Endpoints = e.Endpoints()
	}
	return c
}

// NearlyFull implements broker.Warner from what the servers said last.
func (r *Runtime) NearlyFull() string {
	var full []string
	for _, p := range r.pods() {
		if why := embedded.NearlyFull(p.known().GetUsage()); why != "" {
			full = append(full, p.addr.Name+": "+why)
		}
	}
	return strings.Join(full, "; ")
}
