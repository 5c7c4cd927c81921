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
	lowered   []*lowered                // by age of their bridges
	owners    []*bridge                 // the same
	members   []*v1alpha1.MemberCluster // of the fabric, by its indexes
	states    []*MemberState
	links     []Link
	footprint *Footprint
}

// dirty is what of the members of a fabric has to be made anew.
type dirty struct {
	places  map[place]bool
	streams map[streamName]set
	outlets map[PartRef]int32 // to the member
	links   map[int32]bool
}

func newDirty() *dirty {
	return &dirty{map[place]bool{}, map[streamName]set{}, map[PartRef]int32{}, map[int32]bool{}}
}

// streamName is a stream, wherever it is.
type streamName struct {
	account int32
	name    string
}

func (d *dirty) addStream(f *fabric, at streamAt) {
	key := streamName{at.account, at.name}
	if d.streams[key] == nil {
		d.streams[key] = newSet(len(f.names))
	}
	d.streams[key].add(at.member)
}

func (d *dirty) addLowered(l *lowered) {
	for _, r := range l.at {
		d.places[r.place] = true
	}
	for _, o := range l.outlets {
		d.outlets[PartRef{l.fabric.names[o.member], o.part.Part.Id}] = o.member
	}
	for _, s := range l.sources {
		d.addStream(l.fabric, s.streamAt)
	}
	for _, s := range l.partitions {
		d.addStream(l.fabric, s)
	}
}

func (d *dirty) addPlaced(p *placed) {
	key := streamName{p.account, p.name}
	if before := d.streams[key]; before != nil {
		d.streams[key] = before.or(p.at)
	} else {
		d.streams[key] = slices.Clone(p.at)
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
	a := &assembled{fabric: f, members: make([]*v1alpha1.MemberCluster, len(f.names))}
	for i, at := range f.at {
		a.members[i] = m.members[at]
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
	w := &partWriter{assembled: a, dirty: d, plain: map[accountCode]*PlannedPart{}}
	w.write()
	if prev == nil {
		w.writeBrokers()
	}
	if prev == nil {
		a.states = w.states(nil)
	} else {
		a.states = w.states(prev.states)
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
	for i, m := range a.members {
		if !sameFacts(prev.members[i], m) {
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

// partWriter makes the parts that are dirty.
type partWriter struct {
	*assembled
	dirty   *dirty
	updates []partUpdate
	plain   map[accountCode]*PlannedPart // accounts without imports are alike everywhere
	shared  sharing
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
	if len(w.dirty.places) == 0 {
		return nil
	}
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
	if len(w.dirty.outlets) == 0 {
		return
	}
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

func comparePartRefs(a, b PartRef) int {
	return cmp.Or(strings.Compare(a.Cluster, b.Cluster), strings.Compare(a.ID, b.ID))
}

// assemble makes the plan of all fabrics.
func assemble(m *memo, past history) *Plan {
	p := &Plan{memo: m, Members: make(map[string]*MemberState, len(m.members)), Objects: make(map[ObjectRef]*Footprint, len(m.effective)), Frozen: map[string]string{}}
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
	if len(p.Members) < len(m.members) {
		for _, o := range m.members {
			if p.Members[o.Name] == nil {
				p.Members[o.Name] = &MemberState{Cluster: o.Name, Hash: federationv1.EmptyHash}
			}
		}
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
