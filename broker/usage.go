package broker

// Usage is what a broker takes of what it may take, as sums over its servers.
type Usage struct {
	// Servers that run, and those of them that say that they are well.
	Servers, Healthy int
	// Connections of applications and of the agent.
	Connections int64
	// Messages in and out of the servers since they started.
	Messages int64
	// Bytes on disk and in memory, with their limits; a limit of 0 or below: none.
	Storage, StorageLimit, Memory, MemoryLimit int64
	// Links are the messages and bytes that crossed leaf connections, by local
	// account; nil: not known.
	Links map[string]Traffic
}

// Traffic is what crossed the connections of an account since they were opened.
type Traffic struct {
	InMessages, OutMessages, InBytes, OutBytes int64
}

// Meter is a Runtime that knows what its servers take.
type Meter interface {
	Usage() Usage
}
