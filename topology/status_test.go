package topology

import (
	"fmt"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// scene is a federation at rest, in which tests break one thing: a and b and e
// are linked (e to one of a and b at a time), a stream of a flows to b, c has
// joined and is in no topology.
type scene struct {
	plan *Plan
	in   Input
	prog Progress
}

var (
	topologyRef = ObjectRef{Kind: KindTopology, Name: "t"}
	streamRef   = ObjectRef{KindStream, "ns", "src"}
	bridgeRef   = ObjectRef{KindBridge, "ns", "x"}
	eventsRef   = ObjectRef{KindBridge, "ns", "events"}
	memberRef   = func(name string) ObjectRef { return ObjectRef{Kind: KindMember, Name: name} }
	sceneFlow   = FlowKey{Origin: "a", Account: "app", Stream: "DST", Bridge: "ns/x"}
)

const sceneSince = 1_700_000_000_000

func newScene() *scene {
	k := sketch{
		members: []string{"a", "b", "c", "e"}, placed: map[string]bool{"a": true, "b": true, "e": true},
		links:    map[[2]string]string{{"b", "a"}: "granted", {"e", "a"}: "granted", {"e", "b"}: "granted"},
		flows:    map[[3]string]int{{"a", "b", "x"}: 0},
		retarget: map[string]bool{}, revision: map[string]int{},
	}
	s := &scene{plan: k.plan(), prog: Progress{}}
	for i, l := range s.plan.Links {
		if l.Dialer == "e" {
			s.plan.Links[i].FailoverGroup = "rule"
		}
	}
	s.plan.Objects[topologyRef] = &Footprint{Members: []string{"a", "b", "e"}}
	s.plan.Objects[streamRef] = &Footprint{Members: []string{"a"}, Parts: []PartRef{{"a", "stream/app/SRC"}}}
	s.plan.Objects[bridgeRef] = &Footprint{
		Members: []string{"a", "b"},
		Parts:   []PartRef{{"a", pairOutlet}, {"b", pairTarget}},
		Hops:    []Hop{{Member: "a", Peers: []string{"b"}}},
		Flows:   []Flow{{Origin: "a", Destination: "b", Account: "app", Stream: "DST"}},
	}
	s.plan.Objects[eventsRef] = &Footprint{
		Members: []string{"a", "b", "e"},
		Parts:   []PartRef{{"a", "account/app"}, {"b", "account/app"}, {"e", "account/app"}},
		Hops:    []Hop{{Member: "a", Peers: []string{"b"}}, {Member: "e", Peers: []string{"a", "b"}}},
	}
	meta := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name, Generation: 7}
	}
	s.in = Input{
		Topologies: []*v1alpha1.MessagingTopology{{ObjectMeta: meta("", "t")}},
		Streams:    []*v1alpha1.Stream{{ObjectMeta: meta("ns", "src")}},
		Bridges:    []*v1alpha1.Bridge{{ObjectMeta: meta("ns", "x")}, {ObjectMeta: meta("ns", "events")}},
	}
	for _, m := range k.members {
		s.in.Members = append(s.in.Members, &v1alpha1.MemberCluster{ObjectMeta: meta("", m)})
		s.prog[m] = holding(s.plan, m)
		s.prog[m].Links = map[string]LinkReport{}
	}
	s.link("a", "b", "Up", "Up")
	s.link("e", "a", "Up", "Up")
	s.link("e", "b", "Standby", "Down")
	s.prog["b"].Flows[sceneFlow] = FlowReport{State: "Up", SinceMillis: sceneSince, Lag: 3}
	return s
}

// link sets what two members say of the link between them.
func (s *scene) memberCluster(name string) *v1alpha1.MemberCluster {
	return s.in.Members[slices.IndexFunc(s.in.Members, func(m *v1alpha1.MemberCluster) bool { return m.Name == name })]
}

func (s *scene) link(a, b, ofA, ofB string) {
	s.prog[a].Links[b] = LinkReport{State: ofA, SinceMillis: sceneSince, RTTMicros: 70}
	s.prog[b].Links[a] = LinkReport{State: ofB, SinceMillis: sceneSince, RTTMicros: 90}
}

