package topology

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestReduceByDefinition: what reduce finds by an index is what each compared with
// each other says.
func TestReduceByDefinition(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		token := rapid.SampledFrom([]string{"a", "b", "c", "*", ">"})
		var in []imported
		for range rapid.IntRange(0, 12).Draw(t, "imports") {
			subject := "fo.x.app." + rapid.SampledFrom([]string{"a", "b"}).Draw(t, "first") // never a wildcard
			for range rapid.IntRange(0, 3).Draw(t, "tokens") {
				next := token.Draw(t, "token")
				if subject += "." + next; next == ">" {
					break
				}
			}
			in = append(in, imported{subject: subject, to: subject[len("fo.x.app."):], renamed: rapid.IntRange(0, 9).Draw(t, "renamed") == 0})
		}
		slices.SortFunc(in, compareImports)
		in = slices.CompactFunc(in, func(a, b imported) bool { return compareImports(a, b) == 0 })
		var want []imported
		for _, x := range in {
			if x.renamed || !slices.ContainsFunc(in, x.coveredBy) {
				want = append(want, x)
			}
		}
		if got := reduce(slices.Clone(in)); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("of %v:\n got %v\nwant %v", in, got, want)
		}
	})
}
