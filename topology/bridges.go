package topology

import (
	"fmt"
	"slices"

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
	return b
}

// checkRoutes refuses a bridge with a pair that no path joins.
func (b *bridge) checkRoutes() {
	f := b.fabric
	var lost []string
	field := "spec"
	reason := v1alpha1.ReasonUnroutable
	fix := ""
	b.eachPair(func(o, d int32) {
		if f.routable(o, d) && len(f.graph.cuts) == 0 {
			return
		}
		routes, stuck, more := f.routes(o, d)
		switch {
		case more:
			b.report.refuse(field, v1alpha1.ReasonLimitExceeded,
				"between %s and %s there are more than %d combinations of parents: lower maxParents on the way", f.names[o], f.names[d], maxRoutes)
		case stuck != "":
			fix = fmt.Sprintf("there is none between %s, among which members on the way may choose: join the two with a link", stuck)
			lost = append(lost, f.names[o]+" to "+f.names[d])
		case len(routes) == 0:
			lost = append(lost, f.names[o]+" to "+f.names[d])
		}
	})
	if len(lost) == 0 {
		return
	}
	if fix == "" {
		fix = "join them with links, or take them out"
	}
	if b.lenient {
		return
	}
	b.report.refuse(field, reason, "there is no path of links for %s: %s", firstNames(lost), fix)
}

// routable tells whether any path joins two members.
func (f *fabric) routable(o, d int32) bool {
	g := f.graph
	return g.whole[g.island[o]] == g.whole[g.island[d]]
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

// eachRoute calls fn for all routes of all pairs that have any.
func (b *bridge) eachRoute(fn func(o, d int32, r route)) {
	b.eachPair(func(o, d int32) {
		routes, _, _ := b.fabric.routes(o, d)
		for _, r := range routes {
			fn(o, d, r)
		}
	})
}

// lower makes what the bridge asks of the members.
func (b *bridge) lower() *lowered {
	if b.lowered != nil {
		return b.lowered
	}
	l := newLowering(b.scope)
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
