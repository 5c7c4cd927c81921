package broker

import (
	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// DefaultSpec holds the limits of a broker of which nothing is said.
func DefaultSpec() *federationv1.BrokerSpec {
	return &federationv1.BrokerSpec{
		MaxStorage:     10 << 30,
		MaxMemory:      256 << 20,
		MaxPayload:     1 << 20,
		MaxConnections: 65536,
	}
}

// WithDefaults returns a copy of spec in which every limit that is not positive
// has its default. Nil stands for an empty spec.
func WithDefaults(spec *federationv1.BrokerSpec) *federationv1.BrokerSpec {
	d := DefaultSpec()
	if spec == nil {
		return d
	}
	s := proto.Clone(spec).(*federationv1.BrokerSpec)
	if s.MaxStorage <= 0 {
		s.MaxStorage = d.MaxStorage
	}
	if s.MaxMemory <= 0 {
		s.MaxMemory = d.MaxMemory
	}
	if s.MaxPayload <= 0 {
		s.MaxPayload = d.MaxPayload
	}
	if s.MaxConnections <= 0 {
		s.MaxConnections = d.MaxConnections
	}
	return s
}
