package hub

import (
	"fmt"
	"testing"
)

// BenchmarkPublish publishes plans that concern two of 1,000 connected members: what
// comes before the first of them can be sent anything.
func BenchmarkPublish(b *testing.B) {
	f := quietFleet()
	name := func(i int) string { return fmt.Sprintf("edge-%04d", i) }
	old := plan()
	for i := range 1000 {
		old.Members[name(i)] = state(name(i), account("app"))
	}
	f.Publish(old)
	for i := range 1000 {
		connect(b, f, name(i), old.Members[name(i)].Hash)
	}
	two := plan()
	for n, s := range old.Members {
		two.Members[n] = s
	}
	for i := range 2 {
		two.Members[name(i)] = state(name(i), account("app", "more.>"))
	}
	for round := 0; b.Loop(); round++ {
		if round%2 == 0 {
			f.Publish(two)
		} else {
			f.Publish(old)
		}
	}
}
