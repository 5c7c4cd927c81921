package topology

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sealane/sealane/api/v1alpha1"
)

const benchRegions = 3

// benchInput is a federation of three regions in a mesh and 997 edge sites behind
// them, with bridges of all kinds: most between a few members, one in ten between
// all edge sites and the regions.
func benchInput(bridges int, parents int32) Input {
	var in Input
	meta := func(ns, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID("uid-" + ns + "-" + name), Generation: 1}
	}
	region := func(i int) string { return fmt.Sprintf("region-%d", i%benchRegions) }
	edge := func(i int) string { return fmt.Sprintf("edge-%03d", i%997) }
	for i := range benchRegions {
		m := &v1alpha1.MemberCluster{ObjectMeta: meta("", region(i))}
		m.Labels = map[string]string{"tier": "region", "topology.kubernetes.io/region": region(i)}
		m.Status.Endpoints, m.Status.LinkKey = []string{region(i) + ":7422"}, "U"+region(i)
		for j := range benchRegions {
			m.Status.Grants = append(m.Status.Grants, v1alpha1.Grant{Peer: region(j), Key: m.Status.LinkKey, Out: "out", In: "in"})
		}
		in.Members = append(in.Members, m)
	}
	for i := range 997 {
		m := &v1alpha1.MemberCluster{ObjectMeta: meta("", edge(i))}
		m.Labels = map[string]string{"tier": "edge", "topology.kubernetes.io/region": region(i)}
		m.Status.LinkKey = "U" + edge(i)
		for j := range benchRegions {
			m.Status.Grants = append(m.Status.Grants, v1alpha1.Grant{Peer: region(j), Key: m.Status.LinkKey, Out: "out", In: "in"})
		}
		in.Members = append(in.Members, m)
	}
	tier := func(s string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"tier": s}}
	}
	accounts := []string{"orders", "billing", "telemetry"}
	topo := &v1alpha1.MessagingTopology{ObjectMeta: meta("", "world"), Spec: v1alpha1.MessagingTopologySpec{
		Groups: []v1alpha1.Group{{Name: "regions", Selector: tier("region")}, {Name: "edges", Selector: tier("edge")}},
		Links: []v1alpha1.LinkRule{
			{Name: "mesh", Type: v1alpha1.LinkMesh, Groups: []string{"regions"}},
			{Name: "spokes", Type: v1alpha1.LinkHubAndSpoke, HubAndSpoke: &v1alpha1.HubAndSpoke{Hubs: "regions", Spokes: "edges", Parents: v1alpha1.ParentsNearest, MaxParents: parents}},
		},
	}}
	for _, a := range accounts {
		topo.Spec.Accounts = append(topo.Spec.Accounts, v1alpha1.Account{Name: a, Namespaces: []string{"*"}})
	}
	in.Topologies = []*v1alpha1.MessagingTopology{topo}
	in.Streams = append(in.Streams,
		&v1alpha1.Stream{ObjectMeta: meta("apps", "log"), Spec: v1alpha1.StreamSpec{Account: "telemetry", Name: "LOG", Placement: v1alpha1.Placement{Group: "edges"}, Subjects: []string{"log.>"}}},
		&v1alpha1.Stream{ObjectMeta: meta("apps", "jobs"), Spec: v1alpha1.StreamSpec{Account: "billing", Name: "JOBS", Retention: v1alpha1.RetentionWorkQueue, Placement: v1alpha1.Placement{Group: "edges"}, Subjects: []string{"jobs.>"}}},
	)
	for i := range bridges {
		b := &v1alpha1.Bridge{ObjectMeta: meta("apps", fmt.Sprintf("bridge-%03d", i))}
		b.Spec.Account = accounts[i%3]
		some := v1alpha1.Placement{Clusters: []string{edge(7 * i), edge(7*i + 1)}}
		one := v1alpha1.Placement{Clusters: []string{region(i)}}
		b.Spec.From, b.Spec.To = some, one
		if i%10 == 0 {
			b.Spec.From = v1alpha1.Placement{Group: "regions"}
			b.Spec.To = v1alpha1.Placement{Group: "edges"}
		}
		switch i % 10 {
		case 0, 1, 2, 3, 4:
			b.Spec.Type, b.Spec.Subjects = v1alpha1.BridgeEvents, []string{fmt.Sprintf("topic%d.>", i), fmt.Sprintf("status%d.*", i)}
		case 5, 6:
			b.Spec.Type, b.Spec.Subjects = v1alpha1.BridgeRequests, []string{fmt.Sprintf("service%d.>", i)}
		case 7, 8:
			b.Spec.Account, b.Spec.Type = "telemetry", v1alpha1.BridgeStream
			b.Spec.Stream = &v1alpha1.BridgeStreams{Name: "LOG", Target: fmt.Sprintf("LOG_%d", i)}
		case 9:
			b.Spec.Account, b.Spec.Type = "billing", v1alpha1.BridgeQueue
			b.Spec.Subjects = []string{fmt.Sprintf("jobs.%d.>", i)}
			b.Spec.Stream = &v1alpha1.BridgeStreams{Name: "JOBS", Target: "ALLJOBS"}
		}
		in.Bridges = append(in.Bridges, b)
	}
	return in
}

