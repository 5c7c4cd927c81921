package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Bridge says what flows from the members of one placement to those of another,
// over as many links as it takes.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,shortName=mbridge,categories=sealane
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.type`
// +kubebuilder:printcolumn:name="Account",type=string,JSONPath=`.spec.account`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.members`
// +kubebuilder:printcolumn:name="Lag",type=integer,JSONPath=`.status.lag`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Bridge struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   BridgeSpec       `json:"spec"`
	Status FlowObjectStatus `json:"status,omitempty"`
}

// BridgeList is a list of Bridge.
//
// +kubebuilder:object:root=true
type BridgeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Bridge `json:"items"`
}

// BridgeType is the kind of flow.
//
// +kubebuilder:validation:Enum=Events;Requests;Stream;Queue
type BridgeType string

// The kinds of flow.
const (
	// BridgeEvents carries live messages, at most once.
	BridgeEvents BridgeType = "Events"
	// BridgeRequests carries requests and their replies: local responders first,
	// then remote ones.
	BridgeRequests BridgeType = "Requests"
	// BridgeStream copies a stream durably: nothing lost, doubled or reordered.
	BridgeStream BridgeType = "Stream"
	// BridgeQueue moves a work queue durably: the origin forgets a message only
	// after the destination has stored it.
	BridgeQueue BridgeType = "Queue"
)

// BridgeSpec is the wanted flow.
//
// +kubebuilder:validation:XValidation:rule="(self.type == 'Events' || self.type == 'Requests') ? (has(self.subjects) && !has(self.stream)) : has(self.stream)",message="set subjects (and no stream) for Events and Requests; set stream for Stream and Queue"
// +kubebuilder:validation:XValidation:rule="self.type == oldSelf.type && self.account == oldSelf.account",message="type and account cannot be changed: create another bridge"
// +kubebuilder:validation:XValidation:rule="!has(self.rename) || self.type != 'Requests'",message="rename is for Events, Stream and Queue"
type BridgeSpec struct {
	// Topology that the bridge belongs to. May be left out while there is only one.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Topology string `json:"topology,omitempty"`
	// Account of the topology in which the messages flow.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Account string `json:"account"`
	// Type is the kind of flow.
	Type BridgeType `json:"type"`
	// From says where messages come from. For Requests: where requesters are.
	From Placement `json:"from"`
	// To says where messages go. For Requests: where responders are.
	To Placement `json:"to"`
	// Subjects that flow: NATS subjects with wildcards. For Stream and Queue they
	// filter what the stream holds; without any, everything flows.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=255
	// +kubebuilder:validation:items:Pattern=`^[^\s.>]+(\.[^\s.>]+)*(\.>)?$|^>$`
	Subjects []string `json:"subjects,omitempty"`
	// Rename changes subjects on arrival. A subject that no rule matches arrives
	// as it is. Each rule's from must be one of the bridge's subjects (for Stream
	// and Queue without subjects: any).
	//
	// +optional
	// +listType=map
	// +listMapKey=from
	// +kubebuilder:validation:MaxItems=64
	Rename []Rename `json:"rename,omitempty"`
	// Stream names the streams of a Stream or Queue bridge.
	//
	// +optional
	Stream *BridgeStreams `json:"stream,omitempty"`
}

// Rename is one change of subjects.
type Rename struct {
	// From is a subject with wildcards.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^[^\s.>]+(\.[^\s.>]+)*(\.>)?$|^>$`
	From string `json:"from"`
	// To is the subject on arrival. {{wildcard(1)}} stands for what the first "*"
	// of From matched; a final ">" stands for the rest. {{origin}} stands for the
	// name of the origin member.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:Pattern=`^[^\s.>]+(\.[^\s.>]+)*(\.>)?$`
	To string `json:"to"`
}

// BridgeStreams names the streams that a Stream or Queue bridge joins.
type BridgeStreams struct {
	// Name of the Stream (its name in JetStream) at the origin.
	//
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_-]{1,64}$`
	Name string `json:"name"`
	// Target is the name of the stream at the destination. If a Stream of that
	// name is placed there the bridge feeds it; otherwise the bridge makes one
	// with the limits of the origin. Default: Name.
	//
	// +optional
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_-]{1,64}$`
	Target string `json:"target,omitempty"`
	// RateLimit is the most bytes per second from each origin to each
	// destination. Unlimited when not set.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1024
	RateLimit *int64 `json:"rateLimit,omitempty"`
	// Flow is Running or Paused. While paused messages stay at the origin.
	//
	// +optional
	// +kubebuilder:default=Running
	Flow FlowState `json:"flow,omitempty"`
}

// FlowState says whether a durable bridge runs.
//
// +kubebuilder:validation:Enum=Running;Paused
type FlowState string

// The states of a durable bridge.
const (
	FlowRunning FlowState = "Running"
	FlowPaused  FlowState = "Paused"
)
