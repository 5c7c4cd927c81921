package agent

import (
	"time"

	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

// warnedFor is how long a warning of storage stays as it is: the use of a broker goes
// up and down.
const warnedFor = time.Minute

// warnOfStorage says of a broker that is applied that a server is nearly full.
func (a *applier) warnOfStorage(p *federationv1.Part) {
	w, ok := a.rt.(broker.Warner)
	r := a.results[p.Id]
	if !ok || r == nil || r.status.State != federationv1.PartStatus_APPLIED {
		return
	}
	if r.status = withWarning(r.status, w.NearlyFull(), time.Since(a.warned)); r.status.Message != a.warning {
		a.warning, a.warned = r.status.Message, time.Now()
		if a.warning != "" {
			a.log.Warn("the broker's storage is nearly full", "detail", a.warning)
		} else {
			a.log.Info("the broker's storage suffices again")
		}
	}
}

// withWarning is the status of a broker that is applied, with a warning or without.
// One that was said since is left for a while.
func withWarning(s *federationv1.PartStatus, warning string, since time.Duration) *federationv1.PartStatus {
	if s.Message == warning || s.Code != "" && since < warnedFor {
		return s
	}
	s = proto.Clone(s).(*federationv1.PartStatus)
	s.Code, s.Message = "", warning
	if warning != "" {
		s.Code = codeNearlyFull
	}
	return s
}
