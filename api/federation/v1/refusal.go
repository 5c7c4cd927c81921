package federationv1

// Kinds of refusals of an update as a whole (Report.refusal_code). A hub counts
// what it does not know as one kind.
const (
	// RefusedEpoch: the hub is of a lower epoch or revision than the member has seen.
	RefusedEpoch = "Epoch"
	// RefusedInvalid: the update is malformed, or does not lead to its target.
	RefusedInvalid = "Invalid"
	// RefusedRemovals: it takes too much away without saying that this is meant.
	RefusedRemovals = "Removals"
	// RefusedUnsaved: the member cannot write its journal.
	RefusedUnsaved = "Unsaved"
)
