package hub

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

// asJSON is what a patch would send.
func asJSON(t *testing.T, fields map[string]any) string {
	t.Helper()
	b, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestNotable(t *testing.T) {
	for _, tc := range []struct {
		have, want, slack int64
		notable           bool
	}{
		{0, 0, 0, false}, {5, 5, 0, false}, {0, 1, 1000, true}, {1, 0, 1000, true},
		{100, 125, 0, false}, {100, 126, 0, true}, {100, 74, 0, true}, {100, 75, 0, false},
		{100, 500, 500, false}, {1000, 1500, 500, false}, {1000, 1501, 500, true}, {10_000, 11_000, 500, false},
	} {
		if got := notable(tc.have, tc.want, tc.slack); got != tc.notable {
			t.Errorf("notable(%d, %d, %d) = %v", tc.have, tc.want, tc.slack, got)
		}
	}
}

// TestPatchConditionIfThere: what is said only where it was said before.
func TestPatchConditionIfThere(t *testing.T) {
	want := topology.Status{Generation: 1, Conditions: []topology.Condition{{Type: "StorageNearlyFull", Status: "False", Reason: "StorageSuffices", IfThere: true}}}
	p := newPatch()
	p.conditions(nil, want, time.Unix(1, 0))
	if len(p.fields) > 0 {
		t.Errorf("a member that was never full: %v", p.fields)
	}
	p.conditions([]metav1.Condition{{Type: "StorageNearlyFull", Status: "True", Reason: "StorageNearlyFull"}}, want, time.Unix(1, 0))
	if got, _ := p.fields["conditions"].([]metav1.Condition); len(got) != 1 || got[0].Status != "False" {
		t.Errorf("one that was: %v", p.fields)
	}
}

func TestPatchConditions(t *testing.T) {
	then := metav1.Unix(1000, 0)
	now := time.Unix(2000, 0)
	have := []metav1.Condition{
		{Type: "Accepted", Status: "True", Reason: "Accepted", ObservedGeneration: 1, LastTransitionTime: then},
		{Type: "Ready", Status: "False", Reason: "Pending", ObservedGeneration: 1, LastTransitionTime: then},
	}
	want := topology.Status{Generation: 2, Conditions: []topology.Condition{
		{Type: "Accepted", Status: "True", Reason: "Accepted"},
		{Type: "Ready", Status: "True", Reason: "Ready", Message: strings.Repeat("ü", 1000)},
	}}
	p := newPatch()
	p.conditions(have, want, now)
	got, _ := p.fields["conditions"].([]metav1.Condition)
	if len(got) != 2 || got[0].LastTransitionTime != then || got[0].ObservedGeneration != 2 {
		t.Fatalf("Accepted did not change but in its generation: %+v", got)
	}
	if !got[1].LastTransitionTime.Equal(&metav1.Time{Time: now}) || got[1].Status != "True" || len(got[1].Message) > maxShown || !strings.HasSuffix(got[1].Message, "ü...") {
		t.Errorf("Ready changed: %+v", got[1])
	}
	if have[1].Status != "False" {
		t.Error("what was there is changed in place")
	}
	again := newPatch()
	again.conditions(got, want, now.Add(time.Hour))
	if len(again.fields) > 0 {
		t.Errorf("nothing differs, and yet %v", again.fields)
	}
}

func TestPatchMember(t *testing.T) {
	since := metav1.Unix(1000, 0)
	now := time.Unix(2000, 0).UTC()
	have := v1alpha1.MemberClusterStatus{
		DesiredHash: "d", HeldHash: "h", Parts: "1/1",
		Links:    []v1alpha1.LinkStatus{{Peer: "b", Role: "Dial", State: v1alpha1.LinkUp, Since: since, RTTMicros: 1000}},
		Flows:    []v1alpha1.FlowStatus{{Bridge: "ns/x", From: "b", Account: "app", Stream: "S", State: v1alpha1.LinkUp, Since: since, Lag: 100}},
		Problems: []v1alpha1.PartProblem{{Part: "p", Code: "C"}},
	}
	same := func() *topology.MemberStatus {
		return &topology.MemberStatus{
			DesiredHash: "d", HeldHash: "h", Parts: "1/1",
			Links:    []v1alpha1.LinkStatus{{Peer: "b", Role: "Dial", State: v1alpha1.LinkUp, Since: metav1.NewTime(since.Add(300 * time.Millisecond)), RTTMicros: 1000}},
			Flows:    []v1alpha1.FlowStatus{{Bridge: "ns/x", From: "b", Account: "app", Stream: "S", State: v1alpha1.LinkUp, Since: since, Lag: 100}},
			Problems: []v1alpha1.PartProblem{{Part: "p", Code: "C"}},
		}
	}
	for _, tc := range []struct {
		name                   string
		change                 func(*topology.MemberStatus)
		fields, metrics, fresh string
	}{
		{name: "nothing", fields: "{}", metrics: "{}", fresh: "{}"},
		{name: "what is held is not known", change: func(s *topology.MemberStatus) { s.HeldHash = "" }, fields: "{}", metrics: "{}", fresh: "{}"},
		{
			name:   "hashes and parts",
			change: func(s *topology.MemberStatus) { s.DesiredHash, s.HeldHash, s.Parts = "", "i", "0/1" },
			fields: `{"desiredHash":null,"heldHash":"i","parts":"0/1"}`, metrics: "{}", fresh: "{}",
		},
		{
			name:   "round trip, a little",
			change: func(s *topology.MemberStatus) { s.Links[0].RTTMicros = 1400 },
			fields: "{}", metrics: "{}",
			fresh: `{"links":[{"peer":"b","role":"Dial","state":"Up","since":"1970-01-01T00:16:40Z","rttMicros":1400}]}`,
		},
		{
			name:    "round trip, notably",
			change:  func(s *topology.MemberStatus) { s.Links[0].RTTMicros = 9000 },
			fields:  "{}",
			metrics: `{"links":[{"peer":"b","role":"Dial","state":"Up","since":"1970-01-01T00:16:40Z","rttMicros":9000}]}`,
			fresh:   `{"links":[{"peer":"b","role":"Dial","state":"Up","since":"1970-01-01T00:16:40Z","rttMicros":9000}]}`,
		},
		{
			name:    "lag, notably",
			change:  func(s *topology.MemberStatus) { s.Flows[0].Lag = 0 },
			fields:  "{}",
			metrics: `{"flows":[{"bridge":"ns/x","from":"b","account":"app","stream":"S","state":"Up","since":"1970-01-01T00:16:40Z"}]}`,
			fresh:   `{"flows":[{"bridge":"ns/x","from":"b","account":"app","stream":"S","state":"Up","since":"1970-01-01T00:16:40Z"}]}`,
		},
		{
			name:   "link down, not said since when",
			change: func(s *topology.MemberStatus) { s.Links[0].State, s.Links[0].Since = v1alpha1.LinkDown, metav1.Time{} },
			fields: `{"links":[{"peer":"b","role":"Dial","state":"Down","since":"1970-01-01T00:33:20Z","rttMicros":1000}]}`, metrics: "{}", fresh: "{}",
		},
		{
			name:   "state known before, not said since when",
			change: func(s *topology.MemberStatus) { s.Links[0].Since, s.Flows[0].Since = metav1.Time{}, metav1.Time{} },
			fields: "{}", metrics: "{}", fresh: "{}",
		},
		{
			name:   "lists empty",
			change: func(s *topology.MemberStatus) { s.Links, s.Flows, s.Problems = nil, nil, nil },
			fields: `{"flows":null,"links":null,"problems":null}`, metrics: "{}", fresh: "{}",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := same()
			if tc.change != nil {
				tc.change(want)
			}
			p := newPatch()
			p.member(&have, want, now)
			equal(t, "fields", asJSON(t, p.fields), tc.fields)
			equal(t, "metrics", asJSON(t, p.metrics), tc.metrics)
			equal(t, "fresh", asJSON(t, p.fresh), tc.fresh)
		})
	}
}

