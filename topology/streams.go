package topology

import (
	"cmp"
	"fmt"
	"slices"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// placed is a Stream in effect.
type placed struct {
	scope
	ref    ObjectRef
	object *v1alpha1.Stream
	name   string
	at     set
	spec   *federationv1.StreamSpec // without sources
	needs  *Footprint
	// lenient: it was checked as a version that was in effect before; problems are
	// those that it has by itself.
	lenient  bool
	problems []Problem
}

func (p *placed) footprint() *Footprint {
	fp := &Footprint{Generation: p.object.Generation, Members: p.fabric.nameList(p.at)}
	id := federationv1.StreamID(p.spec.Account, p.name)
	fp.Parts = make([]PartRef, len(fp.Members))
	for i, m := range fp.Members {
		fp.Parts[i] = PartRef{m, id}
	}
	return fp
}

// streamKey names a stream on the members of a fabric.
type streamKey struct {
	scope
	name string
}

// streamStage is what all Streams come to in a world.
type streamStage struct {
	world     *world
	given     []*v1alpha1.Stream // by age
	accepted  []*placed
	byRef     map[ObjectRef]*placed
	byName    map[streamKey][]*placed
	byAccount map[scope][]*placed
	use       usage
	problems  []Problem
	frozen    map[string]string
}

func (s *streamStage) same(w *world, given []*v1alpha1.Stream) bool {
	return s != nil && s.world == w && slices.EqualFunc(s.given, given, sameObject)
}

func newStreamStage(w *world, given []*v1alpha1.Stream, past history) *streamStage {
	s := &streamStage{
		world: w, given: given,
		byRef: map[ObjectRef]*placed{}, byName: map[streamKey][]*placed{}, byAccount: map[scope][]*placed{},
		use: usage{}, frozen: map[string]string{},
	}
	var old *streamStage
	if past.prev != nil && past.prev.streams.world == w {
		old = past.prev.streams
	}
	for _, o := range given {
		rep := &report{ref: refOf(KindStream, o)}
		last, _ := past.effective(rep.ref).(*v1alpha1.Stream)
		p := s.evaluate(o, last, old, false, rep)
		s.problems = append(s.problems, rep.problems...)
		if p == nil && last != nil {
			p = s.evaluate(last, last, old, true, &report{ref: rep.ref})
		}
		if p != nil {
			s.accept(p)
			continue
		}
		if past.mayHold(rep.ref) {
			placements := []v1alpha1.Placement{o.Spec.Placement}
			if last != nil {
				placements = append(placements, last.Spec.Placement)
			}
			for _, m := range w.concerns(o.Spec.Topology, placements...) {
				s.frozen[m] = "Stream " + rep.ref.path() + " is refused"
			}
		}
	}
	return s
}

func (s *streamStage) accept(p *placed) {
	s.accepted = append(s.accepted, p)
	s.byRef[p.ref] = p
	s.byAccount[p.scope] = append(s.byAccount[p.scope], p)
	key := streamKey{p.scope, p.name}
	s.byName[key] = append(s.byName[key], p)
	s.use.add(p.fabric, p.at, p.account, p.spec, p.object.Spec.Replicas)
}

// alone checks one version of a Stream by itself, or takes over what that came to in
// the plan before; nil if it is refused.
func (s *streamStage) alone(o *v1alpha1.Stream, old *streamStage, lenient bool, rep *report) *placed {
	if old != nil {
		if p := old.byRef[rep.ref]; p != nil && p.lenient == lenient && sameObject(p.object, o) {
			rep.problems = append(rep.problems, p.problems...)
			return p
		}
	}
	p := &placed{ref: rep.ref, object: o, name: cmp.Or(o.Spec.Name, o.Name), lenient: lenient}
	p.spec = streamSpec(o, p.name, rep)
	var ok bool
	if p.scope, ok = s.world.scopeOf(o.Spec.Topology, o.Spec.Account, o.Namespace, rep); !ok {
		return nil
	}
	p.at = s.world.place(p.fabric, o.Spec.Placement, "spec.placement", lenient, rep)
	p.fabric.checkCopies(p.at, o.Spec.Replicas, rep)
	if rep.refused {
		return nil
	}
	p.problems = slices.Clone(rep.problems)
	return p
}

// evaluate checks one version of a Stream, by itself and with those before it;
// nil if it is refused. last is the version that was in effect before, or nil.
func (s *streamStage) evaluate(o, last *v1alpha1.Stream, old *streamStage, lenient bool, rep *report) *placed {
	p := s.alone(o, old, lenient, rep)
	if p == nil {
		return nil
	}
	for _, other := range s.byAccount[p.scope] {
		if !p.at.meets(other.at) {
			continue
		}
		where := func() string { return firstNames(p.fabric.nameList(p.at.and(other.at))) }
		if p.name == other.name {
			rep.refuse("spec.name", v1alpha1.ReasonNameCollision, "Stream %s places a stream %s of account %s on %s too: give one another name or place",
				other.ref.path(), p.name, o.Spec.Account, where())
			continue
		}
		if len(p.spec.Subjects) == 0 || len(other.spec.Subjects) == 0 {
			continue
		}
		if a, b, found := anyOverlap(p.spec.Subjects, other.spec.Subjects); found {
			rep.refuse("spec.subjects", v1alpha1.ReasonSubjectConflict, "%s overlaps with %s of Stream %s on %s, and a subject belongs to one stream of an account: make them disjoint",
				a, b, other.ref.path(), where())
		}
	}
	if !rep.refused {
		s.use.check(p.fabric, p.at, p.account, p.spec, o.Spec.Replicas, runsAlready(o, last), "spec.maxBytes", rep)
	}
	if rep.refused {
		return nil
	}
	if p.needs != nil {
		return p
	}
	if old != nil {
		if same := old.byRef[p.ref]; same != nil && sameObject(same.object, o) && slices.Equal(same.at, p.at) {
			return same
		}
	}
	p.needs = p.footprint()
	return p
}

// Bounds that NATS sets to times.
const (
	minAge           = 100e6 // 100 ms
	defaultDuplicate = 120e9 // 2 min
)

// streamSpec translates a Stream.
func streamSpec(o *v1alpha1.Stream, name string, rep *report) *federationv1.StreamSpec {
	s := o.Spec
	out := &federationv1.StreamSpec{
		Account:               s.Account,
		Name:                  name,
		Subjects:              slices.Clone(s.Subjects),
		MemoryStorage:         s.Storage == v1alpha1.StorageMemory,
		MaxBytes:              quantity(s.MaxBytes, 0),
		MaxMessages:           orElse(s.MaxMessages, 0),
		MaxMessagesPerSubject: orElse(s.MaxMessagesPerSubject, 0),
		DiscardNew:            s.Discard == v1alpha1.DiscardNew,
		Retain:                s.OnRemoval != v1alpha1.RemovalDelete,
		DuplicateWindow:       defaultDuplicate,
	}
	switch s.Retention {
	case v1alpha1.RetentionInterest:
		out.Retention = federationv1.StreamSpec_INTEREST
	case v1alpha1.RetentionWorkQueue:
		out.Retention = federationv1.StreamSpec_WORK_QUEUE
	}
	for i, subject := range s.Subjects {
		if msg := checkStreamSubject(subject); msg != "" {
			rep.refuse(index("spec.subjects", i), v1alpha1.ReasonInvalidSubject, "%s", msg)
			continue
		}
		for _, other := range s.Subjects[:i] {
			if overlaps(subject, other) {
				rep.refuse(index("spec.subjects", i), v1alpha1.ReasonInvalidSubject, "%s overlaps with %s of the same stream: keep the wider one", subject, other)
			}
		}
	}
	if s.MaxBytes != nil && out.MaxBytes <= 0 {
		rep.refuse("spec.maxBytes", v1alpha1.ReasonInvalidValue, "%d is not positive: leave it out for no limit", out.MaxBytes)
	}
	if s.MaxAge != nil {
		if out.MaxAge = int64(s.MaxAge.Duration); out.MaxAge < minAge {
			rep.refuse("spec.maxAge", v1alpha1.ReasonInvalidValue, "%s is less than 100ms: leave it out to keep messages for ever", s.MaxAge.Duration)
		}
		out.DuplicateWindow = min(out.DuplicateWindow, max(out.MaxAge, minAge))
	}
	if s.DuplicateWindow != nil {
		out.DuplicateWindow = int64(s.DuplicateWindow.Duration)
		switch {
		case out.DuplicateWindow < minAge:
			rep.refuse("spec.duplicateWindow", v1alpha1.ReasonInvalidValue, "%s is less than 100ms: leave it out for 2m", s.DuplicateWindow.Duration)
		case out.MaxAge > 0 && out.DuplicateWindow > out.MaxAge:
			rep.refuse("spec.duplicateWindow", v1alpha1.ReasonInvalidValue, "%s is more than maxAge (%s): ids are not remembered longer than messages", s.DuplicateWindow.Duration, s.MaxAge.Duration)
		}
	}
	return out
}

// usage is what streams reserve on each member of each fabric.
type usage map[*fabric]*reserved

type reserved struct {
	file, memory []int64
	// accounts hold the same by account, for those that are limited.
	accounts map[int32]*reserved
}

func newReserved(n int) *reserved { return &reserved{file: make([]int64, n), memory: make([]int64, n)} }

func (r *reserved) of(spec *federationv1.StreamSpec) []int64 {
	if spec.MemoryStorage {
		return r.memory
	}
	return r.file
}

func (u usage) at(f *fabric) *reserved {
	r := u[f]
	if r == nil {
		r = newReserved(len(f.names))
		r.accounts = map[int32]*reserved{}
		for _, a := range f.topology.Spec.Accounts {
			if a.Limits.Storage != nil || a.Limits.Memory != nil {
				r.accounts[f.account[a.Name]] = newReserved(len(f.names))
			}
		}
		u[f] = r
	}
	return r
}

func (r *reserved) clone() *reserved {
	c := &reserved{file: slices.Clone(r.file), memory: slices.Clone(r.memory), accounts: map[int32]*reserved{}}
	for a, x := range r.accounts {
		c.accounts[a] = x.clone()
	}
	return c
}

func (u usage) clone() usage {
	c := usage{}
	for f, r := range u {
		c[f] = r.clone()
	}
	return c
}

// add reserves what the copies of a stream may take.
func (u usage) add(f *fabric, at set, account int32, spec *federationv1.StreamSpec, copies *int32) {
	if spec.MaxBytes <= 0 {
		return
	}
	r := u.at(f)
	for m := range at.each {
		need := spec.MaxBytes * int64(f.copies(m, copies))
		r.of(spec)[m] += need
		if a := r.accounts[account]; a != nil {
			a.of(spec)[m] += need
		}
	}
}

// check refuses a stream that does not fit beside those before it. runs: it was
// there before and takes no more than it did.
func (u usage) check(f *fabric, at set, account int32, spec *federationv1.StreamSpec, copies *int32, runs bool, field string, rep *report) {
	if spec.MaxBytes <= 0 {
		return
	}
	r, kind := u.at(f), "storage"
	if spec.MemoryStorage {
		kind = "memory"
	}
	var limits v1alpha1.AccountLimits
	for _, a := range f.topology.Spec.Accounts {
		if f.account[a.Name] == account {
			limits = a.Limits
		}
	}
	inAccount := quantity(limits.Storage, -1)
	if spec.MemoryStorage {
		inAccount = quantity(limits.Memory, -1)
	}
	for m := range at.each {
		n, nodes := int64(f.copies(m, copies)), int64(leastServers(f.brokers[m]))
		server, machine := f.allowed(m, spec.MemoryStorage, runs)
		has, need := server*nodes, spec.MaxBytes*n
		each := ""
		if n > 1 {
			each = fmt.Sprintf(" (%d copies)", n)
		}
		if used := r.of(spec)[m]; used+need > has {
			if machine {
				rep.refuse(field, v1alpha1.ReasonInsufficientCapacity, "stream %s needs %d bytes%s on %s, whose machine has %d bytes of %s for streams, of which %d are reserved already: lower maxBytes, place it elsewhere, or give the member more",
					spec.Name, need, each, f.names[m], f.rooms[m].of(spec), kind, used)
				return
			}
			all := fmt.Sprintf("%d bytes", has)
			if nodes > 1 {
				all = fmt.Sprintf("%d bytes (%d servers)", has, nodes)
			}
			rep.refuse(field, v1alpha1.ReasonInsufficientCapacity, "stream %s needs %d bytes%s on %s, where %d of %s of %s are reserved already: lower maxBytes, or raise the %s of its group's broker",
				spec.Name, need, each, f.names[m], used, all, kind, kind)
			return
		}
		if a := r.accounts[account]; a != nil && inAccount >= 0 && a.of(spec)[m]+need > inAccount {
			rep.refuse(field, v1alpha1.ReasonInsufficientCapacity, "stream %s needs %d bytes%s on %s, where %d of the %d bytes of %s of account %s are reserved already: lower maxBytes, or raise the account's limit",
				spec.Name, need, each, f.names[m], a.of(spec)[m], inAccount, kind, f.accounts[account])
			return
		}
	}
}
