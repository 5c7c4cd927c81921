package topology

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// edit replaces a member of a rollout by a changed copy.
func (r *rollout) edit(name string, change func(*v1alpha1.MemberCluster)) {
	for i, m := range r.in.Members {
		if m.Name == name {
			m = m.DeepCopy()
			change(m)
			r.in.Members[i] = m
		}
	}
}

func (r *rollout) member(name string) *v1alpha1.MemberCluster {
	return r.in.Members[slices.IndexFunc(r.in.Members, func(m *v1alpha1.MemberCluster) bool { return m.Name == name })]
}

func (r *rollout) status(name string) Status {
	return Summarize(r.plan, r.in, r.prog)[ObjectRef{Kind: KindMember, Name: name}]
}

// leadsTo lists what a member holds that leads to another.
func (r *rollout) leadsTo(cluster, peer string) []string {
	var out []string
	for _, id := range sortedKeys(r.prog[cluster].Held) {
		if partPeer(id) == peer {
			out = append(out, id)
		}
	}
	return out
}

func TestSuspended(t *testing.T) {
	t.Parallel()
	r := newRollout(t, threeMembers())
	r.settle()
	r.edit("b", func(m *v1alpha1.MemberCluster) { m.Spec.Suspended = true })
	topo := r.in.Topologies[0].DeepCopy()
	topo.Generation++
	topo.Spec.Accounts = append(topo.Spec.Accounts, v1alpha1.Account{Name: "more", Namespaces: []string{"*"}})
	r.in.Topologies[0] = topo
	clear(r.sent)
	r.settle()
	if r.sent["b"] > 0 || r.sent["a"] == 0 || r.sent["c"] == 0 {
		t.Errorf("steps sent: %v, want some to all but b", r.sent)
	}
	if c := r.status("b").Condition(v1alpha1.ConditionProgrammed); c.Reason != v1alpha1.ReasonSuspended || !strings.Contains(c.Message, "1 part") {
		t.Errorf("b is %s", say(c))
	}
	whole := Summarize(r.plan, r.in, r.prog)[ObjectRef{Kind: KindTopology, Name: "t"}]
	if c := whole.Condition(v1alpha1.ConditionProgrammed); c.Reason != v1alpha1.ReasonSuspended || !strings.Contains(c.Message, "b") {
		t.Errorf("the topology is %s", say(c))
	}
	r.edit("b", func(m *v1alpha1.MemberCluster) { m.Spec.Suspended = false })
	r.settle()
	r.converged()
	if bad := r.notReady(); len(bad) > 0 {
		t.Errorf("after it is resumed: %q", bad)
	}
}

// TestOthersDoNotWaitForSuspended: a new link to a suspended member is planned,
// and everything else goes on.
func TestOthersDoNotWaitForSuspended(t *testing.T) {
	t.Parallel()
	in := threeMembers()
	chain := in.Topologies[0].DeepCopy()
	chain.Spec.Links[0].Type, chain.Spec.Links[0].Order = v1alpha1.LinkChain, []string{"a", "b", "c"}
	mesh := in.Topologies[0]
	in.Topologies[0] = chain
	r := newRollout(t, in)
	r.settle()
	r.edit("c", func(m *v1alpha1.MemberCluster) { m.Spec.Suspended = true })
	next := mesh.DeepCopy()
	next.Generation++
	next.Spec.Accounts = append(next.Spec.Accounts, v1alpha1.Account{Name: "more", Namespaces: []string{"*"}})
	r.in.Topologies[0] = next
	r.settle()
	for _, name := range []string{"a", "b"} {
		if r.prog[name].Held["account/more"] == "" {
			t.Errorf("%s waits for the suspended member", name)
		}
	}
}

