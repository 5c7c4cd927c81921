package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Placement names member clusters of one topology. Exactly one field is set.
//
// +kubebuilder:validation:XValidation:rule="[has(self.group), has(self.clusters), has(self.selector)].exists_one(x, x)",message="set exactly one of group, clusters and selector"
type Placement struct {
	// Group is the name of a group of the topology: every member of the group.
	//
	// +optional
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +kubebuilder:validation:MaxLength=63
	Group string `json:"group,omitempty"`
	// Clusters lists member clusters by name. A name that is no member of the
	// topology is refused (reason UnknownMember).
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Clusters []string `json:"clusters,omitempty"`
	// Selector matches the labels of member clusters of the topology. An empty
	// selector matches every member.
	//
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}
