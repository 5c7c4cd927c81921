package statefulset

import (
	"fmt"
	"strings"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	"github.com/sealane/sealane/broker"
)

const (
	// MaxServers is how many servers a broker can have.
	MaxServers = 5
	// fullPercent is the used part of a server's storage that is told, freePercent
	// the free part of a volume.
	fullPercent, freePercent = 80, 10
	// percentStep rounds what is told, so that it is not news with each message.
	percentStep = 5
)

var _ broker.Measurer = (*Runtime)(nil)

// Capacity implements broker.Measurer from what the servers said last.
func (r *Runtime) Capacity() broker.Capacity {
	r.mu.RLock()
	c := broker.Capacity{Wanted: r.want.Servers, Why: r.whyWanted(), Max: MaxServers, Status: r.status}
	r.mu.RUnlock()
	var full []string
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
		if why := nearlyFull(u); why != "" {
			full = append(full, p.addr.Name+": "+why)
		}
	}
	c.NearlyFull = strings.Join(full, "; ")
	if e, ok := r.opts.Place.(interface{ Endpoints() []string }); ok {
		c.Endpoints = e.Endpoints()
	}
	return c
}

// nearlyFull says what of a server is nearly full; "": nothing.
func nearlyFull(u *brokerv1.Usage) string {
	if u.StorageLimit > 0 {
		if used := u.Storage * 100 / u.StorageLimit; used >= fullPercent {
			return fmt.Sprintf("streams use %d%% or more of the %d bytes that the broker may store", used/percentStep*percentStep, u.StorageLimit)
		}
	}
	if u.DiskSize > 0 {
		if free := u.DiskFree * 100 / u.DiskSize; free < freePercent {
			return fmt.Sprintf("less than %d%% of the volume is free", (free/percentStep+1)*percentStep)
		}
	}
	return ""
}