// TestRevoked: whatever keeps a member from losing anything, it loses the ways to
// a revoked one, and in the first step.
func TestRevoked(t *testing.T) {
	t.Parallel()
	for name, still := range map[string]func(*rollout){
		"otherwise as usual": func(*rollout) {},
		"suspended peers": func(r *rollout) {
			r.edit("a", func(m *v1alpha1.MemberCluster) { m.Spec.Suspended = true })
			r.edit("c", func(m *v1alpha1.MemberCluster) { m.Spec.Suspended = true })
		},
		"frozen peers": func(r *rollout) {
			broken := r.in.Topologies[0].DeepCopy()
			broken.Generation++
			broken.Spec.Links[0].Groups = []string{"nowhere"}
			r.in.Topologies[0] = broken
			r.plan = nil // as after a restart
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRollout(t, threeMembers())
			r.settle()
			for _, peer := range []string{"a", "c"} {
				if len(r.leadsTo(peer, "b")) < 3 {
					t.Fatalf("%s holds %v", peer, sortedKeys(r.prog[peer].Held))
				}
			}
			still(r)
			r.edit("b", func(m *v1alpha1.MemberCluster) { m.Spec.RevokedKeys = []string{"Ub"} })
			r.plan = Recompile(r.plan, r.in)
			for _, peer := range []string{"a", "c"} {
				step := Next(r.plan, r.prog, peer)
				for _, id := range r.leadsTo(peer, "b") {
					if !slices.Contains(step.Removals, id) {
						t.Errorf("%s keeps %s at first", peer, id)
					}
				}
				if !step.Meant {
					t.Errorf("the step of %s is not said to be meant", peer)
				}
			}
			if step := Next(r.plan, r.prog, "b"); step.Target != "" {
				t.Errorf("the revoked member is sent %v", step)
			}
			st := r.status("b")
			if c := st.Condition(v1alpha1.ConditionRevoked); c.Status != metav1.ConditionTrue {
				t.Errorf("b is %s", say(c))
			}
			if c := st.Condition(v1alpha1.ConditionAccepted); c.Reason != v1alpha1.ReasonRevoked {
				t.Errorf("b is %s", say(c))
			}
			r.edit("b", func(m *v1alpha1.MemberCluster) { m.Spec.RevokedKeys = []string{"Uanother"} })
			r.settle()
			if r.plan.Standing["b"].Revoked {
				t.Error("b is revoked though its key is another now")
			}
		})
	}
}

func TestDeparting(t *testing.T) {
	t.Parallel()
	r := newRollout(t, threeMembers())
	r.settle()
	before := r.prog["b"].Held
	now := metav1.Now()
	r.edit("b", func(m *v1alpha1.MemberCluster) {
		m.DeletionTimestamp, m.Spec.Removal = &now, v1alpha1.LeaveDrain
	})
	r.plan = Recompile(r.plan, r.in)
	if got := Undrained(r.plan, r.member("b"), r.prog); !cmp.Equal(got, []string{"bridge ns/copy to c has 1 message to deliver"}) {
		t.Errorf("waits for %q", got)
	}
	for _, c := range []struct {
		want   string
		change func(*MemberProgress)
	}{
		{"is not observed: c is not connected", func(m *MemberProgress) { m.Connected = false }},
		{"does not move", func(m *MemberProgress) {
			for k := range m.Flows {
				m.Flows[k] = FlowReport{State: "Down"}
			}
		}},
		{"is not observed yet", func(m *MemberProgress) { clear(m.Flows) }},
		{"", func(m *MemberProgress) {
			for k := range m.Flows {
				m.Flows[k] = FlowReport{State: "Up"}
			}
		}},
	} {
		r.report()
		c.change(r.prog["c"])
		got := strings.Join(Undrained(r.plan, r.member("b"), r.prog), "; ")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("waits for %q, want %q", got, c.want)
		}
		r.prog["c"].Connected = true
	}
	if len(Next(r.plan, r.prog, "b").Removals) > 0 || len(r.leadsTo("a", "b")) == 0 {
		t.Error("something is taken away while it drains")
	}

	r.edit("b", func(m *v1alpha1.MemberCluster) {
		m.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionLeaving, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonDeparting}}
	})
	r.plan = Recompile(r.plan, r.in)
	if Departed(r.plan, "b", r.prog) {
		t.Error("it has departed before it dropped its links")
	}
	r.settle()
	if !Departed(r.plan, "b", r.prog) {
		t.Errorf("it has not departed: %v", sortedKeys(r.prog["b"].Held))
	}
	var kept []string
	for id := range before {
		if partPeer(id) == "" {
			kept = append(kept, id)
		}
	}
	slices.Sort(kept)
	if got := sortedKeys(r.prog["b"].Held); !cmp.Equal(got, kept) {
		t.Errorf("it keeps %v, want %v", got, kept)
	}
	for _, peer := range []string{"a", "c"} {
		if left := r.leadsTo(peer, "b"); len(left) > 0 {
			t.Errorf("%s keeps %v", peer, left)
		}
	}
	for _, p := range r.plan.Members["c"].Parts {
		for _, s := range p.Part.GetStream().GetSources() {
			if s.Origin == "b" {
				t.Errorf("%s still takes from b", p.Part.Id)
			}
		}
	}

	// A hub that starts now does not know what b has, and takes nothing away.
	fresh := Compile(r.in)
	if step := Next(fresh, r.prog, "b"); step.Target != "" {
		t.Errorf("after a restart it is sent %v", step)
	}
	if !Departed(fresh, "b", r.prog) {
		t.Error("after a restart it is waited for")
	}
}

