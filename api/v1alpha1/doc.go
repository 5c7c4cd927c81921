// Package v1alpha1 holds the custom resources of Sealane: the types a user
// writes on the hub, their conditions and reasons. The CRDs are generated from
// here. It depends on nothing but the Kubernetes API machinery.
//
// Start reading at MessagingTopology; conditions.go lists every condition type
// and reason that any part of the hub may set.
//
// +kubebuilder:object:generate=true
// +groupName=messaging.sealane.dev
package v1alpha1
