package topology

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// applyChanges is a plan's state by member and part, after changes.
func applyChanges(before *Plan, c *Changes) map[string]map[string]*federationv1.Part {
	out := heldBy(before)
	for _, m := range c.Members {
		if out[m.Cluster] == nil {
			out[m.Cluster] = map[string]*federationv1.Part{}
		}
		for _, p := range m.Parts {
			if p.After == nil {
				delete(out[m.Cluster], p.ID)
			} else {
				out[m.Cluster][p.ID] = p.After
			}
		}
		if len(out[m.Cluster]) == 0 {
			delete(out, m.Cluster)
		}
	}
	return out
}

func heldBy(p *Plan) map[string]map[string]*federationv1.Part {
	out := map[string]map[string]*federationv1.Part{}
	for name, m := range p.Members {
		for _, part := range m.Parts {
			if out[name] == nil {
				out[name] = map[string]*federationv1.Part{}
			}
			out[name][part.Part.Id] = part.Part
		}
	}
	return out
}

// TestPreviewIsExact applies what a preview says to the one plan, which must give
// the other.
func TestPreviewIsExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := genInput(t)
		before := Compile(in)
		if c := Preview(before, Compile(in)); !c.Empty() {
			t.Errorf("equal plans differ: %+v", c)
		}
		for i := range rapid.IntRange(1, 4).Draw(t, "edits") {
			in = edit(t, in, i)
		}
		after := Compile(in)
		if rapid.Bool().Draw(t, "recompile") {
			after = Recompile(before, in)
		}
		forth, back := Preview(before, after), Preview(after, before)
		if diff := cmp.Diff(heldBy(after), applyChanges(before, forth), cmp.Comparer(func(a, b *federationv1.Part) bool { return proto.Equal(a, b) })); diff != "" {
			t.Errorf("changes do not give the plan after (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(heldBy(before), applyChanges(after, back), cmp.Comparer(func(a, b *federationv1.Part) bool { return proto.Equal(a, b) })); diff != "" {
			t.Errorf("changes back do not give the plan before (-want +got):\n%s", diff)
		}
		if forth.Changing() != back.Changing() || forth.Empty() != back.Empty() || len(forth.Introduced) != len(back.Solved) {
			t.Errorf("forth and back disagree: %v and %v", forth, back)
		}
		checkLinkChanges(t, before, after, forth)
		for _, m := range forth.Members {
			if forth.Member(m.Cluster).Cluster != m.Cluster || len(m.Parts) == 0 {
				t.Errorf("member %s", m.Cluster)
			}
		}
	})
}

func checkLinkChanges(t *rapid.T, before, after *Plan, c *Changes) {
	names := func(p *Plan) map[string]bool {
		out := map[string]bool{}
		for _, l := range p.Links {
			out[min(l.Dialer, l.Acceptor)+"<->"+max(l.Dialer, l.Acceptor)] = true
		}
		return out
	}
	got := names(before)
	for i := range c.Links {
		a, b := c.Links[i].Ends()
		switch c.Links[i].Action() {
		case ActionAdd:
			got[a+"<->"+b] = true
		case ActionRemove:
			delete(got, a+"<->"+b)
		default:
			if len(c.Links[i].Interrupted) == 0 {
				t.Errorf("link %s<->%s changes without a reason", a, b)
			}
		}
	}
	if diff := cmp.Diff(names(after), got); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
}

// TestPreviewScenarios compares the plans of before.yaml and after.yaml of each
// testdata/preview/*.txtar; see TestScenarios for the members. A section
// members.after replaces them.
func TestPreviewScenarios(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/preview/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			comment, sections := parseArchive(string(data))
			var before, after, keep []section
			want := ""
			for _, s := range sections {
				if s.name == "preview" {
					want = s.body
					continue
				}
				keep = append(keep, s)
				switch s.name {
				case "members":
					before, after = append(before, s), append(after, s)
				case "members.after":
					after[0] = section{"members", s.body}
				case "before.yaml":
					before = append(before, s)
				case "after.yaml":
					after = append(after, s)
				}
			}
			got := describeChanges(Preview(Compile(readInput(t, before)), Compile(readInput(t, after))))
			if *update {
				if err := os.WriteFile(file, []byte(formatArchive(comment, append(keep, section{"preview", got}))), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("differs (-want +got; -update rewrites):\n%s", diff)
			}
		})
	}
}

func describeChanges(c *Changes) string {
	var b strings.Builder
	for _, m := range c.Members {
		fmt.Fprintf(&b, "%s\n", m.Cluster)
		for _, p := range m.Parts {
			fmt.Fprintf(&b, "  %s %s\n", p.Action(), p.ID)
		}
		for _, e := range m.Effects {
			fmt.Fprintf(&b, "  %s: %s\n", e.Kind, e.Message)
		}
		if m.Before != m.After {
			fmt.Fprintf(&b, "  reserved %+v\n        -> %+v\n", m.Before, m.After)
		}
		if m.Frozen != "" {
			fmt.Fprintf(&b, "  frozen: %s\n", m.Frozen)
		}
	}
	for i := range c.Links {
		x, y := c.Links[i].Ends()
		fmt.Fprintf(&b, "link %s<->%s %s %s\n", x, y, c.Links[i].Action(), strings.Join(c.Links[i].Interrupted, "; "))
	}
	for word, list := range map[string][]Problem{"introduced": c.Introduced, "solved": c.Solved, "remaining": c.Remaining} {
		for _, p := range list {
			fmt.Fprintf(&b, "problem %s: %s %s %s %s: %s\n", word, p.Object.Kind, p.Object.path(), p.Reason, p.Field, p.Message)
		}
	}
	lines := strings.SplitAfter(b.String(), "\n")
	first := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "problem ") })
	if first >= 0 {
		slices.Sort(lines[first : len(lines)-1])
	}
	return strings.Join(lines, "")
}

