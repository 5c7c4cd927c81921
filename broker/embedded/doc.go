// Package embedded runs a member's NATS server inside this process and
// implements broker.Runtime with it.
//
// The server is in operator mode: accounts are JWTs in a folder, signed by the
// member's own operator key, and are changed one by one while it runs; leaf
// remotes, certificates and most limits change by reload; only what NATS cannot
// reload restarts it, on the same ports. All state is below one data folder:
//
//	nats/jwt/         accounts, one JWT each; also the memory of their issue times
//	nats/js/          JetStream
//	nats/links/       credentials of remotes, 0600
//	nats/ports.json   ports that were chosen when asked for port 0
//
// Start reading at Runtime.Configure and Runtime.SetAccounts.
package embedded
