package topology

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// assembled is what all members of one fabric shall hold, with what is needed to
// tell what changes next time.
type assembled struct {
	fabric    *fabric
	placed    []*placed
	lowered   []*lowered // by age of their bridges
	owners    []*bridge  // the same
	members   map[string]*v1alpha1.MemberCluster
	states    []*MemberState
	links     []Link
	footprint *Footprint
}

// dirty is what of the members of a fabric has to be made anew.
type dirty struct {
	places  map[place]bool
	streams map[streamAt]bool
	outlets map[PartRef]int32 // to the member
	links   map[int32]bool
}

func newDirty() *dirty {
	return &dirty{map[place]bool{}, map[streamAt]bool{}, map[PartRef]int32{}, map[int32]bool{}}
}

func (d *dirty) addLowered(l *lowered) {
	for _, r := range l.at {
		d.places[r.place] = true
	}
	for _, o := range l.outlets {
		d.outlets[PartRef{l.fabric.names[o.member], o.part.Part.Id}] = o.member
	}
	for _, s := range l.sources {
		d.streams[s.streamAt] = true
	}
	for _, s := range l.partitions {
		d.streams[s] = true
	}
}

func (d *dirty) addPlaced(p *placed) {
	for _, m := range p.at.list() {
		d.streams[streamAt{m, p.account, p.name}] = true
	}
}

// addMember marks the links of a member at both ends.
func (d *dirty) addMember(f *fabric, i int32) {
	d.links[i] = true
	for _, p := range f.peers[i] {
		d.links[p.member] = true
	}
}

// assembleFabric makes the parts of all members of a fabric, or those that differ
// from prev, which may be nil.
func assembleFabric(f *fabric, m *memo, prev *assembled) *assembled {
	a := &assembled{fabric: f, members: m.world.byName}
	if len(m.members) > 0 && &m.members[0] != &m.world.members[0] {
		a.members = make(map[string]*v1alpha1.MemberCluster, len(m.members))
		for _, o := range m.members {
			a.members[o.Name] = o
		}
	}
	for _, p := range m.streams.accepted {
		if p.fabric == f {
			a.placed = append(a.placed, p)
		}
	}
	for _, b := range m.bridges.accepted {
		if b.fabric == f {
			a.lowered = append(a.lowered, b.lowered)
			a.owners = append(a.owners, b)
		}
	}
	d := newDirty()
	if prev == nil {
		a.makeAll(d)
	} else {
		a.compare(prev, d)
	}
	w := &partWriter{assembled: a, dirty: d, updates: make([]map[string]*PlannedPart, len(f.names)), plain: map[accountCode]*PlannedPart{}, streams: map[plainStream]*PlannedPart{}}
	w.write()
	if prev == nil {
		w.writeBrokers()
	}
	a.states = make([]*MemberState, len(f.names))
	for i := range f.names {
		var old *MemberState
		if prev != nil {
			old = prev.states[i]
		}
		a.states[i] = updated(f.names[i], old, w.updates[i])
	}
	if prev != nil && len(d.links) == 0 {
		a.links, a.footprint = prev.links, prev.footprint
	} else {
		a.links, a.footprint = a.planLinks(), a.topologyFootprint()
	}
	return a
}

// makeAll marks everything.
func (a *assembled) makeAll(d *dirty) {
	f := a.fabric
	for _, p := range a.placed {
		d.addPlaced(p)
	}
	for _, l := range a.lowered {
		d.addLowered(l)
	}
	for i := range f.names {
		m := int32(i)
		d.links[m] = true
		for acct := range f.accounts {
			d.places[place{m, accountCode(acct)}] = true
		}
		for _, p := range f.peers[m] {
			d.places[place{m, f.out(p.member)}] = true
			d.places[place{m, f.in(p.member)}] = true
		}
	}
}

// compare marks what differs from prev.
func (a *assembled) compare(prev *assembled, d *dirty) {
	differ(prev.lowered, a.lowered, d.addLowered)
	differ(prev.placed, a.placed, d.addPlaced)
	for i, name := range a.fabric.names {
		if x, y := prev.members[name], a.members[name]; x != y && !sameFacts(x, y) {
			d.addMember(a.fabric, int32(i))
		}
	}
}

// differ calls fn for what only one of the two lists has.
func differ[T comparable](a, b []T, fn func(T)) {
	in := make(map[T]bool, len(a))
	for _, x := range a {
		in[x] = true
	}
	for _, x := range b {
		if in[x] {
			delete(in, x)
		} else {
			fn(x)
		}
	}
	for x := range in {
		fn(x)
	}
}

