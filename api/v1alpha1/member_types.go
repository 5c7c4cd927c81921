package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// MemberCluster is a cluster (or an edge box) whose agent has joined the hub.
// Enrolment creates it; its labels put it into groups of a topology.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=member,categories=sealane
// +kubebuilder:printcolumn:name="Connected",type=string,JSONPath=`.status.conditions[?(@.type=="Connected")].status`
// +kubebuilder:printcolumn:name="Applied",type=string,JSONPath=`.status.parts`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Agent",type=string,JSONPath=`.status.agent.version`,priority=1
// +kubebuilder:printcolumn:name="Broker",type=string,JSONPath=`.status.agent.brokerVersion`,priority=1
// +kubebuilder:printcolumn:name="Suspended",type=boolean,JSONPath=`.spec.suspended`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 63",message="the name must be a DNS label: a-z, 0-9 and '-', at most 63 characters"
type MemberCluster struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   MemberClusterSpec   `json:"spec,omitempty"`
	Status MemberClusterStatus `json:"status,omitempty"`
}

// MemberClusterList is a list of MemberCluster.
//
// +kubebuilder:object:root=true
type MemberClusterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []MemberCluster `json:"items"`
}

// MemberClusterSpec is what the platform team says of a member.
type MemberClusterSpec struct {
	// Endpoints are the addresses (host:port) at which other members reach this
	// member's broker. When empty, those that its agent advertises are used. A
	// member with neither only dials.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=3
	// +kubebuilder:validation:items:MaxLength=300
	// +kubebuilder:validation:items:Pattern=`^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$`
	Endpoints []string `json:"endpoints,omitempty"`
	// Suspended: nothing is sent to the member. It goes on with what it holds, its
	// links and bridges work, and other members change around it; what it missed
	// is sent when this is false again. Only the revocation of another member
	// still reaches it. Default false.
	//
	// +optional
	Suspended bool `json:"suspended,omitempty"`
	// Removal is what the deletion of this object waits for. Drain (the default):
	// until the durable bridges from the member are empty, then until the member
	// has dropped its links. Forget: nothing; also to end a Drain that cannot end.
	//
	// +optional
	// +kubebuilder:default=Drain
	Removal LeavePolicy `json:"removal,omitempty"`
	// RevokedKeys are keys that never speak for this member again: the SHA-256 of
	// a certificate's public key (status.identity.keyHash), or a public link key
	// (status.linkKey). While the member's present key is among them it is shut
	// out: the hub refuses it and all others drop their links to it. It joins again
	// with another key and a token that was made for its very name since.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:Pattern=`^([0-9a-f]{64}|U[A-Z2-7]{55})$`
	RevokedKeys []string `json:"revokedKeys,omitempty"`
}

// LeavePolicy is how a member leaves the federation.
//
// +kubebuilder:validation:Enum=Drain;Forget
type LeavePolicy string

// How a member leaves.
const (
	// LeaveDrain waits until what others are promised has been carried.
	LeaveDrain LeavePolicy = "Drain"
	// LeaveForget waits for nothing.
	LeaveForget LeavePolicy = "Forget"
)

const (
	// LeaveFinalizer keeps the object of a member that is deleted until it has left.
	LeaveFinalizer = "messaging.sealane.dev/leave"
	// AllowRemovalAnnotation on a MemberCluster permits what the guard against mass
	// removal holds back: the state (status.desiredHash) to which the member may be
	// brought, or the most parts that may be taken from it at once.
	AllowRemovalAnnotation = "messaging.sealane.dev/allow-removal"
)

// MemberClusterStatus is what was observed of a member.
type MemberClusterStatus struct {
	// Conditions are Connected, Accepted, Programmed and Ready; and, of a member
	// that is deleted or shut out, Leaving and Revoked; and StorageNearlyFull once
	// the broker's storage was.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// ObservedGeneration is the generation that the conditions speak of.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Identity is the certificate that the hub issued to the agent.
	//
	// +optional
	Identity *MemberIdentity `json:"identity,omitempty"`
	// Agent is what the agent said of itself.
	//
	// +optional
	Agent *AgentInfo `json:"agent,omitempty"`
	// LinkKey is the public NATS user key with which this member dials others.
	//
	// +optional
	LinkKey string `json:"linkKey,omitempty"`
	// Endpoints are the addresses that the agent advertises.
	//
	// +optional
	// +listType=set
	Endpoints []string `json:"endpoints,omitempty"`
	// Grants are the link credentials that other members issued to this one.
	// They are signed statements about public keys and no secrets.
	//
	// +optional
	// +listType=map
	// +listMapKey=peer
	Grants []Grant `json:"grants,omitempty"`
	// DesiredHash identifies the state that the hub wants on the member.
	//
	// +optional
	DesiredHash string `json:"desiredHash,omitempty"`
	// HeldHash identifies the state that the member reported to hold.
	//
	// +optional
	HeldHash string `json:"heldHash,omitempty"`
	// Parts is how many parts of the desired state are applied, of how many: "12/12".
	//
	// +optional
	Parts string `json:"parts,omitempty"`
	// Links is the state of each link of the member, by peer.
	//
	// +optional
	// +listType=map
	// +listMapKey=peer
	Links []LinkStatus `json:"links,omitempty"`
	// Flows is the state of each durable flow that arrives at the member.
	//
	// +optional
	Flows []FlowStatus `json:"flows,omitempty"`
	// Problems are the parts that the member could not apply; the first 20.
	//
	// +optional
	Problems []PartProblem `json:"problems,omitempty"`
}

