package topology

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sealane/sealane/api/v1alpha1"
)

// fleetInput is the federation that e2e/fleet measures: regions in a mesh, edge sites
// behind them, six bridges from the first region and twelve streams to everybody.
func fleetInput(members int) Input {
	var in Input
	meta := func(ns, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID("uid-" + ns + "-" + name), Generation: 1}
	}
	regions := min(max(members/100, 2), 20)
	region := func(i int) string { return fmt.Sprintf("region-%02d", i) }
	for i := range members {
		m := &v1alpha1.MemberCluster{ObjectMeta: meta("", fmt.Sprintf("edge-%04d", i))}
		m.Labels = map[string]string{"tier": "edge", "topology.kubernetes.io/region": region(i % regions)}
		if i < regions {
			m.ObjectMeta = meta("", region(i))
			m.Labels = map[string]string{"tier": "region", "topology.kubernetes.io/region": region(i)}
			m.Status.Endpoints = []string{region(i) + ":7422"}
		}
		m.Status.LinkKey = "U" + m.Name
		m.Status.Agent = &v1alpha1.AgentInfo{Runtime: runtimeEmbedded, MaxReplicas: 1, StorageCapacity: 100 << 30, Memory: 8 << 30, LinkRoles: true, LinkGroups: true}
		for j := range regions {
			if i < regions || j == i%regions {
				m.Status.Grants = append(m.Status.Grants, v1alpha1.Grant{Peer: region(j), Key: m.Status.LinkKey, Out: "out", In: "in"})
			}
		}
		in.Members = append(in.Members, m)
	}
	slices.SortFunc(in.Members, func(a, b *v1alpha1.MemberCluster) int { return strings.Compare(a.Name, b.Name) })
	tier := func(s string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"tier": s}}
	}
	tenants := []string{"orders", "billing", "telemetry"}
	topo := &v1alpha1.MessagingTopology{ObjectMeta: meta("", "world"), Spec: v1alpha1.MessagingTopologySpec{
		Groups: []v1alpha1.Group{{Name: "regions", Selector: tier("region")}, {Name: "edges", Selector: tier("edge")}},
		Links: []v1alpha1.LinkRule{
			{Name: "mesh", Type: v1alpha1.LinkMesh, Groups: []string{"regions"}},
			{Name: "spokes", Type: v1alpha1.LinkHubAndSpoke, HubAndSpoke: &v1alpha1.HubAndSpoke{Hubs: "regions", Spokes: "edges", Parents: v1alpha1.ParentsNearest, MaxParents: 1}},
		},
	}}
	for _, a := range tenants {
		topo.Spec.Accounts = append(topo.Spec.Accounts, v1alpha1.Account{Name: a, Namespaces: []string{"*"}})
	}
	in.Topologies = []*v1alpha1.MessagingTopology{topo}
	everywhere := v1alpha1.Placement{Selector: &metav1.LabelSelector{}}
	for i := range 7 {
		b := &v1alpha1.Bridge{ObjectMeta: meta("bench", fmt.Sprintf("catalogue-%02d", i)), Spec: v1alpha1.BridgeSpec{
			Account: tenants[i%len(tenants)], Type: v1alpha1.BridgeEvents, From: v1alpha1.Placement{Clusters: []string{region(0)}}, To: everywhere,
		}}
		for j := range 32 {
			b.Spec.Subjects = append(b.Spec.Subjects, fmt.Sprintf("catalogue.%02d.item-%04d.>", i, j))
		}
		in.Bridges = append(in.Bridges, b)
	}
	for i := range 12 {
		in.Streams = append(in.Streams, &v1alpha1.Stream{ObjectMeta: meta("bench", fmt.Sprintf("log-%02d", i)), Spec: v1alpha1.StreamSpec{
			Account: tenants[i%len(tenants)], Name: fmt.Sprintf("LOG-%02d", i), Placement: everywhere,
			Subjects: []string{fmt.Sprintf("log-%02d.>", i)}, MaxBytes: resource.NewQuantity(int64(i+1)<<20, resource.BinarySI),
		}})
	}
	return in
}

// anotherStream is in with a stream changed that is everywhere.
func anotherStream(in Input, n int) Input {
	s := in.Streams[0].DeepCopy()
	s.Generation += int64(n)
	s.Spec.MaxBytes = resource.NewQuantity(int64(n)<<12, resource.BinarySI)
	in.Streams = slices.Clone(in.Streams)
	in.Streams[0] = s
	return in
}

// otherStatuses is in after the status of each member was written. As in the watch
// cache, nothing of a new version is shared with the one before.
func otherStatuses(in Input, n int) Input {
	in.Members = slices.Clone(in.Members)
	for i, m := range in.Members {
		m = m.DeepCopy()
		m.ResourceVersion, m.Status.HeldHash = fmt.Sprint(n), fmt.Sprint(n)
		in.Members[i] = m
	}
	return in
}

func BenchmarkRecompileFleet(b *testing.B) {
	in := fleetInput(5000)
	first := Compile(in)
	for _, x := range first.Problems {
		b.Fatalf("%+v", x)
	}
	for _, bench := range []struct {
		name string
		edit func(Input, int) Input
	}{
		{"Stream", anotherStream},
		{"StreamAndStatuses", func(in Input, n int) Input { return otherStatuses(anotherStream(in, n), n) }},
		{"Statuses", otherStatuses},
		{"Nothing", func(in Input, _ int) Input { return in }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			p, n := first, 0
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				n++
				next := bench.edit(in, n)
				b.StartTimer()
				p = Recompile(p, next)
			}
		})
	}
}

// BenchmarkSummarizeFleet says what all is at rest.
func BenchmarkSummarizeFleet(b *testing.B) {
	in := fleetInput(5000)
	p := Compile(in)
	prog := Progress{}
	for name, m := range p.Members {
		n := &MemberProgress{Connected: true, Planned: m, Warnings: map[string]PartFailure{}, Links: map[string]LinkReport{}}
		for _, part := range m.Parts {
			if l := part.Part.GetLink(); l != nil {
				n.Links[l.Peer] = LinkReport{State: "Up", SinceMillis: 1, RTTMicros: 1}
			}
		}
		prog[name] = n
	}
	b.ReportAllocs()
	for b.Loop() {
		Summarize(p, in, prog)
	}
}
