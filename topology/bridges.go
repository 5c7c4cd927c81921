package topology

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sealane/sealane/api/v1alpha1"
)

// maxPairs bounds the pairs of origin and destination of one bridge.
const maxPairs = 1 << 16

// bridge is one version of a Bridge, checked by itself. What other bridges make
// of it is decided in bridgeStage.
type bridge struct {
	scope
	ref      ObjectRef
	object   *v1alpha1.Bridge
	lenient  bool
	partial  bool // a lenient one that goes on in part only
	report   *report
	from, to set
	live     *live
	durable  *durable
	lowered  *lowered // made when the bridge is accepted
}

func (b *bridge) refused() bool { return b.report.refused }

// newBridge checks one version of a Bridge.
func newBridge(s *streamStage, o *v1alpha1.Bridge, lenient bool) *bridge {
	b := &bridge{ref: refOf(KindBridge, o), object: o, lenient: lenient}
	b.report = &report{ref: b.ref}
	w := s.world
	var ok bool
	if b.scope, ok = w.scopeOf(o.Spec.Topology, o.Spec.Account, o.Namespace, b.report); !ok {
		return b
	}
	b.from = w.place(b.fabric, o.Spec.From, "spec.from", lenient, b.report)
	b.to = w.place(b.fabric, o.Spec.To, "spec.to", lenient, b.report)
	switch o.Spec.Type {
	case v1alpha1.BridgeEvents, v1alpha1.BridgeRequests:
		b.live = newLive(b)
	case v1alpha1.BridgeStream, v1alpha1.BridgeQueue:
		b.durable = newDurable(b, s)
	default:
		b.report.refuse("spec.type", v1alpha1.ReasonInvalidValue, "%q is no type of bridge: use Events, Requests, Stream or Queue", o.Spec.Type)
	}
	if b.refused() {
		return b
	}
	n := pairs(b.from, b.to)
	if n == 0 && !b.from.empty() && !b.to.empty() && (b.durable == nil || len(b.durable.flows) == 0) {
		b.report.wait("spec.to", v1alpha1.ReasonNoMembers, "from and to are the same one member: nothing flows")
	}
	if n > maxPairs {
		b.report.refuse("spec", v1alpha1.ReasonLimitExceeded, "%d origins and %d destinations are %d flows, and a bridge carries at most %d: use several bridges, or fewer members",
			b.from.len(), b.to.len(), n, maxPairs)
		return b
	}
	b.checkRoutes()
	b.checkShared()
	return b
}

// current tells whether the Streams that it was checked with are still the same.
func (b *bridge) current(s *streamStage) bool {
	d := b.durable
	return d == nil || d.stream == "" ||
		slices.Equal(d.origins, s.byName[streamKey{b.scope, d.stream}]) && slices.Equal(d.targets, s.byName[streamKey{b.scope, d.target}])
}

// checkRoutes refuses a bridge with a pair that no path joins.
func (b *bridge) checkRoutes() {
	f := b.fabric
	var lost, halted []string
	var first stop
	fix := "join them with links, or take them out"
	b.eachPair(func(o, d int32) {
		n, stuck := f.routable(o, d)
		switch {
		case n > maxRoutes:
			b.report.refuse("spec", v1alpha1.ReasonLimitExceeded,
				"members on the way from %s to %s have more than %d combinations of parents: lower maxParents of some", f.names[o], f.names[d], maxRoutes)
		case n == 0:
			lost = append(lost, f.names[o]+" to "+f.names[d])
			if stuck != "" {
				fix = fmt.Sprintf("members on the way may have chosen the parents %s, which no path joins: join these two with links", stuck)
			}
		default:
			if s, found := f.stopped(o, d); found {
				if len(halted) == 0 {
					first = s
				}
				halted = append(halted, f.names[o]+" to "+f.names[d])
			}
		}
	})
	b.partial = b.partial || len(lost)+len(halted) > 0
	if len(lost) > 0 && !b.lenient {
		b.report.refuse("spec", v1alpha1.ReasonUnroutable, "no path of links leads from %s: %s", firstNames(lost), fix)
	}
	if len(halted) > 0 && !b.lenient {
		b.report.refuse("spec", v1alpha1.ReasonUnroutable, "%s", f.explain(halted, first))
	}
}

// explain says why a member does not pass on, and what helps.
func (f *fabric) explain(pairs []string, s stop) string {
	from, at, to := f.names[s.from], f.names[s.at], f.names[s.to]
	var many []string
	for _, m := range []int32{s.from, s.at, s.to} {
		if f.several[m] {
			many = append(many, f.names[m])
		}
	}
	why := "the agent of one of them is of an old version: upgrade it"
	if len(many) > 0 {
		why = fmt.Sprintf("the broker of %s may have several servers: let one of the two dial %s (it needs an endpoint, and no rule that makes it a spoke of both), join %s and %s with a link, or set replicas to 1",
			firstNames(many), at, from, to)
	}
	var dials []string
	for _, m := range []int32{s.from, s.to} {
		if f.links[f.linkOf(s.at, m)].dialer == s.at {
			dials = append(dials, f.names[m])
		}
	}
	slices.Sort(dials)
	return fmt.Sprintf("from %s the way leads over %s, %s and %s, and %s can pass nothing on there, because it dials %s, and %s",
		firstNames(pairs), from, at, to, at, strings.Join(dials, " and "), why)
}

// eachPair calls fn for the pairs that flow over links, in order.
func (b *bridge) eachPair(fn func(o, d int32)) {
	to := b.to.list()
	for _, o := range b.from.list() {
		for _, d := range to {
			if o != d {
				fn(o, d)
			}
		}
	}
}

// eachRoute calls fn for all routes of a live bridge, of all pairs that have any.
func (b *bridge) eachRoute(fn func(o, d int32, r route)) {
	b.eachPair(func(o, d int32) {
		for _, r := range b.fabric.liveRoutes(o, d) {
			fn(o, d, r)
		}
	})
}

// lower makes what the bridge asks of the members. scratch is kept for the next
// one.
func (b *bridge) lower(scratch *[]imported) *lowered {
	if b.lowered != nil {
		return b.lowered
	}
	l := newLowering(b.scope, *scratch)
	defer func() { *scratch = l.out }()
	if b.live != nil {
		b.live.lower(b, l)
		b.lowered = l.finish()
	} else {
		b.lowered = b.durable.lower(b, l)
	}
	b.lowered.footprint = b.footprint(l)
	return b.lowered
}

// footprint says what the bridge needs.
func (b *bridge) footprint(l *lowering) *Footprint {
	f, low := b.fabric, b.lowered
	fp := &Footprint{Generation: b.object.Generation, Hops: l.hops()}
	at := b.from.or(b.to)
	for _, r := range low.at {
		at.add(r.member)
		fp.Parts = append(fp.Parts, PartRef{f.names[r.member], f.accountIDs[r.account]})
	}
	if b.durable != nil {
		b.durable.footprint(b, fp)
	}
	fp.Members = f.nameList(at)
	sortParts(fp)
	return fp
}

func sortParts(fp *Footprint) {
	slices.SortFunc(fp.Parts, comparePartRefs)
	fp.Parts = slices.Compact(fp.Parts)
}
