package agent

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// flows shows the health of what the streams of this member take from others.
type flows struct {
	*member
	known map[flowKey]*flow
	// standings are those of streams, by the ids of their parts.
	standings map[string]*standing
}

func newFlows(m *member) *flows {
	return &flows{member: m, known: map[flowKey]*flow{}, standings: map[string]*standing{}}
}

// run looks at all flows every flowInterval until ctx ends.
func (f *flows) run(ctx context.Context) {
	for {
		f.look(ctx)
		wait := flowInterval
		for _, k := range f.known {
			if k.state != federationv1.Health_UP && time.Since(k.since) < eagerTime {
				wait = flowEager
			}
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// look judges every flow once, and sets up anew what stands still.
func (f *flows) look(ctx context.Context) {
	h := f.holder.now()
	infos := map[string]*jetstream.StreamInfo{}
	f.show(ctx, h, func(ctx context.Context, s *federationv1.StreamSpec) []*jetstream.StreamSourceInfo {
		info := f.info(ctx, s)
		if info == nil {
			return nil
		}
		infos[federationv1.StreamID(s.Account, s.Name)] = info
		return info.Sources
	})
	f.forget(h)
	for id, info := range infos {
		if s := h.parts[id].GetStream(); s != nil && ctx.Err() == nil {
			f.revive(ctx, s, info)
		}
	}
}

// announce shows every flow as not judged yet, so that the hub knows from the
// first report on which ones there are.
func (f *flows) announce() {
	f.show(context.Background(), f.holder.now(), func(context.Context, *federationv1.StreamSpec) []*jetstream.StreamSourceInfo { return nil })
}

func (f *flows) show(ctx context.Context, h *held, sources func(context.Context, *federationv1.StreamSpec) []*jetstream.StreamSourceInfo) {
	seen := map[flowKey]*federationv1.FlowHealth{}
	for _, id := range h.ids() {
		s := h.parts[id].GetStream()
		if s == nil || len(s.Sources) == 0 {
			continue
		}
		have := sources(ctx, s)
		if ctx.Err() != nil {
			return
		}
		now := time.Now()
		for i, info := range matchSources(s.Sources, have) {
			src := s.Sources[i]
			k := flowKey{bridge: src.Bridge, origin: src.Origin, account: s.Account, stream: s.Name}
			if f.known[k] == nil {
				f.known[k] = &flow{}
			}
			lag, message := f.known[k].judge(now, src, info)
			if old := seen[k]; old != nil && (lag <= old.Lag && message == "") {
				continue // several sources of one flow: the worst one counts
			}
			seen[k] = &federationv1.FlowHealth{
				Bridge: k.bridge, Origin: k.origin, Account: k.account, Stream: k.stream,
				State: f.known[k].state, Since: f.known[k].since.UnixMilli(), Lag: lag, Message: message,
			}
		}
	}
	for k := range f.known {
		if seen[k] == nil {
			delete(f.known, k)
		}
	}
	f.pic.setFlows(seen)
}

// info is what the broker says of a stream; nil if it does not answer.
func (f *flows) info(ctx context.Context, s *federationv1.StreamSpec) *jetstream.StreamInfo {
	c, err := f.conns.existing(s.Account)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, flowInterval)
	defer cancel()
	info, err := streamOf(ctx, c.js, s.Name)
	if err != nil {
		return nil
	}
	return info
}
