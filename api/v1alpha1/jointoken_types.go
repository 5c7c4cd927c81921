package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// JoinToken lets agents enrol. It holds a hash only: the token itself is shown
// once, by "sealane token create".
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=sealane
// +kubebuilder:printcolumn:name="For",type=string,JSONPath=`.spec.cluster`
// +kubebuilder:printcolumn:name="Uses",type=integer,JSONPath=`.status.uses`
// +kubebuilder:printcolumn:name="Max",type=integer,JSONPath=`.spec.maxUses`
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.spec.expiresAt`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 63",message="the name must be a DNS label: a-z, 0-9 and '-', at most 63 characters"
// +kubebuilder:validation:XValidation:rule="self.spec == oldSelf.spec",message="a token cannot be changed: delete it and create another"
type JoinToken struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   JoinTokenSpec   `json:"spec"`
	Status JoinTokenStatus `json:"status,omitempty"`
}

// JoinTokenList is a list of JoinToken.
//
// +kubebuilder:object:root=true
type JoinTokenList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []JoinToken `json:"items"`
}

// JoinTokenSpec says who may enrol with the token, until when.
type JoinTokenSpec struct {
	// SecretHash is the SHA-256 of the token's secret, in hex.
	//
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	SecretHash string `json:"secretHash"`
	// ExpiresAt is when the token stops working: RFC 3339, as in
	// 2027-01-31T12:00:00Z.
	//
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Format=date-time
	ExpiresAt metav1.Time `json:"expiresAt"`
	// MaxUses is how many members may enrol. Default 1.
	//
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	MaxUses int32 `json:"maxUses,omitempty"`
	// Cluster is the name that the member must have, or a pattern in which "*"
	// stands for any characters: "edge-*".
	//
	// +kubebuilder:validation:Pattern=`^[a-z0-9*]([-a-z0-9*]*[a-z0-9*])?$`
	// +kubebuilder:validation:MaxLength=63
	Cluster string `json:"cluster"`
	// Labels are put on the MemberCluster: keys and values as Kubernetes has them.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	Labels map[string]string `json:"labels,omitempty"`
}

// JoinTokenStatus counts the uses of a token.
type JoinTokenStatus struct {
	// Uses is how many members have enrolled with the token.
	//
	// +optional
	Uses int32 `json:"uses,omitempty"`
	// Members are the names that enrolled, the last 100.
	//
	// +optional
	// +listType=set
	Members []string `json:"members,omitempty"`
	// Hub is the address at which agents reach the hub. Set once the hub has seen
	// the token.
	//
	// +optional
	Hub string `json:"hub,omitempty"`
	// Authority is the SHA-256 of the certificate of the federation's authority,
	// in hex: part of the token's text, so that the agent trusts no other hub.
	//
	// +optional
	Authority string `json:"authority,omitempty"`
}
