package main

import (
	"fmt"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

// diffUntold is what "sealane diff" cannot tell: what some members should hold.
type diffUntold struct {
	// Reason is Forbidden if a right is missing, NotFound if what is asked for is.
	Reason       string     `json:"reason"`
	MissingRight *diffRight `json:"missingRight,omitempty"`
	Message      string     `json:"message"`
	// Topologies of which a revision is in effect that cannot be read, and not the one
	// that the objects say.
	Topologies []diffRevision `json:"topologies"`
	// Members of which the hub wants something else than the objects say.
	Members []string `json:"members"`
}

// diffRight is a right of the Kubernetes API.
type diffRight struct {
	Verb     string `json:"verb"`
	Group    string `json:"group"`
	Resource string `json:"resource"`
}

type diffRevision struct {
	Topology   string `json:"topology"`
	State      string `json:"state"`
	InEffect   string `json:"inEffect"`
	ObjectsSay string `json:"objectsSay"`
}

// untold says why the revisions of lost topologies are not known. It is nil if none
// are lost.
func untold(lost []topology.Kept, forbidden bool) *diffUntold {
	if len(lost) == 0 {
		return nil
	}
	u := &diffUntold{Reason: "NotFound", Message: "the hub has no such revision, or this program cannot read it: is it of the hub's version?"}
	if forbidden {
		r := diffRight{"list", v1alpha1.GroupVersion.Group, "topologyrevisions"}
		u.Reason, u.MissingRight = "Forbidden", &r
		u.Message = fmt.Sprintf("this user may not %s %s.%s, which say what rollouts keep in effect: ask for that right", r.Verb, r.Resource, r.Group)
	}
	for _, k := range lost {
		u.Topologies = append(u.Topologies, diffRevision{k.Topology, string(k.State), k.InEffect, k.Says})
	}
	return u
}

// concerns tells whether it is not known what a member should hold. Where the hub
// wants what the objects say, no other revision is in effect.
func (u *diffUntold) concerns(m *diffMember) bool { return u != nil && m.Desired != m.Wanted }

// compareReported looks at the links that there are, not at whether there should be
// others.
func (m *diffMember) compareReported(o *v1alpha1.MemberCluster) {
	for _, st := range o.Status.Links {
		m.noteLink(st)
	}
}

func (m *diffMember) noteLink(st v1alpha1.LinkStatus) {
	if st.State != v1alpha1.LinkUp && st.State != v1alpha1.LinkStandby {
		m.note("link "+st.Peer, string(st.State), st.Since.Time, st.Message)
	}
}

func printUntold(env *environment, u *diffUntold) {
	fmt.Fprintln(env.out, env.paint(env.outColour, bold, "cannot be told"))
	var rows [][]cell
	for _, k := range u.Topologies {
		rows = append(rows, []cell{text("topology " + k.Topology), {k.State, yellow}, text(fmt.Sprintf("revision %s is in effect, and not %s, which the objects say", k.InEffect, k.ObjectsSay))})
	}
	rows = append(rows, []cell{text("its content"), {u.Reason, red}, text(u.Message)},
		[]cell{text("members"), text(""), text(nameMany(u.Members) + ": compared with what the hub wants of them only")})
	planPrinter{env}.rows("  ", rows)
}
