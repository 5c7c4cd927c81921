// Package broker turns a member's desired state into what a NATS server
// understands: keys, account claims, options and link credentials. Everything
// in this package itself is pure but for Keyring's file and WriteFile; the runtimes that run
// real servers live below it and implement Runtime.
package broker
