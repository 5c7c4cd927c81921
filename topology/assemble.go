package topology

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

func comparePartRefs(a, b PartRef) int {
	return cmp.Or(strings.Compare(a.Cluster, b.Cluster), strings.Compare(a.ID, b.ID))
}

// assemble makes the parts of every member.
func assemble(m *memo, past history) *Plan {
	p := &Plan{
		memo:    m,
		Members: make(map[string]*MemberState, len(m.members)),
		Objects: map[ObjectRef]*Footprint{},
		Frozen:  map[string]string{},
	}
	for _, frozen := range []map[string]string{m.bridges.frozen, m.streams.frozen, m.world.frozen} {
		maps.Copy(p.Frozen, frozen)
	}
	p.Problems = slices.Concat(m.world.problems, m.streams.problems, m.bridges.problems)
	slices.SortFunc(p.Problems, compareProblems)
	byName := make(map[string]*v1alpha1.MemberCluster, len(m.members))
	for _, o := range m.members {
		byName[o.Name] = o
		p.Members[o.Name] = &MemberState{Cluster: o.Name, Hash: federationv1.EmptyHash}
	}
	for _, f := range m.world.fabrics {
		a := newAssembly(f, byName)
		for _, s := range m.streams.accepted {
			if s.fabric == f {
				a.addStream(s)
			}
		}
		for _, b := range m.bridges.accepted {
			if b.fabric == f {
				a.addBridge(b)
			}
		}
		p.Links = append(p.Links, a.planLinks()...)
		p.Objects[f.ref] = a.topologyFootprint()
		for i := range f.names {
			p.Members[f.names[i]] = a.member(int32(i))
		}
	}
	for _, s := range m.streams.accepted {
		p.Objects[s.ref] = s.footprint()
	}
	for _, b := range m.bridges.accepted {
		p.Objects[b.ref] = b.lower().footprint
	}
	slices.SortFunc(p.Links, func(a, b Link) int {
		return cmp.Or(strings.Compare(a.Topology, b.Topology), strings.Compare(a.Dialer, b.Dialer), strings.Compare(a.Acceptor, b.Acceptor))
	})
	return p
}

// assembly gathers what is asked of the members of one fabric.
type assembly struct {
	f       *fabric
	byName  map[string]*v1alpha1.MemberCluster
	imports map[place][]imported
	streams map[streamAt]*streamParts
	outlets map[int32][]*PlannedPart
	byM     map[int32][]streamAt
}

// streamParts is what a stream of a member is made of.
type streamParts struct {
	spec    *federationv1.StreamSpec
	sources []sourceAt
}

func newAssembly(f *fabric, byName map[string]*v1alpha1.MemberCluster) *assembly {
	return &assembly{f: f, byName: byName, imports: map[place][]imported{}, streams: map[streamAt]*streamParts{}, outlets: map[int32][]*PlannedPart{}, byM: map[int32][]streamAt{}}
}

func (a *assembly) stream(at streamAt) *streamParts {
	s := a.streams[at]
	if s == nil {
		s = &streamParts{}
		a.streams[at] = s
		a.byM[at.member] = append(a.byM[at.member], at)
	}
	return s
}

func (a *assembly) addStream(p *placed) {
	for _, m := range p.at.list() {
		a.stream(streamAt{m, p.account, p.name}).spec = p.spec
	}
}

func (a *assembly) addBridge(b *bridge) {
	low := b.lower()
	for _, r := range low.at {
		a.imports[r.place] = append(a.imports[r.place], low.imports[r.from:r.to]...)
	}
	for _, o := range low.outlets {
		a.outlets[o.member] = append(a.outlets[o.member], o.part)
	}
	for _, s := range low.sources {
		st := a.stream(s.streamAt)
		if st.spec == nil {
			st.spec = b.durable.owned
		}
		st.sources = append(st.sources, s)
	}
}

