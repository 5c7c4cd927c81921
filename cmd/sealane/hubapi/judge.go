package hubapi

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealane/sealane/api/v1alpha1"
)

// Area is the part of the federation that a finding is about.
type Area string

// The areas, in the order in which a Report lists them.
const (
	AreaRefused    Area = "refused"
	AreaMembers    Area = "members"
	AreaLinks      Area = "links"
	AreaBridges    Area = "bridges"
	AreaStreams    Area = "streams"
	AreaTopologies Area = "topologies"
	// AreaNotes holds what is worth knowing but not wrong.
	AreaNotes Area = "notes"
)

// Areas in the order in which a Report lists them.
var Areas = []Area{AreaRefused, AreaMembers, AreaLinks, AreaBridges, AreaStreams, AreaTopologies, AreaNotes}

// Finding is one thing worth telling.
type Finding struct {
	Area Area `json:"area"`
	// Object is a resource ("bridge default/orders") or a link ("berlin<->tokyo").
	Object  string `json:"object"`
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
	// Since is when it began, if that is known.
	Since *time.Time `json:"since,omitempty"`
}

// Counts is how much there is.
type Counts struct {
	Topologies int `json:"topologies"`
	Members    int `json:"members"`
	Links      int `json:"links"`
	Streams    int `json:"streams"`
	Bridges    int `json:"bridges"`
}

// Report is the judgement of a Snapshot.
type Report struct {
	// Fine is true if nothing is wrong.
	Fine bool `json:"fine"`
	// Summary is the verdict in one line.
	Summary  string    `json:"summary"`
	Counts   Counts    `json:"counts"`
	Findings []Finding `json:"findings,omitempty"`
}

// Judge says whether all is well at a time, and if not what is wrong. It relies
// on what the hub observed and adds no opinion of its own.
func Judge(s *Snapshot, now time.Time) *Report {
	links := s.Links()
	r := &Report{Counts: Counts{len(s.Topologies), len(s.Members), len(links), len(s.Streams), len(s.Bridges)}}
	var found []Finding
	for i := range s.Members {
		found = append(found, judgeMember(&s.Members[i], now)...)
	}
	for i := range links {
		found = append(found, judgeLink(&links[i])...)
	}
	for i := range s.Members {
		found = append(found, judgeFlows(&s.Members[i])...)
	}
	for i := range s.Bridges {
		o := &s.Bridges[i]
		found = append(found, judgeObject(AreaBridges, "bridge "+o.Namespace+"/"+o.Name, &o.ObjectMeta, o.Status.ObservedGeneration, o.Status.Conditions)...)
		if o.Status.Lag > 0 {
			found = append(found, Finding{Area: AreaNotes, Object: "bridge " + o.Namespace + "/" + o.Name, Reason: "Lag", Message: plural(int(o.Status.Lag), "message has", "messages have") + " not arrived yet"})
		}
	}
	for i := range s.Streams {
		o := &s.Streams[i]
		found = append(found, judgeObject(AreaStreams, "stream "+o.Namespace+"/"+o.Name, &o.ObjectMeta, o.Status.ObservedGeneration, o.Status.Conditions)...)
	}
	for i := range s.Topologies {
		o := &s.Topologies[i]
		found = append(found, judgeObject(AreaTopologies, "topology "+o.Name, &o.ObjectMeta, o.Status.ObservedGeneration, o.Status.Conditions)...)
	}
	per := map[Area]int{}
	for _, a := range Areas {
		for _, f := range found {
			if f.Area == a {
				r.Findings = append(r.Findings, f)
				per[a]++
			}
		}
	}
	r.Fine = len(r.Findings) == per[AreaNotes]
	r.Summary = summary(r, per)
	return r
}

func judgeMember(m *v1alpha1.MemberCluster, now time.Time) []Finding {
	name := "member " + m.Name
	for _, typ := range []string{v1alpha1.ConditionRevoked, v1alpha1.ConditionLeaving} {
		if c := meta.FindStatusCondition(m.Status.Conditions, typ); c != nil && c.Status == metav1.ConditionTrue {
			return []Finding{{Area: AreaNotes, Object: name, Reason: c.Reason, Message: c.Message, Since: &c.LastTransitionTime.Time}}
		}
	}
	var out []Finding
	switch c := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionConnected); {
	case c == nil:
		return []Finding{{Area: AreaMembers, Object: name, Reason: v1alpha1.ReasonNeverConnected, Message: "its agent has not connected yet"}}
	case c.Status != metav1.ConditionTrue:
		out = append(out, Finding{Area: AreaMembers, Object: name, Reason: c.Reason, Message: c.Message, Since: &c.LastTransitionTime.Time})
	}
	if id := m.Status.Identity; id != nil && !id.NotAfter.IsZero() && now.After(id.NotAfter.Time) {
		out = append(out, Finding{Area: AreaMembers, Object: name, Reason: "CertificateExpired", Message: "its certificate has expired: the agent must enrol again", Since: &id.NotAfter.Time})
	}
	for _, p := range m.Status.Problems {
		out = append(out, Finding{Area: AreaMembers, Object: name, Reason: p.Code, Message: p.Part + ": " + p.Message})
	}
	for _, f := range judgeObject(AreaMembers, name, &m.ObjectMeta, m.Status.ObservedGeneration, m.Status.Conditions) {
		switch f.Reason { // told by the lines above, or by the links' own
		case v1alpha1.ReasonNeverConnected, v1alpha1.ReasonDisconnected, v1alpha1.ReasonMembersDisconnected, v1alpha1.ReasonLinksDown:
		case v1alpha1.ReasonApplyFailed:
			if len(m.Status.Problems) == 0 {
				out = append(out, f)
			}
		default:
			out = append(out, f)
		}
	}
	return out
}

