package embedded

import (
	"fmt"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	"github.com/sealane/sealane/broker"
)

const (
	// fullPercent is the used part of a server's storage that is told, freePercent
	// the free part of a volume.
	fullPercent, freePercent = 80, 10
	// percentStep rounds what is told, so that it is not news with each message.
	percentStep = 5
)

var _ broker.Warner = (*Runtime)(nil)

// NearlyFull says what of a server is nearly full; "": nothing.
func NearlyFull(u *brokerv1.Usage) string {
	if limit := u.GetStorageLimit(); limit > 0 {
		if used := u.Storage * 100 / limit; used >= fullPercent {
			return fmt.Sprintf("streams use %d%% or more of the %d bytes that the broker may store", used/percentStep*percentStep, limit)
		}
	}
	if size := u.GetDiskSize(); size > 0 {
		if free := u.DiskFree * 100 / size; free < freePercent {
			return fmt.Sprintf("less than %d%% of the volume is free", (free/percentStep+1)*percentStep)
		}
	}
	return ""
}

// NearlyFull implements broker.Warner.
func (r *Runtime) NearlyFull() string {
	u := &brokerv1.Usage{}
	u.DiskFree, u.DiskSize = diskSpace(r.dir)
	if srv := r.server(); srv != nil {
		if j, err := srv.Jsz(nil); err == nil {
			u.Storage, u.StorageLimit = int64(j.Store), j.Config.MaxStore
		}
	}
	return NearlyFull(u)
}
