// Package apiserver serves Sealane's own resources from inside the hub's
// process, for a hub without a Kubernetes cluster: the Kubernetes API machinery
// (k8s.io/apiextensions-apiserver) in front of an embedded etcd. kubectl and
// controller-runtime work against it unchanged.
//
// It owns one data folder (see Options) and everything in it that concerns the
// API: the store, the API's certificate authority and the admin's kubeconfig.
// It knows nothing of federation: no reconciling, no sessions, no agents.
//
// What a user must know of it, because a full Kubernetes API differs:
//
//   - It serves CustomResourceDefinitions and the kinds they define, and nothing
//     else: no Secrets, Leases, Events, RBAC or webhooks.
//   - Namespaces are names only. There is no Namespace object to create, any
//     namespace can be used at once, and none can be deleted as a whole.
//   - Owner references have no effect: nothing collects garbage. A deletion with
//     cascade foreground or orphan is an ordinary deletion.
//   - The only way in is a client certificate of the API's own authority, and the
//     only group with rights is system:masters.
//
// Start reading at Start; serve.go puts the Kubernetes API server together,
// etcd.go the store, pki.go the certificates.
package apiserver
