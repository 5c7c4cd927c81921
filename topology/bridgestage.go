package topology

import (
	"maps"
	"slices"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// bridgeStage is what all Bridges come to.
type bridgeStage struct {
	streams  *streamStage
	given    []*v1alpha1.Bridge // by age
	accepted []*bridge          // by age of their objects
	checked  map[ObjectRef][]*bridge
	problems []Problem
	frozen   map[string]string
	// holders are the members that may hold something of a bridge that is refused.
	holders map[ObjectRef][]string
	flows   []flowMemo
	crowds  []crowd
}

// bridgeStep is one pass over the bridges, the oldest first.
type bridgeStep struct {
	*bridgeStage
	past history
	old  *bridgeStage // of the plan before, if its world is the same
	// suspects are the accounts in which durable bridges form a cycle or a second
	// way, so that each has to be checked when its turn comes.
	suspects map[scope]bool
	// banned bridges make an account too large.
	banned map[*v1alpha1.Bridge]string

	live    map[liveKey][]*bridge
	durable map[scope][]*bridge
	use     usage
	owned   map[streamKey][]*bridge
}

// liveKey finds live bridges whose subjects may overlap: their first token is
// never a wildcard.
type liveKey struct {
	scope
	first string
}

func newBridgeStage(s *streamStage, given []*v1alpha1.Bridge, past history) *bridgeStage {
	var old *bridgeStage
	if past.prev != nil && past.prev.world == s.world {
		old = past.prev.bridges
	}
	suspects := map[scope]bool{}
	banned := map[*v1alpha1.Bridge]string{}
	checked := map[ObjectRef][]*bridge{}
	var flows []flowMemo
	var crowds []crowd
	for {
		p := &bridgeStep{
			bridgeStage: &bridgeStage{streams: s, given: given, checked: checked, frozen: map[string]string{}, holders: map[ObjectRef][]string{}, flows: flows, crowds: crowds},
			past:        past, old: old, suspects: suspects, banned: banned,
			live: map[liveKey][]*bridge{}, durable: map[scope][]*bridge{}, use: s.use.clone(), owned: map[streamKey][]*bridge{},
		}
		p.run()
		// Most often nothing is wrong with the flows of durable bridges: one look at
		// all of them tells. If it does not, they are looked at one by one.
		more := false
		for sc, bridges := range p.durable {
			if !suspects[sc] && p.verdict(bridges) != nil {
				suspects[sc], more = true, true
			}
		}
		flows = p.flows
		if more {
			continue
		}
		// Nor are accounts too large, most often.
		excess := p.excess()
		if len(excess) == 0 {
			return p.bridgeStage
		}
		maps.Copy(banned, excess)
		crowds = p.crowds
	}
}

func (p *bridgeStep) run() {
	for _, o := range p.given {
		ref := refOf(KindBridge, o)
		b, rep := p.try(ref, o, false)
		p.problems = append(p.problems, rep.problems...)
		last, _ := p.past.effective(ref).(*v1alpha1.Bridge)
		if b == nil && last != nil {
			b, _ = p.try(ref, last, true)
		}
		if b != nil {
			p.accept(b)
		}
		if (b == nil || b.lenient) && p.past.mayHold(ref) {
			p.freeze(b, o, last)
		}
	}
}

// freeze keeps the members of a refused bridge from losing what they hold of it.
// Where the last good version of it goes on in full there is no need to.
func (p *bridgeStep) freeze(b *bridge, o, last *v1alpha1.Bridge) {
	if b != nil && !b.partial {
		return
	}
	placements := []v1alpha1.Placement{o.Spec.From, o.Spec.To}
	if last != nil {
		placements = append(placements, last.Spec.From, last.Spec.To)
	}
	ref := refOf(KindBridge, o)
	// Those that it passes through hold something of it, too: as it was, if that is
	// known, or else as it would be now.
	holders := p.streams.world.concerns(o.Spec.Topology, placements...)
	if before, known := p.past.holders(ref); known {
		holders = append(holders, before...)
	} else {
		holders = append(holders, p.streams.world.between(o.Spec.Topology, placements)...)
	}
	slices.Sort(holders)
	p.holders[ref] = slices.Compact(holders)
	for _, m := range p.holders[ref] {
		p.frozen[m] = "Bridge " + ref.path() + " is refused"
	}
}

// check is the bridge checked by itself, taken over from the plan before if
// nothing that matters has changed.
func (p *bridgeStep) check(ref ObjectRef, o *v1alpha1.Bridge, lenient bool) *bridge {
	find := func(from map[ObjectRef][]*bridge) *bridge {
		for _, b := range from[ref] {
			if b.lenient == lenient && sameObject(b.object, o) && b.current(p.streams) {
				return b
			}
		}
		return nil
	}
	b := find(p.checked)
	if b != nil {
		return b
	}
	if p.old != nil {
		b = find(p.old.checked)
	}
	if b == nil {
		b = newBridge(p.streams, o, lenient)
	}
	p.checked[ref] = append(p.checked[ref], b)
	return b
}

// try checks a version of a bridge by itself and with those accepted before it.
// It returns nil if it is refused.
func (p *bridgeStep) try(ref ObjectRef, o *v1alpha1.Bridge, lenient bool) (*bridge, *report) {
	b := p.check(ref, o, lenient)
	rep := &report{ref: ref, problems: slices.Clone(b.report.problems), refused: b.report.refused}
	if rep.refused {
		return nil, rep
	}
	if msg := p.banned[b.object]; msg != "" {
		rep.refuse("spec", v1alpha1.ReasonLimitExceeded, "%s", msg)
		return nil, rep
	}
	if b.live != nil {
		p.checkLive(b, rep)
		p.checkMixed(b, rep)
		p.checkStoredTwice(b, rep)
	} else {
		p.checkDurable(b, rep)
	}
	if rep.refused {
		return nil, rep
	}
	return b, rep
}

func (p *bridgeStep) accept(b *bridge) {
	p.accepted = append(p.accepted, b)
	if b.live != nil {
		seen := map[string]bool{}
		for _, s := range b.live.subjects {
			if first, _, _ := cutToken(s); !seen[first] {
				seen[first] = true
				key := liveKey{b.scope, first}
				p.live[key] = append(p.live[key], b)
			}
		}
		return
	}
	p.durable[b.scope] = append(p.durable[b.scope], b)
	if d := b.durable; !d.ownedAt.empty() {
		p.reserve(b)
		key := streamKey{b.scope, d.target}
		p.owned[key] = append(p.owned[key], b)
	}
}

// checkLive refuses subjects that overlap with those of an older bridge between
// the same two members, unless both bring a message once.
func (p *bridgeStep) checkLive(b *bridge, rep *report) {
	type meeting struct {
		from, to int32
		meet     bool
	}
	meetings := map[*bridge]meeting{}
	for _, s := range b.live.subjects {
		first, _, _ := cutToken(s)
		for _, o := range p.live[liveKey{b.scope, first}] {
			at, known := meetings[o]
			if !known {
				at.from, at.to, at.meet = somePair(b.from.and(o.from), b.to.and(o.to))
				meetings[o] = at
			}
			if !at.meet {
				continue
			}
			for _, t := range o.live.subjects {
				if !overlaps(s, t) {
					continue
				}
				rs, rt := b.live.renames[s], o.live.renames[t]
				switch {
				case rs == nil && rt == nil && (covers(s, t) || covers(t, s)):
					continue
				case s == t && rs != nil && rt != nil && slices.Equal(rs.to, rt.to) && slices.Equal(rs.ref, rt.ref):
					continue
				}
				f := b.fabric
				rep.refuse(b.subjectField(s), v1alpha1.ReasonSubjectConflict,
					"%s overlaps with %s of Bridge %s, which flows from %s to %s too, so that a message would arrive twice: make them disjoint, or one cover the other without a rename",
					s, t, o.ref.path(), f.names[at.from], f.names[at.to])
				meetings[o] = meeting{} // it is said once
				break
			}
		}
	}
}

// subjectField is the path of one of the bridge's subjects.
func (b *bridge) subjectField(s string) string {
	return index("spec.subjects", slices.Index(b.object.Spec.Subjects, s))
}

// checkStoredTwice refuses an Events bridge that brings to a stream what a
// stream at the origin has stored already.
func (p *bridgeStep) checkStoredTwice(b *bridge, rep *report) {
	if b.object.Spec.Type != v1alpha1.BridgeEvents {
		return
	}
	f := b.fabric
	streams := p.streams.byAccount[b.scope]
	for _, s := range b.live.subjects {
		r := b.live.renames[s]
		for _, at := range streams {
			from := at.at.and(b.from)
			if from.empty() {
				continue
			}
			for _, bound := range at.spec.Subjects {
				stored, ok := intersect(s, bound)
				if !ok {
					continue
				}
				arriving := stored
				if r != nil {
					arriving = r.apply(stored, "*")
				}
				for _, again := range streams {
					o, d, found := somePair(from, again.at.and(b.to))
					if !found {
						continue
					}
					if a, t, twice := anyOverlap([]string{arriving}, again.spec.Subjects); twice && len(again.spec.Subjects) > 0 {
						rep.refuse(b.subjectField(s), v1alpha1.ReasonSubjectConflict,
							"%s is stored on %s by Stream %s (%s) and would be stored again on %s by Stream %s (%s): copy the stream with a bridge of type Stream instead, or take %s out of this bridge",
							stored, f.names[o], at.ref.path(), bound, f.names[d], again.ref.path(), t, a)
						return
					}
				}
			}
		}
	}
}

// checkDurable refuses a Stream or Queue bridge that does not go with the older
// ones.
func (p *bridgeStep) checkDurable(b *bridge, rep *report) {
	d, f := b.durable, b.fabric
	for _, o := range p.durable[b.scope] {
		x := o.durable
		if d.queue && x.queue && d.stream == x.stream && b.from.meets(o.from) {
			where := firstNames(f.nameList(b.from.and(o.from)))
			if d.shared || x.shared {
				rep.refuse("spec.stream.name", v1alpha1.ReasonQueueConflict,
					"queue %s of %s is shared over several destinations by one bridge, so that Bridge %s and this one cannot both take from it: keep one of them, or give each one destination and its own subjects",
					d.stream, where, o.ref.path())
				return
			}
			if s, t, found := anyOverlap(d.filters, x.filters); found {
				rep.refuse("spec.subjects", v1alpha1.ReasonQueueConflict,
					"Bridge %s moves %s of queue %s of %s already, and a message can be moved to one place only: give each bridge its own subjects (%s overlaps)",
					o.ref.path(), t, d.stream, where, s)
				return
			}
		}
	}
	p.checkOwned(b, rep)
	if rep.refused || !p.suspects[b.scope] {
		return
	}
	if v := p.verdict(append(slices.Clone(p.durable[b.scope]), b)); v != nil {
		rep.refuse("spec.stream", v.reason, "%s", v.message)
	}
}

// checkOwned refuses a bridge that would make a stream which another bridge makes
// as something else, or which does not fit.
func (p *bridgeStep) checkOwned(b *bridge, rep *report) {
	d, f := b.durable, b.fabric
	if d.ownedAt.empty() {
		return
	}
	for _, o := range p.owned[streamKey{b.scope, d.target}] {
		x := o.durable
		both := d.ownedAt.and(x.ownedAt)
		if !both.empty() && (x.owned.Retention != d.owned.Retention || x.owned.MemoryStorage != d.owned.MemoryStorage) {
			rep.refuse("spec.stream.target", v1alpha1.ReasonNameCollision,
				"Bridge %s makes stream %s on %s with another retention or storage: create a Stream of that name there, or use another target",
				o.ref.path(), d.target, firstNames(f.nameList(both)))
			return
		}
	}
	last, _ := p.past.effective(b.ref).(*v1alpha1.Bridge)
	runs := copiesAlready(b.object, last)
	if len(p.owned[streamKey{b.scope, d.target}]) == 0 {
		p.use.check(f, d.ownedAt, b.account, d.owned, nil, runs, "spec.stream.target", rep)
		return
	}
	for _, m := range d.ownedAt.list() {
		extra := &federationv1.StreamSpec{Name: d.target, MemoryStorage: d.owned.MemoryStorage, MaxBytes: p.extra(b, m)}
		one := newSet(len(f.names))
		one.add(m)
		if p.use.check(f, one, b.account, extra, nil, runs, "spec.stream.target", rep); rep.refused {
			return
		}
	}
}

// extra is what a stream that the bridge makes reserves beyond what older bridges
// into it do.
func (p *bridgeStep) extra(b *bridge, m int32) int64 {
	var has int64
	for _, o := range p.owned[streamKey{b.scope, b.durable.target}] {
		if o.durable.ownedAt.has(m) {
			has = max(has, o.durable.owned.MaxBytes)
		}
	}
	return max(0, b.durable.owned.MaxBytes-has)
}

func (p *bridgeStep) reserve(b *bridge) {
	if d := b.durable; len(p.owned[streamKey{b.scope, d.target}]) == 0 {
		p.use.add(b.fabric, d.ownedAt, b.account, d.owned, nil)
		return
	}
	for _, m := range b.durable.ownedAt.list() {
		one := newSet(len(b.fabric.names))
		one.add(m)
		p.use.add(b.fabric, one, b.account, &federationv1.StreamSpec{MemoryStorage: b.durable.owned.MemoryStorage, MaxBytes: p.extra(b, m)}, nil)
	}
}

// mergeOwned is the stream that several bridges make together: the widest limits
// of all, whatever their order.
func mergeOwned(a, b *federationv1.StreamSpec) *federationv1.StreamSpec {
	if a == nil || b == nil {
		return either(a, b)
	}
	widest := func(x, y int64) int64 {
		if x == 0 || y == 0 {
			return 0
		}
		return max(x, y)
	}
	return &federationv1.StreamSpec{
		Account: a.Account, Name: a.Name, Retain: true, Retention: a.Retention, MemoryStorage: a.MemoryStorage,
		MaxBytes: widest(a.MaxBytes, b.MaxBytes), MaxMessages: widest(a.MaxMessages, b.MaxMessages),
		MaxMessagesPerSubject: widest(a.MaxMessagesPerSubject, b.MaxMessagesPerSubject), MaxAge: widest(a.MaxAge, b.MaxAge),
		DiscardNew: a.DiscardNew && b.DiscardNew, DuplicateWindow: max(a.DuplicateWindow, b.DuplicateWindow),
	}
}
