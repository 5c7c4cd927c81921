package topology

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

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
			rep.refuse(index("spec.subjects", i), v1alpha1.ReasonInvalidSubject, "%q is no valid NATS subject: use tokens separated by dots, with > only at the end", s)
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
		for _, m := range p.at.list() {
			d.ownedAt.remove(m)
		}
	}
	for _, p := range d.origins {
		if !p.at.meets(feeding) {
			continue
		}
		work := p.spec.Retention == federationv1.StreamSpec_WORK_QUEUE
		if d.queue && !work {
			rep.refuse("spec.stream.name", v1alpha1.ReasonInvalidValue, "Stream %s is no work queue: set its retention to WorkQueue, or use a bridge of type Stream to copy it", p.ref.path())
		}
		if !d.queue && work {
			rep.refuse("spec.stream.name", v1alpha1.ReasonInvalidValue, "Stream %s is a work queue, from which a copy would take the messages: use a bridge of type Queue to move them", p.ref.path())
		}
		if d.owned == nil {
			d.owned = &federationv1.StreamSpec{
				Account: f.accounts[b.account], Name: d.target, Retain: true, MemoryStorage: p.spec.MemoryStorage,
				MaxBytes: p.spec.MaxBytes, MaxMessages: p.spec.MaxMessages, MaxMessagesPerSubject: p.spec.MaxMessagesPerSubject, MaxAge: p.spec.MaxAge,
				DiscardNew: p.spec.DiscardNew, DuplicateWindow: p.spec.DuplicateWindow,
			}
			if d.queue {
				d.owned.Retention = federationv1.StreamSpec_WORK_QUEUE
			}
		}
	}
}

// hash keeps the consumers of bridges apart.
func (d *durable) hash(b *bridge) string {
	sum := sha256.Sum256([]byte(b.ref.path() + "\x00" + b.fabric.accounts[b.account] + "\x00" + d.stream + "\x00" + d.target))
	return hex.EncodeToString(sum[:4])
}

func (d *durable) lower(b *bridge, w *lowering) *lowered {
	f, hash, account := b.fabric, d.hash(b), b.fabric.accounts[b.account]
	type names struct{ consumer, deliver string }
	nameOf := func(fl flow) names {
		return names{"fed-" + f.names[fl.d] + "-" + hash, fmt.Sprintf("%s.%s.%s.%s.%s", deliverTag, f.names[fl.d], f.names[fl.o], d.stream, hash)}
	}
	routed := map[flow]bool{}
	for _, fl := range d.flows {
		if fl.o == fl.d {
			routed[fl] = true
			continue
		}
		n := nameOf(fl)
		routes, _, _ := f.routes(fl.o, fl.d)
		for _, r := range routes {
			routed[fl] = true
			w.walk(r)
			w.deliver(r, n.deliver)
			w.reply(r, "$JS.FC."+d.stream+"."+n.consumer+".>")
			w.reset(r, d.stream, n.consumer)
		}
	}
	out := w.finish()
	for _, fl := range d.flows {
		if !routed[fl] {
			continue
		}
		src := &federationv1.Source{Bridge: b.ref.path(), Stream: d.stream}
		at := sourceAt{streamAt: streamAt{fl.d, b.account, d.target}, source: src}
		if fl.o == fl.d {
			d.localSource(src, f.names[fl.o])
			out.sources = append(out.sources, at)
			continue
		}
		n := nameOf(fl)
		id := federationv1.OutletID(f.names[fl.d], account, d.stream, n.consumer)
		out.outlets = append(out.outlets, memberPart{fl.o, &PlannedPart{Part: federationv1.Seal(&federationv1.Part{Id: id, Spec: &federationv1.Part_Outlet{Outlet: &federationv1.OutletSpec{
			Bridge: b.ref.path(), Destination: f.names[fl.d], Account: account, Stream: d.stream, Consumer: n.consumer, DeliverSubject: n.deliver,
			Filters: d.filters, RateLimit: d.rateLimit, Paused: d.paused,
		}}})}})
		src.Origin, src.Consumer, src.DeliverSubject, src.ApiPrefix = f.names[fl.o], n.consumer, n.deliver, resetTag+"."+f.names[fl.o]
		for _, r := range d.renames {
			src.Transforms = append(src.Transforms, &federationv1.Transform{From: r.from, To: r.transform(f.names[fl.o], 0)})
		}
		at.after = &PartRef{f.names[fl.o], id}
		out.sources = append(out.sources, at)
	}
	return out
}

func (d *durable) localSource(src *federationv1.Source, origin string) {
	src.Filters = d.filters
	for _, r := range d.renames {
		src.Transforms = append(src.Transforms, &federationv1.Transform{From: r.from, To: r.transform(origin, 0)})
	}
}

func (d *durable) footprint(b *bridge, fp *Footprint) {
	f, account := b.fabric, b.fabric.accounts[b.account]
	fp.Paused = d.paused
	for _, o := range b.lowered.outlets {
		fp.Parts = append(fp.Parts, PartRef{f.names[o.member], o.part.Part.Id})
	}
	for _, s := range b.lowered.sources {
		fp.Parts = append(fp.Parts, PartRef{f.names[s.member], federationv1.StreamID(account, s.name)})
		fp.Flows = append(fp.Flows, Flow{cmp.Or(s.source.Origin, f.names[s.member]), f.names[s.member], account, s.name})
	}
}
