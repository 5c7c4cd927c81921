package autoscale

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

func TestDecide(t *testing.T) {
	spec := &federationv1.Autoscaling{Min: 1, Max: 5, Connections: 100, MessageRate: 1000, StoragePercent: 80, CpuPercent: 70, UpSeconds: 60, DownSeconds: 300}
	at := func(seconds int, s Sample) Sample {
		s.At = time.Unix(int64(seconds), 0)
		return s
	}
	// run is one sample each 15 s, from one second to another.
	run := func(from, to int, s Sample) (out []Sample) {
		for ; from <= to; from += 15 {
			out = append(out, at(from, s))
		}
		return out
	}
	join := func(l ...[]Sample) (out []Sample) {
		for _, x := range l {
			out = append(out, x...)
		}
		return out
	}
	conns := func(servers int, n int64) Sample { return Sample{Servers: servers, Connections: n, CPUPercent: -1} }
	bound := func(least, most int32) *federationv1.Autoscaling {
		return &federationv1.Autoscaling{Min: least, Max: most, Connections: 100, UpSeconds: 60, DownSeconds: 300}
	}
	for _, tc := range []struct {
		name    string
		spec    *federationv1.Autoscaling
		current int
		history []Sample
		want    Decision
	}{
		{"nothing was seen", spec, 3, nil, Decision{Servers: 3}},
		{"one sample decides nothing", spec, 1, run(0, 0, conns(1, 900)), Decision{Servers: 1, Pressed: []string{"connections"}}},
		{"a window that was not seen whole", spec, 1, run(0, 45, conns(1, 900)), Decision{Servers: 1, Pressed: []string{"connections"}}},
		{"more, all through the window", spec, 1, run(0, 60, conns(1, 250)), Decision{3, "more than the target with fewer: connections", []string{"connections"}}},
		{"as many as it needs at once", spec, 1, run(0, 60, conns(1, 450)), Decision{5, "more than the target with fewer: connections", []string{"connections"}}},
		{"the least of what was wanted in the window", spec, 1, join(run(0, 30, conns(1, 250)), run(45, 60, conns(1, 450))), Decision{3, "more than the target with fewer: connections", []string{"connections"}}},
		{"a dip within the window", spec, 1, join(run(0, 15, conns(1, 250)), run(30, 30, conns(1, 90)), run(45, 75, conns(1, 250))), Decision{Servers: 1, Pressed: []string{"connections"}}},
		{"at the target is not above it", spec, 1, run(0, 60, conns(1, 100)), Decision{Servers: 1}},
		{"no more than allowed", spec, 5, run(0, 60, conns(5, 5000)), Decision{Servers: 5, Pressed: []string{"connections"}}},
		{"all that is allowed where nothing suffices", bound(1, 3), 1, run(0, 60, conns(1, 5000)), Decision{3, "more than the target with fewer: connections", []string{"connections"}}},
		{"fewer, all through the window", spec, 5, run(0, 300, conns(5, 200)), Decision{3, "all targets hold with 3", nil}},
		{"fewer, not long enough", spec, 5, run(0, 285, conns(5, 200)), Decision{Servers: 5}},
		{"fewer, but for one peak", spec, 5, join(run(0, 135, conns(5, 20)), run(150, 150, conns(5, 400)), run(165, 300, conns(5, 20))), Decision{Servers: 5}},
		{"fewer, as many as the peak needs", spec, 5, join(run(0, 135, conns(5, 20)), run(150, 150, conns(5, 200)), run(165, 300, conns(5, 20))), Decision{3, "all targets hold with 3", nil}},
		{"fewer would be near the target", spec, 3, run(0, 300, conns(3, 95)), Decision{Servers: 3}},
		{"not fewer than allowed", bound(3, 5), 3, run(0, 600, conns(3, 0)), Decision{Servers: 3}},
		{"below the bounds", bound(3, 5), 1, nil, Decision{Servers: 3, Why: "between 3 and 5 servers are allowed"}},
		{"above the bounds", bound(1, 3), 5, nil, Decision{Servers: 3, Why: "between 1 and 3 servers are allowed"}},
		{"what was before a gap does not count", spec, 1, join(run(0, 60, conns(1, 250)), run(180, 210, conns(1, 250))), Decision{Servers: 1, Pressed: []string{"connections"}}},
		{"a window of no time", &federationv1.Autoscaling{Max: 3, Connections: 100}, 1, run(0, 0, conns(1, 101)), Decision{3, "more than the target with fewer: connections", []string{"connections"}}},
		{"rate", spec, 1, run(0, 60, Sample{Servers: 1, MessageRate: 2500, CPUPercent: -1}), Decision{3, "more than the target with fewer: messageRate", []string{"messageRate"}}},
		{"storage is spread over more servers", spec, 3, run(0, 60, Sample{Servers: 3, StoragePercent: 85, CPUPercent: -1}), Decision{5, "more than the target with fewer: storagePercent", []string{"storagePercent"}}},
		{"storage keeps servers", spec, 3, run(0, 300, Sample{Servers: 3, StoragePercent: 30, CPUPercent: -1}), Decision{Servers: 3}},
		{"processor", spec, 1, run(0, 60, Sample{Servers: 1, CPUPercent: 95}), Decision{3, "more than the target with fewer: cpuPercent", []string{"cpuPercent"}}},
		{"processor is not known", spec, 3, run(0, 300, conns(3, 10)), Decision{1, "all targets hold with 1", nil}},
		{"several", spec, 1, run(0, 60, Sample{Servers: 1, Connections: 150, MessageRate: 2500, CPUPercent: 20}), Decision{3, "more than the target with fewer: connections, messageRate", []string{"connections", "messageRate"}}},
		{"servers that did not run all the time", spec, 3, run(0, 60, Sample{Servers: 2, CPUPercent: 95}), Decision{Servers: 3}},
		{"no target", &federationv1.Autoscaling{Min: 1, Max: 3}, 3, run(0, 0, conns(3, 1000)), Decision{1, "all targets hold with 1", nil}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Decide(tc.spec, tc.current, tc.history)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// Whatever the load is: the decision is within the bounds and odd, what is older
// than Keep does not matter, and the same load does not make it go up and down.
func TestDecideProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := &federationv1.Autoscaling{
			Min: rapid.SampledFrom([]int32{0, 1, 3}).Draw(t, "min"), Max: rapid.SampledFrom([]int32{3, 5}).Draw(t, "max"),
			Connections: rapid.Int32Range(0, 200).Draw(t, "connections"), CpuPercent: rapid.Int32Range(0, 100).Draw(t, "cpu"),
			UpSeconds: rapid.Int32Range(0, 120).Draw(t, "up"), DownSeconds: rapid.Int32Range(0, 300).Draw(t, "down"),
		}
		current := rapid.SampledFrom([]int{1, 3, 5}).Draw(t, "current")
		var history []Sample
		now := time.Unix(1000, 0)
		for range rapid.IntRange(0, 60).Draw(t, "samples") {
			now = now.Add(time.Duration(rapid.IntRange(1, 100).Draw(t, "pause")) * time.Second)
			history = append(history, Sample{
				At: now, Servers: current, Connections: rapid.Int64Range(0, 1500).Draw(t, "n"), CPUPercent: rapid.Float64Range(-1, 100).Draw(t, "percent"),
			})
		}
		d := Decide(spec, current, history)
		if least, most := bounds(spec); d.Servers < least || d.Servers > most || d.Servers%2 == 0 {
			t.Fatalf("%+v of %d to %d", d, least, most)
		}
		if (d.Why == "") != (d.Servers == current) {
			t.Fatalf("%+v from %d", d, current)
		}
		var kept []Sample
		for _, s := range history {
			if now.Sub(s.At) <= Keep(spec) {
				kept = append(kept, s)
			}
		}
		if again := Decide(spec, current, kept); !cmp.Equal(d, again) {
			t.Fatalf("with all: %+v, with what is kept: %+v", d, again)
		}
		if len(history) == 0 || current < d.Servers {
			return
		}
		// The load goes on as it was last, spread over the servers decided for.
		steady := history[len(history)-1]
		steady.CPUPercent *= float64(current) / float64(d.Servers)
		steady.Servers = d.Servers
		var later []Sample
		for range 100 {
			steady.At = steady.At.Add(10 * time.Second)
			later = append(later, steady)
		}
		settled := Decide(spec, d.Servers, later)
		steady.CPUPercent *= float64(d.Servers) / float64(settled.Servers)
		steady.Servers = settled.Servers
		for i := range later {
			later[i].CPUPercent, later[i].Servers = steady.CPUPercent, steady.Servers
		}
		if next := Decide(spec, settled.Servers, later); next.Servers != settled.Servers {
			t.Fatalf("from %d to %d and on to %d by the same load", d.Servers, settled.Servers, next.Servers)
		}
	})
}

