package topology

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// durable is what a Stream or Queue bridge carries.
type durable struct {
	stream, target string
	queue          bool
	paused         bool
	rateLimit      int64
	filters        []string // none covers another; empty: everything
	renames        []*rename
	flows          []flow
	origins        []*placed // Streams at the origins
	targets        []*placed // Streams at the destinations; elsewhere the bridge makes one
	// owned is the stream that the bridge makes at ownedAt.
	owned   *federationv1.StreamSpec
	ownedAt set
	// shared tells that origins share their queue over several destinations.
	shared bool
}

// flow is one copy or move; of one member to itself within it.
type flow struct{ o, d int32 }

func newDurable(b *bridge, s *streamStage) *durable {
	spec, rep := b.object.Spec, b.report
	if spec.Stream == nil || spec.Stream.Name == "" {
		rep.refuse("spec.stream", v1alpha1.ReasonInvalidValue, "a bridge of type %s needs stream.name", spec.Type)
		return &durable{}
	}
	d := &durable{
		stream: spec.Stream.Name, target: cmp.Or(spec.Stream.Target, spec.Stream.Name),
		queue: spec.Type == v1alpha1.BridgeQueue, paused: spec.Stream.Flow == v1alpha1.FlowPaused, rateLimit: orElse(spec.Stream.RateLimit, 0),
	}
	d.checkSubjects(spec, rep)
	if d.queue {
		checkQueueSubjects(spec, rep)
	}
	if rep.refused {
		return d
	}
	d.origins = s.byName[streamKey{b.scope, d.stream}]
	d.targets = s.byName[streamKey{b.scope, d.target}]
	d.findFlows(b)
	if !rep.refused {
		d.checkTargets(b)
	}
	return d
}

func (d *durable) checkSubjects(spec v1alpha1.BridgeSpec, rep *report) {
	for i, s := range spec.Subjects {
		if !validSubject(s) {
			rep.refuse(index("spec.subjects", i), v1alpha1.ReasonInvalidSubject, "%q is no valid NATS subject: %s", s, subjectRule)
		}
	}
	for i, r := range spec.Rename {
		field := index("spec.rename", i)
		if len(spec.Subjects) > 0 && !slices.Contains(spec.Subjects, r.From) {
			rep.refuse(field+".from", v1alpha1.ReasonInvalidSubject, "%s is none of the bridge's subjects: add it there", r.From)
			continue
		}
		parsed, msg := parseRename(r, false)
		if msg != "" {
			rep.refuse(field, v1alpha1.ReasonInvalidSubject, "%s", msg)
			continue
		}
		for _, o := range d.renames {
			if overlaps(o.from, r.From) {
				rep.refuse(field+".from", v1alpha1.ReasonInvalidSubject, "%s overlaps with %s, so that it is open which rule holds: make them disjoint", r.From, o.from)
			}
		}
		d.renames = append(d.renames, parsed)
	}
	d.filters = minimal(spec.Subjects)
	if slices.Contains(d.filters, ">") {
		d.filters = nil
	}
	if rate := spec.Stream.RateLimit; rate != nil && *rate < 1024 {
		rep.refuse("spec.stream.rateLimit", v1alpha1.ReasonInvalidValue, "%d is less than 1024 bytes per second: leave it out for no limit", *rate)
	}
}

// findFlows pairs the members, and checks the streams at the origins.
func (d *durable) findFlows(b *bridge) {
	f, rep := b.fabric, b.report
	have := newSet(len(f.names))
	for _, p := range d.origins {
		have = have.or(p.at)
	}
	var lacking []string
	from := newSet(len(f.names))
	to := b.to.list()
	for _, o := range b.from.list() {
		flows := false
		for _, t := range to {
			flows = flows || o != t || d.local()
		}
		switch {
		case !flows || have.has(o):
			from.add(o)
		default:
			lacking = append(lacking, f.names[o])
		}
	}
	b.partial = b.partial || len(lacking) > 0
	if len(lacking) > 0 && !b.lenient {
		rep.refuse("spec.stream.name", v1alpha1.ReasonUnknownStream, "account %s has no Stream %s on %s: create one whose placement includes it, or take it out of spec.from",
			f.accounts[b.account], d.stream, firstNames(lacking))
		return
	}
	b.from = from
	for _, o := range from.list() {
		for _, t := range to {
			if o != t || d.local() {
				d.flows = append(d.flows, flow{o, t})
			}
		}
	}
}

// local tells whether a member that is origin and destination feeds itself.
func (d *durable) local() bool { return d.target != d.stream && !d.queue }

