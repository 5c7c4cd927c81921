package federationv1

// FreeRemovals is how many parts may be taken from a member without being said to
// be meant, whatever share they are; above it, half of what it holds may.
const FreeRemovals = 10

// MassRemoval tells whether to remove so many of the parts that a member holds
// must be meant explicitly (Update.removal_meant).
func MassRemoval(held, removed int) bool {
	return removed > FreeRemovals && removed*2 > held
}
