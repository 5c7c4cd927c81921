package hubapi

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealane/sealane/api/v1alpha1"
)

var (
	early = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	late  = early.Add(time.Hour)
)

func seen(name string, connected metav1.ConditionStatus, links ...v1alpha1.LinkStatus) v1alpha1.MemberCluster {
	return v1alpha1.MemberCluster{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status: v1alpha1.MemberClusterStatus{
			Conditions: []metav1.Condition{{Type: v1alpha1.ConditionConnected, Status: connected}},
			Links:      links,
		},
	}
}

func end(peer, role string, state v1alpha1.LinkState, since time.Time, rtt int64, message string) v1alpha1.LinkStatus {
	return v1alpha1.LinkStatus{Peer: peer, Role: role, State: state, Since: metav1.NewTime(since), RTTMicros: rtt, Message: message}
}

func TestLinksOfBothEnds(t *testing.T) {
	const yes, no = metav1.ConditionTrue, metav1.ConditionFalse
	up, down, pending := v1alpha1.LinkUp, v1alpha1.LinkDown, v1alpha1.LinkPending
	for _, c := range []struct {
		name    string
		members []v1alpha1.MemberCluster
		want    Link
	}{
		{
			"up at both, since the later, round trip of the dialer",
			[]v1alpha1.MemberCluster{seen("a", yes, end("b", "Accept", up, late, 5, "")), seen("b", yes, end("a", "Dial", up, early, 7, ""))},
			Link{"b", "a", up, late, 7, ""},
		},
		{
			"one end sees it down",
			[]v1alpha1.MemberCluster{seen("a", yes, end("b", "Accept", up, early, 5, "")), seen("b", yes, end("a", "Dial", down, late, 0, "no answer"))},
			Link{"b", "a", down, late, 5, "b: no answer"},
		},
		{
			"down at both, since the earlier, both messages",
			[]v1alpha1.MemberCluster{seen("a", yes, end("b", "Accept", down, late, 0, "x")), seen("b", yes, end("a", "Dial", down, early, 0, "y"))},
			Link{"b", "a", down, early, 0, "a: x; b: y"},
		},
		{
			"down is worse than pending",
			[]v1alpha1.MemberCluster{seen("a", yes, end("b", "Accept", pending, early, 0, "")), seen("b", yes, end("a", "Dial", down, late, 0, ""))},
			Link{"b", "a", down, late, 0, ""},
		},
		{
			"what a disconnected member said last does not count",
			[]v1alpha1.MemberCluster{seen("a", yes, end("b", "Accept", down, late, 0, "")), seen("b", no, end("a", "Dial", up, early, 7, ""))},
			Link{"b", "a", down, late, 0, ""},
		},
		{
			"the other end has said nothing yet",
			[]v1alpha1.MemberCluster{seen("a", yes), seen("b", yes, end("a", "Dial", up, early, 7, ""))},
			Link{"b", "a", up, early, 7, ""},
		},
		{
			"nobody can tell",
			[]v1alpha1.MemberCluster{seen("a", no, end("b", "Accept", up, early, 5, "")), seen("b", no, end("a", "Dial", up, late, 7, ""))},
			Link{"b", "a", LinkUnknown, late, 0, "neither end is connected to the hub"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			forth := (&Snapshot{Members: c.members}).Links()
			back := (&Snapshot{Members: []v1alpha1.MemberCluster{c.members[1], c.members[0]}}).Links()
			if diff := cmp.Diff([]Link{c.want}, forth); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(forth, back); diff != "" {
				t.Errorf("the order of the members matters:\n%s", diff)
			}
			if c.want.Name() != "a<->b" {
				t.Errorf("name %s", c.want.Name())
			}
		})
	}
}