func TestForgotten(t *testing.T) {
	t.Parallel()
	m := &v1alpha1.MemberCluster{Spec: v1alpha1.MemberClusterSpec{Removal: v1alpha1.LeaveForget}}
	if StandingOf(m).out() {
		t.Error("out although it is not deleted")
	}
	now := metav1.Now()
	m.DeletionTimestamp = &now
	if !StandingOf(m).Departing {
		t.Error("Forget waits")
	}
}

func TestGuardAgainstMassRemoval(t *testing.T) {
	t.Parallel()
	plan := func(s Standing, kept ...string) (*Plan, Progress) {
		desired := &MemberState{Cluster: "a", Hash: "wanted"}
		held := map[string]string{}
		for _, id := range kept {
			part := &federationv1.Part{Id: id, Hash: "h"}
			desired.Parts = append(desired.Parts, &PlannedPart{Part: part})
			held[id] = "h"
		}
		for i := range 11 {
			held[federationv1.StreamID("app", string(rune('a'+i)))] = "h"
		}
		return &Plan{Members: map[string]*MemberState{"a": desired}, Standing: map[string]Standing{"a": s}},
			Progress{"a": {Connected: true, Features: allFeatures, Held: held}}
	}
	many := []string{"account/a", "account/b", "account/c", "account/d", "account/e", "account/f", "account/g", "account/h", "account/i", "account/j", "account/k"}
	for _, c := range []struct {
		name     string
		standing Standing
		kept     []string
		removals int
		meant    bool
	}{
		{name: "all of it"},
		{name: "more than half", kept: many[:10]},
		{name: "half", kept: many, removals: 11},
		{name: "this state is allowed", standing: Standing{Allow: Allowance{State: "wanted"}}, removals: 11, meant: true},
		{name: "another state is allowed", standing: Standing{Allow: Allowance{State: "other"}}},
		{name: "so many are allowed", standing: Standing{Allow: Allowance{Parts: 11}}, removals: 11, meant: true},
		{name: "fewer are allowed", standing: Standing{Allow: Allowance{Parts: 10}}},
		{name: "it departs", standing: Standing{Departing: true}, removals: 11, meant: true},
		{name: "suspended", standing: Standing{Suspended: true, Allow: Allowance{State: "wanted"}}},
	} {
		p, prog := plan(c.standing, c.kept...)
		if step := Next(p, prog, "a"); len(step.Removals) != c.removals || step.Meant != c.meant {
			t.Errorf("%s: %d removals, meant %t", c.name, len(step.Removals), step.Meant)
		}
	}
}
