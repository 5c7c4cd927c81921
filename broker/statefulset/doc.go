// Package statefulset runs a member's broker as several servers, each a process
// of its own (package pod), and implements broker.Runtime with them. It alone
// decides: it signs accounts, tells every server over its control channel what to
// be, and sees to it that there are as many as there shall be, one change at a
// time. Where the servers run is a Place: Kubernetes (package kube, objects.go) or,
// in tests, this machine.
//
// Everything it remembers is below one folder:
//
//	local/    the member's local authority: who may control servers, and be one
//	state     the last state that was given to servers; also the memory of the
//	          issue times of accounts
//
// Start reading at Runtime.Configure for what is pushed, at decide for how the
// number and the versions of servers change.
// docs/adr/0013-broker-on-kubernetes.md tells why.
package statefulset
