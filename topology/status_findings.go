package topology

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealane/sealane/api/v1alpha1"
)

// finding is one thing that keeps a condition from being True.
type finding struct {
	reason string
	text   string
	// unknown: nothing is wrong, it is not observed.
	unknown bool
}

// conclude makes a condition of findings, the most telling first: the reason is
// that of the first.
func conclude(typ, fineReason, fine string, findings []finding) Condition {
	if len(findings) == 0 {
		return Condition{Type: typ, Status: metav1.ConditionTrue, Reason: fineReason, Message: fine}
	}
	c := Condition{Type: typ, Status: metav1.ConditionUnknown, Reason: findings[0].reason}
	texts := make([]string, 0, len(findings))
	for _, f := range findings {
		texts = append(texts, f.text)
		if !f.unknown {
			c.Status = metav1.ConditionFalse
		}
	}
	c.Message = strings.Join(texts, "; ")
	return c
}

// reach is how far a member has come with some of its parts.
type reach struct {
	// joined: there is a MemberCluster of that name.
	joined    bool
	connected bool
	// known: the member told this hub what it holds.
	known bool
	// applied of total, as planned.
	applied, total int
	// failures are held parts that failed, by id.
	failures []string
	// missing are the ids that are not applied.
	missing []string
	refusal string
	// suspended: what is missing is not sent. Staged: not before its wave.
	suspended, staged bool
}

func (r reach) done() bool { return r.joined && r.applied == r.total }

// reach looks at the parts of these ids on a member.
func (s *summary) reach(cluster string, ids []string) reach {
	r := reach{total: len(ids)}
	desired, m := s.plan.Members[cluster], s.prog[cluster]
	r.joined = desired != nil
	if m == nil || desired == nil {
		r.missing = ids
		return r
	}
	r.connected, r.known, r.refusal = m.Connected, m.Known(), m.Refusal
	r.suspended, r.staged = s.plan.Standing[cluster].Suspended, s.plan.Staged[cluster] != nil
	whole := m.whole(desired)
	for _, id := range ids {
		switch want := desired.Part(id); {
		case want == nil:
			r.missing = append(r.missing, id)
		case whole:
			r.applied++
		default:
			r.look(m, id, want.Part.Hash)
		}
	}
	return r
}

// whole tells whether a member is known to have applied all of a state; most often
// it has, and that is told at once.
func (m *MemberProgress) whole(desired *MemberState) bool {
	return m != nil && m.Planned == desired && len(m.Unapplied) == 0
}

// reachWhole looks at all parts of a member, once.
func (s *summary) reachWhole(cluster string) reach {
	if r, ok := s.whole[cluster]; ok {
		return r
	}
	var r reach
	if desired := s.plan.Members[cluster]; desired != nil {
		r.joined, r.total = true, len(desired.Parts)
		m := s.prog[cluster]
		if m != nil {
			r.connected, r.known, r.refusal = m.Connected, m.Known(), m.Refusal
		}
		r.suspended, r.staged = s.plan.Standing[cluster].Suspended, s.plan.Staged[cluster] != nil
		if m.whole(desired) {
			r.applied = r.total
		} else {
			for _, want := range desired.Parts {
				r.look(m, want.Part.Id, want.Part.Hash)
			}
		}
	}
	s.whole[cluster] = r
	return r
}

func (r *reach) look(m *MemberProgress, id, hash string) {
	if m.Applied(id, hash) {
		r.applied++
		return
	}
	r.missing = append(r.missing, id)
	if m != nil && m.Unapplied[id].Code != "" {
		r.failures = append(r.failures, id)
	}
}

// tally adds up members.
type tally struct {
	total, done int
	failed      []string // with what failed
	absent      []string
	pending     []string
	suspended   []string
	staged      []string
	// disconnected: all that are; behind: those of them that are known to lack
	// something; lost: those of which nothing is known.
	disconnected, behind, lost []string
}

func (t *tally) allDone() bool { return t.done == t.total }

// add counts a member. Names must come in order.
func (t *tally) add(name string, m *MemberProgress, r reach) {
	t.total++
	if r.done() {
		t.done++
	}
	if r.joined && !r.connected {
		t.disconnected = append(t.disconnected, name)
	}
	switch {
	case !r.joined:
		t.absent = append(t.absent, name)
	case r.done():
	case len(r.failures) > 0 || r.refusal != "":
		t.failed = append(t.failed, name+": "+r.failure(m))
	case r.suspended:
		t.suspended = append(t.suspended, name)
	case r.connected && r.staged:
		t.staged = append(t.staged, name)
	case r.connected:
		t.pending = append(t.pending, name)
	case r.known:
		t.behind = append(t.behind, name)
	default:
		t.lost = append(t.lost, name)
	}
}

// failure tells the first thing that failed.
func (r reach) failure(m *MemberProgress) string {
	if len(r.failures) == 0 {
		return "refused the update: " + r.refusal
	}
	id := r.failures[0]
	f := m.Unapplied[id]
	text := fmt.Sprintf("%s: %s", id, f.Code)
	if f.Message != "" {
		text += ": " + f.Message
	}
	if n := len(r.failures) - 1; n > 0 {
		text += fmt.Sprintf(" (and %s more)", count(n, "part"))
	}
	return text
}

func (t *tally) failures() []finding {
	if len(t.failed) == 0 {
		return nil
	}
	return []finding{{reason: v1alpha1.ReasonApplyFailed, text: "failed: " + first(t.failed, "; ")}}
}

// pendings are members that will report; also those that have not joined, if
// they are not told of otherwise.
func (t *tally) pendings(withAbsent bool) []finding {
	var out []finding
	if withAbsent && len(t.absent) > 0 {
		out = append(out, finding{reason: v1alpha1.ReasonPending, text: "not joined yet: " + firstNames(t.absent)})
	}
	if len(t.pending) > 0 {
		out = append(out, finding{reason: v1alpha1.ReasonPending, text: "not applied yet: " + firstNames(t.pending)})
	}
	if len(t.staged) > 0 {
		out = append(out, finding{reason: v1alpha1.ReasonAwaitingWave, text: "no wave of the rollout has reached " + firstNames(t.staged)})
	}
	if len(t.suspended) > 0 {
		out = append(out, finding{reason: v1alpha1.ReasonSuspended, text: "suspended, and not applied there: " + firstNames(t.suspended)})
	}
	return out
}

// away is about members that are not connected: those that lack something, for
// Programmed, or all of them and more, for Ready.
func (t *tally) away(all bool, more ...string) []finding {
	names := slices.Concat(t.behind, t.lost)
	if all {
		names = slices.Concat(t.disconnected, more)
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return []finding{{
		reason:  v1alpha1.ReasonMembersDisconnected,
		text:    "not connected: " + firstNames(slices.Compact(names)),
		unknown: len(t.behind) == 0,
	}}
}

// firstNames joins the first three of sorted names.
func firstNames(names []string) string {
	const most = 3
	switch n := len(names); {
	case n <= 1:
		return strings.Join(names, "")
	case n <= most:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	default:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), n-most)
	}
}

// first joins the first three texts.
func first(texts []string, sep string) string {
	const most = 3
	if n := len(texts); n > most {
		return fmt.Sprintf("%s%sand %d more", strings.Join(texts[:most], sep), sep, n-most)
	}
	return strings.Join(texts, sep)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func connected(prog Progress, cluster string) bool {
	m := prog[cluster]
	return m != nil && m.Connected
}
