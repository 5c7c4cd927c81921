package topology

import (
	"cmp"

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

// setBrokers finds the broker of each member. Members without an override share
// that of their group.
func (f *fabric) setBrokers() {
	groups := f.topology.Spec.Groups
	common := make([]*federationv1.BrokerSpec, len(groups))
	overrides := map[string]v1alpha1.BrokerTemplate{}
	for gi, g := range groups {
		common[gi] = brokerSpec(g.Broker)
		for _, o := range g.Overrides {
			if i, ok := f.index[o.Cluster]; ok && f.groupOf[i] == int32(gi) {
				overrides[o.Cluster] = o.Broker
			}
		}
	}
	f.brokers = make([]*federationv1.BrokerSpec, len(f.names))
	for i, name := range f.names {
		f.brokers[i] = common[f.groupOf[i]]
		o, ok := overrides[name]
		if !ok {
			continue
		}
		b := groups[f.groupOf[i]].Broker
		b.Storage, b.Memory, b.MaxPayload = either(o.Storage, b.Storage), either(o.Memory, b.Memory), either(o.MaxPayload, b.MaxPayload)
		b.MaxConnections, b.Durability = either(o.MaxConnections, b.MaxConnections), cmp.Or(o.Durability, b.Durability)
		f.brokers[i] = brokerSpec(b)
	}
}

func brokerSpec(b v1alpha1.BrokerTemplate) *federationv1.BrokerSpec {
	return &federationv1.BrokerSpec{
		MaxStorage:     quantity(b.Storage, defaultStorage),
		MaxMemory:      quantity(b.Memory, defaultMemory),
		MaxPayload:     int32(quantity(b.MaxPayload, defaultPayload)),
		MaxConnections: orElse(b.MaxConnections, defaultConnections),
		SyncAlways:     b.Durability == v1alpha1.DurabilityAlways,
	}
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
