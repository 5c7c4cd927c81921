package topology

import (
	"cmp"
	"slices"
	"strings"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// streamParts is what a stream of a member is made of.
type streamParts struct {
	spec      *federationv1.StreamSpec
	owned     *federationv1.StreamSpec
	transform *federationv1.Transform
	sources   []sourceAt
}

// writeStreams makes the streams that are dirty.
func (w *partWriter) writeStreams() {
	if len(w.dirty.streams) == 0 {
		return
	}
	plain := map[streamName][]*placed{}
	for _, p := range w.placed {
		key := streamName{p.account, p.name}
		plain[key] = append(plain[key], p)
	}
	fed := w.fedStreams()
	for key, at := range w.dirty.streams {
		w.writeStream(key, at, plain[key], fed[key])
	}
}

// fedStreams are the dirty streams that bridges have a part in, by member.
func (w *partWriter) fedStreams() map[streamName]map[int32]*streamParts {
	out := map[streamName]map[int32]*streamParts{}
	find := func(at streamAt) *streamParts {
		key := streamName{at.account, at.name}
		if dirty := w.dirty.streams[key]; dirty == nil || !dirty.has(at.member) {
			return nil
		}
		if out[key] == nil {
			out[key] = map[int32]*streamParts{}
		}
		if out[key][at.member] == nil {
			out[key][at.member] = &streamParts{}
		}
		return out[key][at.member]
	}
	for i, l := range w.lowered {
		for _, src := range l.sources {
			if s := find(src.streamAt); s != nil {
				s.sources = append(s.sources, src)
				s.owned = mergeOwned(s.owned, w.owners[i].durable.owned)
			}
		}
		for _, at := range l.partitions {
			if s := find(at); s != nil {
				s.transform = partitionTransform()
			}
		}
	}
	return out
}

// writeStream makes a stream on some members: those that Streams place there, and
// what bridges make of them or have made for them.
func (w *partWriter) writeStream(key streamName, at set, plain []*placed, fed map[int32]*streamParts) {
	type kind struct {
		placed *placed
		copies int32
	}
	made := map[kind]*PlannedPart{} // those without sources are alike
	id := federationv1.StreamID(w.fabric.accounts[key.account], key.name)
	for m := range at.each {
		var k kind
		if i := slices.IndexFunc(plain, func(p *placed) bool { return p.at.has(m) }); i >= 0 {
			k = kind{plain[i], w.fabric.copies(m, plain[i].object.Spec.Replicas)}
		}
		s := fed[m]
		if s == nil {
			if k.placed != nil && made[k] == nil {
				made[k] = (&streamParts{spec: withCopies(k.placed.spec, k.copies)}).part(id)
			}
			w.put(m, id, made[k])
			continue
		}
		if k.placed != nil {
			s.spec = withCopies(k.placed.spec, k.copies)
		}
		s.owned = withCopies(s.owned, w.fabric.copies(m, nil))
		w.put(m, id, s.part(id))
	}
}

// part is the stream with its sources; nil if there is none.
func (s *streamParts) part(id string) *PlannedPart {
	spec := either(s.spec, s.owned)
	if spec == nil {
		return nil
	}
	if len(s.sources) == 0 && s.transform == nil {
		return sealed(id, &federationv1.Part{Spec: &federationv1.Part_Stream{Stream: spec}})
	}
	spec = &federationv1.StreamSpec{
		Account: spec.Account, Name: spec.Name, Subjects: spec.Subjects, Retention: spec.Retention, MemoryStorage: spec.MemoryStorage,
		MaxBytes: spec.MaxBytes, MaxMessages: spec.MaxMessages, MaxMessagesPerSubject: spec.MaxMessagesPerSubject, MaxAge: spec.MaxAge,
		DiscardNew: spec.DiscardNew, DuplicateWindow: spec.DuplicateWindow, Retain: spec.Retain, Transform: s.transform, Replicas: spec.Replicas,
	}
	slices.SortFunc(s.sources, func(a, b sourceAt) int {
		return cmp.Or(strings.Compare(a.source.Bridge, b.source.Bridge), strings.Compare(a.source.Origin, b.source.Origin))
	})
	var after []PartRef
	for _, src := range s.sources {
		spec.Sources = append(spec.Sources, src.source)
		if src.after != nil {
			after = append(after, *src.after)
		}
	}
	slices.SortFunc(after, comparePartRefs)
	return sealed(id, &federationv1.Part{Spec: &federationv1.Part_Stream{Stream: spec}}, after...)
}
