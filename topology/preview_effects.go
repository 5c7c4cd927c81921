package topology

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// EffectKind is the kind of an Effect.
type EffectKind string

// The kinds of effects.
const (
	// EffectRestart: the broker restarts; all clients reconnect.
	EffectRestart EffectKind = "Restart"
	// EffectServersLeave: servers of the broker go; their clients reconnect.
	EffectServersLeave EffectKind = "ServersLeave"
	// EffectDisconnect: some clients may be disconnected for good.
	EffectDisconnect EffectKind = "Disconnect"
	// EffectAccountRemoved: the clients of an account lose access.
	EffectAccountRemoved EffectKind = "AccountRemoved"
	// EffectRefusal: what clients could do before may be refused.
	EffectRefusal EffectKind = "Refusal"
	// EffectStreamDeleted: a stream is deleted with its messages.
	EffectStreamDeleted EffectKind = "StreamDeleted"
	// EffectMessagesDropped: a stream's new limits may drop messages that it holds.
	EffectMessagesDropped EffectKind = "MessagesDropped"
)

// Effect is something that applications on a member notice.
type Effect struct {
	Kind EffectKind
	// Part is the id of the part from which it comes.
	Part string
	// Message says who notices what. It is deterministic.
	Message string
}

// Reservation is what the streams of a member reserve of its broker.
type Reservation struct {
	// File and Memory are the sum of the limits of all copies of streams, in bytes.
	File, Memory int64
	// Unlimited is how many streams have no limit, and so reserve nothing.
	Unlimited int
	// FileCapacity and MemoryCapacity are those of all servers of the broker.
	FileCapacity, MemoryCapacity int64
}

func reservation(m *MemberState) Reservation {
	var r Reservation
	if m == nil {
		return r
	}
	for _, p := range m.Parts {
		switch s := p.Part.Spec.(type) {
		case *federationv1.Part_Broker:
			n := int64(max(s.Broker.Replicas, 1))
			r.FileCapacity, r.MemoryCapacity = n*s.Broker.MaxStorage, n*s.Broker.MaxMemory
		case *federationv1.Part_Stream:
			n := int64(max(s.Stream.Replicas, 1)) * s.Stream.MaxBytes
			switch {
			case n == 0:
				r.Unlimited++
			case s.Stream.MemoryStorage:
				r.Memory += n
			default:
				r.File += n
			}
		}
	}
	return r
}

// serversOf is how many servers a member's broker has.
func serversOf(m *MemberState) int32 {
	if m == nil {
		return 1
	}
	p := m.Part(federationv1.BrokerID)
	if p == nil {
		return 1
	}
	return max(p.Part.GetBroker().GetReplicas(), 1)
}

func effects(m *MemberChange, servers int32) []Effect {
	var out []Effect
	for _, p := range m.Parts {
		note := func(kind EffectKind, format string, args ...any) {
			out = append(out, Effect{Kind: kind, Part: p.ID, Message: fmt.Sprintf(format, args...)})
		}
		switch either(p.After, p.Before).Spec.(type) {
		case *federationv1.Part_Broker:
			if p.Action() == ActionChange {
				brokerEffects(p.Before.GetBroker(), p.After.GetBroker(), servers, note)
			}
		case *federationv1.Part_Account:
			accountEffects(p.Before.GetAccount(), p.After.GetAccount(), note)
		case *federationv1.Part_Stream:
			streamEffects(p, note)
		}
	}
	return out
}