// TestPreviewOfFrozenMembers: a hub that does not know what was in effect holds
// removals back, and the preview says so.
func TestPreviewOfFrozenMembers(t *testing.T) {
	t.Parallel()
	before := Compile(pairInput())
	after := *before
	after.Members = maps.Clone(before.Members)
	after.Frozen = map[string]string{"a": "why", "b": "why"}
	state := *before.Members["a"]
	state.Parts, state.Hash = state.Parts[1:], "other"
	after.Members["a"] = &state
	c := Preview(before, &after)
	if len(c.Members) != 1 || c.Members[0].Frozen != "why" {
		t.Errorf("a is not frozen: %+v", c.Members)
	}
	if back := Preview(&after, before); back.Members[0].Frozen != "" {
		t.Errorf("what is only added is frozen: %+v", back.Members)
	}
}

func TestPreviewEffects(t *testing.T) {
	t.Parallel()
	broker := func(change func(*federationv1.BrokerSpec)) *federationv1.Part {
		s := &federationv1.BrokerSpec{MaxStorage: 10 << 30, MaxMemory: 256 << 20, MaxPayload: 1 << 20, MaxConnections: 100, Replicas: 3}
		change(s)
		return &federationv1.Part{Id: federationv1.BrokerID, Spec: &federationv1.Part_Broker{Broker: s}}
	}
	account := func(change func(*federationv1.AccountSpec)) *federationv1.Part {
		s := &federationv1.AccountSpec{Name: "shop", Application: true, Namespaces: []string{"a", "b"}, Limits: &federationv1.AccountLimits{Connections: -1, Subscriptions: 10}}
		change(s)
		return &federationv1.Part{Id: "account/shop", Spec: &federationv1.Part_Account{Account: s}}
	}
	same := func(*federationv1.BrokerSpec) {}
	for _, c := range []struct {
		name          string
		before, after *federationv1.Part
		servers       int32
		want          []EffectKind
	}{
		{"storage raised", broker(same), broker(func(s *federationv1.BrokerSpec) { s.MaxStorage *= 2 }), 1, nil},
		{"storage lowered", broker(same), broker(func(s *federationv1.BrokerSpec) { s.MaxStorage /= 2 }), 1, []EffectKind{EffectRestart}},
		{"memory lowered", broker(same), broker(func(s *federationv1.BrokerSpec) { s.MaxMemory /= 2 }), 3, []EffectKind{EffectRestart}},
		{"sync", broker(same), broker(func(s *federationv1.BrokerSpec) { s.SyncAlways = true }), 3, []EffectKind{EffectRestart}},
		{"fewer servers", broker(same), broker(func(s *federationv1.BrokerSpec) { s.Replicas = 0 }), 1, []EffectKind{EffectServersLeave}},
		{"more servers", broker(same), broker(func(s *federationv1.BrokerSpec) { s.Replicas = 5 }), 5, nil},
		{"fewer connections, smaller messages", broker(same), broker(func(s *federationv1.BrokerSpec) { s.MaxConnections, s.MaxPayload = 1, 1 }), 3, []EffectKind{EffectDisconnect, EffectRefusal}},
		{"account gone", account(func(*federationv1.AccountSpec) {}), nil, 1, []EffectKind{EffectAccountRemoved}},
		{"account limited", account(func(*federationv1.AccountSpec) {}), account(func(s *federationv1.AccountSpec) {
			s.Limits = &federationv1.AccountLimits{Connections: 5, Subscriptions: 9}
			s.Namespaces = []string{"b"}
		}), 1, []EffectKind{EffectDisconnect, EffectRefusal, EffectRefusal}},
		{"account of a link gone", account(func(s *federationv1.AccountSpec) { s.Application = false }), nil, 1, nil},
		{"account widened", account(func(*federationv1.AccountSpec) {}), account(func(s *federationv1.AccountSpec) {
			s.Limits.Subscriptions, s.Namespaces = -1, []string{"*"}
		}), 1, nil},
	} {
		p := PartChange{ID: "x", Before: c.before, After: c.after}
		var got []EffectKind
		for _, e := range effects(&MemberChange{Parts: []PartChange{p}}, c.servers) {
			got = append(got, e.Kind)
			if e.Message == "" || e.Part != "x" {
				t.Errorf("%s: %+v", c.name, e)
			}
			if rolling := strings.Contains(e.Message, "one after the other"); e.Kind == EffectRestart && rolling != (c.servers > 1) {
				t.Errorf("%s: %s", c.name, e.Message)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}
