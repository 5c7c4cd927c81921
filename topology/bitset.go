package topology

import (
	"math/bits"
	"slices"
)

// set is a set of the members of a fabric, by index.
type set []uint64

func newSet(n int) set { return make(set, (n+63)/64) }

func (s set) add(i int32)      { s[i/64] |= 1 << (i % 64) }
func (s set) remove(i int32)   { s[i/64] &^= 1 << (i % 64) }
func (s set) has(i int32) bool { return s[i/64]&(1<<(i%64)) != 0 }

func (s set) len() int {
	n := 0
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

func (s set) empty() bool {
	for _, w := range s {
		if w != 0 {
			return false
		}
	}
	return true
}

// each yields the indexes in order.
func (s set) each(yield func(int32) bool) {
	for i, w := range s {
		for ; w != 0; w &= w - 1 {
			if !yield(int32(i*64 + bits.TrailingZeros64(w))) {
				return
			}
		}
	}
}

// list is the indexes in order.
func (s set) list() []int32 { return slices.AppendSeq(make([]int32, 0, s.len()), s.each) }

func (s set) and(o set) set {
	out := make(set, len(s))
	for i := range s {
		out[i] = s[i] & o[i]
	}
	return out
}

func (s set) or(o set) set {
	out := make(set, len(s))
	for i := range s {
		out[i] = s[i] | o[i]
	}
	return out
}

// meets tells whether the two have a member in common.
func (s set) meets(o set) bool {
	for i := range s {
		if s[i]&o[i] != 0 {
			return true
		}
	}
	return false
}

// pairs is how many pairs of different members there are of one each.
func pairs(from, to set) int { return from.len()*to.len() - from.and(to).len() }

// somePair is a pair of different members, the first in order; ok is false if
// there is none.
func somePair(from, to set) (a, b int32, ok bool) {
	if to.empty() {
		return 0, 0, false
	}
	for a := range from.each {
		for b := range to.each {
			if a != b {
				return a, b, true
			}
		}
	}
	return 0, 0, false
}

// bitset is a set of numbers that grows as needed.
type bitset []uint64

// add tells whether i was not in it before.
func (b *bitset) add(i int32) bool {
	for int(i/64) >= len(*b) {
		*b = append(*b, 0)
	}
	w, bit := &(*b)[i/64], uint64(1)<<(i%64)
	if *w&bit != 0 {
		return false
	}
	*w |= bit
	return true
}

func (b bitset) has(i int32) bool { return int(i/64) < len(b) && b[i/64]&(1<<(i%64)) != 0 }
