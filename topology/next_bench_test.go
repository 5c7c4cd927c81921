package topology

import (
	"fmt"
	"testing"
)

// benchStar is a federation in which one hub is dialed by many spokes.
func benchStar(spokes int) sketch {
	k := sketch{
		members: []string{"hub", "other"}, placed: map[string]bool{"hub": true, "other": true},
		links: map[[2]string]string{}, flows: map[[3]string]int{}, retarget: map[string]bool{}, revision: map[string]int{},
	}
	for i := range spokes {
		name := fmt.Sprintf("spoke-%04d", i)
		k.members = append(k.members, name)
		k.placed[name] = true
		k.links[[2]string{name, "hub"}] = "granted"
	}
	return k
}

// settled is progress in which every member has applied a plan.
func settled(p *Plan) Progress {
	prog := Progress{}
	for name, m := range p.Members {
		held := map[string]string{}
		for _, part := range m.Parts {
			held[part.Part.Id] = part.Part.Hash
		}
		prog[name] = &MemberProgress{Connected: true, Features: allFeatures, Held: held, Flows: map[FlowKey]FlowReport{}}
	}
	return prog
}

// BenchmarkNextHub asks what a hub with 1,000 spokes may be sent.
func BenchmarkNextHub(b *testing.B) {
	before := benchStar(1000)
	one := benchStar(1000)
	one.revision["spoke-0500"]++
	gone := benchStar(999)
	gone.members = append(gone.members, "spoke-0999")
	moved := benchStar(0)
	moved.members, moved.placed = before.members, before.placed
	for i := range 1000 {
		moved.links[[2]string{fmt.Sprintf("spoke-%04d", i), "other"}] = "granted"
	}
	for _, c := range []struct {
		name string
		now  sketch
		want int // removals at the hub
	}{
		{"Idle", before, 0},
		{"OneSpokeChanged", one, 0},
		{"OneSpokeLeft", gone, 0},
		{"AllSpokesLeave", moved, 0},
		{"AllSpokesLeft", moved, 3000},
	} {
		b.Run(c.name, func(b *testing.B) {
			p, prog := c.now.plan(), settled(before.plan())
			p.Standing = map[string]Standing{"hub": {Allow: Allowance{Parts: 3000}}}
			// All that is planned is there: what is left is to let go of the old paths.
			if c.name == "AllSpokesLeft" {
				left := settled(p)
				left["hub"] = prog["hub"]
				prog = left
			}
			for name, m := range p.Members {
				for _, part := range m.Parts {
					prog[name].Held[part.Part.Id] = part.Part.Hash
				}
			}
			if got := len(Next(p, prog, "hub").Removals); got != c.want {
				b.Errorf("%d removals, not %d", got, c.want)
			}
			b.ReportAllocs()
			for b.Loop() {
				Next(p, prog, "hub")
			}
		})
	}
}
