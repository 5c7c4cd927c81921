package topology

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/sealane/sealane/api/v1alpha1"
)

var wildcardRE = regexp.MustCompile(`^\{\{\s*[wW]ildcard\s*\(\s*([0-9]{1,3})\s*\)\s*\}\}$`)

const originPlaceholder = "{{origin}}"

// rename is a checked change of subjects. The tokens of to are literals (which
// may hold originPlaceholder), "*" with the number of the wildcard of from in
// ref, or a final ">".
type rename struct {
	from string
	to   []string
	ref  []int
}

// parseRename checks a rename. In a live one (of an Events bridge, which becomes
// an import) every wildcard must be used exactly once: NATS has to map both ways.
func parseRename(r v1alpha1.Rename, live bool) (*rename, string) {
	if !validSubject(r.From) {
		return nil, fmt.Sprintf("from: %q is no valid NATS subject: %s", r.From, subjectRule)
	}
	wildcards := 0
	for _, tok := range strings.Split(r.From, ".") {
		if tok == "*" {
			wildcards++
		}
	}
	out := &rename{from: r.From, to: strings.Split(r.To, "."), ref: make([]int, strings.Count(r.To, ".")+1)}
	used := make([]int, wildcards+1)
	for i, tok := range out.to {
		plain := strings.ReplaceAll(tok, originPlaceholder, "x")
		switch m := wildcardRE.FindStringSubmatch(tok); {
		case m != nil:
			n, _ := strconv.Atoi(m[1])
			if n < 1 || n > wildcards {
				return nil, fmt.Sprintf("to: %s stands for a wildcard that %q does not have: it has %d", tok, r.From, wildcards)
			}
			used[n]++
			out.to[i], out.ref[i] = "*", n
		case tok == "*":
			return nil, fmt.Sprintf("to: %q holds a bare *: write {{wildcard(1)}} for what the first * of from matched", r.To)
		case strings.Contains(plain, "{{") || strings.Contains(plain, "}}"):
			return nil, fmt.Sprintf("to: %q is unknown: use {{wildcard(n)}}, alone between dots, and {{origin}}", tok)
		case len(tok) > 1 && tok[0] == '$' && i > 0:
			return nil, fmt.Sprintf("to: %q would be taken for a wildcard: write {{wildcard(1)}}", tok)
		case plain != ">" && !validSubject(plain):
			return nil, fmt.Sprintf("to: %q is no valid NATS subject: %s", r.To, subjectRule)
		case plain == ">" && i != len(out.to)-1:
			return nil, fmt.Sprintf("to: %q has > before its end", r.To)
		}
	}
	if endsInRest(r.From) != (out.to[len(out.to)-1] == ">") {
		return nil, fmt.Sprintf("%q and %q must both end in > or both not: the > carries the rest of the subject over", r.From, r.To)
	}
	if !live {
		if first := out.to[0]; first[0] == '$' && first != "$KV" && first != "$O" || first[0] == '_' {
			return nil, fmt.Sprintf("to: %q begins with %q, which is reserved: use subjects of the applications", r.To, first)
		}
		return out, ""
	}
	for n := 1; n <= wildcards; n++ {
		if used[n] != 1 {
			return nil, fmt.Sprintf("to: %q must use {{wildcard(%d)}} exactly once: live messages can be renamed only in a way that can be undone", r.To, n)
		}
	}
	if msg := checkLiveSubject(out.pattern("x")); msg != "" {
		return nil, "to: " + msg
	}
	return out, ""
}

func endsInRest(s string) bool { return s == ">" || strings.HasSuffix(s, ".>") }

// render writes to with each reference to a wildcard through f, for one origin.
func (r *rename) render(origin string, f func(n int) string) string {
	toks := make([]string, len(r.to))
	for i, tok := range r.to {
		if n := r.ref[i]; n > 0 {
			toks[i] = f(n)
		} else {
			toks[i] = strings.ReplaceAll(tok, originPlaceholder, origin)
		}
	}
	return strings.Join(toks, ".")
}

// pattern is the subject that covers everything renamed.
func (r *rename) pattern(origin string) string {
	return r.render(origin, func(int) string { return "*" })
}

// local is to as an import has it: $1 for the first wildcard.
func (r *rename) local(origin string) string {
	return r.render(origin, func(n int) string { return "$" + strconv.Itoa(n) })
}

// transform is to as JetStream has it, with skip wildcards before those of from.
func (r *rename) transform(origin string, skip int) string {
	return r.render(origin, func(n int) string { return fmt.Sprintf("{{wildcard(%d)}}", n+skip) })
}

// apply is what becomes of the subjects in p, which from covers.
func (r *rename) apply(p, origin string) string {
	var wild []string
	from, rest := r.from, p
	for from != "" {
		var tf, tp string
		if tf, from, _ = cutToken(from); tf == ">" {
			break
		}
		tp, rest, _ = cutToken(rest)
		if tf == "*" {
			wild = append(wild, tp)
		}
	}
	s := r.render(origin, func(n int) string { return wild[n-1] })
	if endsInRest(r.from) {
		s = strings.TrimSuffix(s, ">") + rest
	}
	return s
}

// identity is a transform that leaves s, with skip wildcards before its own, as
// it is.
func identity(s string, skip int) string {
	toks := strings.Split(s, ".")
	n := skip
	for i, tok := range toks {
		if tok == "*" {
			n++
			toks[i] = fmt.Sprintf("{{wildcard(%d)}}", n)
		}
	}
	return strings.Join(toks, ".")
}