func TestShort(t *testing.T) {
	spec := &federationv1.Autoscaling{Min: 1, Max: 3, Connections: 100, MessageRate: 1000, UpSeconds: 60, DownSeconds: 300}
	run := func(samples ...Sample) []Sample {
		for i := range samples {
			samples[i].At, samples[i].Servers, samples[i].CPUPercent = time.Unix(int64(i)*30, 0), 3, -1
		}
		return samples
	}
	for _, tc := range []struct {
		name    string
		current int
		history []Sample
		want    []string
	}{
		{"nothing was seen", 3, nil, nil},
		{"all the time", 3, run(Sample{Connections: 400}, Sample{Connections: 500}, Sample{Connections: 400, MessageRate: 9000}), []string{"connections"}},
		{"not long enough", 3, run(Sample{Connections: 400}, Sample{Connections: 500}), nil},
		{"with a dip", 3, run(Sample{Connections: 400}, Sample{Connections: 20}, Sample{Connections: 400}), nil},
		{"there can be more", 1, run(Sample{Connections: 400}, Sample{Connections: 500}, Sample{Connections: 400}), nil},
		{"it was before the window", 3, run(Sample{Connections: 400}, Sample{}, Sample{}, Sample{}), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := Short(spec, tc.current, tc.history); len(got)+len(tc.want) > 0 && !cmp.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}
