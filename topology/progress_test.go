package topology

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// What follows from the planned state that a member holds is what follows from the
// parts that it holds, one by one.
func TestPlannedIsHeld(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shared := map[string]*PlannedPart{}
		draw := func(label string) *MemberState {
			s := &MemberState{}
			for i := range 8 {
				id := fmt.Sprintf("link/m%d", i)
				switch hash := fmt.Sprint(rapid.IntRange(0, 2).Draw(t, label+id)); {
				case hash == "0":
				case rapid.Bool().Draw(t, label+id+" alone"):
					s.Parts = append(s.Parts, &PlannedPart{Part: &federationv1.Part{Id: id, Hash: hash}})
				default:
					if shared[id+hash] == nil {
						shared[id+hash] = &PlannedPart{Part: &federationv1.Part{Id: id, Hash: hash}}
					}
					s.Parts = append(s.Parts, shared[id+hash])
				}
			}
			return s
		}
		held, want := draw("held "), draw("wanted ")
		slow := &MemberProgress{Held: map[string]string{}}
		for _, p := range held.Parts {
			slow.Held[p.Part.Id] = p.Part.Hash
		}
		quick := &MemberProgress{Planned: held}
		type answer struct {
			Behind, Superfluous []string
			Others, Known       bool
			Count               int
			All, Hashes         map[string]string
		}
		ask := func(m *MemberProgress) answer {
			var a answer
			behind, others := m.compare(want)
			for _, p := range behind {
				a.Behind = append(a.Behind, p.Part.Id+" "+p.Part.Hash)
			}
			m.Superfluous(want, func(id string) { a.Superfluous = append(a.Superfluous, id) })
			slices.Sort(a.Superfluous)
			a.Others, a.Known, a.Count, a.All = others, m.Known(), m.Count(), maps.Collect(m.All())
			a.Hashes = map[string]string{}
			for _, p := range slices.Concat(held.Parts, want.Parts) {
				a.Hashes[p.Part.Id] = m.Hash(p.Part.Id)
			}
			return a
		}
		if diff := cmp.Diff(ask(slow), ask(quick)); diff != "" {
			t.Fatalf("-one by one +by state:\n%s", diff)
		}
	})
}