func judgeLink(l *Link) []Finding {
	f := Finding{Area: AreaLinks, Object: l.Name(), Reason: string(l.State), Message: l.Message}
	if !l.Since.IsZero() {
		f.Since = &l.Since
	}
	switch l.State {
	case v1alpha1.LinkUp, v1alpha1.LinkStandby:
		return nil
	case LinkUnknown:
		f.Area = AreaNotes
	}
	return []Finding{f}
}

func judgeFlows(m *v1alpha1.MemberCluster) []Finding {
	if !Connected(m) {
		return nil // what it said last is old
	}
	var out []Finding
	for _, f := range m.Status.Flows {
		if f.State != v1alpha1.LinkDown {
			continue
		}
		msg := fmt.Sprintf("%s to %s, stream %s of account %s, lag %d", f.From, m.Name, f.Stream, f.Account, f.Lag)
		if f.Message != "" {
			msg += ": " + f.Message
		}
		out = append(out, Finding{Area: AreaBridges, Object: "bridge " + f.Bridge, Reason: "FlowDown", Message: msg, Since: &f.Since.Time})
	}
	return out
}

// judgeObject reads the conditions Accepted, Programmed and Ready.
func judgeObject(area Area, name string, o *metav1.ObjectMeta, observed int64, conditions []metav1.Condition) []Finding {
	get := func(t string) metav1.Condition {
		if c := meta.FindStatusCondition(conditions, t); c != nil {
			return *c
		}
		return metav1.Condition{Type: t, Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonPending, Message: "the hub has not reported it yet"}
	}
	finding := func(a Area, c metav1.Condition) Finding {
		f := Finding{Area: a, Object: name, Reason: c.Reason, Message: c.Message}
		if !c.LastTransitionTime.IsZero() {
			f.Since = &c.LastTransitionTime.Time
		}
		return f
	}
	if len(conditions) == 0 || observed < o.Generation {
		return []Finding{{Area: area, Object: name, Reason: v1alpha1.ReasonPending, Message: "the hub has not looked at its present generation yet"}}
	}
	accepted, programmed, ready := get(v1alpha1.ConditionAccepted), get(v1alpha1.ConditionProgrammed), get(v1alpha1.ConditionReady)
	switch {
	case accepted.Status == metav1.ConditionFalse:
		if accepted.Reason == v1alpha1.ReasonUnplaced {
			return []Finding{finding(AreaNotes, accepted)}
		}
		return []Finding{finding(AreaRefused, accepted)}
	case harmless(ready.Reason):
		return []Finding{finding(AreaNotes, ready)}
	case harmless(accepted.Reason) && ready.Status == metav1.ConditionTrue:
		return []Finding{finding(AreaNotes, accepted)}
	case ready.Status == metav1.ConditionTrue && programmed.Status == metav1.ConditionTrue:
		return nil
	case ready.Status == metav1.ConditionTrue, (ready.Reason == v1alpha1.ReasonPending || ready.Reason == v1alpha1.ReasonAwaitingWave) && programmed.Status != metav1.ConditionTrue:
		return []Finding{finding(area, programmed)}
	}
	return []Finding{finding(area, ready)}
}

// harmless tells the reasons for which an object does nothing and rightly so.
func harmless(reason string) bool {
	switch reason {
	case v1alpha1.ReasonPaused, v1alpha1.ReasonNoMembers, v1alpha1.ReasonUnplaced:
		return true
	}
	return false
}

func summary(r *Report, per map[Area]int) string {
	c := r.Counts
	if r.Fine {
		if c.Topologies == 0 {
			return fmt.Sprintf("Fine, but nothing is joined: no topology yet, %s.", plural(c.Members, "member", "members"))
		}
		return fmt.Sprintf("Fine: %s, %s, %s, %s and %s work.", plural(c.Topologies, "topology", "topologies"), plural(c.Members, "member", "members"),
			plural(c.Links, "link", "links"), plural(c.Streams, "stream", "streams"), plural(c.Bridges, "bridge", "bridges"))
	}
	var parts []string
	for _, a := range Areas {
		if n := objects(r.Findings, a); n > 0 && a != AreaNotes {
			parts = append(parts, map[Area]string{
				AreaRefused:    plural(n, "object refused", "objects refused"),
				AreaMembers:    plural(n, "member in trouble", "members in trouble"),
				AreaLinks:      plural(n, "link not up", "links not up"),
				AreaBridges:    plural(n, "bridge not ready", "bridges not ready"),
				AreaStreams:    plural(n, "stream not ready", "streams not ready"),
				AreaTopologies: plural(n, "topology not ready", "topologies not ready"),
			}[a])
		}
	}
	return "Not fine: " + strings.Join(parts, ", ") + "."
}

// objects counts the different objects that an area's findings speak of.
func objects(found []Finding, a Area) int {
	seen := map[string]bool{}
	for _, f := range found {
		if f.Area == a {
			seen[f.Object] = true
		}
	}
	return len(seen)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
