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
//
// What it relies on was tried with real servers, and each has its test:
//
//   - Accounts export everything to each other (stream ">", and services), so that
//     only imports vary: a full triangle with forward, reply, reset and probe
//     imports for two accounts forms no import cycle (TestTriangle).
//   - With the hub role always on the tx side, traffic crosses members that
//     accepted both of their links and members that dialled both, durable bridges
//     included, and local responders come first (TestTransit).
//   - One service imported under one subject from two accounts: exactly those with
//     interest behind them answer; none: no responders (TestTwoWaysToOneService).
//   - The server offers $SYS and $JS interfaces in every account, also in those of
//     links, and answers a peer's requests unless both sides deny them
//     (TestHostileLeaf, TestServerInterfacesStayHome).
//   - The storage and memory limits of accounts are reservations: an account whose
//     limit does not fit beside the others has no JetStream (TestAccountLimitsMustFit).
package embedded
