package agent

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// largeView is that of a parent with n spokes.
func largeView(n int) *view {
	v := &view{
		heldHash: federationv1.EmptyHash, facts: &federationv1.Facts{LinkKey: "U"},
		parts: map[string]*federationv1.PartStatus{}, grants: map[string]*federationv1.Grant{},
		links: map[string]*federationv1.LinkHealth{}, flows: map[flowKey]*federationv1.FlowHealth{},
	}
	jwt := strings.Repeat("x", 900)
	for i := range n {
		peer := fmt.Sprintf("edge-%04d", i)
		v.grants[peer] = &federationv1.Grant{Peer: peer, Key: "U", Out: jwt, In: jwt}
		v.links[peer] = &federationv1.LinkHealth{Peer: peer, State: federationv1.Health_UP, Since: 1}
		v.parts["link/"+peer] = &federationv1.PartStatus{Id: "link/" + peer, Hash: federationv1.EmptyHash, State: federationv1.PartStatus_FAILED, Message: jwt}
		k := flowKey{"b", peer, "a", "s"}
		v.flows[k] = &federationv1.FlowHealth{Bridge: "b", Origin: peer, Account: "a", Stream: "s"}
	}
	return v
}

// TestSplit: a report of 5,000 grants comes in messages that a hub takes, and
// nothing of it is lost, doubled or reordered.
func TestSplit(t *testing.T) {
	t.Parallel()
	v := largeView(5000)
	whole := v.report(nil)
	if n := proto.Size(whole); n < 4<<20 {
		t.Fatalf("the report is of %d bytes, which needs no splitting", n)
	}
	got := &federationv1.Report{}
	messages := split(whole, maxReport)
	for i, r := range messages {
		if n := proto.Size(r); n > maxReport {
			t.Errorf("message %d is of %d bytes", i, n)
		}
		if last := i == len(messages)-1; r.More == last || r.HeldHash != whole.HeldHash {
			t.Errorf("message %d of %d: more is %v, held hash %q", i, len(messages), r.More, r.HeldHash)
		}
		proto.Merge(got, r)
	}
	got.More = false
	if diff := cmp.Diff(whole, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if small := (&federationv1.Report{Refusal: "x"}); len(split(small, maxReport)) != 1 || split(small, maxReport)[0] != small {
		t.Error("a small report is split")
	}
	if n := proto.Size(&federationv1.Hello{Unapplied: brief(v.unapplied())}); n > maxReport {
		t.Errorf("a Hello speaks of the parts in %d bytes", n)
	}
}
