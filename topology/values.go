package topology

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// Defaults of a broker, as the reference of BrokerTemplate says them.
const (
	defaultStorage     = 10 << 30
	defaultMemory      = 256 << 20
	defaultPayload     = 1 << 20
	defaultConnections = 65536
	defaultUpSeconds   = 60
	defaultDownSeconds = 600
)

// quantity is the value of q, or def if it is not set.
func quantity(q *resource.Quantity, def int64) int64 {
	if q == nil {
		return def
	}
	return q.Value()
}

func orElse[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}

// setBrokers finds the broker of each member. Members without an override that
// can have as many servers share that of their group. It returns the members that
// cannot have as many as they should.
func (f *fabric) setBrokers(members map[string]*v1alpha1.MemberCluster) (unsupported []int32) {
	groups := f.topology.Spec.Groups
	type key struct {
		group int32
		most  int32
	}
	common := map[key]*federationv1.BrokerSpec{}
	overrides := map[string]v1alpha1.BrokerTemplate{}
	for gi, g := range groups {
		for _, o := range g.Overrides {
			if i, ok := f.index[o.Cluster]; ok && f.groupOf[i] == int32(gi) {
				overrides[o.Cluster] = o.Broker
			}
		}
	}
	f.brokers = make([]*federationv1.BrokerSpec, len(f.names))
	f.several = make([]bool, len(f.names))
	for i, name := range f.names {
		b := groups[f.groupOf[i]].Broker
		o, differs := overrides[name]
		if differs {
			b = overridden(b, o)
		}
		k := key{f.groupOf[i], 0}
		if most := mostServers(members[name]); most > 0 {
			if fits := bounded(b, most); servers(fits) != servers(b) {
				b, k.most = fits, most
				unsupported = append(unsupported, int32(i))
			}
		}
		switch {
		case differs:
			f.brokers[i] = brokerSpec(b)
		case common[k] == nil:
			common[k] = brokerSpec(b)
			fallthrough
		default:
			f.brokers[i] = common[k]
		}
		f.several[i] = servers(b).most > 1
	}
	return unsupported
}

// overridden is a group's broker with what is different for one member.
func overridden(b, o v1alpha1.BrokerTemplate) v1alpha1.BrokerTemplate {
	b.Storage, b.Memory, b.MaxPayload = either(o.Storage, b.Storage), either(o.Memory, b.Memory), either(o.MaxPayload, b.MaxPayload)
	b.MaxConnections, b.Durability = either(o.MaxConnections, b.MaxConnections), cmp.Or(o.Durability, b.Durability)
	if o.Replicas != nil || o.Autoscaling != nil {
		b.Replicas, b.Autoscaling = o.Replicas, o.Autoscaling
	}
	return b
}

func brokerSpec(b v1alpha1.BrokerTemplate) *federationv1.BrokerSpec {
	n := servers(b)
	out := &federationv1.BrokerSpec{
		MaxStorage:     quantity(b.Storage, defaultStorage),
		MaxMemory:      quantity(b.Memory, defaultMemory),
		MaxPayload:     int32(quantity(b.MaxPayload, defaultPayload)),
		MaxConnections: orElse(b.MaxConnections, defaultConnections),
		SyncAlways:     b.Durability == v1alpha1.DurabilityAlways || b.Durability == "" && n.least >= 3,
	}
	if n.most > 1 {
		out.Replicas = n.least
	}
	if a := b.Autoscaling; a != nil && n.least < n.most {
		out.Autoscaling = &federationv1.Autoscaling{
			Min: n.least, Max: n.most,
			Connections: orElse(a.Targets.Connections, 0), MessageRate: orElse(a.Targets.MessageRate, 0),
			StoragePercent: orElse(a.Targets.StoragePercent, 0), CpuPercent: orElse(a.Targets.CPUPercent, 0),
			UpSeconds: orElse(a.Stabilization.UpSeconds, defaultUpSeconds), DownSeconds: orElse(a.Stabilization.DownSeconds, defaultDownSeconds),
		}
	}
	return out
}

func either[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

// accountLimits are those of an application account; -1 where there is none.
func accountLimits(l v1alpha1.AccountLimits) *federationv1.AccountLimits {
	return &federationv1.AccountLimits{
		Connections:   orElse(l.Connections, -1),
		Subscriptions: orElse(l.Subscriptions, -1),
		Storage:       quantity(l.Storage, -1),
		Memory:        quantity(l.Memory, -1),
		Streams:       orElse(l.Streams, -1),
		Consumers:     orElse(l.Consumers, -1),
	}
}

// namespaces in which the applications of an account may have credentials.
func namespaces(a v1alpha1.Account) []string {
	if slices.Contains(a.Namespaces, "*") {
		return []string{"*"}
	}
	out := slices.Clone(a.Namespaces)
	slices.Sort(out)
	return slices.Compact(out)
}
