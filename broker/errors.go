package broker

import "fmt"

// RemoteError says that a remote cannot be configured. It concerns only the link
// to Peer.
type RemoteError struct {
	Peer string
	Err  error
}

func (e *RemoteError) Error() string { return fmt.Sprintf("link to %q: %v", e.Peer, e.Err) }

// Unwrap returns the cause.
func (e *RemoteError) Unwrap() error { return e.Err }