// checkTargets checks what the streams at both ends must be, and says what the
// bridge makes where there is none.
func (d *durable) checkTargets(b *bridge) {
	f, rep := b.fabric, b.report
	d.ownedAt = newSet(len(f.names))
	feeding := newSet(len(f.names))
	for _, fl := range d.flows {
		feeding.add(fl.o)
		d.ownedAt.add(fl.d)
	}
	for _, p := range d.targets {
		if d.queue && p.spec.Retention == federationv1.StreamSpec_INTEREST && p.at.meets(d.ownedAt) {
			rep.refuse("spec.stream.target", v1alpha1.ReasonInvalidValue, "Stream %s forgets what no consumer waits for, so that moved messages could be lost: use one whose retention is WorkQueue or Limits", p.ref.path())
		}
		for _, m := range p.at.list() {
			d.ownedAt.remove(m)
		}
	}
	var first *placed
	for _, p := range d.origins {
		if !p.at.meets(feeding) {
			continue
		}
		work := p.spec.Retention == federationv1.StreamSpec_WORK_QUEUE
		if d.queue && !work {
			rep.refuse("spec.stream.name", v1alpha1.ReasonInvalidValue, "Stream %s is no work queue: use one whose retention is WorkQueue, or a bridge of type Stream to copy this one", p.ref.path())
		}
		if !d.queue && work {
			rep.refuse("spec.stream.name", v1alpha1.ReasonInvalidValue, "Stream %s is a work queue, from which a copy would take the messages: use a bridge of type Queue to move them", p.ref.path())
		}
		own := d.ownedFrom(p)
		if d.owned != nil && d.owned.MemoryStorage != own.MemoryStorage && !d.ownedAt.empty() {
			rep.refuse("spec.stream.target", v1alpha1.ReasonInvalidValue, "Streams %s and %s have different storage, so that it is open which %s shall have: create a Stream of that name at the destinations",
				first.ref.path(), p.ref.path(), d.target)
			return
		}
		if first == nil {
			first = p
		}
		d.owned = mergeOwned(d.owned, own)
		if d.local() && p.at.meets(b.from.and(b.to)) {
			d.checkApart(b, p, "is copied to its own member")
		}
	}
	if d.queue && !rep.refused {
		d.checkShared(b)
	}
}

// ownedFrom is the stream that the bridge makes for a Stream at an origin.
func (d *durable) ownedFrom(p *placed) *federationv1.StreamSpec {
	s := p.spec
	own := &federationv1.StreamSpec{
		Account: s.Account, Name: d.target, Retain: true, MemoryStorage: s.MemoryStorage,
		MaxBytes: s.MaxBytes, MaxMessages: s.MaxMessages, MaxMessagesPerSubject: s.MaxMessagesPerSubject, MaxAge: s.MaxAge,
		DiscardNew: s.DiscardNew, DuplicateWindow: s.DuplicateWindow,
	}
	if d.queue {
		own.Retention = federationv1.StreamSpec_WORK_QUEUE
	}
	return own
}

// checkApart refuses renames of part of what a subject holds. Elsewhere an outlet
// filters and the source renames; a source that must do both has one list, in
// which NATS lets no subject cover another.
func (d *durable) checkApart(b *bridge, p *placed, why string) {
	subjects := d.filters
	if len(subjects) == 0 {
		subjects = p.spec.Subjects
	}
	for i, r := range d.renames {
		field := index("spec.rename", i) + ".from"
		if len(subjects) == 0 && r.from != ">" {
			b.report.refuse(field, v1alpha1.ReasonInvalidSubject, "Stream %s, which %s, binds no subjects, so that it cannot be told what else it holds: list the bridge's subjects", p.ref.path(), why)
		}
		for _, s := range subjects {
			if overlaps(r.from, s) && !covers(r.from, s) {
				b.report.refuse(field, v1alpha1.ReasonInvalidSubject,
					"%s is only part of %s, and Stream %s %s: list subjects so that each rule changes all of one", r.from, s, p.ref.path(), why)
			}
		}
	}
}

// consumer is the durable consumer of one flow, and the subject on which it
// delivers. The hash keeps bridges apart, and origins: flow control of a consumer
// is addressed by stream and consumer alone, and acknowledges what it names.
func (d *durable) consumer(b *bridge, fl flow) (name, deliver string) {
	f := b.fabric
	origin, destination := f.names[fl.o], f.names[fl.d]
	sum := sha256.Sum256([]byte(strings.Join([]string{b.ref.path(), f.accounts[b.account], origin, d.stream, d.target}, "\x00")))
	hash := hex.EncodeToString(sum[:4])
	return "fed-" + destination + "-" + hash, strings.Join([]string{deliverTag, destination, origin, d.stream, hash}, ".")
}

