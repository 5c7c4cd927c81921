// Package agent runs one member: it enrols with the hub, keeps a session, and
// makes the member's broker what the journalled state says, whether or not the
// hub can be reached. What the broker is asked to be comes from package broker.
//
// Everything is level-triggered. The session (session.go) does nothing but put a
// checked update into the journal (journal.go, held.go); the applier (apply.go)
// compares what is held with what is there, over and over; probes, flows and the
// applier put what they observed into one picture (picture.go), and the session
// sends how it differs from what it sent before.
//
// Start reading at Run in agent.go.
package agent