// updated is a member's state with some parts replaced; a nil one is removed.
func updated(cluster string, old *MemberState, parts map[string]*PlannedPart) *MemberState {
	if old != nil && len(parts) == 0 {
		return old
	}
	var before []*PlannedPart
	if old != nil {
		before = old.Parts
	}
	s := &MemberState{Cluster: cluster, Parts: make([]*PlannedPart, 0, len(before)+len(parts))}
	for _, id := range slices.Sorted(maps.Keys(parts)) {
		at, found := slices.BinarySearchFunc(before, id, func(p *PlannedPart, id string) int { return strings.Compare(p.Part.Id, id) })
		s.Parts, before = append(s.Parts, before[:at]...), before[at:]
		if found {
			before = before[1:]
		}
		if p := parts[id]; p != nil {
			s.Parts = append(s.Parts, p)
		}
	}
	s.Parts = append(s.Parts, before...)
	s.Hash = federationv1.SortedStateHash(func(yield func(id, hash string) bool) {
		for _, p := range s.Parts {
			if !yield(p.Part.Id, p.Part.Hash) {
				return
			}
		}
	})
	return s
}

// partWriter makes the parts that are dirty.
type partWriter struct {
	*assembled
	dirty   *dirty
	updates []map[string]*PlannedPart
	plain   map[accountCode]*PlannedPart // accounts without imports are alike everywhere
	streams map[plainStream]*PlannedPart // so are streams without sources
	shared  sharing
}

type plainStream struct {
	id   string
	spec *federationv1.StreamSpec
}

func (w *partWriter) put(member int32, id string, p *PlannedPart) {
	if w.updates[member] == nil {
		w.updates[member] = map[string]*PlannedPart{}
	}
	w.updates[member][id] = p
}

func sealed(id string, part *federationv1.Part, after ...PartRef) *PlannedPart {
	part.Id = id
	return &PlannedPart{Part: federationv1.Seal(part), After: after}
}

func (w *partWriter) write() {
	for p, imports := range w.gather() {
		w.put(p.member, w.fabric.accountIDs[p.account], w.account(p, imports))
	}
	w.writeStreams()
	w.writeOutlets()
	for m := range w.dirty.links {
		for _, p := range w.fabric.peers[m] {
			id := federationv1.LinkID(w.fabric.names[p.member])
			if spec := w.linkSpec(m, p); spec != nil {
				var after []PartRef
				if spec.Role == federationv1.LinkSpec_DIAL {
					after = w.fabric.beforeSplit(w.fabric.links[p.link])
				}
				w.put(m, id, sealed(id, &federationv1.Part{Spec: &federationv1.Part_Link{Link: spec}}, after...))
			} else {
				w.put(m, id, nil)
			}
		}
	}
}

// gather finds all that is imported into the dirty places.
func (w *partWriter) gather() map[place][]imported {
	size := make(map[place]int, len(w.dirty.places))
	for p := range w.dirty.places {
		size[p] = 0
	}
	type placedRun struct {
		place
		in []imported
	}
	var runs []placedRun
	note := func(p place, in []imported) {
		size[p] += len(in)
		runs = append(runs, placedRun{p, in})
	}
	for _, l := range w.lowered {
		if len(l.at) > 8*len(size) {
			for p := range size {
				if in := l.into(p); in != nil {
					note(p, in)
				}
			}
			continue
		}
		for _, r := range l.at {
			if _, ok := size[r.place]; ok {
				note(r.place, l.imports[r.from:r.to])
			}
		}
	}
	out := make(map[place][]imported, len(size))
	for p, n := range size {
		out[p] = make([]imported, 0, n)
	}
	for _, r := range runs {
		out[r.place] = append(out[r.place], r.in...)
	}
	return out
}

func (w *partWriter) account(p place, imports []imported) *PlannedPart {
	f := w.fabric
	if len(imports) == 0 {
		if same := w.plain[p.account]; same != nil {
			return same
		}
	}
	alike := w.shared.share(f, imports)
	if same := alike.parts[p.account]; same != nil {
		return same
	}
	spec := &federationv1.AccountSpec{Name: f.accountNames[p.account], Imports: alike.list}
	if f.application(p.account) {
		spec.Application, spec.Limits, spec.Namespaces = true, f.limits[p.account], f.spaces[p.account]
	}
	part := sealed(f.accountIDs[p.account], &federationv1.Part{Spec: &federationv1.Part_Account{Account: spec}})
	if len(imports) == 0 {
		w.plain[p.account] = part
	}
	alike.parts[p.account] = part
	return part
}

func (w *partWriter) writeBrokers() {
	made := map[*federationv1.BrokerSpec]*PlannedPart{}
	for i, spec := range w.fabric.brokers {
		if made[spec] == nil {
			made[spec] = sealed(federationv1.BrokerID, &federationv1.Part{Spec: &federationv1.Part_Broker{Broker: spec}})
		}
		p := made[spec]
		if w.fabric.several[i] {
			p = &PlannedPart{Part: p.Part, After: w.fabric.beforeGrowth(int32(i))}
		}
		w.put(int32(i), federationv1.BrokerID, p)
	}
}

