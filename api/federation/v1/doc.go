// Package federationv1 is the wire between a hub and its agents: messages and
// services generated from federation.proto, and the two hashes on which both
// sides must agree (hash.go). It is the only package that both use.
package federationv1