func TestJudgeConditions(t *testing.T) {
	object := func(observed int64, conditions ...metav1.Condition) *Snapshot {
		return &Snapshot{Bridges: []v1alpha1.Bridge{{
			ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: "n", Generation: 2},
			Status:     v1alpha1.FlowObjectStatus{ObservedGeneration: observed, Conditions: conditions},
		}}}
	}
	cond := func(typ string, status metav1.ConditionStatus, reason string) metav1.Condition {
		return metav1.Condition{Type: typ, Status: status, Reason: reason}
	}
	const yes, no, unknown = metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown
	accepted, programmed, ready := cond("Accepted", yes, "Accepted"), cond("Programmed", yes, "Programmed"), cond("Ready", yes, "Ready")
	for _, c := range []struct {
		name string
		s    *Snapshot
		area Area
		why  string
	}{
		{"fine", object(2, accepted, programmed, ready), "", ""},
		{"never looked at", object(0), AreaBridges, "Pending"},
		{"an older generation", object(1, accepted, programmed, ready), AreaBridges, "Pending"},
		{"refused", object(2, cond("Accepted", no, "StreamCycle"), cond("Programmed", no, "NotAccepted"), cond("Ready", no, "NotAccepted")), AreaRefused, "StreamCycle"},
		{"cannot be applied", object(2, accepted, cond("Programmed", no, "ApplyFailed"), cond("Ready", no, "ApplyFailed")), AreaBridges, "ApplyFailed"},
		{"not applied yet", object(2, accepted, cond("Programmed", no, "MembersDisconnected"), cond("Ready", no, "Pending")), AreaBridges, "MembersDisconnected"},
		{"works but is not applied everywhere", object(2, accepted, cond("Programmed", no, "Pending"), ready), AreaBridges, "Pending"},
		{"does not work", object(2, accepted, programmed, cond("Ready", no, "LinksDown")), AreaBridges, "LinksDown"},
		{"cannot be told", object(2, accepted, programmed, cond("Ready", unknown, "Disconnected")), AreaBridges, "Disconnected"},
		{"paused", object(2, accepted, programmed, cond("Ready", no, "Paused")), AreaNotes, "Paused"},
		{"waits for members", object(2, cond("Accepted", yes, "NoMembers"), programmed, ready), AreaNotes, "NoMembers"},
	} {
		r := Judge(c.s, late)
		if fine := c.area == "" || c.area == AreaNotes; r.Fine != fine {
			t.Errorf("%s: fine %v", c.name, r.Fine)
		}
		if c.area == "" {
			if len(r.Findings) != 0 {
				t.Errorf("%s: %+v", c.name, r.Findings)
			}
			continue
		}
		if len(r.Findings) != 1 || r.Findings[0].Area != c.area || r.Findings[0].Reason != c.why {
			t.Errorf("%s: %+v, want %s %s", c.name, r.Findings, c.area, c.why)
		}
	}
}

func TestJudgeMembers(t *testing.T) {
	m := seen("a", metav1.ConditionTrue)
	m.Status.Conditions = append(m.Status.Conditions,
		metav1.Condition{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonUnplaced})
	m.Status.Identity = &v1alpha1.MemberIdentity{NotAfter: metav1.NewTime(late)}
	s := &Snapshot{Members: []v1alpha1.MemberCluster{m}}
	if r := Judge(s, early); !r.Fine || len(r.Findings) != 1 || r.Findings[0].Area != AreaNotes {
		t.Errorf("a member of no topology is a note: %+v", r)
	}
	if r := Judge(s, late.Add(time.Second)); r.Fine || r.Findings[0].Reason != "CertificateExpired" {
		t.Errorf("an expired certificate: %+v", r)
	}
}

func TestTokenNames(t *testing.T) {
	for cluster, prefix := range map[string]string{"berlin": "berlin-", "edge-*": "edge-", "*": "join-", "*-eu": "eu-"} {
		if got := tokenName(cluster); len(got) != len(prefix)+8 || got[:len(prefix)] != prefix {
			t.Errorf("%s: %s", cluster, got)
		}
	}
	if got := tokenName("a23456789012345678901234567890123456789012345678901234567890123"); len(got) > 63 {
		t.Errorf("%s is too long", got)
	}
}
