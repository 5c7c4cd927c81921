package v1alpha1

// Condition types, in the words of the Gateway API.
const (
	// ConditionAccepted: the object is valid by itself and together with all
	// others, and is planned. False: nothing of it reaches any member.
	ConditionAccepted = "Accepted"
	// ConditionProgrammed: every member concerned reported that it applied this
	// generation.
	ConditionProgrammed = "Programmed"
	// ConditionReady: it was observed to work, end to end.
	ConditionReady = "Ready"
	// ConditionConnected (MemberCluster only): the agent's session is live and
	// its last heartbeat is recent.
	ConditionConnected = "Connected"
	// ConditionLeaving (MemberCluster only): it is deleted, and its message says
	// what is waited for.
	ConditionLeaving = "Leaving"
	// ConditionRevoked (MemberCluster only): the member's present key is revoked.
	ConditionRevoked = "Revoked"
	// ConditionStorageNearlyFull (MemberCluster only): a server of the broker has
	// little room left for streams. Everything works yet.
	ConditionStorageNearlyFull = "StorageNearlyFull"
)

// Reasons of conditions that hold.
const (
	ReasonAccepted   = "Accepted"
	ReasonProgrammed = "Programmed"
	ReasonReady      = "Ready"
	ReasonConnected  = "Connected"
	// ReasonStorageNearlyFull: a broker has little room left for streams.
	ReasonStorageNearlyFull = "StorageNearlyFull"
	// ReasonStorageSuffices: it was nearly full, and is not any more.
	ReasonStorageSuffices = "StorageSuffices"
)

// Reasons of Accepted=False: the object is refused.
const (
	// ReasonUnknownTopology: the object names a topology that does not exist, or
	// names none while there is not exactly one.
	ReasonUnknownTopology = "UnknownTopology"
	// ReasonUnknownAccount: the topology has no account of that name.
	ReasonUnknownAccount = "UnknownAccount"
	// ReasonNamespaceNotAllowed: the account does not admit the namespace.
	ReasonNamespaceNotAllowed = "NamespaceNotAllowed"
	// ReasonUnknownGroup: a rule or placement names a group that does not exist.
	ReasonUnknownGroup = "UnknownGroup"
	// ReasonUnknownMember: a rule or placement names a cluster that is no member
	// of the topology.
	ReasonUnknownMember = "UnknownMember"
	// ReasonMemberConflict: a member is in two groups or in two topologies.
	ReasonMemberConflict = "MemberConflict"
	// ReasonInvalidSelector: a label selector does not parse.
	ReasonInvalidSelector = "InvalidSelector"
	// ReasonInvalidSubject: a subject or a rename is not valid, or is reserved.
	ReasonInvalidSubject = "InvalidSubject"
	// ReasonInvalidValue: a value is out of its bounds.
	ReasonInvalidValue = "InvalidValue"
	// ReasonNoEndpoint: neither of two linked members has an endpoint to dial.
	ReasonNoEndpoint = "NoEndpoint"
	// ReasonAmbiguousPath: links beside a choice of parents would open a second
	// path for the same message.
	ReasonAmbiguousPath = "AmbiguousPath"
	// ReasonUnroutable: no path of links leads from an origin to a destination.
	ReasonUnroutable = "Unroutable"
	// ReasonNameCollision: two objects want the same stream on one member.
	ReasonNameCollision = "NameCollision"
	// ReasonSubjectConflict: subjects overlap so that a message would be stored
	// or delivered twice.
	ReasonSubjectConflict = "SubjectConflict"
	// ReasonStreamCycle: streams would feed each other for ever.
	ReasonStreamCycle = "StreamCycle"
	// ReasonDuplicateFlow: a message would reach one stream on two ways.
	ReasonDuplicateFlow = "DuplicateFlow"
	// ReasonUnknownStream: the bridge's stream does not exist at an origin.
	ReasonUnknownStream = "UnknownStream"
	// ReasonQueueConflict: a work queue would be moved to two places.
	ReasonQueueConflict = "QueueConflict"
	// ReasonInsufficientCapacity: the streams need more than a member has.
	ReasonInsufficientCapacity = "InsufficientCapacity"
	// ReasonReplicasUnsupported: a member's broker cannot have as many servers as
	// its group asks for. It has what it can; the rest of the plan stands.
	ReasonReplicasUnsupported = "ReplicasUnsupported"
	// ReasonLimitExceeded: the plan for a member exceeds what NATS can hold.
	ReasonLimitExceeded = "LimitExceeded"
	// ReasonNoMembers: a placement or group has no member yet. The object is
	// accepted and waits.
	ReasonNoMembers = "NoMembers"
)

// Reasons of Programmed=False and Ready=False.
const (
	// ReasonNotAccepted: the object is refused, so nothing of it is in effect.
	ReasonNotAccepted = "NotAccepted"
	// ReasonPending: members have not reported this generation yet.
	ReasonPending = "Pending"
	// ReasonAwaitingWave: a rollout has not reached the member yet.
	ReasonAwaitingWave = "AwaitingWave"
	// ReasonMembersDisconnected: members that must apply it are not connected.
	ReasonMembersDisconnected = "MembersDisconnected"
	// ReasonApplyFailed: a member reported that it cannot apply a part.
	ReasonApplyFailed = "ApplyFailed"
	// ReasonLinksDown: links that it needs do not answer probes.
	ReasonLinksDown = "LinksDown"
	// ReasonFlowsDown: durable flows do not move.
	ReasonFlowsDown = "FlowsDown"
	// ReasonPaused: the bridge is paused by its spec.
	ReasonPaused = "Paused"
	// ReasonUnplaced: the member is in no topology.
	ReasonUnplaced = "Unplaced"
	// ReasonNeverConnected: the agent has not connected yet.
	ReasonNeverConnected = "NeverConnected"
	// ReasonDisconnected: the agent's session ended or went silent.
	ReasonDisconnected = "Disconnected"
	// ReasonHubOutdated: the hub refuses the agent, which has seen newer state than
	// the hub has: the hub's data is older than what it once had.
	ReasonHubOutdated = "HubOutdated"
	// ReasonSuspended: the member is suspended by its spec, and what differs from
	// what it shall hold is not sent to it.
	ReasonSuspended = "Suspended"
	// ReasonRevoked: the member's key is revoked.
	ReasonRevoked = "Revoked"
	// ReasonRemovalHeld: more would be taken from the member at once than the
	// guard lets through.
	ReasonRemovalHeld = "RemovalHeld"
	// ReasonHeldBack: an older revision is in effect instead of what the object says,
	// because its rollout was rolled back or undone.
	ReasonHeldBack = "HeldBack"
	// ReasonDraining: a member that leaves waits for its durable bridges to empty.
	ReasonDraining = "Draining"
	// ReasonDeparting: a member that leaves is no part of the plan any more, and
	// drops its links.
	ReasonDeparting = "Departing"
)