// beforeGrowth are the links that a member accepts, as those who dial hold them.
// They may be split while its broker has one server, and must not be any more when
// it has several. The order within the member is its own.
func (f *fabric) beforeGrowth(member int32) []PartRef {
	var out []PartRef
	for _, p := range f.peers[member] {
		if l := f.links[p.link]; l.acceptor == member {
			out = append(out, PartRef{f.names[l.dialer], federationv1.LinkID(f.names[member])}) // peers are sorted
		}
	}
	return out
}

// beforeSplit is the broker of the acceptor of a link that may be split only when
// it has one server. The order within the dialer is its own.
func (f *fabric) beforeSplit(l link) []PartRef {
	if !l.split {
		return nil
	}
	return []PartRef{{f.names[l.acceptor], federationv1.BrokerID}}
}

// writeOutlets writes the outlets that are and removes those that were.
func (w *partWriter) writeOutlets() {
	for ref, m := range w.dirty.outlets {
		w.put(m, ref.ID, nil)
	}
	for _, l := range w.lowered {
		for _, o := range l.outlets {
			if _, changed := w.dirty.outlets[PartRef{w.fabric.names[o.member], o.part.Part.Id}]; changed {
				w.put(o.member, o.part.Part.Id, o.part)
			}
		}
	}
}

// streamParts is what a stream of a member is made of.
type streamParts struct {
	spec      *federationv1.StreamSpec
	owned     *federationv1.StreamSpec
	transform *federationv1.Transform
	sources   []sourceAt
}

func (w *partWriter) writeStreams() {
	if len(w.dirty.streams) == 0 {
		return
	}
	streams := make(map[streamAt]*streamParts, len(w.dirty.streams))
	for at := range w.dirty.streams {
		streams[at] = &streamParts{}
	}
	for _, p := range w.placed {
		for _, m := range p.at.list() {
			if s := streams[streamAt{m, p.account, p.name}]; s != nil {
				s.spec = withCopies(p.spec, w.fabric.copies(m, p.object.Spec.Replicas))
			}
		}
	}
	for i, l := range w.lowered {
		for _, src := range l.sources {
			if s := streams[src.streamAt]; s != nil {
				s.sources = append(s.sources, src)
				s.owned = mergeOwned(s.owned, w.owners[i].durable.owned)
			}
		}
		for _, at := range l.partitions {
			if s := streams[at]; s != nil {
				s.transform = partitionTransform()
			}
		}
	}
	for at, s := range streams {
		s.owned = withCopies(s.owned, w.fabric.copies(at.member, nil))
		id := federationv1.StreamID(w.fabric.accounts[at.account], at.name)
		if len(s.sources) > 0 || s.transform != nil {
			w.put(at.member, id, s.part(id))
			continue
		}
		key := plainStream{id, either(s.spec, s.owned)}
		p, made := w.streams[key]
		if !made {
			p = s.part(id)
			w.streams[key] = p
		}
		w.put(at.member, id, p)
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

func (p *placed) footprint() *Footprint {
	fp := &Footprint{Generation: p.object.Generation, Members: p.fabric.nameList(p.at)}
	for _, m := range fp.Members {
		fp.Parts = append(fp.Parts, PartRef{m, federationv1.StreamID(p.spec.Account, p.name)})
	}
	return fp
}

func comparePartRefs(a, b PartRef) int {
	return cmp.Or(strings.Compare(a.Cluster, b.Cluster), strings.Compare(a.ID, b.ID))
}

// assemble makes the plan of all fabrics.
func assemble(m *memo, past history) *Plan {
	p := &Plan{memo: m, Members: make(map[string]*MemberState, len(m.members)), Objects: make(map[ObjectRef]*Footprint, len(m.effective)), Frozen: map[string]string{}}
	for _, o := range m.members {
		p.Members[o.Name] = &MemberState{Cluster: o.Name, Hash: federationv1.EmptyHash}
	}
	m.fabrics = map[*fabric]*assembled{}
	for _, f := range m.world.fabrics {
		var prev *assembled
		if past.prev != nil {
			prev = past.prev.fabrics[f]
		}
		a := assembleFabric(f, m, prev)
		m.fabrics[f] = a
		for _, s := range a.states {
			p.Members[s.Cluster] = s
		}
		p.Links = append(p.Links, a.links...)
		p.Objects[f.ref] = a.footprint
	}
	for _, frozen := range []map[string]string{m.bridges.frozen, m.streams.frozen, m.world.frozen} {
		maps.Copy(p.Frozen, frozen)
	}
	p.Problems = slices.Concat(m.world.problems, m.streams.problems, m.bridges.problems)
	slices.SortFunc(p.Problems, compareProblems)
	p.Problems = slices.Compact(p.Problems)
	for _, s := range m.streams.accepted {
		p.Objects[s.ref] = s.needs
	}
	for _, b := range m.bridges.accepted {
		p.Objects[b.ref] = b.lowered.footprint
	}
	slices.SortFunc(p.Links, func(a, b Link) int {
		return cmp.Or(strings.Compare(a.Topology, b.Topology), strings.Compare(a.Dialer, b.Dialer), strings.Compare(a.Acceptor, b.Acceptor))
	})
	return p
}
