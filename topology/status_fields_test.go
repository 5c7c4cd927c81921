package topology

import (
	"fmt"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

func TestSummarizeFields(t *testing.T) {
	t.Parallel()
	s := newScene()
	s.prog["a"].Held["stream/app/SRC"] = "old"
	s.prog["a"].Held["account/old"] = "1"
	s.prog["b"].Links["a"] = LinkReport{State: "Down", SinceMillis: sceneSince, RTTMicros: 5, Message: "no answer"}
	s.prog["e"].Connected = false
	delete(s.prog, "c")
	for i := range 25 {
		s.prog["b"].Unapplied[fmt.Sprintf("part/%02d", i)] = PartFailure{Code: "Broken", Message: "why"}
	}
	s.prog["b"].Unapplied["pending"] = PartFailure{}
	got := Summarize(s.plan, s.in, s.prog)

	if st := got[topologyRef]; st.Members != "2/3" || st.Links != "1/2" || st.Unheard {
		t.Errorf("topology: %+v", st)
	}
	if st := got[bridgeRef]; st.Members != "2/2" || st.Lag != 3 {
		t.Errorf("bridge: %+v", st)
	}
	since := metav1.Unix(sceneSince/1000, 0)
	b := got[memberRef("b")].Member
	wantLinks := []v1alpha1.LinkStatus{
		{Peer: "a", Role: "Dial", State: v1alpha1.LinkDown, Since: since, RTTMicros: 5, Message: "no answer"},
		{Peer: "e", Role: "Accept", State: v1alpha1.LinkDown, Since: since, RTTMicros: 90},
	}
	if d := cmp.Diff(wantLinks, b.Links); d != "" {
		t.Errorf("links of b (-want +got):\n%s", d)
	}
	wantFlows := []v1alpha1.FlowStatus{{Bridge: "ns/x", From: "a", Account: "app", Stream: "DST", State: v1alpha1.LinkUp, Since: since, Lag: 3}}
	if d := cmp.Diff(wantFlows, b.Flows); d != "" {
		t.Errorf("flows of b (-want +got):\n%s", d)
	}
	if len(b.Problems) != 20 || b.Problems[19] != (v1alpha1.PartProblem{Part: "part/19", Code: "Broken", Message: "why"}) {
		t.Errorf("problems of b: %v", b.Problems)
	}
	a := got[memberRef("a")].Member
	if a.Parts != fmt.Sprintf("%d/%[2]d", len(s.plan.Members["a"].Parts)-1, len(s.plan.Members["a"].Parts)) || a.DesiredHash != s.plan.Members["a"].Hash || a.HeldHash != federationv1.StateHash(s.prog["a"].Held) {
		t.Errorf("a: %+v", a)
	}
	if b.HeldHash != b.DesiredHash || b.HeldHash == "" {
		t.Errorf("b holds %s of %s", b.HeldHash, b.DesiredHash)
	}
	if e := got[memberRef("e")].Member; e.Links != nil || e.Flows != nil || e.HeldHash != e.DesiredHash {
		t.Errorf("e is not connected: %+v", e)
	}
	if c := got[memberRef("c")]; !c.Unheard || c.Member.HeldHash != "" || c.Member.Parts != "0/0" {
		t.Errorf("c was not heard of: %+v %+v", c, c.Member)
	}
	// While e is connected, a knows from it that it stands by.
	s.prog["e"].Connected = true
	got = Summarize(s.plan, s.in, s.prog)
	if l := got[memberRef("b")].Member.Links[1]; l.State != v1alpha1.LinkStandby {
		t.Errorf("the link of b that e does not use: %+v", l)
	}
	// What nobody spoke of has no time.
	delete(s.prog["b"].Links, "a")
	delete(s.prog["b"].Flows, sceneFlow)
	b = Summarize(s.plan, s.in, s.prog)[memberRef("b")].Member
	if b.Links[0].State != v1alpha1.LinkPending || !b.Links[0].Since.IsZero() || b.Flows[0].State != v1alpha1.LinkPending || !b.Flows[0].Since.IsZero() {
		t.Errorf("not reported: %+v %+v", b.Links, b.Flows)
	}
}

// TestSummarizeIsPure: same input, same output, and the input is left alone.
func TestSummarizeIsPure(t *testing.T) {
	t.Parallel()
	s := newScene()
	s.link("e", "a", "Down", "Down")
	s.prog["b"].Connected = false
	first := Summarize(s.plan, s.in, s.prog)
	for range 20 {
		if d := cmp.Diff(first, Summarize(s.plan, s.in, s.prog)); d != "" {
			t.Fatalf("another summary of the same:\n%s", d)
		}
	}
	for ref, st := range first {
		types := map[string]bool{}
		for _, c := range st.Conditions {
			types[c.Type] = true
			if c.Reason == "" || c.Status == "" {
				t.Errorf("%v: %+v", ref, c)
			}
		}
		want := map[string]bool{v1alpha1.ConditionAccepted: true, v1alpha1.ConditionProgrammed: true, v1alpha1.ConditionReady: true}
		if ref.Kind == KindMember {
			want[v1alpha1.ConditionConnected] = true
		}
		if !maps.Equal(types, want) {
			t.Errorf("%v has conditions %v", ref, types)
		}
	}
}

func TestFirstNames(t *testing.T) {
	t.Parallel()
	for want, names := range map[string][]string{
		"":                     nil,
		"a":                    {"a"},
		"a and b":              {"a", "b"},
		"a, b and c":           {"a", "b", "c"},
		"a, b, c and 1 more":   {"a", "b", "c", "d"},
		"a, b, c and 997 more": append([]string{"a", "b", "c"}, make([]string, 997)...),
	} {
		if got := firstNames(names); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestSummarizeHeldOrPlanned says the same of members whether it is known which
// planned state they hold, or each part.
func TestSummarizeHeldOrPlanned(t *testing.T) {
	t.Parallel()
	in := fleetInput(30)
	old := Compile(in)
	p := Recompile(old, anotherStream(in, 2))
	held, planned := Progress{}, Progress{}
	for i, m := range in.Members {
		state := []*MemberState{p.Members[m.Name], old.Members[m.Name]}[i%2]
		one := MemberProgress{Connected: i%5 > 0, Links: map[string]LinkReport{}, Held: map[string]string{}}
		for _, part := range state.Parts {
			one.Held[part.Part.Id] = part.Part.Hash
		}
		if i%3 == 0 {
			one.Unapplied = map[string]PartFailure{state.Parts[i%len(state.Parts)].Part.Id: {Code: "Invalid"}}
		}
		other := one
		other.Planned = state
		held[m.Name], planned[m.Name] = &one, &other
	}
	if diff := cmp.Diff(Summarize(p, in, held), Summarize(p, in, planned)); diff != "" {
		t.Errorf("by part (-), by state (+):\n%s", diff)
	}
}