// sharedInput is the same with sites that share their links.
func sharedInput(bridges int, parents int32) Input {
	in := benchInput(bridges, parents)
	spec := &in.Topologies[0].Spec
	spec.Links[1].HubAndSpoke.Links = v1alpha1.SpokeLinksShared
	for i := range spec.Accounts {
		spec.Accounts[i].Replies = v1alpha1.RepliesPerCluster
	}
	return in
}

func benchmarkCompile(b *testing.B, in Input) {
	p := Compile(in)
	for _, x := range p.Problems {
		b.Fatalf("%+v", x)
	}
	b.ReportAllocs()
	for b.Loop() {
		Compile(in)
	}
}

func BenchmarkCompile1000(b *testing.B)         { benchmarkCompile(b, benchInput(200, 1)) }
func BenchmarkCompile1000Failover(b *testing.B) { benchmarkCompile(b, benchInput(200, 2)) }
func BenchmarkCompile1000Shared(b *testing.B)   { benchmarkCompile(b, sharedInput(200, 1)) }

func benchmarkRecompile(b *testing.B, parents int32) {
	in := benchInput(200, parents)
	p := Compile(in)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		next := in
		next.Bridges = append([]*v1alpha1.Bridge(nil), in.Bridges...)
		changed := next.Bridges[101].DeepCopy()
		changed.Generation += int64(n)
		changed.Spec.Subjects = []string{fmt.Sprintf("changed%d.>", n)}
		next.Bridges[101] = changed
		q := Recompile(p, next)
		if len(q.Problems) > 0 {
			b.Fatalf("%+v", q.Problems)
		}
		p = q
	}
}

func BenchmarkRecompileOneBridge(b *testing.B)         { benchmarkRecompile(b, 1) }
func BenchmarkRecompileOneBridgeFailover(b *testing.B) { benchmarkRecompile(b, 2) }

// overLimit adds bridges from all edge sites to one region. Three of them fit its
// account.
func overLimit(in Input, bridges int) Input {
	in.Bridges = append([]*v1alpha1.Bridge(nil), in.Bridges...)
	for i := range bridges {
		b := &v1alpha1.Bridge{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: fmt.Sprintf("wide-%02d", i), UID: types.UID(fmt.Sprint("wide-", i)), Generation: 1}}
		b.Spec.Account, b.Spec.Type, b.Spec.Subjects = "orders", v1alpha1.BridgeEvents, []string{fmt.Sprintf("wide%d.>", i)}
		b.Spec.From = v1alpha1.Placement{Group: "edges"}
		b.Spec.To = v1alpha1.Placement{Clusters: []string{"region-0"}}
		in.Bridges = append(in.Bridges, b)
	}
	return in
}

// BenchmarkCompileOverLimit plans twenty bridges of which most are refused because
// they make an account too large, and for comparison those of them that are not.
func BenchmarkCompileOverLimit(b *testing.B) {
	for _, n := range []int{3, 20} {
		in := overLimit(benchInput(0, 1), n)
		p := Compile(in)
		b.Run(fmt.Sprintf("Bridges%dRefused%d/Compile", n, len(p.Problems)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Compile(in)
			}
		})
		b.Run(fmt.Sprintf("Bridges%dRefused%d/Recompile", n, len(p.Problems)), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				// A status was written: the cache has another copy of an object.
				next := in
				next.Bridges = append([]*v1alpha1.Bridge(nil), in.Bridges...)
				next.Bridges[n-1-i%n] = in.Bridges[n-1-i%n].DeepCopy()
				p = Recompile(p, next)
			}
		})
	}
}
