package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/cmd/sealane/hubapi"
	"github.com/sealane/sealane/topology"
)

// revisionOf names what manifests say of the topology world, and writes the manifest
// of that revision.
func revisionOf(t *testing.T, manifests string) (name, manifest string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "said.yaml")
	if err := os.WriteFile(file, []byte(manifests), 0o600); err != nil {
		t.Fatal(err)
	}
	all, _, err := hubapi.ReadManifests([]string{file}, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	in, err := hubapi.ParseInput(all, "default")
	if err != nil {
		t.Fatal(err)
	}
	c := topology.ContentOf(in, in.Topologies[0])
	hash, err := c.Hash()
	if err != nil {
		t.Fatal(err)
	}
	data, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	name = topology.RevisionName("world", hash)
	return name, fmt.Sprintf("---\napiVersion: messaging.sealane.dev/v1alpha1\nkind: TopologyRevision\nmetadata: {name: %s}\nspec: {topology: world, number: 1, hash: %s, content: %s}\n",
		name, hash, base64.StdEncoding.EncodeToString(data))
}

// TestPlanOfARollout: a plan begins with what is in effect, and says so.
func TestPlanOfARollout(t *testing.T) {
	noHub(t)
	const topologyName = "metadata: {name: world, generation: 1, uid: w}\n"
	waves := strings.Replace(fleetYAML(6, 0), "  accounts:", "  rollout: {size: 1}\n  accounts:", 1)
	newer := strings.Replace(waves, `subjects: ["log.>"]`, `subjects: ["log.>", "audit.>"]`, 1)
	was, revision := revisionOf(t, waves)
	says, _ := revisionOf(t, newer)
	if was == says {
		t.Fatal("two revisions are one")
	}
	// Of the members edge-000 was reached.
	plan := func(status, revision, next string, args ...string) (planReport, string) {
		t.Helper()
		dir := t.TempDir()
		live, edit := filepath.Join(dir, "live.yaml"), filepath.Join(dir, "next.yaml")
		now := strings.Replace(newer, topologyName, topologyName+"status: {rollout: "+status+"}\n", 1) + revision
		for file, content := range map[string]string{live: now, edit: next} {
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		all := append([]string{"plan", "--offline", "--live", live, "-f", edit}, args...)
		_, text, stderr := call(t, all...)
		_, asJSON, _ := call(t, append(all, "-o", "json")...)
		var r planReport
		if err := json.Unmarshal([]byte(asJSON), &r); err != nil {
			t.Fatalf("%v\n%s%s", err, text, stderr)
		}
		return r, text
	}
	stream := func(subjects string) string {
		return "apiVersion: messaging.sealane.dev/v1alpha1\nkind: Stream\nmetadata: {name: log, namespace: apps, generation: 1, uid: l}\nspec: {account: orders, name: LOG, placement: {group: edges}, subjects: [" + subjects + "]}\n"
	}
	rolledBack := fmt.Sprintf("{state: RolledBack, current: %s, target: %s, wave: 1, attempt: 1, message: edge-000 failed}", was, says)
	overBudget := fmt.Sprintf("{state: OverBudget, current: %s, target: %s, wave: 1, attempt: 1, through: {step: 0, member: edge-000}, message: edge-000 failed}", was, says)
	for name, c := range map[string]struct {
		status, revision, next string
		members                int
		want                   planRollout
		text                   string
	}{
		"rolled back, and nothing is edited": {
			rolledBack, revision, stream(`"log.>", "audit.>"`), 0,
			planRollout{InEffect: was, ObjectsSay: says, State: "RolledBack", All: true, Members: []string{"6"}},
			"RolledBack   revision " + was + " is in effect, and not " + says,
		},
		"rolled back, and changed to what is in effect": {
			rolledBack, revision, stream(`"log.>"`), 0,
			planRollout{InEffect: was, ObjectsSay: says, State: "RolledBack", All: true, Members: []string{"6"}, Waves: true},
			"what changes goes to members in waves",
		},
		"rolled back, and changed further": {
			rolledBack, revision, stream(`"log.>", "more.>"`), 3,
			planRollout{InEffect: was, ObjectsSay: says, State: "RolledBack", All: true, Members: []string{"6"}, Waves: true},
			"stream orders/LOG",
		},
		"stopped on the way, and changed back": {
			overBudget, revision, stream(`"log.>"`), 1,
			planRollout{InEffect: was, ObjectsSay: says, State: "OverBudget", Members: []string{"2"}, NextWave: 2, Waves: true},
			"is in effect on edge-001, edge-002, and not",
		},
		"stopped on the way, and nothing is edited": {
			overBudget, revision, stream(`"log.>", "audit.>"`), 0,
			planRollout{InEffect: was, ObjectsSay: says, State: "OverBudget", Members: []string{"2"}, NextWave: 2},
			"Wave 2       is to reach the first of them: edge-000 failed",
		},
		"the revision is not to be had": {
			rolledBack, "", stream(`"log.>"`), 3,
			planRollout{InEffect: was, ObjectsSay: says, State: "RolledBack", All: true, Unknown: true, Waves: true},
			"of which this user does not see",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, text := plan(c.status, c.revision, c.next)
			if len(r.Rollouts) != 1 || len(r.Members) != c.members || !strings.Contains(text, c.text) {
				t.Fatalf("%d members change, %+v\n%s", len(r.Members), r.Rollouts, text)
			}
			got := r.Rollouts[0]
			if n := len(got.Members); n > 0 {
				got.Members = []string{fmt.Sprint(n)}
			}
			c.want.Topology, c.want.Message = "world", "edge-000 failed"
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// TestPlanOfHeldRemovals: what the guard holds back, and what it will, is said.
func TestPlanOfHeldRemovals(t *testing.T) {
	noHub(t)
	dir := t.TempDir()
	live := filepath.Join(dir, "live.yaml")
	now := strings.Replace(fleetYAML(6, 20), "metadata: {name: region-1,", "metadata: {name: region-1, annotations: {"+v1alpha1.AllowRemovalAnnotation+": \"100\"},", 1)
	now = strings.Replace(now, "linkKey: Uregion-0,", "linkKey: Uregion-0, conditions: [{type: Programmed, status: \"False\", reason: RemovalHeld, message: 12 of 20 parts would be removed, lastTransitionTime: \"2026-01-01T00:00:00Z\"}],", 1)
	if err := os.WriteFile(live, []byte(now), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"plan", "--offline", "--live", live, "--delete", "topology/world"}
	_, text, _ := call(t, args...)
	_, asJSON, _ := call(t, append(args, "-o", "json")...)
	var r planReport
	if err := json.Unmarshal([]byte(asJSON), &r); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if len(r.HeldRemovals) != 1 || r.HeldRemovals[0].Member != "region-0" || !strings.Contains(text, "HELD BACK TODAY") {
		t.Errorf("held today: %+v\n%s", r.HeldRemovals, text)
	}
	var guarded []string
	for _, m := range r.Members {
		if m.NeedsPermission {
			guarded = append(guarded, m.Name)
			if !strings.Contains(m.HeldBack, "allow-removal "+m.Name) {
				t.Errorf("%s: %s", m.Name, m.HeldBack)
			}
		}
	}
	if !slices.Contains(guarded, "region-0") || slices.Contains(guarded, "region-1") || !strings.Contains(r.Summary, "until that is permitted") || !strings.Contains(text, "sealane allow-removal region-0") {
		t.Errorf("held back by the plan: %v\n%s", guarded, text)
	}
}