// MemberIdentity is the certificate of a member.
type MemberIdentity struct {
	// KeyHash is the SHA-256 of the certificate's public key (SPKI), in hex. Only
	// a certificate over this key may speak for the member.
	KeyHash string `json:"keyHash"`
	// NextKeyHash is the key of a renewal that the agent has not used yet.
	//
	// +optional
	NextKeyHash string `json:"nextKeyHash,omitempty"`
	// Incarnation tells the member from others that had its name before or have it
	// later. It is given at enrolment and kept over renewals; the certificate carries
	// it, and who dials the member insists on it. Empty: the present certificate is
	// from before there were incarnations.
	//
	// +optional
	Incarnation string `json:"incarnation,omitempty"`
	// NotAfter is when the newest certificate expires.
	NotAfter metav1.Time `json:"notAfter"`
	// Token is the name of the JoinToken that the member enrolled with.
	//
	// +optional
	Token string `json:"token,omitempty"`
}

// AgentInfo is what an agent says of itself.
type AgentInfo struct {
	// Version of the agent.
	Version string `json:"version"`
	// BrokerVersion is the version of the NATS server.
	BrokerVersion string `json:"brokerVersion"`
	// Runtime is how the broker runs: embedded (one server in the agent's process)
	// or statefulset (servers in Kubernetes).
	Runtime string `json:"runtime"`
	// Storage is the free disk, in bytes, on which streams are kept: of several
	// servers, that of the fullest.
	//
	// +optional
	Storage int64 `json:"storage,omitempty"`
	// StorageCapacity is what streams may take of the disk in all, in bytes: what is
	// free, and what the member stores already. It is known of embedded brokers; the
	// volumes of others are made as the topology asks.
	//
	// +optional
	StorageCapacity int64 `json:"storageCapacity,omitempty"`
	// Memory of the machine, or of one of several servers, in bytes.
	//
	// +optional
	Memory int64 `json:"memory,omitempty"`
	// Replicas is how many servers of the broker run.
	//
	// +optional
	Replicas int32 `json:"replicas,omitempty"`
	// WantedReplicas is how many servers of the broker there shall be by now: with
	// autoscaling, what the agent decided.
	//
	// +optional
	WantedReplicas int32 `json:"wantedReplicas,omitempty"`
	// ReplicasReason says why the agent decided for so many.
	//
	// +optional
	ReplicasReason string `json:"replicasReason,omitempty"`
	// LinkRoles tells that the agent knows the roles of links: an older one opens
	// links only to brokers of one server.
	//
	// +optional
	LinkRoles bool `json:"linkRoles,omitempty"`
	// LinkGroups tells that the agent and its broker can have links that share
	// accounts (links of a HubAndSpoke rule).
	//
	// +optional
	LinkGroups bool `json:"linkGroups,omitempty"`
	// MaxReplicas is the most servers that the runtime can run there, if it says so.
	//
	// +optional
	MaxReplicas int32 `json:"maxReplicas,omitempty"`
}

// Grant is the right to open the two leaf connections of a link, issued by the
// accepting member to the dialing member's public key.
type Grant struct {
	// Peer is the accepting member.
	Peer string `json:"peer"`
	// Key is the dialing member's public user key that the grant speaks of.
	Key string `json:"key"`
	// Out is the user JWT for the dialing member's outgoing traffic (the
	// acceptor's account rx_MEMBER).
	Out string `json:"out"`
	// In is the user JWT for the dialing member's incoming traffic (the
	// acceptor's account tx_MEMBER).
	In string `json:"in"`
}

// LinkState is what was observed of a link.
//
// +kubebuilder:validation:Enum=Up;Down;Standby;Pending
type LinkState string

// The states of a link.
const (
	// LinkUp means that the last end-to-end probe came back.
	LinkUp LinkState = "Up"
	// LinkDown means that probes do not come back.
	LinkDown LinkState = "Down"
	// LinkStandby means that another parent is in use and this one is reserve.
	LinkStandby LinkState = "Standby"
	// LinkPending means that the link has not been up yet.
	LinkPending LinkState = "Pending"
)

// LinkStatus is one link as one of its two members sees it.
type LinkStatus struct {
	// Peer is the member at the other end.
	Peer string `json:"peer"`
	// Role is Dial or Accept.
	Role string `json:"role"`
	// State is what the probes show.
	State LinkState `json:"state"`
	// Since is when the state was entered.
	Since metav1.Time `json:"since"`
	// RTTMicros is the last round-trip time of a probe in microseconds, refreshed
	// when it changes notably. 0: never measured.
	//
	// +optional
	RTTMicros int64 `json:"rttMicros,omitempty"`
	// Message says why a link is not up.
	//
	// +optional
	Message string `json:"message,omitempty"`
}

// FlowStatus is one durable flow (origin stream to local stream) as its
// destination sees it.
type FlowStatus struct {
	// Bridge is the namespace/name of the bridge.
	Bridge string `json:"bridge"`
	// From is the origin member.
	From string `json:"from"`
	// Account of both streams.
	Account string `json:"account"`
	// Stream is the local stream that receives.
	Stream string `json:"stream"`
	// State is Up or Down.
	State LinkState `json:"state"`
	// Since is when the state was entered.
	Since metav1.Time `json:"since"`
	// Lag is how many messages of the origin have not arrived, refreshed when it
	// changes notably.
	//
	// +optional
	Lag int64 `json:"lag,omitempty"`
	// Message says why a flow is not up.
	//
	// +optional
	Message string `json:"message,omitempty"`
}

// PartProblem is a part of the desired state that a member could not apply.
type PartProblem struct {
	// Part is the part's id, such as "stream/orders/ORDERS".
	Part string `json:"part"`
	// Code is the kind of failure in CamelCase.
	Code string `json:"code"`
	// Message says what failed.
	Message string `json:"message"`
}
