package topology

import (
	"fmt"
	"maps"
	"slices"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

const (
	// maxClaims is the most that the claims of an account may take: NATS passes them
	// around as one message.
	maxClaims = 900_000
	// maxImports is what of them imports may take, before they are written in base64,
	// and emptyClaims what the rest takes.
	maxImports  = maxClaims*3/4 - emptyClaims
	emptyClaims = 2000
)

// claimSize estimates the JWT of an account, from above: an import is written
// with the key of the other account, and all of it in base64.
func claimSize(a *federationv1.AccountSpec) int {
	n := emptyClaims
	for _, i := range a.Imports {
		n += 150 + len(i.Subject) + len(i.To)
	}
	return n * 4 / 3
}

// claimSize is what the import adds to the claims of its account, before base64.
func (x *imported) claimSize() int {
	if x.to == x.subject {
		return 150 + len(x.subject)
	}
	return 150 + len(x.subject) + len(x.to)
}

// excess names the accepted bridges that make accounts too large, and why: the
// oldest are taken as long as they fit.
//
// That is told before any part is made, because accounts that are too large are
// the most costly ones to make.
func (p *bridgeStep) excess() map[*v1alpha1.Bridge]string {
	var scratch []imported
	byFabric := map[*fabric][]*bridge{}
	for _, b := range p.accepted {
		b.lower(&scratch)
		byFabric[b.fabric] = append(byFabric[b.fabric], b)
	}
	out := map[*v1alpha1.Bridge]string{}
	for f, bridges := range byFabric {
		if full := fullPlaces(bridges); len(full) > 0 {
			maps.Copy(out, p.crowded(f, full, bridges))
		}
	}
	return out
}

// crowd is what was found for places that are too small, and the bridges there.
type crowd struct {
	full    []place
	bridges []*bridge
	excess  map[*v1alpha1.Bridge]string
}

// crowded finds which of the bridges do not fit.
func (p *bridgeStep) crowded(f *fabric, full []place, bridges []*bridge) map[*v1alpha1.Bridge]string {
	bridges = slices.DeleteFunc(bridges, func(b *bridge) bool {
		return !slices.ContainsFunc(full, func(at place) bool { return b.lowered.runAt(at) != nil })
	})
	c := crowd{full, bridges, map[*v1alpha1.Bridge]string{}}
	if p.old != nil {
		for _, o := range p.old.crowds {
			if slices.Equal(o.full, full) && slices.Equal(o.bridges, bridges) {
				c = o
				bridges = nil
			}
		}
	}
	p.crowds = append(p.crowds, c)
	has := make([]filled, len(full))
	for _, b := range bridges {
		next := slices.Clone(has)
		for i, at := range full {
			if more := b.lowered.into(at); more != nil {
				next[i] = has[i].with(more)
			}
			if next[i].size > maxImports {
				c.excess[b.object] = fmt.Sprintf("with it account %s of %s has more imports than fit the %d bytes of its claims: name fewer members or subjects, or use wildcards",
					f.accountNames[at.account], f.names[at.member], maxClaims)
				next = has
				break
			}
		}
		has = next
	}
	return c.excess
}

// fullPlaces finds the places that may be too small for all bridges, sorted.
func fullPlaces(bridges []*bridge) []place {
	total := 0
	for _, b := range bridges {
		total += b.lowered.largest
	}
	if total <= maxImports {
		return nil
	}
	// In such a place at least one bridge has its share or more.
	candidates := map[place]bool{}
	for _, b := range bridges {
		if share := maxImports / len(bridges); b.lowered.largest >= share {
			for _, r := range b.lowered.at {
				if r.size >= share {
					candidates[r.place] = true
				}
			}
		}
	}
	var out []place
	for _, p := range slices.SortedFunc(maps.Keys(candidates), comparePlaces) {
		n := 0
		for _, b := range bridges {
			if r := b.lowered.runAt(p); r != nil {
				n += r.size
			}
		}
		if n > maxImports {
			out = append(out, p)
		}
	}
	return out
}

// filled is what a place was given.
type filled struct {
	imports []imported
	size    int
}

// with is the same with more imports, without those that others cover if it
// would have too many.
func (p filled) with(more []imported) filled {
	p.imports = slices.Concat(p.imports, more)
	for i := range more {
		p.size += more[i].claimSize()
	}
	if p.size > maxImports {
		p.imports, p.size = reduced(p.imports), 0
		for i := range p.imports {
			p.size += p.imports[i].claimSize()
		}
	}
	return p
}

// sizes notes how much each place of a bridge takes of the claims there.
func (l *lowered) sizes() {
	for i := range l.at {
		r := &l.at[i]
		for j := r.from; j < r.to; j++ {
			r.size += l.imports[j].claimSize()
		}
		l.largest = max(l.largest, r.size)
	}
}

// runAt is the run of one place, or nil.
func (l *lowered) runAt(p place) *run {
	i, ok := slices.BinarySearchFunc(l.at, p, func(r run, p place) int { return comparePlaces(r.place, p) })
	if !ok {
		return nil
	}
	return &l.at[i]
}
