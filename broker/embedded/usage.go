package embedded

import (
	"net/http"

	"github.com/sealane/sealane/broker"
)

var _ broker.Meter = (*Runtime)(nil)

// Usage implements broker.Meter; all is zero while the server does not run.
func (r *Runtime) Usage() broker.Usage {
	srv := r.server()
	if srv == nil {
		return broker.Usage{}
	}
	u := broker.Usage{Servers: 1}
	if srv.Healthz(nil).StatusCode == http.StatusOK {
		u.Healthy = 1
	}
	if v, err := srv.Varz(nil); err == nil {
		u.Connections, u.Messages = int64(v.Connections), v.InMsgs+v.OutMsgs
	}
	if j, err := srv.Jsz(nil); err == nil {
		u.Storage, u.Memory = int64(j.Store), int64(j.Memory)
		u.StorageLimit, u.MemoryLimit = j.Config.MaxStore, j.Config.MaxMemory
	}
	z, err := srv.Leafz(nil)
	if err != nil {
		return u
	}
	u.Links = make(map[string]broker.Traffic, len(z.Leafs))
	for _, l := range z.Leafs {
		if name, ok := r.book.nameOf(l.Account); ok {
			t := u.Links[name]
			t.InMessages, t.OutMessages = t.InMessages+l.InMsgs, t.OutMessages+l.OutMsgs
			t.InBytes, t.OutBytes = t.InBytes+l.InBytes, t.OutBytes+l.OutBytes
			u.Links[name] = t
		}
	}
	trimDomainMappings(srv, r.book.keys())
	return u
}