// brokerEffects says what clients notice of what NATS cannot reload, and of what it
// can.
func brokerEffects(before, after *federationv1.BrokerSpec, servers int32, note func(EffectKind, string, ...any)) {
	var why []string
	for _, restart := range federationv1.Restarts(before, after) {
		switch restart {
		case federationv1.RestartStorage:
			why = append(why, fmt.Sprintf("%s from %s to %s", restart, Bytes(before.MaxStorage), Bytes(after.MaxStorage)))
		case federationv1.RestartMemory:
			why = append(why, fmt.Sprintf("%s from %s to %s", restart, Bytes(before.MaxMemory), Bytes(after.MaxMemory)))
		default:
			why = append(why, string(restart))
		}
	}
	if len(why) > 0 {
		reasons := strings.Join(why, ", ")
		if servers > 1 {
			note(EffectRestart, "its %d servers restart one after the other (%s): each client reconnects, its links blink", servers, reasons)
		} else {
			note(EffectRestart, "its broker restarts (%s): all clients reconnect, its links blink", reasons)
		}
	}
	if gone := max(before.Replicas, 1) - max(after.Replicas, 1); gone > 0 && after.Autoscaling == nil {
		note(EffectServersLeave, "%d of its %d servers leave: their clients reconnect to the others", gone, before.Replicas)
	}
	if after.MaxConnections < before.MaxConnections {
		note(EffectDisconnect, "connections beyond %d on a server are closed", after.MaxConnections)
	}
	if after.MaxPayload < before.MaxPayload {
		note(EffectRefusal, "messages larger than %s are refused", Bytes(int64(after.MaxPayload)))
	}
}

func accountEffects(before, after *federationv1.AccountSpec, note func(EffectKind, string, ...any)) {
	switch {
	case before == nil || !before.Application:
		return
	case after == nil:
		note(EffectAccountRemoved, "account %s goes: its clients are disconnected and have no access any more", before.Name)
		return
	}
	lowered := func(a, b int64) bool { return b >= 0 && (a < 0 || b < a) }
	x, y := before.Limits, after.Limits
	if lowered(x.GetConnections(), y.GetConnections()) {
		note(EffectDisconnect, "connections of account %s beyond %d are closed", after.Name, y.Connections)
	}
	if lowered(x.GetSubscriptions(), y.GetSubscriptions()) {
		note(EffectRefusal, "subscriptions of account %s beyond %d are refused", after.Name, y.Subscriptions)
	}
	if removed := slices.DeleteFunc(slices.Clone(before.Namespaces), func(n string) bool { return slices.Contains(after.Namespaces, n) }); len(removed) > 0 && !slices.Contains(after.Namespaces, "*") {
		note(EffectRefusal, "credentials of account %s go from namespace %s", after.Name, strings.Join(removed, ", "))
	}
}

func streamEffects(p PartChange, note func(EffectKind, string, ...any)) {
	before, after := p.Before.GetStream(), p.After.GetStream()
	switch p.Action() {
	case ActionRemove:
		note(EffectStreamDeleted, "stream %s of account %s is deleted with its messages", before.Name, before.Account)
	case ActionChange:
		lowered := func(a, b int64) bool { return b > 0 && (a == 0 || b < a) }
		if lowered(before.MaxBytes, after.MaxBytes) || lowered(before.MaxMessages, after.MaxMessages) ||
			lowered(before.MaxMessagesPerSubject, after.MaxMessagesPerSubject) || lowered(before.MaxAge, after.MaxAge) {
			note(EffectMessagesDropped, "stream %s of account %s keeps less: what it holds beyond its new limits is dropped", before.Name, before.Account)
		}
	}
}

// interruptions says why the connections of a link are made anew.
func interruptions(member string, before, after *federationv1.LinkSpec) []string {
	var out []string
	if !slices.Equal(before.Endpoints, after.Endpoints) {
		out = append(out, fmt.Sprintf("%s dials other addresses of %s", member, after.Peer))
	}
	if x, y := before.Grant, after.Grant; x.GetKey() != y.GetKey() || x.GetOut() != y.GetOut() || x.GetIn() != y.GetIn() {
		out = append(out, fmt.Sprintf("%s dials with a new permission of %s", member, after.Peer))
	}
	if before.PeerKey != after.PeerKey {
		out = append(out, fmt.Sprintf("%s admits another key of %s", member, after.Peer))
	}
	if before.Spoke != after.Spoke {
		out = append(out, "its sides change roles, as the number of servers of a broker does")
	}
	if (before.FailoverGroup == "") != (after.FailoverGroup == "") {
		out = append(out, fmt.Sprintf("%s changes whether it uses one parent or chooses among several", member))
	}
	return out
}

// Bytes writes a number of bytes as the resources do: 10Gi.
func Bytes(n int64) string { return resource.NewQuantity(n, resource.BinarySI).String() }
