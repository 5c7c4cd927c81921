package topology

import "iter"

// Progress is what the hub knows of each member, from its reports only. A
// member that is missing has never reported to this hub. A MemberProgress that
// is in a Progress is not modified any more: it is replaced.
type Progress map[string]*MemberProgress

// MemberProgress is what one member reported.
type MemberProgress struct {
	// Connected tells whether a session is open.
	Connected bool
	// Features names the kinds of parts that the agent can apply (Hello.features):
	// "broker", "account", "link", "stream", "outlet". A part of another kind is
	// never sent to it.
	Features []string
	// Held maps the ids of the parts that the member holds to their hashes, if Planned
	// does not say it. Both nil: not known yet.
	Held map[string]string
	// Planned is the planned state that the member holds. Nil: there is none, or it
	// is not known. It is most often there, and takes no memory of its own.
	Planned *MemberState
	// Unapplied lists held parts that are not applied.
	Unapplied map[string]PartFailure
	// Warnings lists what is said of parts that are applied. Nil: nothing was said of
	// any part yet.
	Warnings map[string]PartFailure
	Links    map[string]LinkReport
	Flows    map[FlowKey]FlowReport
	// Overdue are outlets that shall go and were kept for their destinations for too
	// long: no destination is waited for any more.
	Overdue map[string]bool
	// Refusal says why the member does not take what the hub would send, when it
	// refused an update as a whole; empty: it did not.
	Refusal string
	// Outdated says why the hub refuses the member, which has seen newer state than
	// the hub has; empty: it does not.
	Outdated string
}

// PartFailure says why a held part is not applied. An empty Code means that it
// is still being applied.
type PartFailure struct {
	Code    string
	Message string
}

// LinkReport is the health of a link as one end reported it.
type LinkReport struct {
	// State is Up, Down, Standby or Pending.
	State string
	// SinceMillis is when the state was entered, Unix milliseconds.
	SinceMillis int64
	RTTMicros   int64
	Message     string
}

// FlowKey identifies a durable flow at its destination.
type FlowKey struct {
	Origin  string
	Account string
	Stream  string
	Bridge  string
}

// FlowReport is the health of a durable flow as its destination reported it.
type FlowReport struct {
	State       string
	SinceMillis int64
	Lag         int64
	Message     string
}

// Known tells whether it is known what the member holds.
func (m *MemberProgress) Known() bool { return m.Planned != nil || m.Held != nil }

// Hash is that of the part as the member holds it; empty: it does not.
func (m *MemberProgress) Hash(id string) string {
	if m.Planned == nil {
		return m.Held[id]
	}
	if p := m.Planned.Part(id); p != nil {
		return p.Part.Hash
	}
	return ""
}

// Count is how many parts the member holds.
func (m *MemberProgress) Count() int {
	if m.Planned != nil {
		return len(m.Planned.Parts)
	}
	return len(m.Held)
}

// All are the ids of the parts that the member holds, with their hashes.
func (m *MemberProgress) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		if m.Planned == nil {
			for id, hash := range m.Held {
				if !yield(id, hash) {
					return
				}
			}
			return
		}
		for _, p := range m.Planned.Parts {
			if !yield(p.Part.Id, p.Part.Hash) {
				return
			}
		}
	}
}

// Superfluous calls fn with each part that the member holds and want has not.
func (m *MemberProgress) Superfluous(want *MemberState, fn func(id string)) {
	if m.Planned != nil {
		m.Planned.Until(want, func(p *PlannedPart) { fn(p.Part.Id) }, func(*PlannedPart) {})
		return
	}
	for id := range m.Held {
		if want.Part(id) == nil {
			fn(id)
		}
	}
}

// Applied tells whether the member holds the part with that hash and has
// applied it.
func (m *MemberProgress) Applied(id, hash string) bool {
	if m == nil || m.Hash(id) != hash {
		return false
	}
	_, un := m.Unapplied[id]
	return !un
}
