package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Annotations of a MessagingTopology that speak to its rollout. Each names what it
// is about, so that it has no effect on anything that comes later. The sealane
// command sets them.
const (
	// RolloutApproveAnnotation lets a wave begin: REVISION/WAVE.
	RolloutApproveAnnotation = "messaging.sealane.dev/rollout-approve"
	// RolloutResumeAnnotation goes on with a rollout that stopped over its budget, or
	// was rolled back: REVISION/ATTEMPT, with the attempt of status.rollout.
	RolloutResumeAnnotation = "messaging.sealane.dev/rollout-resume"
	// RolloutNowAnnotation has a revision go to all members at once, without waves:
	// REVISION, or "always" as long as it is set. It is recorded in the revision.
	RolloutNowAnnotation = "messaging.sealane.dev/rollout-now"
	// RolloutUndoAnnotation keeps an older revision in effect while the objects say
	// another: OLDER/PRESENT. It ends when the objects are changed, or it is removed.
	RolloutUndoAnnotation = "messaging.sealane.dev/rollout-undo"
	// RolloutAlways is the value of RolloutNowAnnotation that means every revision.
	RolloutAlways = "always"
)

// Rollout has changes of a topology, its Streams and its Bridges go to members in
// waves: a wave begins when everything of the waves before was observed to work.
type Rollout struct {
	// Order lists which members come first. Members that no step selects come last.
	// A wave has members of one step only. Default: one step with all members.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Order []RolloutStep `json:"order,omitempty"`
	// Size is how many members a wave has: a number, or a percentage of the members
	// that the change concerns. Default 25%.
	//
	// +optional
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^(100|[1-9][0-9]?)%$`
	// +kubebuilder:validation:XValidation:rule="type(self) != int || self > 0",message="a wave has at least one member"
	Size *intstr.IntOrString `json:"size,omitempty"`
	// Budget is how many members may fail, or not be ready in time, before the
	// rollout stops: a number, or a percentage of the members that the change
	// concerns. Default 0.
	//
	// +optional
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^(100|[1-9]?[0-9])%$`
	// +kubebuilder:validation:XValidation:rule="type(self) != int || self >= 0",message="budget is at least 0"
	Budget *intstr.IntOrString `json:"budget,omitempty"`
	// BakeSeconds is how long everything must have worked, all the time, before the
	// next wave begins. Default 0.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=604800
	BakeSeconds int32 `json:"bakeSeconds,omitempty"`
	// DeadlineSeconds is after what time a member of a wave that is not ready, or not
	// connected, counts against the budget. Default 600. One that reports that it
	// cannot apply the change counts without it.
	//
	// +optional
	// +kubebuilder:default=600
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=604800
	DeadlineSeconds int32 `json:"deadlineSeconds,omitempty"`
	// FailureGraceSeconds is how long more members than the budget allows must have
	// failed, all the time, before the rollout stops: a link that blinks, or a part that
	// can be applied a moment later, is no reason. No wave begins meanwhile. Default 30;
	// 0: it stops at once.
	//
	// +optional
	// +kubebuilder:default=30
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=3600
	FailureGraceSeconds *int32 `json:"failureGraceSeconds,omitempty"`
	// Approval says whether waves after the first begin by themselves. Default
	// Automatic.
	//
	// +optional
	// +kubebuilder:default=Automatic
	Approval Decision `json:"approval,omitempty"`
	// Rollback says what happens over the budget: Manual stops the rollout as it is,
	// Automatic returns all members to the last revision that was Ready everywhere.
	// The objects stay as they were written. Default Manual.
	//
	// +optional
	// +kubebuilder:default=Manual
	Rollback Decision `json:"rollback,omitempty"`
	// MinMembers is how many members a change must concern to go in waves; a smaller
	// one goes to all at once. Default 2.
	//
	// +optional
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	MinMembers int32 `json:"minMembers,omitempty"`
	// History is how many revisions are kept. Default 10.
	//
	// +optional
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=50
	History int32 `json:"history,omitempty"`
	// Paused: no further wave begins. Those that began go on.
	//
	// +optional
	Paused bool `json:"paused,omitempty"`
}

