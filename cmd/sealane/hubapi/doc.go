// Package hubapi is what the command line and the demo need of a hub: finding
// its API, making join tokens, taking a snapshot of all resources and judging
// it. It reads resources and writes JoinTokens; it decides nothing about what
// members do. Start reading at Connect and Judge.
package hubapi
