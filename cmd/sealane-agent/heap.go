package main

import (
	"os"
	"runtime"
	"runtime/debug"
)

// heapFloor counts as part of the heap and is never touched, so it takes no
// memory. Without it the heap of an agent is small, and under load, when NATS makes
// much garbage for each message, is collected many times a second (ADR 12).
const heapFloor = 32 << 20

// heapFloorFrom is the least limit of memory with which the floor does no harm.
const heapFloorFrom = 1 << 30

// raiseHeap makes the collector wait until about 32 MiB more than otherwise are
// garbage, which matters for small heaps only. Who tunes the collector, or has
// little memory, is not interfered with.
func raiseHeap() (release func()) {
	if os.Getenv("GOGC") != "" || debug.SetMemoryLimit(-1) < heapFloorFrom {
		return func() {}
	}
	floor := make([]byte, heapFloor)
	return func() { runtime.KeepAlive(floor) }
}
