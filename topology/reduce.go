package topology

import (
	"slices"
	"strings"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// importList is the smallest list of imports that does what those given do; it
// reorders in.
func (f *fabric) importList(in []imported) []*federationv1.Import {
	in = reduced(in)
	if len(in) == 0 {
		return nil
	}
	out := make([]*federationv1.Import, len(in))
	store := make([]federationv1.Import, len(in))
	for i, x := range in {
		to := x.to
		if to == x.subject {
			to = ""
		}
		o := &store[i]
		o.Account, o.Subject, o.To, o.Service = f.accountNames[x.source], x.subject, to, x.service
		out[i] = o
	}
	return out
}

// reduced are the imports that do what those given do; it reorders in.
func reduced(in []imported) []imported {
	slices.SortFunc(in, compareImports)
	return reduce(slices.CompactFunc(in, func(a, b imported) bool { return compareImports(a, b) == 0 }))
}

// reduce leaves out the imports that another one of the list covers: two that
// overlap would deliver twice. The list is sorted and without equals. Imports
// that can cover each other stand together, because those of one source and plane
// begin with the same plain tokens.
func reduce(in []imported) []imported {
	out := in[:0]
	for from := 0; from < len(in); {
		to := from + 1
		if stem := plainStem(in[from].subject); stem != in[from].subject {
			for to < len(in) && in[to].source == in[from].source && in[to].service == in[from].service && strings.HasPrefix(in[to].subject, stem) {
				to++
			}
		}
		group := in[from:to]
		from = to
		if len(group) == 1 {
			out = append(out, group[0])
			continue
		}
		group = slices.Clone(group) // out grows over it
		wide := wideImports(group)
		for _, x := range group {
			if x.renamed || !wide.cover(x) {
				out = append(out, x)
			}
		}
	}
	return out
}

// wide are the imports that may cover others, by what of their subjects stands
// before the first wildcard: of a subject that one covers, the same tokens do.
type wide map[string][]imported

func wideImports(group []imported) wide {
	out := wide{}
	for _, x := range group {
		if at := wildcardAt(x.subject); at >= 0 && !x.renamed {
			out[x.subject[:at]] = append(out[x.subject[:at]], x)
		}
	}
	return out
}

// cover tells whether one of them covers x.
func (w wide) cover(x imported) bool {
	if len(w) == 0 {
		return false
	}
	for at := 0; ; at++ {
		if slices.ContainsFunc(w[x.subject[:at]], x.coveredBy) {
			return true
		}
		next := strings.IndexByte(x.subject[at:], '.')
		if next < 0 {
			return false
		}
		at += next
	}
}

// wildcardAt is where the first token that is a wildcard begins; -1: none is.
func wildcardAt(s string) int {
	for at := 0; ; at++ {
		token, _, more := strings.Cut(s[at:], ".")
		if token == "*" || token == ">" {
			return at
		}
		if !more {
			return -1
		}
		at += len(token)
	}
}

func (x imported) coveredBy(w imported) bool {
	return !w.renamed && w.subject != x.subject && covers(w.subject, x.subject) && covers(w.to, x.to)
}

// plainStem is the part of a subject that is never a wildcard: the tag with the
// first token after it, or the first token. It ends in a dot if more follows.
func plainStem(s string) string {
	n := 1
	if first, _, _ := strings.Cut(s, "."); reservedToken(first) {
		n = 4
	}
	at := 0
	for range n {
		i := strings.IndexByte(s[at:], '.')
		if i < 0 {
			return s
		}
		at += i + 1
	}
	return s[:at]
}
