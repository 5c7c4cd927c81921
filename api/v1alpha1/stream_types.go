package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Stream is a JetStream stream, or a work queue, of the same configuration on
// every member of a placement. The streams are separate: a Bridge joins them.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,shortName=mstream,categories=sealane
// +kubebuilder:printcolumn:name="Account",type=string,JSONPath=`.spec.account`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.members`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="has(self.spec.name) || (!self.metadata.name.contains('.') && size(self.metadata.name) <= 64)",message="the object's name is no name for a stream in JetStream ('.', or more than 64 characters): set spec.name"
type Stream struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   StreamSpec       `json:"spec"`
	Status FlowObjectStatus `json:"status,omitempty"`
}

// StreamList is a list of Stream.
//
// +kubebuilder:object:root=true
type StreamList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Stream `json:"items"`
}

// Retention says when a stream may forget a message.
//
// +kubebuilder:validation:Enum=Limits;Interest;WorkQueue
type Retention string

// The retentions of a stream.
const (
	RetentionLimits    Retention = "Limits"
	RetentionInterest  Retention = "Interest"
	RetentionWorkQueue Retention = "WorkQueue"
)

// Storage says where a stream keeps its messages.
//
// +kubebuilder:validation:Enum=File;Memory
type Storage string

// The storages of a stream.
const (
	StorageFile   Storage = "File"
	StorageMemory Storage = "Memory"
)

// Discard says what a full stream does with a new message.
//
// +kubebuilder:validation:Enum=Old;New
type Discard string

// The discard policies of a stream.
const (
	// DiscardOld drops the oldest messages.
	DiscardOld Discard = "Old"
	// DiscardNew refuses the new message.
	DiscardNew Discard = "New"
)

// RemovalPolicy says what becomes of a stream's messages when the stream is no
// longer wanted on a member.
//
// +kubebuilder:validation:Enum=Retain;Delete
type RemovalPolicy string

// The removal policies of a stream.
const (
	// RemovalRetain leaves the stream and its messages on the member, unmanaged.
	RemovalRetain RemovalPolicy = "Retain"
	// RemovalDelete deletes the stream with its messages.
	RemovalDelete RemovalPolicy = "Delete"
)

// StreamSpec is the wanted stream. Name, account, storage and retention cannot
// be changed.
//
// +kubebuilder:validation:XValidation:rule="self.account == oldSelf.account",message="account cannot be changed: create another stream and bridge the two"
// +kubebuilder:validation:XValidation:rule="self.storage == oldSelf.storage",message="storage cannot be changed: create another stream and bridge the two"
// +kubebuilder:validation:XValidation:rule="self.retention == oldSelf.retention",message="retention cannot be changed: create another stream and bridge the two"
// +kubebuilder:validation:XValidation:rule="has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)",message="name cannot be changed: create another stream and bridge the two"
// +kubebuilder:validation:XValidation:rule="!has(self.maxAge) || duration(self.maxAge) >= duration('100ms')",message="maxAge is at least 100ms; leave it out to keep messages for ever",fieldPath=".maxAge"
// +kubebuilder:validation:XValidation:rule="!has(self.duplicateWindow) || duration(self.duplicateWindow) >= duration('100ms')",message="duplicateWindow is at least 100ms",fieldPath=".duplicateWindow"
// +kubebuilder:validation:XValidation:rule="!has(self.duplicateWindow) || !has(self.maxAge) || duration(self.duplicateWindow) <= duration(self.maxAge)",message="duplicateWindow is at most maxAge",fieldPath=".duplicateWindow"
// +kubebuilder:validation:XValidation:rule="!has(self.maxBytes) || type(self.maxBytes) != int || self.maxBytes > 0",message="maxBytes is at least 1; leave it out for no limit",fieldPath=".maxBytes"
type StreamSpec struct {
	// Topology that the stream belongs to. May be left out while there is only one.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Topology string `json:"topology,omitempty"`
	// Account of the topology that owns the stream.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Account string `json:"account"`
	// Placement says on which members the stream exists.
	Placement Placement `json:"placement"`
	// Name of the stream in JetStream. Default: the object's name.
	//
	// +optional
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_-]{1,64}$`
	Name string `json:"name,omitempty"`
	// Subjects that the stream stores. Without any, only bridges fill it.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=255
	// +kubebuilder:validation:items:Pattern=`^[^\s.>]+(\.[^\s.>]+)*(\.>)?$|^>$`
	Subjects []string `json:"subjects,omitempty"`
	// Retention: Limits keeps messages until a limit is reached, Interest until
	// every consumer has them, WorkQueue until one consumer has them. Default Limits.
	//
	// +optional
	// +kubebuilder:default=Limits
	Retention Retention `json:"retention,omitempty"`
	// Storage: File or Memory. Default File.
	//
	// +optional
	// +kubebuilder:default=File
	Storage Storage `json:"storage,omitempty"`
	// Replicas is how many servers of a member's broker keep a copy: 1, 3 or 5, at
	// most as many as the broker has on every member of the placement. Default: 3
	// where the broker never has less, else 1.
	//
	// +optional
	// +kubebuilder:validation:Enum=1;3;5
	Replicas *int32 `json:"replicas,omitempty"`
	// MaxBytes is the most that the messages may take, in each copy. It is reserved:
	// the sum of all copies of all streams must fit the storage of a member's
	// servers. Unlimited when not set.
	//
	// +optional
	// +kubebuilder:validation:Pattern=`^([1-9][0-9]{0,18}(\.[0-9]{1,9})?|0\.[0-9]{0,8}[1-9])(k|Ki|[MGTPE]i?)?$`
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:XIntOrString
	MaxBytes *resource.Quantity `json:"maxBytes,omitempty"`
	// MaxMessages is the most messages. Unlimited when not set.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	MaxMessages *int64 `json:"maxMessages,omitempty"`
	// MaxMessagesPerSubject is the most messages of one subject. Unlimited when not set.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	MaxMessagesPerSubject *int64 `json:"maxMessagesPerSubject,omitempty"`
	// MaxAge is how long a message is kept: "90s", "36h", at least 100ms. For ever
	// when not set.
	//
	// +optional
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(\.[0-9]{1,9})?(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=64
	MaxAge *metav1.Duration `json:"maxAge,omitempty"`
	// Discard says what a full stream does with a new message. Default Old.
	//
	// +optional
	// +kubebuilder:default=Old
	Discard Discard `json:"discard,omitempty"`
	// DuplicateWindow is how long a message id (header Nats-Msg-Id) is remembered:
	// at least 100ms, at most MaxAge. Default 2m.
	//
	// +optional
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(\.[0-9]{1,9})?(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=64
	DuplicateWindow *metav1.Duration `json:"duplicateWindow,omitempty"`
	// OnRemoval says what becomes of the messages when the stream is no longer
	// wanted on a member. Default Retain.
	//
	// +optional
	// +kubebuilder:default=Retain
	OnRemoval RemovalPolicy `json:"onRemoval,omitempty"`
}

// FlowObjectStatus is what was observed of a Stream or a Bridge.
type FlowObjectStatus struct {
	// Conditions are Accepted, Programmed and Ready.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// ObservedGeneration is the generation that the conditions speak of.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Members is how many members have applied this generation, of how many: "3/3".
	//
	// +optional
	Members string `json:"members,omitempty"`
	// Lag is how many messages of a durable bridge have not arrived, over all its
	// flows, refreshed when it changes notably.
	//
	// +optional
	Lag int64 `json:"lag,omitempty"`
}
