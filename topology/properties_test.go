package topology

import (
	"cmp"
	"slices"
	"strings"

	"pgregory.net/rapid"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// checkPlan checks what holds for every plan.
func checkPlan(t *rapid.T, in Input, p *Plan) {
	for _, m := range in.Members {
		if p.Members[m.Name] == nil {
			t.Fatalf("member %s is missing", m.Name)
		}
	}
	if len(p.Members) != len(in.Members) {
		t.Fatalf("%d members of %d", len(p.Members), len(in.Members))
	}
	for name, m := range p.Members {
		hashes := map[string]string{}
		for i, part := range m.Parts {
			if i > 0 && m.Parts[i-1].Part.Id >= part.Part.Id {
				t.Errorf("%s: parts are not sorted at %s", name, part.Part.Id)
			}
			if federationv1.ContentHash(part.Part) != part.Part.Hash {
				t.Errorf("%s: %s is not sealed", name, part.Part.Id)
			}
			hashes[part.Part.Id] = part.Part.Hash
			checkPart(t, p, m, part)
		}
		if federationv1.StateHash(hashes) != m.Hash {
			t.Errorf("%s: wrong state hash", name)
		}
	}
	if !slices.IsSortedFunc(p.Problems, compareProblems) {
		t.Error("problems are not sorted")
	}
	for ref, fp := range p.Objects {
		for _, part := range fp.Parts {
			if p.Members[part.Cluster].Part(part.ID) == nil {
				t.Errorf("%v needs %v, which is not planned", ref, part)
			}
		}
		if !slices.IsSorted(fp.Members) {
			t.Errorf("%v: members are not sorted", ref)
		}
		for _, h := range fp.Hops {
			for _, peer := range h.Peers {
				if !slices.ContainsFunc(p.Links, func(l Link) bool {
					return l.Dialer == h.Member && l.Acceptor == peer || l.Dialer == peer && l.Acceptor == h.Member
				}) {
					t.Errorf("%v needs a link of %s and %s, which is not planned", ref, h.Member, peer)
				}
			}
		}
	}
}

func checkPart(t *rapid.T, p *Plan, m *MemberState, part *PlannedPart) {
	for _, ref := range part.After {
		if part.Part.Id == federationv1.BrokerID && ref.Cluster != m.Cluster && strings.HasPrefix(ref.ID, federationv1.LinkID("")) {
			continue // it may not be granted yet, and then is nothing to wait for
		}
		if ref.Cluster == m.Cluster || p.Members[ref.Cluster] == nil || p.Members[ref.Cluster].Part(ref.ID) == nil {
			t.Errorf("%s of %s waits for %v, which never comes", part.Part.Id, m.Cluster, ref)
		}
	}
	a := part.Part.GetAccount()
	seen := map[string]string{}
	for _, i := range a.GetImports() {
		if m.Part(federationv1.AccountID(i.Account)) == nil {
			t.Errorf("%s of %s imports from %s, which it has not", a.Name, m.Cluster, i.Account)
		}
		key := i.Account + " " + i.Subject
		if i.Service {
			key = "service " + i.Account + " " + cmp.Or(i.To, i.Subject)
		}
		if _, twice := seen[key]; twice {
			t.Errorf("%s of %s imports %s twice", a.Name, m.Cluster, key)
		}
		seen[key] = i.To
		if a.Application && !i.Service && i.Account == a.Name {
			t.Errorf("%s of %s imports from itself", a.Name, m.Cluster)
		}
	}
	if a != nil && !a.Application && !strings.Contains(a.Name, "_") {
		t.Errorf("link account %s", a.Name)
	}
}