func TestFacts(t *testing.T) {
	grant := func(dialer, key, version string) *federationv1.Grant {
		return &federationv1.Grant{Peer: dialer, Key: key, Out: "out" + version, In: "in" + version}
	}
	member := func(name string, status v1alpha1.MemberClusterStatus) *v1alpha1.MemberCluster {
		return &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: status}
	}
	agent := &federationv1.AgentInfo{Version: "v1", BrokerVersion: "2.15", Runtime: "embedded"}
	known := v1alpha1.MemberClusterStatus{
		Agent:   &v1alpha1.AgentInfo{Version: "v1", BrokerVersion: "2.15", Runtime: "embedded", Storage: 100},
		LinkKey: "UB", Endpoints: []string{"b:1"},
		Grants: []v1alpha1.Grant{{Peer: "a", Key: "UB", Out: "out1", In: "in1"}},
	}
	for _, tc := range []struct {
		name           string
		have           v1alpha1.MemberClusterStatus
		seen           Observation
		fields, metric string
	}{
		{name: "nothing said", have: known, fields: "{}", metric: "{}"},
		{
			name: "the same said", have: known, fields: "{}", metric: "{}",
			seen: Observation{
				Members: map[string]MemberFacts{"b": {Agent: agent, Facts: &federationv1.Facts{LinkKey: "UB", Endpoints: []string{"b:1"}, Storage: 110}}},
				Grants:  map[string]map[string]*federationv1.Grant{"a": {"b": grant("b", "UB", "1")}},
			},
		},
		{
			name:   "first words",
			seen:   Observation{Members: map[string]MemberFacts{"b": {Agent: agent, Facts: &federationv1.Facts{LinkKey: "UB", Endpoints: []string{"b:1", "b:2", "b:1"}, Storage: 5, Memory: 7}}}},
			fields: `{"agent":{"brokerVersion":"2.15","linkGroups":null,"linkRoles":null,"maxReplicas":null,"memory":7,"replicas":null,"replicasReason":null,"runtime":"embedded","storage":5,"storageCapacity":null,"version":"v1","wantedReplicas":null},"endpoints":["b:1","b:2"],"linkKey":"UB"}`, metric: "{}",
		},
		{
			name: "only the disk filled up", have: known,
			seen:   Observation{Members: map[string]MemberFacts{"b": {Agent: agent, Facts: &federationv1.Facts{LinkKey: "UB", Endpoints: []string{"b:1"}, Storage: 50}}}},
			fields: "{}", metric: `{"agent":{"brokerVersion":"2.15","linkGroups":null,"linkRoles":null,"maxReplicas":null,"memory":null,"replicas":null,"replicasReason":null,"runtime":"embedded","storage":50,"storageCapacity":null,"version":"v1","wantedReplicas":null}}`,
		},
		{
			name: "no endpoints any more, no key yet", have: known,
			seen:   Observation{Members: map[string]MemberFacts{"b": {Facts: &federationv1.Facts{}}}},
			fields: `{"endpoints":null}`, metric: "{}",
		},
		{
			name: "another key voids grants", have: known,
			seen: Observation{
				Members: map[string]MemberFacts{"b": {Facts: &federationv1.Facts{LinkKey: "UB2", Endpoints: []string{"b:1"}}}},
				Grants:  map[string]map[string]*federationv1.Grant{"a": {"b": grant("b", "UB", "1")}},
			},
			fields: `{"grants":null,"linkKey":"UB2"}`, metric: "{}",
		},
		{
			name: "grants, of existing members for the present key, sorted", have: known,
			seen: Observation{Grants: map[string]map[string]*federationv1.Grant{
				"c": {"b": grant("b", "UB", "9"), "a": grant("a", "UA", "1")},
				"d": {"b": grant("b", "other", "1")},
				"z": {"b": grant("b", "UB", "1")}, // is not there (any more)
				"e": {"b": {Peer: "b", Key: "UB"}},
			}},
			fields: `{"grants":[{"peer":"a","key":"UB","out":"out1","in":"in1"},{"peer":"c","key":"UB","out":"out9","in":"in9"}]}`, metric: "{}",
		},
		{
			name:   "a grant of a member that is gone",
			have:   v1alpha1.MemberClusterStatus{LinkKey: "UB", Grants: []v1alpha1.Grant{{Peer: "a", Key: "UB"}, {Peer: "z", Key: "UB"}}},
			fields: `{"grants":[{"peer":"a","key":"UB","out":"","in":""}]}`, metric: "{}",
		},
		{
			name: "a newer grant of the same member", have: known,
			seen:   Observation{Grants: map[string]map[string]*federationv1.Grant{"a": {"b": grant("b", "UB", "2")}}},
			fields: `{"grants":[{"peer":"a","key":"UB","out":"out2","in":"in2"}]}`, metric: "{}",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := member("b", tc.have)
			members := []*v1alpha1.MemberCluster{b, member("a", known), member("c", known), member("d", known), member("e", known)}
			before := b.DeepCopy()
			p := newFacts(members, tc.seen).patch(b)
			equal(t, "fields", asJSON(t, p.fields), tc.fields)
			equal(t, "metrics", asJSON(t, p.metrics), tc.metric)
			equal(t, "the object", b, before)
		})
	}
}

