// Package brokerv1 is what an agent says to the servers of its own broker, where
// they run as processes of their own. broker.proto is the contract.
package brokerv1