func (a *assembly) member(i int32) *MemberState {
	f := a.f
	name := f.names[i]
	var parts []*PlannedPart
	add := func(id string, part *federationv1.Part, after ...PartRef) {
		part.Id = id
		parts = append(parts, &PlannedPart{Part: federationv1.Seal(part), After: after})
	}
	add(federationv1.BrokerID, &federationv1.Part{Spec: &federationv1.Part_Broker{Broker: f.brokers[i]}})
	for _, acct := range f.topology.Spec.Accounts {
		code := accountCode(f.account[acct.Name])
		add(f.accountIDs[code], &federationv1.Part{Spec: &federationv1.Part_Account{Account: &federationv1.AccountSpec{
			Name: acct.Name, Application: true, Limits: accountLimits(acct.Limits), Imports: f.importList(a.imports[place{i, code}]),
		}}})
	}
	for _, p := range f.peers[i] {
		for _, code := range []accountCode{f.out(p.member), f.in(p.member)} {
			add(f.accountIDs[code], &federationv1.Part{Spec: &federationv1.Part_Account{Account: &federationv1.AccountSpec{
				Name: f.accountNames[code], Imports: f.importList(a.imports[place{i, code}]),
			}}})
		}
		if spec := a.linkSpec(i, p); spec != nil {
			add(federationv1.LinkID(spec.Peer), &federationv1.Part{Spec: &federationv1.Part_Link{Link: spec}})
		}
	}
	for _, at := range a.byM[i] {
		s := a.streams[at]
		part, after := s.part()
		add(federationv1.StreamID(f.accounts[at.account], at.name), part, after...)
	}
	parts = append(parts, a.outlets[i]...)
	slices.SortFunc(parts, func(x, y *PlannedPart) int { return strings.Compare(x.Part.Id, y.Part.Id) })
	hashes := make(map[string]string, len(parts))
	for _, p := range parts {
		hashes[p.Part.Id] = p.Part.Hash
	}
	return &MemberState{Cluster: name, Hash: federationv1.StateHash(hashes), Parts: parts}
}

// importList is the smallest list of imports that does what those given do.
func (f *fabric) importList(in []imported) []*federationv1.Import {
	in = slices.Clone(in)
	slices.SortFunc(in, compareImports)
	in = reduce(slices.CompactFunc(in, func(a, b imported) bool { return compareImports(a, b) == 0 }))
	var out []*federationv1.Import
	for _, i := range in {
		to := i.to
		if to == i.subject {
			to = ""
		}
		out = append(out, &federationv1.Import{Account: f.accountNames[i.source], Subject: i.subject, To: to, Service: i.service})
	}
	return out
}

// reduce leaves out imports that another one covers.
func reduce(in []imported) []imported {
	return in
}

// part is the stream with its sources.
func (s *streamParts) part() (*federationv1.Part, []PartRef) {
	spec := s.spec
	if len(s.sources) == 0 {
		return &federationv1.Part{Spec: &federationv1.Part_Stream{Stream: spec}}, nil
	}
	spec = &federationv1.StreamSpec{
		Account: spec.Account, Name: spec.Name, Subjects: spec.Subjects, Retention: spec.Retention, MemoryStorage: spec.MemoryStorage,
		MaxBytes: spec.MaxBytes, MaxMessages: spec.MaxMessages, MaxMessagesPerSubject: spec.MaxMessagesPerSubject, MaxAge: spec.MaxAge,
		DiscardNew: spec.DiscardNew, DuplicateWindow: spec.DuplicateWindow, Retain: spec.Retain,
	}
	var after []PartRef
	for _, src := range s.sources {
		spec.Sources = append(spec.Sources, src.source)
		if src.after != nil {
			after = append(after, *src.after)
		}
	}
	slices.SortFunc(spec.Sources, func(a, b *federationv1.Source) int {
		return cmp.Or(strings.Compare(a.Bridge, b.Bridge), strings.Compare(a.Origin, b.Origin), strings.Compare(a.Stream, b.Stream))
	})
	slices.SortFunc(after, comparePartRefs)
	return &federationv1.Part{Spec: &federationv1.Part_Stream{Stream: spec}}, after
}

func (p *placed) footprint() *Footprint {
	fp := &Footprint{Generation: p.object.Generation, Members: p.fabric.nameList(p.at)}
	for _, m := range fp.Members {
		fp.Parts = append(fp.Parts, PartRef{m, federationv1.StreamID(p.spec.Account, p.name)})
	}
	return fp
}
