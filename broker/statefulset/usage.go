package statefulset

import (
	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	"github.com/sealane/sealane/broker"
)

var _ broker.Meter = (*Runtime)(nil)

// Usage implements broker.Meter from what the servers said last. They do not say
// what crossed each link.
func (r *Runtime) Usage() broker.Usage {
	var u broker.Usage
	for _, p := range r.pods() {
		o := p.known()
		if o == nil || o.Phase != brokerv1.Observation_RUNNING {
			continue
		}
		u.Servers++
		if o.Healthy {
			u.Healthy++
		}
		of := o.Usage
		u.Connections, u.Messages = u.Connections+of.GetConnections(), u.Messages+of.GetMessages()
		u.Storage, u.Memory = u.Storage+of.GetStorage(), u.Memory+of.GetMemory()
		u.StorageLimit, u.MemoryLimit = u.StorageLimit+max(of.GetStorageLimit(), 0), u.MemoryLimit+max(of.GetMemoryLimit(), 0)
	}
	return u
}
