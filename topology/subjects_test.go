package topology

import (
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"pgregory.net/rapid"

	"github.com/sealane/sealane/api/v1alpha1"
)

// checkSubjects holds the functions on subjects to what nats-server does.
func checkSubjects(t interface{ Errorf(string, ...any) }, a, b string) {
	for _, s := range []string{a, b} {
		if got, want := validSubject(s), server.IsValidSubject(s); got && !want {
			t.Errorf("validSubject(%q) = %t, nats-server says %t", s, got, want)
		}
		if checkLiveSubject(s) == "" || checkStreamSubject(s) == "" {
			vr := jwt.CreateValidationResults()
			if jwt.Subject(s).Validate(vr); len(vr.Issues) > 0 {
				t.Errorf("%q is accepted, but not by the jwt library: %v", s, vr.Issues)
			}
		}
	}
	if !validSubject(a) || !validSubject(b) {
		return
	}
	if got, want := overlaps(a, b), server.SubjectsCollide(a, b); got != want {
		t.Errorf("overlaps(%q, %q) = %t, nats-server says %t", a, b, got, want)
	}
	if got, want := covers(b, a), server.SubjectMatchesFilter(a, b); got != want {
		t.Errorf("covers(%q, %q) = %t, nats-server says %t", b, a, got, want)
	}
	both, ok := intersect(a, b)
	if ok != overlaps(a, b) {
		t.Errorf("intersect(%q, %q) = %t", a, b, ok)
	}
	if ok && (!validSubject(both) || !covers(a, both) || !covers(b, both)) {
		t.Errorf("intersect(%q, %q) = %q, which is not part of both", a, b, both)
	}
	if covers(a, b) && ok && both != b {
		t.Errorf("intersect(%q, %q) = %q, want %q", a, b, both, b)
	}
}

func genSubject(t *rapid.T, what string) string {
	toks := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "*", "$JS", "fo"}), 1, 5).Draw(t, what)
	if rapid.Bool().Draw(t, "rest") {
		toks = append(toks, ">")
	}
	return strings.Join(toks, ".")
}

func TestSubjects(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) { checkSubjects(t, genSubject(t, "a"), genSubject(t, "b")) })
}

func FuzzSubjects(f *testing.F) {
	for _, s := range []string{"", "a", "a.b", "*", ">", "a.*", "a.>", "*.>", "a..b", ".a", "a.", "a.>.b", "$JS.>", "a b", "a\x00b", "é.*", "a*.b>"} {
		f.Add(s, "a.*.>")
		f.Add("a.b", s)
	}
	f.Fuzz(func(t *testing.T, a, b string) { checkSubjects(t, a, b) })
}

// literal is a subject that pattern matches.
func literal(pattern string) string {
	toks := strings.Split(pattern, ".")
	for i, tok := range toks {
		switch tok {
		case "*":
			toks[i] = "w" + strings.Repeat("x", i)
		case ">":
			toks[i] = "r.s"
		}
	}
	return strings.Join(toks, ".")
}

// checkRename holds renames to what NATS makes of them.
func checkRename(t interface{ Errorf(string, ...any) }, from, to string) {
	rule := v1alpha1.Rename{From: from, To: to}
	if r, msg := parseRename(rule, false); msg == "" {
		tr, err := server.NewSubjectTransform(from, r.transform("berlin", 0))
		if err != nil {
			t.Errorf("%q to %q is accepted, but JetStream says %v", from, to, err)
			return
		}
		if err := server.ValidateMapping(from, r.transform("berlin", 0)); err != nil {
			t.Errorf("%q to %q is accepted, but JetStream says %v", from, to, err)
		}
		in := literal(from)
		if out, err := tr.Match(in); err != nil || out != r.apply(in, "berlin") {
			t.Errorf("%q to %q: %q becomes %q for JetStream (%v) and %q here", from, to, in, out, err, r.apply(in, "berlin"))
		}
		if _, err := server.NewSubjectTransform(partitionTag+".*."+from, r.transform("berlin", 1)); err != nil {
			t.Errorf("%q to %q behind a partition: %v", from, to, err)
		}
	}
	if r, msg := parseRename(rule, true); msg == "" {
		vr := jwt.CreateValidationResults()
		jwt.RenamingSubject(r.local("berlin")).Validate(jwt.Subject(from), vr)
		if len(vr.Issues) > 0 {
			t.Errorf("%q to %q is accepted, but not by the jwt library: %v", from, to, vr.Issues[0].Description)
		}
		tr, err := server.NewSubjectTransformStrict(from, r.local("berlin"))
		if err != nil {
			t.Errorf("%q to %q is accepted, but as an import: %v", from, to, err)
			return
		}
		in := literal(from)
		if out, err := tr.Match(in); err != nil || out != r.apply(in, "berlin") {
			t.Errorf("%q to %q: %q becomes %q for NATS (%v) and %q here", from, to, in, out, err, r.apply(in, "berlin"))
		}
	}
}

func TestRenames(t *testing.T) {
	t.Parallel()
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		from := genSubject(t, "from")
		toks := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "x-{{origin}}", "{{origin}}", "{{wildcard(1)}}", "{{Wildcard(2)}}", "{{wildcard(3)}}", "$1", "*", "{{partition(2)}}"}), 1, 5).Draw(t, "to")
		if strings.HasSuffix(from, ">") || rapid.IntRange(0, 9).Draw(t, "rest") == 0 {
			toks = append(toks, ">")
		}
		to := strings.Join(toks, ".")
		if _, msg := parseRename(v1alpha1.Rename{From: from, To: to}, false); msg == "" {
			accepted++
		}
		checkRename(t, from, to)
	})
	if accepted == 0 {
		t.Error("no rename was accepted")
	}
}

func FuzzRenames(f *testing.F) {
	for _, to := range []string{"x", "x.{{wildcard(1)}}", "x.$1", "{{origin}}.>", "x.{{ wildcard(1) }}", "x.{{wildcard(1)}}.{{wildcard(1)}}", "{{wildcard(0)}}", "{{origin", "}}", "a.{{origin}}{{origin}}.>"} {
		f.Add("a.*", to)
		f.Add("a.>", to)
	}
	f.Fuzz(checkRenameFuzz)
}

func checkRenameFuzz(t *testing.T, from, to string) {
	checkRename(t, from, to)
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := genSubject(t, "subject")
		tr, err := server.NewSubjectTransform(partitionTag+".*."+s, identity(s, 1))
		if err != nil {
			t.Fatal(err)
		}
		in := literal(s)
		if out, err := tr.Match(partitionTag + ".7." + in); err != nil || out != in {
			t.Errorf("%q becomes %q (%v)", in, out, err)
		}
	})
}

func TestShare(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,5}`), 1, maxDestinations, rapid.ID[string]).Draw(t, "names")
		parts, old := share(names)
		owner := map[int]string{}
		for d, ps := range parts {
			for _, p := range ps {
				if owner[p] != "" {
					t.Errorf("partition %d is with %s and %s", p, owner[p], d)
				}
				owner[p] = d
			}
		}
		if len(owner) != partitions {
			t.Errorf("%d of %d partitions are taken", len(owner), partitions)
		}
		for _, d := range names {
			if n := len(parts[d]); n > (partitions+len(names)-1)/len(names) {
				t.Errorf("%s has %d partitions of %d members", d, n, len(names))
			}
		}
		if len(parts[old]) == 0 {
			t.Errorf("%s takes what is old, but nothing else", old)
		}
	})
}
