// Package hub is the shell around the topology package on the hub: it gathers
// the resources, keeps the sessions with the agents, enrols members and writes
// status. All decisions about what a member shall hold, and when it may be sent,
// are topology's; nothing here knows of NATS.
//
// Start reading at Run, then Fleet (what is published to members and what they
// reported) and Reconciler (resources to plan, reports to status).
package hub
