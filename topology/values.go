package topology

import (
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

// brokerSpec is the broker of one member.
func (f *fabric) brokerSpec(member int32) *federationv1.BrokerSpec {
	g := f.topology.Spec.Groups[f.groupOf[member]]
	b := g.Broker
	for _, o := range g.Overrides {
		if o.Cluster != f.names[member] {
			continue
		}
		b.Storage = either(o.Broker.Storage, b.Storage)
		b.Memory = either(o.Broker.Memory, b.Memory)
		b.MaxPayload = either(o.Broker.MaxPayload, b.MaxPayload)
		b.MaxConnections = either(o.Broker.MaxConnections, b.MaxConnections)
		if o.Broker.Durability != "" {
			b.Durability = o.Broker.Durability
		}
	}
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
