// Package pod is the process of one server of a broker that has several: it runs
// an embedded.Node and obeys the agent of its member, which speaks to it over
// brokerv1.Control. It decides nothing itself and holds no key that makes accounts
// or users. Start reading at Run; docs/adr/0013-broker-on-kubernetes.md tells why
// things are as they are.
package pod