// say is a condition in one line.
func say(c Condition) string {
	out := fmt.Sprintf("%s/%s", c.Status, c.Reason)
	if c.Message != "" {
		out += ": " + c.Message
	}
	return out
}

func TestSummarizeConditions(t *testing.T) {
	t.Parallel()
	const (
		programmed = v1alpha1.ConditionProgrammed
		ready      = v1alpha1.ConditionReady
		accepted   = v1alpha1.ConditionAccepted
		connected  = v1alpha1.ConditionConnected
	)
	type wants map[ObjectRef]map[string]string
	refuse := func(s *scene, ref ObjectRef, problems ...Problem) {
		for _, p := range problems {
			p.Object = ref
			s.plan.Problems = append(s.plan.Problems, p)
		}
	}
	for _, tc := range []struct {
		name   string
		change func(s *scene)
		want   wants
	}{
		{
			name: "at rest",
			want: wants{
				topologyRef:    {accepted: "True/Accepted", programmed: "True/Programmed: applied by 3 members", ready: "True/Ready: 3 members, 2 links"},
				streamRef:      {accepted: "True/Accepted", programmed: "True/Programmed: applied by 1 member", ready: "True/Ready: on 1 member"},
				bridgeRef:      {accepted: "True/Accepted", programmed: "True/Programmed: applied by 2 members", ready: "True/Ready: on 2 members"},
				eventsRef:      {ready: "True/Ready: on 3 members"},
				memberRef("a"): {connected: "True/Connected", accepted: "True/Accepted: member of topology t", programmed: "True/Programmed: everything is applied", ready: "True/Ready: 2 links, 0 incoming flows"},
				memberRef("b"): {ready: "True/Ready: 2 links, 1 incoming flow"},
				memberRef("c"): {
					connected: "True/Connected", accepted: "False/Unplaced: no group of a topology names it or selects its labels",
					programmed: "False/Unplaced: see condition Accepted", ready: "False/Unplaced: see condition Accepted",
				},
				memberRef("e"): {ready: "True/Ready: 1 link, 0 incoming flows"},
			},
		},
		{
			name: "storage that is nearly full",
			change: func(s *scene) {
				s.prog["a"].Warnings = map[string]PartFailure{"broker": {Code: "StorageNearlyFull", Message: "85%"}}
				s.memberCluster("b").Status.Conditions = []metav1.Condition{{Type: "StorageNearlyFull", Status: metav1.ConditionTrue, Reason: "StorageNearlyFull", Message: "80%"}}
				s.prog["b"].Warnings = map[string]PartFailure{}
				s.memberCluster("e").Status.Conditions = []metav1.Condition{{Type: "StorageNearlyFull", Status: metav1.ConditionTrue, Reason: "StorageNearlyFull", Message: "80%"}}
			},
			want: wants{
				memberRef("a"): {"StorageNearlyFull": "True/StorageNearlyFull: 85%", ready: "True/Ready: its storage is nearly full; 2 links, 0 incoming flows"},
				memberRef("b"): {"StorageNearlyFull": "False/StorageSuffices", ready: "True/Ready: 2 links, 1 incoming flow"},
				memberRef("e"): {"StorageNearlyFull": "True/StorageNearlyFull: 80%"},
			},
		},
		{
			// The plan was made before the member was nearly full.
			name:   "storage that suffices again",
			change: func(s *scene) { s.prog["a"].Warnings = map[string]PartFailure{} },
			want:   wants{memberRef("a"): {"StorageNearlyFull": "False/StorageSuffices"}},
		},
		{
			name: "a refused bridge leaves the topology alone",
			change: func(s *scene) {
				delete(s.plan.Objects, bridgeRef)
				refuse(s, bridgeRef,
					Problem{Field: "spec.to", Reason: "Unroutable", Message: "no path from a to b"},
					Problem{Field: "spec.x", Reason: "UnknownStream", Message: "2"}, Problem{Message: "3"}, Problem{Message: "4"}, Problem{Message: "5"})
			},
			want: wants{
				topologyRef: {ready: "True/Ready: 3 members, 2 links"},
				bridgeRef: {
					accepted:   "False/Unroutable: spec.to: no path from a to b; spec.x: 2; 3; and 2 more",
					programmed: "False/NotAccepted: see condition Accepted", ready: "False/NotAccepted: see condition Accepted",
				},
			},
		},
		{
			name:   "an object that the plan does not know",
			change: func(s *scene) { delete(s.plan.Objects, streamRef) },
			want:   wants{streamRef: {accepted: "Unknown/Pending: not planned yet", ready: "False/NotAccepted: see condition Accepted"}},
		},
		{
			name: "a topology without members",
			change: func(s *scene) {
				s.plan.Objects[topologyRef] = &Footprint{}
				s.plan.Links = nil
				refuse(s, topologyRef, Problem{Field: "spec.groups[0]", Reason: v1alpha1.ReasonNoMembers, Message: "no member is in group g yet", Waiting: true})
			},
			want: wants{topologyRef: {
				accepted:   "True/Accepted: spec.groups[0]: no member is in group g yet",
				programmed: "False/NoMembers: no member is in group g yet", ready: "False/NoMembers: no member is in group g yet",
			}},
		},
		{
			name:   "an object that concerns nobody, without a word about it",
			change: func(s *scene) { s.plan.Objects[streamRef] = &Footprint{} },
			want:   wants{streamRef: {programmed: "False/NoMembers: no member is concerned yet", ready: "False/NoMembers: no member is concerned yet"}},
		},
		{
			name: "a member that has not joined",
			change: func(s *scene) {
				refuse(s, topologyRef, Problem{Field: "spec.groups[0].clusters", Reason: v1alpha1.ReasonUnknownMember, Message: "d has not joined yet", Waiting: true})
			},
			want: wants{topologyRef: {
				accepted:   "True/Accepted: spec.groups[0].clusters: d has not joined yet",
				programmed: "False/Pending: d has not joined yet", ready: "False/Pending: d has not joined yet",
			}},
		},
		{
			name: "an override without effect",
			change: func(s *scene) {
				refuse(s, topologyRef, Problem{Field: "spec.groups[0].overrides[0].cluster", Reason: v1alpha1.ReasonUnknownMember, Message: "d joined, but is not in group g: the override has no effect", Waiting: true, Note: true})
			},
			want: wants{topologyRef: {
				accepted:   "True/Accepted: spec.groups[0].overrides[0].cluster: d joined, but is not in group g: the override has no effect",
				programmed: "True/Programmed: applied by 3 members", ready: "True/Ready: 3 members, 2 links",
			}},
		},
		{
			name: "a member that has not joined, in the footprint only",
			change: func(s *scene) {
				s.plan.Objects[streamRef].Members = []string{"a", "d"}
			},
			want: wants{streamRef: {programmed: "False/Pending: not joined yet: d", ready: "False/Pending: not joined yet: d"}},
		},
		{
			name:   "not applied yet",
			change: func(s *scene) { s.prog["b"].Held[pairTarget] = "old" },
			want: wants{
				topologyRef:    {programmed: "False/Pending: not applied yet: b", ready: "False/Pending: not applied yet: b"},
				streamRef:      {ready: "True/Ready: on 1 member"},
				bridgeRef:      {programmed: "False/Pending: not applied yet: b", ready: "False/Pending: not applied yet: b"},
				eventsRef:      {programmed: "True/Programmed: applied by 3 members", ready: "True/Ready: on 3 members"},
				memberRef("b"): {programmed: "False/Pending: not applied yet: stream/app/DST", ready: "False/Pending: not applied yet: stream/app/DST"},
			},
		},
		{
			name:   "held and being applied",
			change: func(s *scene) { s.prog["b"].Unapplied[pairTarget] = PartFailure{} },
			want:   wants{bridgeRef: {programmed: "False/Pending: not applied yet: b"}},
		},
		{
			name:   "inventory not known",
			change: func(s *scene) { s.prog["b"].Held = nil },
			want:   wants{bridgeRef: {programmed: "False/Pending: not applied yet: b", ready: "False/Pending: not applied yet: b"}},
		},
		{
			name: "a part of the footprint that is not planned",
			change: func(s *scene) {
				s.plan.Objects[streamRef].Parts = append(s.plan.Objects[streamRef].Parts, PartRef{"a", "link/z"})
			},
			want: wants{streamRef: {programmed: "False/Pending: not applied yet: a"}},
		},
		{
			name: "failed",
			change: func(s *scene) {
				s.prog["b"].Unapplied[pairTarget] = PartFailure{Code: "NoSpace", Message: "no space left"}
				s.prog["b"].Unapplied["account/app"] = PartFailure{Code: "Other"}
			},
			want: wants{
				topologyRef: {programmed: "False/ApplyFailed: failed: b: account/app: Other (and 1 part more)"},
				bridgeRef:   {programmed: "False/ApplyFailed: failed: b: stream/app/DST: NoSpace: no space left", ready: "False/ApplyFailed: failed: b: stream/app/DST: NoSpace: no space left"},
				memberRef("b"): {
					programmed: "False/ApplyFailed: failed: account/app: Other (and 1 part more)",
				},
			},
		},
		{
			name:   "update refused",
			change: func(s *scene) { s.prog["b"].Held[pairTarget] = "old"; s.prog["b"].Refusal = "epoch 3 is older than 4" },
			want: wants{
				bridgeRef:      {programmed: "False/ApplyFailed: failed: b: refused the update: epoch 3 is older than 4"},
				eventsRef:      {programmed: "True/Programmed: applied by 3 members"},
				memberRef("b"): {programmed: "False/ApplyFailed: failed: refused the update: epoch 3 is older than 4; not applied yet: stream/app/DST"},
			},
		},
		{
			name:   "still to be removed",
			change: func(s *scene) { s.prog["b"].Held["stream/app/OLD"] = "1" },
			want: wants{
				topologyRef:    {ready: "True/Ready: 3 members, 2 links"},
				memberRef("b"): {programmed: "False/Pending: not removed yet: stream/app/OLD", ready: "False/Pending: not removed yet: stream/app/OLD"},
			},
		},
		{
			name:   "link down at one end",
			change: func(s *scene) { s.link("a", "b", "Down", "Up") },
			want: wants{
				topologyRef:    {programmed: "True/Programmed: applied by 3 members", ready: "False/LinksDown: links not up: a<->b"},
				streamRef:      {ready: "True/Ready: on 1 member"},
				bridgeRef:      {ready: "False/LinksDown: links not up: a<->b"},
				eventsRef:      {ready: "False/LinksDown: links not up: a<->b"},
				memberRef("a"): {ready: "False/LinksDown: links not up: a<->b"},
				memberRef("e"): {ready: "True/Ready: 1 link, 0 incoming flows"},
			},
		},
		{
			name:   "link set up and never up",
			change: func(s *scene) { s.link("a", "b", "Pending", "Pending") },
			want:   wants{bridgeRef: {ready: "False/LinksDown: links not up: a<->b"}},
		},
		{
			name:   "link not reported yet",
			change: func(s *scene) { delete(s.prog["a"].Links, "b"); delete(s.prog["b"].Links, "a") },
			want: wants{
				bridgeRef:   {programmed: "True/Programmed: applied by 2 members", ready: "False/Pending: links not set up yet: a<->b"},
				topologyRef: {ready: "False/Pending: links not set up yet: a<->b"},
			},
		},
		{
			name: "link not granted yet",
			change: func(s *scene) {
				s.link("a", "b", "Pending", "Pending")
				for i, l := range s.plan.Links {
					s.plan.Links[i].Granted = l.Dialer != "b"
				}
			},
			want: wants{
				topologyRef: {
					programmed: "False/Pending: links that the accepting member has not granted yet: a<->b",
					ready:      "False/Pending: links not set up yet: a<->b",
				},
				memberRef("b"): {programmed: "False/Pending: links that the accepting member has not granted yet: a<->b"},
				memberRef("a"): {programmed: "True/Programmed: everything is applied"},
			},
		},
		{
			name:   "the other parent in use",
			change: func(s *scene) { s.link("e", "a", "Standby", "Down"); s.link("e", "b", "Up", "Up") },
			want:   wants{topologyRef: {ready: "True/Ready: 3 members, 2 links"}, eventsRef: {ready: "True/Ready: on 3 members"}, memberRef("a"): {ready: "True/Ready: 2 links, 0 incoming flows"}},
		},
		{
			name:   "no parent left",
			change: func(s *scene) { s.link("e", "a", "Down", "Down"); s.link("e", "b", "Down", "Down") },
			want: wants{
				topologyRef:    {ready: "False/LinksDown: links not up: e<->a|b"},
				eventsRef:      {ready: "False/LinksDown: links not up: e<->a|b"},
				bridgeRef:      {ready: "True/Ready: on 2 members"},
				memberRef("e"): {ready: "False/LinksDown: links not up: e<->a|b"},
			},
		},
		{
			name:   "flow down",
			change: func(s *scene) { s.prog["b"].Flows[sceneFlow] = FlowReport{State: "Down"} },
			want: wants{
				bridgeRef:      {ready: "False/FlowsDown: flows not up: a to b"},
				topologyRef:    {ready: "True/Ready: 3 members, 2 links"},
				memberRef("b"): {ready: "False/FlowsDown: flows not up: ns/x from a"},
			},
		},
		{
			name:   "flow not reported yet",
			change: func(s *scene) { delete(s.prog["b"].Flows, sceneFlow) },
			want:   wants{bridgeRef: {ready: "False/FlowsDown: flows not up: a to b"}},
		},
		{
			name: "link and flow down",
			change: func(s *scene) {
				s.link("a", "b", "Down", "Down")
				s.prog["b"].Flows[sceneFlow] = FlowReport{State: "Down"}
			},
			want: wants{bridgeRef: {ready: "False/LinksDown: links not up: a<->b; flows not up: a to b"}},
		},
		{
			name: "paused",
			change: func(s *scene) {
				s.plan.Objects[bridgeRef].Paused = true
				s.prog["b"].Flows[sceneFlow] = FlowReport{State: "Down"}
			},
			want: wants{
				bridgeRef:      {programmed: "True/Programmed: applied by 2 members", ready: "False/Paused: paused by spec.stream.flow"},
				memberRef("b"): {ready: "True/Ready: 2 links, 1 incoming flow"},
			},
		},
		{
			name:   "disconnected with everything applied",
			change: func(s *scene) { s.prog["b"].Connected = false },
			want: wants{
				topologyRef: {programmed: "True/Programmed: applied by 3 members", ready: "Unknown/MembersDisconnected: not connected: b"},
				streamRef:   {ready: "True/Ready: on 1 member"},
				bridgeRef:   {programmed: "True/Programmed: applied by 2 members", ready: "Unknown/MembersDisconnected: not connected: b"},
				memberRef("b"): {
					connected: "False/Disconnected: its agent is not connected to the hub", programmed: "True/Programmed: everything is applied",
					ready: "Unknown/Disconnected: its agent is not connected to the hub",
				},
				memberRef("a"): {ready: "True/Ready: 2 links, 0 incoming flows"},
			},
		},
		{
			name: "dead: disconnected and its links down",
			change: func(s *scene) {
				s.prog["b"].Connected = false
				s.link("a", "b", "Down", "Up")
			},
			want: wants{
				topologyRef: {ready: "False/LinksDown: links not up: a<->b; not connected: b"},
				bridgeRef:   {ready: "False/LinksDown: links not up: a<->b; not connected: b"},
			},
		},
		{
			name: "disconnected with something not applied",
			change: func(s *scene) {
				s.prog["b"].Connected = false
				s.prog["b"].Held[pairTarget] = "old"
			},
			want: wants{
				bridgeRef:      {programmed: "False/MembersDisconnected: not connected: b", ready: "False/MembersDisconnected: not connected: b"},
				memberRef("b"): {programmed: "False/Disconnected: its agent is not connected to the hub; not applied yet: stream/app/DST", ready: "Unknown/Disconnected: its agent is not connected to the hub"},
			},
		},
		{
			name: "not heard of since the hub started",
			change: func(s *scene) {
				delete(s.prog, "b")
				s.in.Members[1].Status.Agent = &v1alpha1.AgentInfo{}
			},
			want: wants{
				topologyRef:    {programmed: "Unknown/MembersDisconnected: not connected: b", ready: "Unknown/MembersDisconnected: not connected: b"},
				bridgeRef:      {programmed: "Unknown/MembersDisconnected: not connected: b", ready: "Unknown/MembersDisconnected: not connected: b"},
				memberRef("b"): {connected: "False/Disconnected: its agent is not connected to the hub", programmed: "Unknown/Disconnected: its agent is not connected to the hub"},
			},
		},
		{
			name:   "enrolled and never connected",
			change: func(s *scene) { delete(s.prog, "b") },
			want: wants{memberRef("b"): {
				connected: "False/NeverConnected: its agent has not connected to the hub yet", programmed: "False/NeverConnected: its agent has not connected to the hub yet",
				ready: "False/NeverConnected: its agent has not connected to the hub yet",
			}},
		},
		{
			name: "a transit member away",
			change: func(s *scene) {
				s.plan.Objects[eventsRef] = &Footprint{Members: []string{"a"}, Hops: []Hop{{Member: "a", Peers: []string{"b"}}}}
				s.prog["b"].Connected = false
			},
			want: wants{eventsRef: {ready: "Unknown/MembersDisconnected: not connected: b"}},
		},
		{
			name: "both ends of a hop away",
			change: func(s *scene) {
				s.plan.Objects[eventsRef] = &Footprint{Members: []string{"e"}, Hops: []Hop{{Member: "a", Peers: []string{"b"}}}}
				s.prog["a"].Connected, s.prog["b"].Connected = false, false
			},
			want: wants{eventsRef: {ready: "Unknown/MembersDisconnected: not connected: a and b"}},
		},
		{
			name:   "a hop without a link",
			change: func(s *scene) { s.plan.Objects[eventsRef].Hops = []Hop{{Member: "a", Peers: []string{"z"}}} },
			want:   wants{eventsRef: {ready: "False/Pending: links not set up yet: a<->z"}},
		},
		{
			name: "everything at once, and more than three",
			change: func(s *scene) {
				var all []string
				for i := range 6 {
					m := fmt.Sprintf("n%d", i)
					s.plan.Members[m] = s.plan.Members["b"]
					all = append(all, m)
				}
				s.plan.Objects[eventsRef] = &Footprint{Members: append([]string{"b"}, all...), Parts: []PartRef{{"b", "account/app"}}}
				s.prog["b"].Held["account/app"] = "old"
			},
			want: wants{eventsRef: {programmed: "False/Pending: not applied yet: b", ready: "False/Pending: not applied yet: b; not connected: n0, n1, n2 and 3 more"}},
		},
		{
			name: "frozen",
			change: func(s *scene) {
				delete(s.plan.Objects, topologyRef)
				refuse(s, topologyRef, Problem{Reason: v1alpha1.ReasonUnknownGroup, Message: "no group g"})
				s.plan.Links = nil
				for m := range s.plan.Members {
					s.plan.Members[m] = &MemberState{Cluster: m, Hash: federationv1.EmptyHash}
				}
				s.plan.Frozen["a"] = "topology t is refused"
			},
			want: wants{memberRef("a"): {accepted: "False/NotAccepted: topology t is refused", ready: "False/NotAccepted: see condition Accepted"}},
		},
		{
			name: "an older version of a refused topology in effect",
			change: func(s *scene) {
				s.plan.Objects[topologyRef].Generation = 6
				refuse(s, topologyRef, Problem{Reason: v1alpha1.ReasonUnknownGroup, Message: "no group g"})
			},
			want: wants{
				topologyRef:    {accepted: "False/UnknownGroup: no group g", ready: "False/NotAccepted: see condition Accepted; generation 6 stays in effect"},
				memberRef("a"): {accepted: "True/Accepted: member of topology t", ready: "True/Ready: 2 links, 0 incoming flows"},
			},
		},
		{
			name: "a member at fault",
			change: func(s *scene) {
				refuse(s, memberRef("b"), Problem{Field: "metadata.labels", Reason: v1alpha1.ReasonMemberConflict, Message: "two groups"})
			},
			want: wants{memberRef("b"): {accepted: "False/MemberConflict: metadata.labels: two groups", ready: "False/NotAccepted: see condition Accepted"}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newScene()
			if tc.change != nil {
				tc.change(s)
			}
			got := Summarize(s.plan, s.in, s.prog)
			for ref, conditions := range tc.want {
				st, ok := got[ref]
				if !ok {
					t.Errorf("%v has no status", ref)
				}
				if st.Generation != 7 {
					t.Errorf("%v: generation %d", ref, st.Generation)
				}
				for typ, want := range conditions {
					if got := say(st.Condition(typ)); got != want {
						t.Errorf("%s %s: %s\n got %s\nwant %s", ref.Kind, ref.Name, typ, got, want)
					}
				}
			}
		})
	}
}
