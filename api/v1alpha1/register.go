package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the API group and version of every kind in this package.
var GroupVersion = schema.GroupVersion{Group: "messaging.sealane.dev", Version: "v1alpha1"}

// SchemeBuilder registers the kinds; AddToScheme applies it.
var (
	SchemeBuilder = runtime.NewSchemeBuilder(addKnownTypes)
	AddToScheme   = SchemeBuilder.AddToScheme
)

func addKnownTypes(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&MessagingTopology{}, &MessagingTopologyList{},
		&MemberCluster{}, &MemberClusterList{},
		&JoinToken{}, &JoinTokenList{},
		&Stream{}, &StreamList{},
		&Bridge{}, &BridgeList{},
		&TopologyRevision{}, &TopologyRevisionList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
