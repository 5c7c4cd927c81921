package agent

import (
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

const (
	// flowInterval is how often flows are looked at,
	// and flowEager how often while one may begin at any moment.
	flowInterval = 2 * time.Second
	flowEager    = 250 * time.Millisecond
	// flowSilence is how long nothing at all may be heard of a source, not even
	// its heartbeat of one second.
	flowSilence = 5 * time.Second
	// flowPatience is how long a flow may take to begin.
	flowPatience = 10 * time.Second
)

// flow is the health of one flow, kept from one look to the next.
type flow struct {
	state federationv1.Health
	since time.Time
}

// judge says how a source of a stream does. Info is nil if the broker does not
// know the source.
func (f *flow) judge(now time.Time, src *federationv1.Source, info *jetstream.StreamSourceInfo) (lag int64, message string) {
	if f.since.IsZero() {
		f.state, f.since = federationv1.Health_PENDING, now
	}
	state := federationv1.Health_UP
	from := "stream " + src.Stream
	if src.Origin != "" {
		from += " of " + src.Origin
	}
	switch {
	case info == nil:
		state, message = federationv1.Health_DOWN, "the stream does not take from "+from+" yet"
	case info.Error != nil:
		state, message = federationv1.Health_DOWN, fmt.Sprintf("%s: %s", from, info.Error.Description)
	case info.Active < 0:
		state, message = federationv1.Health_DOWN, "nothing was heard of "+from+" yet"
	case info.Active > flowSilence:
		state, message = federationv1.Health_DOWN, "nothing is heard of "+from
	}
	if info != nil {
		lag = int64(info.Lag)
	}
	if state == federationv1.Health_DOWN && f.state == federationv1.Health_PENDING && now.Sub(f.since) < flowPatience {
		return lag, message
	}
	if f.state != state {
		f.state, f.since = state, now
	}
	return lag, message
}

// matchSources finds for each source of a part what the broker says of it, in
// the order of the part.
func matchSources(want []*federationv1.Source, have []*jetstream.StreamSourceInfo) []*jetstream.StreamSourceInfo {
	have = slices.Clone(have)
	out := make([]*jetstream.StreamSourceInfo, len(want))
	for i, w := range want {
		cfg := streamSource(w)
		at := slices.IndexFunc(have, func(h *jetstream.StreamSourceInfo) bool {
			return h != nil && h.Name == cfg.Name && apiPrefix(h.External) == apiPrefix(cfg.External) &&
				h.FilterSubject == cfg.FilterSubject && slices.Equal(h.SubjectTransforms, cfg.SubjectTransforms)
		})
		if at >= 0 {
			out[i], have[at] = have[at], nil
		}
	}
	return out
}

func apiPrefix(e *jetstream.ExternalStream) string {
	if e == nil {
		return ""
	}
	return e.APIPrefix
}
