package topology

import (
	"fmt"
	"slices"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// runtimeEmbedded is the runtime of a broker of one server, in the agent's own
// process.
const runtimeEmbedded = "embedded"

// span is how many servers a broker may have.
type span struct{ least, most int32 }

func servers(b v1alpha1.BrokerTemplate) span {
	if a := b.Autoscaling; a != nil {
		return span{max(a.Min, 1), max(a.Max, a.Min, 1)}
	}
	n := max(orElse(b.Replicas, 1), 1)
	return span{n, n}
}

// leastServers is how many servers a broker always has.
func leastServers(b *federationv1.BrokerSpec) int32 { return max(b.Replicas, 1) }

// mostServers is the most that the runtime of a member can run; 0: it did not say.
func mostServers(m *v1alpha1.MemberCluster) int32 {
	switch a := m.Status.Agent; {
	case a == nil:
		return 0
	case a.Runtime == runtimeEmbedded:
		return 1
	default:
		return a.MaxReplicas
	}
}

// bounded is a broker of at most so many servers.
func bounded(b v1alpha1.BrokerTemplate, most int32) v1alpha1.BrokerTemplate {
	odd := max(1, min(5, most-(most+1)%2)) // 1, 3 or 5
	n := servers(b)
	if n.most <= odd {
		return b
	}
	if n.least >= odd {
		b.Replicas, b.Autoscaling = &odd, nil
		return b
	}
	a := *b.Autoscaling
	a.Max = odd
	b.Autoscaling = &a
	return b
}

// unsupportedReplicas says that a member's broker has fewer servers than it should.
func (f *fabric) unsupportedReplicas(i int32, m *v1alpha1.MemberCluster) Problem {
	name, g := f.names[i], f.topology.Spec.Groups[f.groupOf[i]]
	field, want := fmt.Sprintf("spec.groups[%d].broker", f.groupOf[i]), g.Broker
	if at := slices.IndexFunc(g.Overrides, func(o v1alpha1.BrokerOverride) bool { return o.Cluster == name }); at >= 0 {
		field, want = fmt.Sprintf("spec.groups[%d].overrides[%d].broker", f.groupOf[i], at), overridden(want, g.Overrides[at].Broker)
	}
	n := fmt.Sprint(servers(want).most)
	if s := servers(want); s.least != s.most {
		n = fmt.Sprintf("%d to %d", s.least, s.most)
	}
	why, fix := fmt.Sprintf("its runtime can run %d", m.Status.Agent.MaxReplicas), "raise what its chart allows"
	if m.Status.Agent.Runtime == runtimeEmbedded {
		why, fix = "its broker is embedded in the agent and is one", "run its agent in Kubernetes"
	}
	return Problem{
		Object: ObjectRef{Kind: KindMember, Name: name}, Field: "status.agent", Reason: v1alpha1.ReasonReplicasUnsupported,
		Message: fmt.Sprintf("%s of topology %s asks for %s servers, and %s: %s, or set replicas for it in the overrides of group %s", field, f.topology.Name, n, why, fix, g.Name),
	}
}

// maxCopies is how many copies a stream has that does not say it.
const maxCopies = 3

// copies is how many servers of a member keep a stream's messages.
func (f *fabric) copies(member int32, want *int32) int32 {
	if want != nil {
		return max(*want, 1)
	}
	if leastServers(f.brokers[member]) >= maxCopies {
		return maxCopies
	}
	return 1
}

// checkCopies refuses more copies than a member of a placement has servers.
func (f *fabric) checkCopies(at set, want *int32, rep *report) {
	if want == nil {
		return
	}
	if n := *want; n != 1 && n != 3 && n != 5 {
		rep.refuse("spec.replicas", v1alpha1.ReasonInvalidValue, "%d copies: have 1, 3 or 5", n)
		return
	}
	var few []string
	least := *want
	for m := range at.each {
		if n := leastServers(f.brokers[m]); n < *want {
			few = append(few, f.names[m])
			least = min(least, n)
		}
	}
	if len(few) > 0 {
		rep.refuse("spec.replicas", v1alpha1.ReasonInsufficientCapacity,
			"%d copies need as many servers, and the broker of %s may have %d: lower replicas, raise those of the group's broker (the least with autoscaling), or leave the member out",
			*want, firstNames(few), least)
	}
}

// withCopies is a stream with its number of copies; 1 is not said.
func withCopies(spec *federationv1.StreamSpec, copies int32) *federationv1.StreamSpec {
	if spec == nil || copies <= 1 {
		return spec
	}
	return &federationv1.StreamSpec{
		Account: spec.Account, Name: spec.Name, Subjects: spec.Subjects, Retention: spec.Retention, MemoryStorage: spec.MemoryStorage,
		MaxBytes: spec.MaxBytes, MaxMessages: spec.MaxMessages, MaxMessagesPerSubject: spec.MaxMessagesPerSubject, MaxAge: spec.MaxAge,
		DiscardNew: spec.DiscardNew, DuplicateWindow: spec.DuplicateWindow, Retain: spec.Retain, Replicas: copies,
	}
}

// checkReplicas refuses numbers of servers that the schema refuses too.
func checkReplicas(field string, b v1alpha1.BrokerTemplate, rep *report) {
	one := func(field string, n, least, most int32) {
		if n < least || n > most || n%2 == 0 {
			rep.refuse(field, v1alpha1.ReasonInvalidValue, "%d servers: have an odd number from %d to %d", n, least, most)
		}
	}
	if b.Replicas != nil {
		one(field+".replicas", *b.Replicas, 1, 5)
	}
	a := b.Autoscaling
	if a == nil {
		return
	}
	if b.Replicas != nil {
		rep.refuse(field+".autoscaling", v1alpha1.ReasonInvalidValue, "replicas and autoscaling are both set: keep one of them")
	}
	one(field+".autoscaling.min", max(a.Min, 1), 1, 3)
	one(field+".autoscaling.max", a.Max, 3, 5)
	if a.Min >= a.Max {
		rep.refuse(field+".autoscaling.max", v1alpha1.ReasonInvalidValue, "%d is not more than min", a.Max)
	}
	if t := a.Targets; t.Connections == nil && t.MessageRate == nil && t.StoragePercent == nil && t.CPUPercent == nil {
		rep.refuse(field+".autoscaling.targets", v1alpha1.ReasonInvalidValue, "there is no target: set at least one")
	}
}
