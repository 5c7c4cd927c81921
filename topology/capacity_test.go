package topology

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sealane/sealane/api/v1alpha1"
)

// sized is a topology of members with embedded brokers, whose disks have so many
// GiB each.
func sized(gib ...int64) Input {
	in := meshOf(len(gib))
	for i, m := range in.Members {
		m.UID, m.Generation = types.UID(m.Name), 1
		m.Status.Agent = &v1alpha1.AgentInfo{Runtime: runtimeEmbedded, StorageCapacity: gib[i] << 30, Memory: 1 << 30}
	}
	return in
}

func bytesOf(s string) *resource.Quantity { q := resource.MustParse(s); return &q }

func stored(name, size string) *v1alpha1.Stream {
	s := &v1alpha1.Stream{}
	s.Namespace, s.Name, s.UID, s.Generation = "apps", name, types.UID(name), 1
	s.Spec = v1alpha1.StreamSpec{Account: "orders", Name: strings.ToUpper(name), Placement: v1alpha1.Placement{Group: "all"}, Subjects: []string{name}, MaxBytes: bytesOf(size)}
	return s
}

// edited is the next version of the topology.
func edited(in Input, fn func(*v1alpha1.MessagingTopologySpec)) Input {
	t := in.Topologies[0].DeepCopy()
	t.Generation++
	fn(&t.Spec)
	in.Topologies = []*v1alpha1.MessagingTopology{t}
	return in
}

func short(p *Plan) (out []string) {
	for _, x := range p.Problems {
		if x.Reason == v1alpha1.ReasonInsufficientCapacity && !x.Waiting {
			out = append(out, fmt.Sprintf("%s %s: %s", x.Object.Name, x.Field, x.Message))
		}
	}
	return out
}

func wantShort(t *testing.T, p *Plan, want ...string) {
	t.Helper()
	got := short(p)
	ok := len(got) == len(want) && len(p.Problems) == len(want)
	for i := 0; ok && i < len(want); i++ {
		ok = strings.Contains(got[i], want[i])
	}
	if !ok {
		t.Errorf("problems %+v, want %q", p.Problems, want)
	}
}

func TestMachineCapacity(t *testing.T) {
	t.Parallel()
	storage := func(size string) func(*v1alpha1.MessagingTopologySpec) {
		return func(s *v1alpha1.MessagingTopologySpec) { s.Groups[0].Broker.Storage = bytesOf(size) }
	}
	small := sized(4, 40)
	wantShort(t, Compile(small)) // the default asks for nothing
	wantShort(t, Compile(edited(small, storage("4400Mi"))))
	p := Compile(edited(small, storage("20Gi")))
	wantShort(t, p, "main spec.groups[0].broker.storage: the broker may take 21474836480 bytes, and m000 has less, down to 4294967296")
	if n := len(p.Members["m001"].Parts); n != 0 {
		t.Errorf("%d parts of a refused topology", n)
	}
	spared := edited(small, storage("20Gi"))
	spared.Topologies[0].Spec.Groups[0].Overrides = []v1alpha1.BrokerOverride{{Cluster: "m000", Broker: v1alpha1.BrokerTemplate{Storage: bytesOf("2Gi")}}}
	wantShort(t, Compile(spared))
	memory := edited(small, func(s *v1alpha1.MessagingTopologySpec) { s.Groups[0].Broker.Memory = bytesOf("2Gi") })
	wantShort(t, Compile(memory), "main spec.groups[0].broker.memory: the broker may take 2147483648 bytes, and m000 and m001 have less, down to 1073741824")
	cluster := edited(small, storage("20Gi")) // volumes are made to measure
	cluster.Members[0].Status.Agent.Runtime = "statefulset"
	wantShort(t, Compile(cluster))
}

func TestMachineCapacityOfStreams(t *testing.T) {
	t.Parallel()
	in := sized(4, 40)
	in.Streams = []*v1alpha1.Stream{stored("a", "3Gi")}
	p := Compile(in)
	wantShort(t, p)
	more := in
	more.Streams = append([]*v1alpha1.Stream{stored("b", "2Gi")}, in.Streams...)
	wantShort(t, Recompile(p, more), "b spec.maxBytes: stream B needs 2147483648 bytes on m000, whose machine has 4294967296 bytes of storage for streams, of which 3221225472 are reserved already")
}

// What runs goes on though a machine has less than was thought, and it does not
// stand in the way of other changes.
func TestMachineCapacityOfWhatRuns(t *testing.T) {
	t.Parallel()
	in := edited(sized(40, 40), func(s *v1alpha1.MessagingTopologySpec) { s.Groups[0].Broker.Storage = bytesOf("20Gi") })
	in.Streams = []*v1alpha1.Stream{stored("a", "15Gi")}
	p := Compile(in)
	wantShort(t, p)

	less := in
	less.Members = []*v1alpha1.MemberCluster{in.Members[0].DeepCopy(), in.Members[1]}
	less.Members[0].Status.Agent.StorageCapacity = 4 << 30
	q := Recompile(p, less)
	blame := "m000 status.agent: spec.groups[0].broker.storage of topology main lets the broker take 21474836480 bytes, and the member has 4294967296"
	wantShort(t, q, blame)
	for name, m := range p.Members {
		if q.Members[name].Hash != m.Hash {
			t.Errorf("%s changes", name)
		}
	}
	account := edited(less, func(s *v1alpha1.MessagingTopologySpec) {
		s.Accounts = append(s.Accounts, v1alpha1.Account{Name: "billing", Namespaces: []string{"*"}})
	})
	if r := Recompile(q, account); r.Members["m000"].Part("account/billing") == nil {
		t.Errorf("an account is refused: %+v", r.Problems)
	}
	wantShort(t, Recompile(q, edited(less, func(s *v1alpha1.MessagingTopologySpec) { s.Groups[0].Broker.Storage = bytesOf("21Gi") })),
		blame, "main spec.groups[0].broker.storage: the broker may take 22548578304 bytes")
	renamed := less
	renamed.Streams = []*v1alpha1.Stream{in.Streams[0].DeepCopy()}
	renamed.Streams[0].Generation++
	renamed.Streams[0].Spec.Subjects = []string{"other"}
	wantShort(t, Recompile(q, renamed), blame)
}