func TestPlanDiffers(t *testing.T) {
	base := &v1alpha1.MemberCluster{
		ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "1", Generation: 1, ResourceVersion: "1", Labels: map[string]string{"x": "y"}},
		Status:     v1alpha1.MemberClusterStatus{LinkKey: "U", Endpoints: []string{"a:1"}, Agent: &v1alpha1.AgentInfo{Storage: 1}},
	}
	for name, tc := range map[string]struct {
		change func(*v1alpha1.MemberCluster)
		want   bool
	}{
		"nothing":    {func(*v1alpha1.MemberCluster) {}, false},
		"annotation": {func(m *v1alpha1.MemberCluster) { m.Annotations = map[string]string{"a": "b"}; m.ResourceVersion = "2" }, false},
		"conditions": {func(m *v1alpha1.MemberCluster) { m.Status.Conditions = []metav1.Condition{{}} }, false},
		"identity":   {func(m *v1alpha1.MemberCluster) { m.Status.Identity = &v1alpha1.MemberIdentity{KeyHash: "k"} }, false},
		"incarnation": {func(m *v1alpha1.MemberCluster) {
			m.Status.Identity = &v1alpha1.MemberIdentity{Incarnation: "i"}
		}, true},
		"free disk": {func(m *v1alpha1.MemberCluster) { m.Status.Agent.Storage = 2 }, false},
		"capacity":  {func(m *v1alpha1.MemberCluster) { m.Status.Agent.StorageCapacity = 2 }, true},
		"servers":   {func(m *v1alpha1.MemberCluster) { m.Status.Agent.Replicas = 3 }, false},
		"runtime":   {func(m *v1alpha1.MemberCluster) { m.Status.Agent.Runtime = "statefulset" }, true},
		"roles":     {func(m *v1alpha1.MemberCluster) { m.Status.Agent.LinkRoles = true }, true},
		"most":      {func(m *v1alpha1.MemberCluster) { m.Status.Agent.MaxReplicas = 3 }, true},
		"spec":      {func(m *v1alpha1.MemberCluster) { m.Generation = 2 }, true},
		"made anew": {func(m *v1alpha1.MemberCluster) { m.UID = "2" }, true},
		"labels":    {func(m *v1alpha1.MemberCluster) { m.Labels["x"] = "z" }, true},
		"key":       {func(m *v1alpha1.MemberCluster) { m.Status.LinkKey = "V" }, true},
		"endpoints": {func(m *v1alpha1.MemberCluster) { m.Status.Endpoints = nil }, true},
		"grants":    {func(m *v1alpha1.MemberCluster) { m.Status.Grants = []v1alpha1.Grant{{Peer: "b"}} }, true},
		"agent":     {func(m *v1alpha1.MemberCluster) { m.Status.Agent = nil }, true},
	} {
		t.Run(name, func(t *testing.T) {
			after := base.DeepCopy()
			tc.change(after)
			if got := planDiffers(base, after); got != tc.want {
				t.Errorf("got %v", got)
			}
		})
	}
	if planDiffers(&v1alpha1.Bridge{}, &v1alpha1.Bridge{Status: v1alpha1.FlowObjectStatus{Lag: 3}}) {
		t.Error("the lag of a bridge matters to no plan")
	}
}
