package topology

import (
	"hash/maphash"
	"slices"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// Most members of a fleet import the same: what the sites behind one parent get
// differs in nothing. Lists of imports that are alike are reduced once and shared,
// and so are whole accounts where they are of the same name: that saves time, and most
// of the memory of a plan.

// sharedImports is a list of imports with what was made of it.
type sharedImports struct {
	given []imported // as it was given
	list  []*federationv1.Import
	// parts are the accounts that have it.
	parts map[accountCode]*PlannedPart
}

// sharing finds lists by a hash of their content.
type sharing struct {
	seed  maphash.Seed
	lists map[uint64][]*sharedImports
}

// share returns what is known of a list that says the same, but for the place. It
// reorders in.
func (s *sharing) share(f *fabric, in []imported) *sharedImports {
	if s.lists == nil {
		s.seed, s.lists = maphash.MakeSeed(), map[uint64][]*sharedImports{}
	}
	key := s.hash(in)
	for _, known := range s.lists[key] {
		if slices.EqualFunc(known.given, in, sayTheSame) {
			return known
		}
	}
	known := &sharedImports{given: slices.Clone(in), list: f.importList(in), parts: map[accountCode]*PlannedPart{}}
	s.lists[key] = append(s.lists[key], known)
	return known
}

func (s *sharing) hash(in []imported) uint64 {
	var h maphash.Hash
	h.SetSeed(s.seed)
	for i := range in {
		x := &in[i]
		// What else there is in them is compared.
		_, _ = h.WriteString(x.subject) // never fails
		_, _ = h.WriteString(x.to)
		_ = h.WriteByte(byte(x.source))
	}
	return h.Sum64()
}

// sayTheSame tells whether two imports say the same, each at its place.
func sayTheSame(a, b imported) bool {
	return a.source == b.source && a.service == b.service && a.renamed == b.renamed && a.subject == b.subject && a.to == b.to
}

// sharedRanges finds, of what a bridge imports into one place, whether another place
// has the same.
type sharedRanges struct {
	sharing
	known map[uint64][][2]int32
}

// add returns where in l.imports those given are, which are added if need be.
func (s *sharedRanges) add(l *lowered, in []imported) (from, to int32) {
	if s.known == nil {
		s.seed, s.known = maphash.MakeSeed(), map[uint64][][2]int32{}
	}
	key := s.hash(in)
	for _, r := range s.known[key] {
		if slices.EqualFunc(l.imports[r[0]:r[1]], in, sayTheSame) {
			return r[0], r[1]
		}
	}
	from = int32(len(l.imports))
	l.imports = append(l.imports, in...)
	to = int32(len(l.imports))
	s.known[key] = append(s.known[key], [2]int32{from, to})
	return from, to
}