// RolloutStep selects members.
//
// +kubebuilder:validation:XValidation:rule="has(self.group) != has(self.selector)",message="set exactly one of group and selector"
type RolloutStep struct {
	// Group of the topology.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Group string `json:"group,omitempty"`
	// Selector matches labels of members.
	//
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// Decision says who decides.
//
// +kubebuilder:validation:Enum=Automatic;Manual
type Decision string

// Who decides.
const (
	DecisionAutomatic Decision = "Automatic"
	DecisionManual    Decision = "Manual"
)

// RolloutState says where a rollout is.
//
// +kubebuilder:validation:Enum=Complete;Progressing;Baking;AwaitingApproval;Paused;OverBudget;RolledBack;Undone
type RolloutState string

// The states of a rollout.
const (
	// RolloutComplete: what the objects say has gone to all members.
	RolloutComplete RolloutState = "Complete"
	// RolloutProgressing: members of the waves so far are not all ready yet.
	RolloutProgressing RolloutState = "Progressing"
	// RolloutBaking: they are, and the bake time passes.
	RolloutBaking RolloutState = "Baking"
	// RolloutAwaitingApproval: the next wave waits for somebody to approve it.
	RolloutAwaitingApproval RolloutState = "AwaitingApproval"
	// RolloutPaused: spec.rollout.paused holds the next wave back.
	RolloutPaused RolloutState = "Paused"
	// RolloutOverBudget: too many members failed. No further wave begins.
	RolloutOverBudget RolloutState = "OverBudget"
	// RolloutRolledBack: too many members failed, and the revision that was the last
	// to be Ready everywhere is in effect again.
	RolloutRolledBack RolloutState = "RolledBack"
	// RolloutUndone: an older revision is in effect because somebody said so.
	RolloutUndone RolloutState = "Undone"
)

// RolloutStatus is where the rollout of a topology is.
type RolloutStatus struct {
	// State in a word.
	State RolloutState `json:"state"`
	// Message says what is waited for, or why it stopped.
	//
	// +optional
	Message string `json:"message,omitempty"`
	// Current is the revision on members that no wave of Target has reached.
	Current string `json:"current"`
	// Target is the revision that the objects say, while it is not on all members.
	//
	// +optional
	Target string `json:"target,omitempty"`
	// Wave is the number of waves of Target that have begun.
	//
	// +optional
	Wave int32 `json:"wave,omitempty"`
	// Through is the last member, in order, that those waves have reached.
	//
	// +optional
	Through *RolloutPosition `json:"through,omitempty"`
	// Members that those waves have reached, of how many: "10/40".
	//
	// +optional
	Members string `json:"members,omitempty"`
	// WaveStarted is when the last wave began.
	//
	// +optional
	WaveStarted *metav1.MicroTime `json:"waveStarted,omitempty"`
	// ReadySince is since when all members of the waves have been ready.
	//
	// +optional
	ReadySince *metav1.MicroTime `json:"readySince,omitempty"`
	// FailingSince is since when more members than the budget allows have failed, while
	// spec.rollout.failureGraceSeconds pass.
	//
	// +optional
	FailingSince *metav1.MicroTime `json:"failingSince,omitempty"`
	// Attempt counts how often the rollout of Target was begun or resumed.
	//
	// +optional
	Attempt int32 `json:"attempt,omitempty"`
}

// RolloutPosition is a place in the order of members.
type RolloutPosition struct {
	// Step is the index in spec.rollout.order; of members that no step selects, its
	// length.
	Step int32 `json:"step"`
	// Member is the name.
	Member string `json:"member"`
}

// TopologyRevision is what a topology, its Streams and its Bridges said at one
// time. The hub makes it of every topology that has spec.rollout.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=mrev,categories=sealane
// +kubebuilder:printcolumn:name="Topology",type=string,JSONPath=`.spec.topology`
// +kubebuilder:printcolumn:name="Number",type=integer,JSONPath=`.spec.number`
// +kubebuilder:printcolumn:name="Ready",type=date,JSONPath=`.status.readyAt`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type TopologyRevision struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   TopologyRevisionSpec   `json:"spec"`
	Status TopologyRevisionStatus `json:"status,omitempty"`
}

// TopologyRevisionList is a list of TopologyRevision.
//
// +kubebuilder:object:root=true
type TopologyRevisionList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []TopologyRevision `json:"items"`
}

// TopologyRevisionSpec does not change. (Content has no rule of its own: the rules
// of an API server do not take every base64 text. A revision whose content does not
// have its hash is no revision.)
type TopologyRevisionSpec struct {
	// Topology that it is of.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a revision does not change"
	Topology string `json:"topology"`
	// Number counts the revisions of the topology.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a revision does not change"
	Number int64 `json:"number"`
	// Hash is the SHA-256 of the specs, in hex.
	//
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a revision does not change"
	Hash string `json:"hash"`
	// Content is the objects as JSON, compressed with gzip. "sealane rollout history
	// TOPOLOGY --revision NAME" shows it.
	//
	// +kubebuilder:validation:MaxLength=1048576
	Content []byte `json:"content"`
}

// TopologyRevisionStatus is what became of it.
type TopologyRevisionStatus struct {
	// ReadyAt is when it was first observed to be Ready everywhere.
	//
	// +optional
	ReadyAt *metav1.Time `json:"readyAt,omitempty"`
	// Note records that it went to members without waves, and by whose word.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Note string `json:"note,omitempty"`
}