func (d *durable) lower(b *bridge, w *lowering) *lowered {
	f := b.fabric
	var flows []flow
	for _, fl := range d.flows {
		if fl.o == fl.d {
			flows = append(flows, fl)
			continue
		}
		name, deliver := d.consumer(b, fl)
		routes := f.routes(fl.o, fl.d)
		for _, r := range routes {
			w.walk(r)
			w.deliver(r, deliver)
			w.acknowledge(r, "$JS.FC."+d.stream+"."+name+".>")
			w.reset(r, d.stream, name)
		}
		if len(routes) > 0 {
			flows = append(flows, fl)
		}
	}
	out := w.finish()
	destinations := map[int32][]string{}
	for _, fl := range flows {
		destinations[fl.o] = append(destinations[fl.o], f.names[fl.d])
	}
	for i, fl := range flows {
		if fl.o == fl.d && d.paused {
			continue // there is no outlet to pause; a source that comes back goes on where it was
		}
		if fl.o == fl.d {
			out.sources = append(out.sources, sourceAt{streamAt{fl.d, b.account, d.target}, d.localSource(b, fl), nil})
			continue
		}
		d.lowerFlow(b, fl, destinations[fl.o], out)
		if d.shared && (i == 0 || flows[i-1].o != fl.o) {
			out.partitions = append(out.partitions, streamAt{fl.o, b.account, d.stream})
		}
	}
	slices.SortStableFunc(out.sources, func(a, b sourceAt) int { return compareStreams(a.streamAt, b.streamAt) })
	return out
}

// lowerFlow writes the outlet at the origin and the source at the destination.
func (d *durable) lowerFlow(b *bridge, fl flow, destinations []string, out *lowered) {
	f, account := b.fabric, b.fabric.accounts[b.account]
	origin, destination := f.names[fl.o], f.names[fl.d]
	name, deliver := d.consumer(b, fl)
	outlet := &federationv1.OutletSpec{
		Bridge: b.ref.path(), Destination: destination, Account: account, Stream: d.stream, Consumer: name, DeliverSubject: deliver,
		Filters: d.filters, RateLimit: d.rateLimit, Paused: d.paused,
	}
	src := &federationv1.Source{
		Bridge: b.ref.path(), Origin: origin, Stream: d.stream, Consumer: name, DeliverSubject: deliver, ApiPrefix: resetTag + "." + origin,
	}
	switch {
	case d.shared:
		parts, old := share(destinations)
		outlet.Filters = d.partitionFilters(fl.o, parts[destination], old == destination)
		src.Transforms = d.queueTransforms(fl.o, origin)
	case d.queue:
		outlet.Filters = d.queueFilters()
		src.Transforms = d.queueTransforms(fl.o, origin)
	default:
		for _, r := range d.renames {
			src.Transforms = append(src.Transforms, &federationv1.Transform{From: r.from, To: r.transform(origin, 0)})
		}
	}
	id := federationv1.OutletID(destination, account, d.stream, name)
	part := federationv1.Seal(&federationv1.Part{Id: id, Spec: &federationv1.Part_Outlet{Outlet: outlet}})
	out.outlets = append(out.outlets, memberPart{fl.o, &PlannedPart{Part: part}})
	out.sources = append(out.sources, sourceAt{streamAt{fl.d, b.account, d.target}, src, &PartRef{origin, id}})
}

// localSource copies from a stream of the same member. Its filters are those of
// its transforms, where it has any.
func (d *durable) localSource(b *bridge, fl flow) *federationv1.Source {
	origin := b.fabric.names[fl.o]
	src := &federationv1.Source{Bridge: b.ref.path(), Stream: d.stream}
	if len(d.renames) == 0 {
		src.Filters = d.filters
		return src
	}
	for _, r := range d.renames {
		src.Transforms = append(src.Transforms, &federationv1.Transform{From: r.from, To: r.transform(origin, 0)})
	}
	for _, s := range d.held(fl.o) {
		if !slices.ContainsFunc(d.renames, func(r *rename) bool { return covers(r.from, s) }) {
			src.Transforms = append(src.Transforms, &federationv1.Transform{From: s, To: identity(s, 0)})
		}
	}
	return src
}

// footprint adds what a durable bridge needs beside its imports.
func (d *durable) footprint(b *bridge, fp *Footprint) {
	f, account := b.fabric, b.fabric.accounts[b.account]
	fp.Paused = d.paused
	for _, o := range b.lowered.outlets {
		fp.Parts = append(fp.Parts, PartRef{f.names[o.member], o.part.Part.Id})
	}
	for _, s := range b.lowered.partitions {
		fp.Parts = append(fp.Parts, PartRef{f.names[s.member], federationv1.StreamID(account, s.name)})
	}
	for _, s := range b.lowered.sources {
		fp.Parts = append(fp.Parts, PartRef{f.names[s.member], federationv1.StreamID(account, s.name)})
		fp.Flows = append(fp.Flows, Flow{cmp.Or(s.source.Origin, f.names[s.member]), f.names[s.member], account, s.name})
	}
}
