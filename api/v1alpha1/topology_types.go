package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// MessagingTopology says which member clusters form a federation, how their
// brokers are linked, and which accounts (tenants) exist on all of them.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=mtop,categories=sealane
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.members`
// +kubebuilder:printcolumn:name="Links",type=string,JSONPath=`.status.links`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 63",message="the name must be a DNS label: a-z, 0-9 and '-', at most 63 characters"
type MessagingTopology struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   MessagingTopologySpec   `json:"spec"`
	Status MessagingTopologyStatus `json:"status,omitempty"`
}

// MessagingTopologyList is a list of MessagingTopology.
//
// +kubebuilder:object:root=true
type MessagingTopologyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []MessagingTopology `json:"items"`
}

// MessagingTopologySpec is the wanted federation.
//
// +kubebuilder:validation:XValidation:rule="!has(self.rollout) || !has(self.rollout.order) || self.rollout.order.all(s, !has(s.group) || self.groups.exists(g, g.name == s.group))",message="rollout.order names groups of the topology",fieldPath=".rollout"
type MessagingTopologySpec struct {
	// Groups divide the member clusters of the topology. A member belongs to at
	// most one group of at most one topology.
	//
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Groups []Group `json:"groups"`
	// Links join the brokers of members. Rules add up; two rules that join the
	// same two members make one link. Without links every member is an island.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	Links []LinkRule `json:"links,omitempty"`
	// Accounts are the tenants of the federation: each is a NATS account of this
	// name on every member. Accounts share links and see nothing of each other.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	Accounts []Account `json:"accounts,omitempty"`
	// Rollout has changes that concern many members go to them in waves. Default:
	// every change goes to all members at once.
	//
	// +optional
	Rollout *Rollout `json:"rollout,omitempty"`
}

// Group is a set of member clusters that are treated alike.
//
// +kubebuilder:validation:XValidation:rule="has(self.clusters) != has(self.selector)",message="set exactly one of clusters and selector"
type Group struct {
	// Name of the group, unique in the topology.
	//
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// Clusters lists the members by name. A name that has not joined yet is
	// planned as soon as it joins and reported until then.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Clusters []string `json:"clusters,omitempty"`
	// Selector matches the labels of MemberCluster objects. An empty selector
	// matches every member.
	//
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
	// Broker configures the broker of each member of the group.
	//
	// +optional
	Broker BrokerTemplate `json:"broker,omitempty"`
	// Overrides change the broker of single members of the group. A field that is
	// not set keeps the value of the group.
	//
	// +optional
	// +listType=map
	// +listMapKey=cluster
	// +kubebuilder:validation:MaxItems=256
	Overrides []BrokerOverride `json:"overrides,omitempty"`
}

// Durability says when a stream's write is safe on disk.
//
// +kubebuilder:validation:Enum=Interval;Always
type Durability string

// The durabilities of a broker.
const (
	// DurabilityInterval syncs the disk every second: a power loss of the
	// machine (not a crash of the broker) can lose the last second of
	// acknowledged messages.
	DurabilityInterval Durability = "Interval"
	// DurabilityAlways syncs before each acknowledgement. It is 10 to 40 times
	// slower on one server.
	DurabilityAlways Durability = "Always"
)

// BrokerTemplate configures a member's NATS servers. A change of storage,
// memory (when lowered) or durability restarts them, one after the other: clients
// reconnect.
//
// +kubebuilder:validation:XValidation:rule="!has(self.replicas) || !has(self.autoscaling)",message="set replicas or autoscaling, not both"
// +kubebuilder:validation:XValidation:rule="!has(self.storage) || type(self.storage) != int || self.storage > 0",message="storage is more than 0",fieldPath=".storage"
// +kubebuilder:validation:XValidation:rule="!has(self.memory) || type(self.memory) != int || self.memory > 0",message="memory is more than 0",fieldPath=".memory"
// +kubebuilder:validation:XValidation:rule="!has(self.maxPayload) || type(self.maxPayload) != int || self.maxPayload > 0",message="maxPayload is more than 0",fieldPath=".maxPayload"
type BrokerTemplate struct {
	// Storage is the most disk that JetStream may use on each server. Default 10Gi. A
	// topology that asks for more than a member with an embedded broker has
	// (status.agent.storageCapacity, and a tenth more) is refused with
	// InsufficientCapacity; the default is not: there streams may reserve what the
	// member has. A topology that is in effect stays so when a smaller member joins,
	// and that member says it.
	//
	// +optional
	// +kubebuilder:validation:Pattern=`^([1-9][0-9]{0,18}(\.[0-9]{1,9})?|0\.[0-9]{0,8}[1-9])(k|Ki|[MGTPE]i?)?$`
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:XIntOrString
	Storage *resource.Quantity `json:"storage,omitempty"`
	// Memory is the most memory that JetStream's memory streams may use on each
	// server. Default 256Mi. It is compared with status.agent.memory as storage is
	// with the disk.
	//
	// +optional
	// +kubebuilder:validation:Pattern=`^([1-9][0-9]{0,18}(\.[0-9]{1,9})?|0\.[0-9]{0,8}[1-9])(k|Ki|[MGTPE]i?)?$`
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:XIntOrString
	Memory *resource.Quantity `json:"memory,omitempty"`
	// MaxPayload is the largest message in bytes. Default 1Mi, at most 8Mi. Every
	// member of a topology should have the same: a message larger than a member's
	// limit cannot cross it.
	//
	// +optional
	// +kubebuilder:validation:Pattern=`^([1-9][0-9]{0,18}(\.[0-9]{1,9})?|0\.[0-9]{0,8}[1-9])(k|Ki|[MGTPE]i?)?$`
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:XIntOrString
	MaxPayload *resource.Quantity `json:"maxPayload,omitempty"`
	// MaxConnections is the most client connections of each server. Default 65536.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxConnections *int32 `json:"maxConnections,omitempty"`
	// Durability says when a stream's write is safe on disk. Default: Always for
	// brokers that never have less than 3 servers, else Interval.
	//
	// +optional
	Durability Durability `json:"durability,omitempty"`
	// Replicas is how many servers the broker has: 1, 3 or 5. Default 1. More than
	// one needs an agent in Kubernetes. Storage, memory and connections are those
	// of each server.
	//
	// +optional
	// +kubebuilder:validation:Enum=1;3;5
	Replicas *int32 `json:"replicas,omitempty"`
	// Autoscaling has the number of servers follow the load, instead of replicas.
	//
	// +optional
	Autoscaling *Autoscaling `json:"autoscaling,omitempty"`
}

// Autoscaling chooses the number of servers of a broker, of 1, 3 and 5, by their
// load: the smallest with which no target is exceeded.
//
// +kubebuilder:validation:XValidation:rule="self.min < self.max",message="max is more than min"
type Autoscaling struct {
	// Min is the fewest servers: 1 or 3. Default 1. Streams have at most so many
	// copies.
	//
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Enum=1;3
	Min int32 `json:"min,omitempty"`
	// Max is the most servers: 3 or 5.
	//
	// +kubebuilder:validation:Enum=3;5
	Max int32 `json:"max"`
	// Targets that a server should stay below. At least one.
	Targets AutoscalingTargets `json:"targets"`
	// Stabilization says how long more or fewer servers must have been wanted.
	//
	// +optional
	Stabilization Stabilization `json:"stabilization,omitempty"`
}

// AutoscalingTargets are loads of one server. One that is not set is not looked at.
//
// +kubebuilder:validation:MinProperties=1
type AutoscalingTargets struct {
	// Connections of clients.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	Connections *int32 `json:"connections,omitempty"`
	// MessageRate is messages in and out in a second.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	MessageRate *int32 `json:"messageRate,omitempty"`
	// StoragePercent is the used part of the storage, in percent. More servers help
	// only streams of one copy, or whose copies are on other servers then.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	StoragePercent *int32 `json:"storagePercent,omitempty"`
	// CPUPercent is the used part of the processor time that a server may use, in
	// percent. It has no effect where that is not known.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	CPUPercent *int32 `json:"cpuPercent,omitempty"`
}

// Stabilization is how long a different number of servers must have been wanted
// all the time before it is set.
type Stabilization struct {
	// UpSeconds before servers are added. Default 60.
	//
	// +optional
	// +kubebuilder:default=60
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=3600
	UpSeconds *int32 `json:"upSeconds,omitempty"`
	// DownSeconds before servers are taken away. Default 600.
	//
	// +optional
	// +kubebuilder:default=600
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	DownSeconds *int32 `json:"downSeconds,omitempty"`
}

// BrokerOverride changes the broker of one member of a group.
type BrokerOverride struct {
	// Cluster is the member's name.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Cluster string `json:"cluster"`
	// Broker holds the fields that differ from the group's.
	Broker BrokerTemplate `json:"broker"`
}

// LinkType is the shape that a link rule makes.
//
// +kubebuilder:validation:Enum=Mesh;HubAndSpoke;Ring;Chain;Edges
type LinkType string

// The shapes of links.
const (
	LinkMesh        LinkType = "Mesh"
	LinkHubAndSpoke LinkType = "HubAndSpoke"
	LinkRing        LinkType = "Ring"
	LinkChain       LinkType = "Chain"
	LinkEdges       LinkType = "Edges"
)

// LinkRule joins members with links of one shape. Of two members that are
// joined, one with endpoints accepts and the other dials; where both have
// endpoints, the spoke, or else the name that sorts last, dials.
//
// +kubebuilder:validation:XValidation:rule="(self.type == 'Mesh' || self.type == 'Ring' || self.type == 'Chain') == has(self.groups)",message="set groups for Mesh, Ring and Chain, and for no other type"
// +kubebuilder:validation:XValidation:rule="(self.type == 'HubAndSpoke') == has(self.hubAndSpoke)",message="set hubAndSpoke for type HubAndSpoke, and for no other type"
// +kubebuilder:validation:XValidation:rule="(self.type == 'Edges') == has(self.edges)",message="set edges for type Edges, and for no other type"
// +kubebuilder:validation:XValidation:rule="!has(self.order) || self.type == 'Ring' || self.type == 'Chain'",message="order is for Ring and Chain only"
type LinkRule struct {
	// Name of the rule, unique in the topology.
	//
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// Type is the shape: Mesh joins each with each, Ring and Chain join each with
	// the next, HubAndSpoke joins each spoke with its parents, Edges joins the
	// listed pairs.
	Type LinkType `json:"type"`
	// Groups whose members, all together, form the Mesh, Ring or Chain.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Groups []string `json:"groups,omitempty"`
	// Order of the members in a Ring or Chain by name. Members that are not
	// listed follow in the order of their names.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Order []string `json:"order,omitempty"`
	// HubAndSpoke joins the members of one group to parents in another.
	//
	// +optional
	HubAndSpoke *HubAndSpoke `json:"hubAndSpoke,omitempty"`
	// Edges lists pairs of members to join.
	//
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1024
	Edges []Edge `json:"edges,omitempty"`
}

// ParentSelection says how a spoke chooses among the members of the hub group.
//
// +kubebuilder:validation:Enum=Ordered;Nearest
type ParentSelection string

// The ways to choose parents.
const (
	// ParentsOrdered takes the parents in the order of HubAndSpoke.Order, then of
	// their names.
	ParentsOrdered ParentSelection = "Ordered"
	// ParentsNearest takes first the parents that share the most of the labels
	// in HubAndSpoke.NearestBy, then spreads the spokes over equal ones.
	ParentsNearest ParentSelection = "Nearest"
)

// SpokeLinks says what spokes have at a parent.
//
// +kubebuilder:validation:Enum=Separate;Shared
type SpokeLinks string

// What spokes can have at a parent.
const (
	// SpokeLinksSeparate gives each spoke accounts of its own at a parent.
	SpokeLinksSeparate SpokeLinks = "Separate"
	// SpokeLinksShared lets the spokes of a rule share accounts at a parent.
	SpokeLinksShared SpokeLinks = "Shared"
)

// HubAndSpoke joins each member of Spokes to one member of Hubs at a time.
type HubAndSpoke struct {
	// Hubs is the group of the parents.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Hubs string `json:"hubs"`
	// Spokes is the group of the children.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Spokes string `json:"spokes"`
	// Parents says how a spoke chooses its parents. Default Ordered.
	//
	// +optional
	// +kubebuilder:default=Ordered
	Parents ParentSelection `json:"parents,omitempty"`
	// MaxParents is how many parents a spoke may use, one at a time: the others
	// stand by. Default 2.
	//
	// +optional
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4
	MaxParents int32 `json:"maxParents,omitempty"`
	// Links says what the spokes have at a parent. Separate (the default): each has
	// accounts of its own there, and its own name on all that it sends. Shared: those
	// of the rule share one pair of accounts at each parent, and one name beyond it,
	// so that neither grows with their number: for tens to thousands of sites.
	// Shared spokes are one trust domain, hear no events or requests of each other,
	// and use an account for requests only with replies PerCluster and the inbox
	// prefix _INBOX.@RULE.SPOKE. A spoke that has other links too, does not dial all
	// of its own, or runs a broker in several servers has separate ones.
	//
	// +optional
	// +kubebuilder:default=Separate
	Links SpokeLinks `json:"links,omitempty"`
	// Order lists parents by name, the preferred one first.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Order []string `json:"order,omitempty"`
	// NearestBy lists label keys from the most to the least specific. Default
	// topology.kubernetes.io/zone, topology.kubernetes.io/region.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=317
	NearestBy []string `json:"nearestBy,omitempty"`
}

// Edge is one link between two members.
//
// +kubebuilder:validation:XValidation:rule="self.a != self.b",message="an edge joins two different members"
type Edge struct {
	// A is one member's name.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	A string `json:"a"`
	// B is the other member's name.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	B string `json:"b"`
}

// Replies says which reply subjects cross links for requests of an account.
//
// +kubebuilder:validation:Enum=Shared;PerCluster
type Replies string

// The reply modes of an account.
const (
	// RepliesShared lets replies to any inbox (_INBOX.>) cross: every NATS client
	// works as it is. A member that has a requests bridge with another can read
	// the other's replies in this account.
	RepliesShared Replies = "Shared"
	// RepliesPerCluster lets only _INBOX.CLUSTER.> cross: a member reads only
	// replies to its own requests, and requesters set the inbox prefix
	// _INBOX.CLUSTER.
	RepliesPerCluster Replies = "PerCluster"
)

// Account is a tenant: a NATS account on every member.
type Account struct {
	// Name of the account, unique in the topology.
	//
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// Namespaces whose Streams and Bridges may use the account, and in which members
	// in Kubernetes may put its applications' credentials; "*" stands for all. There
	// is no default: who may attach is a decision.
	//
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:Pattern=`^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$`
	Namespaces []string `json:"namespaces"`
	// Replies says which reply subjects cross links. Default Shared.
	//
	// +optional
	// +kubebuilder:default=Shared
	Replies Replies `json:"replies,omitempty"`
	// Limits bound the account on each member. A field that is not set is unlimited.
	//
	// +optional
	Limits AccountLimits `json:"limits,omitempty"`
}

// AccountLimits bound what an account may use on each member.
//
// +kubebuilder:validation:XValidation:rule="!has(self.storage) || type(self.storage) != int || self.storage >= 0",message="storage is at least 0",fieldPath=".storage"
// +kubebuilder:validation:XValidation:rule="!has(self.memory) || type(self.memory) != int || self.memory >= 0",message="memory is at least 0",fieldPath=".memory"
type AccountLimits struct {
	// Connections is the most client connections.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Connections *int64 `json:"connections,omitempty"`
	// Subscriptions is the most subscriptions.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Subscriptions *int64 `json:"subscriptions,omitempty"`
	// Storage is the most disk for the account's streams.
	//
	// +optional
	// +kubebuilder:validation:Pattern=`^[0-9]{1,19}(\.[0-9]{1,9})?(k|Ki|[MGTPE]i?)?$`
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:XIntOrString
	Storage *resource.Quantity `json:"storage,omitempty"`
	// Memory is the most memory for the account's memory streams.
	//
	// +optional
	// +kubebuilder:validation:Pattern=`^[0-9]{1,19}(\.[0-9]{1,9})?(k|Ki|[MGTPE]i?)?$`
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:XIntOrString
	Memory *resource.Quantity `json:"memory,omitempty"`
	// Streams is the most streams.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Streams *int64 `json:"streams,omitempty"`
	// Consumers is the most consumers.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Consumers *int64 `json:"consumers,omitempty"`
}

// MessagingTopologyStatus is what was observed of the federation.
type MessagingTopologyStatus struct {
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
	// Links is how many links were observed to work, of how many: "3/3".
	//
	// +optional
	Links string `json:"links,omitempty"`
	// Rollout is where the rollout of changes is.
	//
	// +optional
	Rollout *RolloutStatus `json:"rollout,omitempty"`
}
