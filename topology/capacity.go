package topology

import (
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// checkAccounts refuses limits of accounts that the broker of some member could not
// grant together. To NATS the limit of an account is a reservation, on every member:
// an account for which too little is left gets no JetStream at all.
func checkAccounts(t *v1alpha1.MessagingTopology, rep *report) {
	for _, kind := range []struct {
		name    string
		limit   func(v1alpha1.AccountLimits) *resource.Quantity
		has     func(v1alpha1.BrokerTemplate) *resource.Quantity
		without int64
	}{
		{"storage", func(l v1alpha1.AccountLimits) *resource.Quantity { return l.Storage }, func(b v1alpha1.BrokerTemplate) *resource.Quantity { return b.Storage }, defaultStorage},
		{"memory", func(l v1alpha1.AccountLimits) *resource.Quantity { return l.Memory }, func(b v1alpha1.BrokerTemplate) *resource.Quantity { return b.Memory }, defaultMemory},
	} {
		least, where, field := int64(-1), "", ""
		broker := func(b *resource.Quantity, name, path string) {
			if v := quantity(b, kind.without); least < 0 || v < least {
				least, where, field = v, name, path
			}
		}
		for gi, g := range t.Spec.Groups {
			path := index("spec.groups", gi)
			broker(kind.has(g.Broker), "group "+g.Name, path+".broker."+kind.name)
			for oi, o := range g.Overrides {
				broker(either(kind.has(o.Broker), kind.has(g.Broker)), "member "+o.Cluster, index(path+".overrides", oi)+".broker."+kind.name)
			}
		}
		if least < 0 {
			continue // no groups
		}
		var used int64
		for i, a := range t.Spec.Accounts {
			v := quantity(kind.limit(a.Limits), 0)
			if v > least-used {
				rep.refuse(index("spec.accounts", i)+".limits."+kind.name, v1alpha1.ReasonInsufficientCapacity,
					"account %s reserves %d bytes of %s on each member, where %d of the %d bytes that %s has are reserved by the accounts before it: lower the limits of accounts, or raise %s",
					a.Name, v, kind.name, used, least, where, field)
				break
			}
			used += v
		}
	}
}

// room is what the machine of a member has for its broker, in bytes; 0: not known.
type room struct{ storage, memory int64 }

func (r room) of(spec *federationv1.StreamSpec) int64 {
	if spec.MemoryStorage {
		return r.memory
	}
	return r.storage
}

// roomOf is the room of a member whose broker is embedded in the agent. Elsewhere
// there is none to compare with: volumes and memory are made as they are asked for.
func roomOf(m *v1alpha1.MemberCluster) room {
	a := m.Status.Agent
	if a == nil || a.Runtime != runtimeEmbedded {
		return room{}
	}
	return room{max(a.StorageCapacity, 0), max(a.Memory, 0)}
}

// tooMuch tells whether a machine lacks what is wanted of it. What it is said to
// have is measured, so that a tenth more is taken to fit.
func tooMuch(want, has int64) bool { return has > 0 && want-has > has/10 }

// checkRoom refuses brokers that may take more than their members have. One that
// asks for as much in the version that was in effect before is the member's
// problem, so that it stays as it is. Who says nothing asks for nothing: then the
// streams alone have to fit.
func (p *placing) checkRoom(f *fabric, before *v1alpha1.MessagingTopology) {
	short := map[string]*shortage{}
	for i, name := range f.names {
		r, asked := roomOf(p.byName[name]), asks(p.topology, f.topology.Spec.Groups[f.groupOf[i]].Name, name)
		if r == (room{}) {
			continue
		}
		was := asks(before, f.topology.Spec.Groups[f.groupOf[i]].Name, name)
		for k, a := range asked {
			has := []int64{r.storage, r.memory}[k]
			switch {
			case !tooMuch(a.bytes, has):
			case p.acceptedBefore || a.bytes <= was[k].bytes:
				if p.conflicts[name].Reason == "" {
					p.conflicts[name] = Problem{
						Object: ObjectRef{Kind: KindMember, Name: name}, Field: "status.agent", Reason: v1alpha1.ReasonInsufficientCapacity,
						Message: fmt.Sprintf("%s of topology %s lets the broker take %d bytes, and the member has %d: give it more, or set less for it in the overrides of group %s",
							a.field, f.topology.Name, a.bytes, has, f.topology.Spec.Groups[f.groupOf[i]].Name),
					}
				}
			case short[a.field] == nil:
				short[a.field] = &shortage{a.bytes, has, []string{name}}
			default:
				s := short[a.field]
				s.has, s.members = min(s.has, has), append(s.members, name)
			}
		}
	}
	for _, field := range slices.Sorted(maps.Keys(short)) {
		s := short[field]
		p.rep.refuse(field, v1alpha1.ReasonInsufficientCapacity,
			"the broker may take %d bytes, and %s less, down to %d: lower it, set less for some in the group's overrides, or give them more", s.want, hasHave(s.members), s.has)
	}
}

// shortage is what members lack of what one field asks for.
type shortage struct {
	want, has int64
	members   []string
}

// ask is how much a topology lets a broker take, and where it says so; 0: it does
// not say.
type ask struct {
	bytes int64
	field string
}

// asks are the storage and the memory of a member in a group of a topology, which
// may be nil.
func asks(t *v1alpha1.MessagingTopology, group, member string) (out [2]ask) {
	if t == nil {
		return out
	}
	for gi, g := range t.Spec.Groups {
		if g.Name != group {
			continue
		}
		note := func(field string, b v1alpha1.BrokerTemplate) {
			for k, q := range []*resource.Quantity{b.Storage, b.Memory} {
				if q != nil {
					out[k] = ask{q.Value(), field + []string{".storage", ".memory"}[k]}
				}
			}
		}
		note(index("spec.groups", gi)+".broker", g.Broker)
		for oi, o := range g.Overrides {
			if o.Cluster == member {
				note(index(index("spec.groups", gi)+".overrides", oi)+".broker", o.Broker)
			}
		}
	}
	return out
}

// allowed is what streams may reserve on each server of a member, of storage or
// memory, and whether it is the machine that has no more. Streams that run already
// are not measured by the machine.
func (f *fabric) allowed(m int32, memory, runs bool) (bytes int64, machine bool) {
	bytes, has := f.brokers[m].MaxStorage, f.rooms[m].storage
	if memory {
		bytes, has = f.brokers[m].MaxMemory, f.rooms[m].memory
	}
	if runs || !tooMuch(bytes, has) {
		return bytes, false
	}
	return has + has/10, true
}

// runsAlready tells whether a stream takes no more than the version of it that was
// in effect before.
func runsAlready(s, before *v1alpha1.Stream) bool {
	if before == nil {
		return false
	}
	return sameObject(s, before) || quantity(s.Spec.MaxBytes, 0) <= quantity(before.Spec.MaxBytes, 0) &&
		s.Spec.Storage == before.Spec.Storage && equality.Semantic.DeepEqual(s.Spec.Placement, before.Spec.Placement)
}

// copiesAlready tells whether a bridge makes no other streams than the version of
// it that was in effect before.
func copiesAlready(b, before *v1alpha1.Bridge) bool {
	if before == nil {
		return false
	}
	return sameObject(b, before) || equality.Semantic.DeepEqual(b.Spec.From, before.Spec.From) &&
		equality.Semantic.DeepEqual(b.Spec.To, before.Spec.To) && equality.Semantic.DeepEqual(b.Spec.Stream, before.Spec.Stream)
}
