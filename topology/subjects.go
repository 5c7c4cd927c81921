package topology

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Subjects are NATS subjects with the wildcards "*" (one token) and, last, ">"
// (one token or more). The functions here agree with those of nats-server; a
// property test holds them to it.

// cutToken splits off the first token. more is false after the last.
func cutToken(s string) (tok, rest string, more bool) {
	return strings.Cut(s, ".")
}

// validSubject tells whether s is a subject to subscribe to. NATS takes tokens
// such as a*b too, as plain ones, but not everywhere: they are not valid here.
func validSubject(s string) bool {
	if s == "" || !utf8.ValidString(s) || strings.ContainsAny(s, "\x00\t\n\f\r \uFFFD") {
		return false
	}
	for more := true; more; {
		var tok string
		tok, s, more = cutToken(s)
		if tok == "" || tok == ">" && more || len(tok) > 1 && strings.ContainsAny(tok, "*>") {
			return false
		}
	}
	return true
}

// covers tells whether every subject that inner matches is matched by outer.
func covers(outer, inner string) bool {
	for {
		to, ro, mo := cutToken(outer)
		ti, ri, mi := cutToken(inner)
		switch {
		case to == ">":
			return true
		case ti == ">", ti == "*" && to != "*", to != "*" && to != ti, mo != mi:
			return false
		case !mo:
			return true
		}
		outer, inner = ro, ri
	}
}

// overlaps tells whether some subject is matched by both.
func overlaps(a, b string) bool {
	for {
		ta, ra, ma := cutToken(a)
		tb, rb, mb := cutToken(b)
		switch {
		case ta == ">" || tb == ">":
			return true
		case ta != tb && ta != "*" && tb != "*", ma != mb:
			return false
		case !ma:
			return true
		}
		a, b = ra, rb
	}
}

// intersect is the subject that matches what both match.
func intersect(a, b string) (string, bool) {
	if !overlaps(a, b) {
		return "", false
	}
	var out []string
	for {
		ta, ra, ma := cutToken(a)
		tb, rb, _ := cutToken(b)
		switch {
		case ta == ">":
			return strings.Join(append(out, b), "."), true
		case tb == ">":
			return strings.Join(append(out, a), "."), true
		case ta == "*":
			out = append(out, tb)
		default:
			out = append(out, ta)
		}
		if !ma {
			return strings.Join(out, "."), true
		}
		a, b = ra, rb
	}
}

// anyOverlap is the first pair of overlapping subjects. An empty list stands for
// everything.
func anyOverlap(as, bs []string) (a, b string, found bool) {
	if len(as) == 0 {
		as = []string{">"}
	}
	if len(bs) == 0 {
		bs = []string{">"}
	}
	for _, a := range as {
		for _, b := range bs {
			if overlaps(a, b) {
				return a, b, true
			}
		}
	}
	return "", "", false
}

// minimal leaves out the subjects that another one covers, and keeps the order.
func minimal(subjects []string) []string {
	var out []string
	for i, s := range subjects {
		covered := false
		for j, o := range subjects {
			if i != j && covers(o, s) && (o != s || j < i) {
				covered = true
				break
			}
		}
		if !covered {
			out = append(out, s)
		}
	}
	return out
}

// Prefixes of the subjects that the federation uses for itself. Inside
// application accounts only deliverTag, resetTag and partitionTag appear.
const (
	forwardTag   = "fo"    // fo.ORIGIN.ACCOUNT.subject, in accounts of links
	replyTag     = "re"    // re.RESPONDER.ACCOUNT.subject, in accounts of links
	deliverTag   = "fedjd" // fedjd.DESTINATION.ORIGIN.STREAM.HASH
	resetTag     = "fedjs" // fedjs.ORIGIN.CONSUMER.RESET.STREAM.CONSUMER
	partitionTag = "fedq"  // fedq.PARTITION.subject, in shared work queues
)

func reservedToken(tok string) bool {
	switch tok {
	case forwardTag, replyTag, deliverTag, resetTag, partitionTag:
		return true
	}
	return false
}

// subjectRule is how to write a valid subject.
const subjectRule = "use tokens separated by dots, in which * stands alone, and > only at the end"

// checkLiveSubject says what is wrong with a subject of an Events or Requests
// bridge, and how to mend it; "" if nothing is. Its first token must be a plain
// one: an import of ">" or "*.>" would take in inboxes, JetStream's own subjects
// and the federation's, and NATS refuses it as a cycle with the replies.
func checkLiveSubject(s string) string {
	if !validSubject(s) {
		return fmt.Sprintf("%q is no valid NATS subject: %s", s, subjectRule)
	}
	first, _, _ := cutToken(s)
	switch {
	case first == ">" || first == "*":
		return fmt.Sprintf("%q begins with a wildcard and so takes in inboxes and JetStream's own subjects: name the first token, such as orders.>", s)
	case first[0] == '$' || first[0] == '_' || reservedToken(first):
		return fmt.Sprintf("%q begins with %q, which is reserved: use subjects of the applications", s, first)
	}
	return ""
}

// checkStreamSubject says what is wrong with a subject that a stream binds. NATS
// lets streams bind $KV and $O, on which its key-value and object stores rest.
func checkStreamSubject(s string) string {
	if !validSubject(s) {
		return fmt.Sprintf("%q is no valid NATS subject: %s", s, subjectRule)
	}
	first, rest, _ := cutToken(s)
	switch {
	case first == ">" || first == "*" && rest != "":
		return fmt.Sprintf("%q begins with a wildcard and so takes in JetStream's own subjects: name the first token, such as orders.>", s)
	case first == "$KV" || first == "$O":
		return ""
	case first[0] == '$' || first[0] == '_' || reservedToken(first):
		return fmt.Sprintf("%q begins with %q, which is reserved: use subjects of the applications", s, first)
	}
	return ""
}
