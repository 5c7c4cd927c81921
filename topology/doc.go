// Package topology is the pure core of the hub: the resources go in, one
// desired state per member comes out, with the problems found and, given what
// members reported, what may be sent to each now and what the status of every
// object is.
//
// It knows no clock, network, randomness, context or logger: the same input
// gives the same output, in any order of the input. A wrong object becomes a
// Problem and is left out; the rest is planned. Start reading at Compile.
package topology
