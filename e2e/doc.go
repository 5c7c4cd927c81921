// Package e2e tests a federation as its users run it: the real hub and agents
// as processes of their own, real brokers, real messages, and links that can be
// cut. Nothing in it is imported by the product.
package e2e
