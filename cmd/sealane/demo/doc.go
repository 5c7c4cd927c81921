// Package demo runs a hub and some members as processes on this machine and
// tells a story in which every step checks itself. It drives the real binaries
// through their public interfaces only: flags, files, the hub's API and NATS
// clients. Start reading at Run; the story is in story.go.
package demo
