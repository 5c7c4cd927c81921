// Package replica brings streams to fewer replicas without losing what they take from
// others (ADR 22). It asks JetStream, and has accounts rest; what that means to streams is
// up to who passes on their resets, the agent.
//
// When a stream gets a single replica, nats-server 2.15.2 ends its raft group wherever
// that is: what was proposed and not applied yet is gone. A publisher has no answer for
// that, and sends it again. But a source counts as taken what it proposed, and what
// follows is acknowledged to the origin in its place. So the last leader of the group
// must be one that has taken nothing yet: it is made leader for this, and its sources,
// which begin with a reset, wait for the answer to it until the group has ended. They go
// on where the stream is then. Start reading at Stream.ToOne.
package replica
