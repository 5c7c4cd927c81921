package federationv1

import (
	"google.golang.org/protobuf/proto"
)

// Restart says why a broker has to be started anew for a change.
type Restart string

// What NATS cannot change while it runs.
const (
	RestartStorage    Restart = "storage is lowered"
	RestartMemory     Restart = "memory is lowered"
	RestartDurability Restart = "durability is changed"
)

// fixed are the fields of a BrokerSpec that NATS cannot reload, or in one direction
// only: brokers decide by it, and previews foretell by it.
var fixed = []struct {
	why     Restart
	changes func(from, to *BrokerSpec) bool
	keep    func(from, to *BrokerSpec) // puts what from has into to
}{
	{
		RestartStorage,
		func(from, to *BrokerSpec) bool { return to.GetMaxStorage() < from.GetMaxStorage() },
		func(from, to *BrokerSpec) { to.MaxStorage = from.GetMaxStorage() },
	},
	{
		RestartMemory,
		func(from, to *BrokerSpec) bool { return to.GetMaxMemory() < from.GetMaxMemory() },
		func(from, to *BrokerSpec) { to.MaxMemory = from.GetMaxMemory() },
	},
	{
		RestartDurability,
		func(from, to *BrokerSpec) bool { return to.GetSyncAlways() != from.GetSyncAlways() },
		func(from, to *BrokerSpec) { to.SyncAlways = from.GetSyncAlways() },
	},
}

// Restarts says what a broker that runs with a specification has to be started anew
// for to have another; empty: it can reload it. In neither has a limit its default.
func Restarts(running, next *BrokerSpec) []Restart {
	var out []Restart
	for _, f := range fixed {
		if f.changes(running, next) {
			out = append(out, f.why)
		}
	}
	return out
}

// WithoutRestarts is a copy of next in which a broker that runs with a specification
// keeps what it cannot reload.
func WithoutRestarts(running, next *BrokerSpec) *BrokerSpec {
	out := &BrokerSpec{}
	if next != nil {
		out, _ = proto.Clone(next).(*BrokerSpec)
	}
	for _, f := range fixed {
		if f.changes(running, out) {
			f.keep(running, out)
		}
	}
	return out
}
