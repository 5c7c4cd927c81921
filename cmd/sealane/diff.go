package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/cmd/sealane/hubapi"
	"github.com/sealane/sealane/topology"
)

// Exit statuses of "sealane diff", those of diff.
const (
	diffFound   = 1
	diffUnknown = 2
)

func diffCommand(env *environment) *cobra.Command {
	output := oneOf("text", "text", "json", "yaml")
	c := &cobra.Command{
		Use:   "diff [MEMBER...]",
		Short: "Compare what members should hold with what they report",
		Long: `Compare what members should hold with what they report.

What each member should hold is compiled from the hub's resources, as the hub
does; where a topology was rolled back or undone, from the revision in effect. It
is compared with the member's reported state: whether it holds it, which parts are
not applied and why, which wave of a rollout it waits for and what that waits for,
and which links and durable flows do not work. Nothing is printed if all is as it
should be. Refused resources, of which no member should
hold anything, are listed too unless members are named.

Who may not list topologyrevisions is not told what is in effect after that. The
output names the topologies and members that this concerns; of these members only
what the hub wants of them is compared, of all others everything.

The exit status is 0 if there is no difference, 1 if there is one, and 2 if none
was found but something cannot be told.`,
		RunE: func(c *cobra.Command, args []string) error {
			hub, err := env.hub()
			if err != nil {
				return &exitStatus{diffUnknown, fmt.Errorf("cannot tell: %w", err)}
			}
			s, err := hub.Snapshot(c.Context())
			if err != nil {
				return &exitStatus{diffUnknown, fmt.Errorf("cannot tell: %w", err)}
			}
			if err := knownMembers(s, args); err != nil {
				return &exitStatus{diffUnknown, err}
			}
			revisions, err := hub.Revisions(c.Context(), s.Input())
			forbidden := apierrors.IsForbidden(err)
			if err != nil && !forbidden {
				return &exitStatus{diffUnknown, fmt.Errorf("cannot tell what rollouts keep in effect: %w", hub.Explain(err))}
			}
			inEffect, err := topology.EffectiveOf(s.Input(), revisions)
			if err != nil {
				return &exitStatus{diffUnknown, fmt.Errorf("cannot tell: %w", err)}
			}
			d := difference(s, inEffect, forbidden, args)
			switch output.value {
			case "json":
				err = printJSON(env.out, d)
			case "yaml":
				err = printYAML(env.out, d)
			default:
				printDifference(env, d)
			}
			switch {
			case err != nil || d.Same:
			case len(d.Members)+len(d.Refused) > 0:
				err = &exitStatus{code: diffFound}
			default:
				err = &exitStatus{code: diffUnknown}
			}
			return err
		},
		ValidArgsFunction: env.complete(func(ctx context.Context, hub *hubapi.Hub) ([]string, error) {
			s, err := hub.Snapshot(ctx)
			if err != nil {
				return nil, err
			}
			names := make([]string, len(s.Members))
			for i := range s.Members {
				names[i] = s.Members[i].Name
			}
			return names, nil
		}, -1),
	}
	output.add(c, "output", "o", "format")
	return c
}

// diffReport is what "sealane diff" says.
type diffReport struct {
	// Same is true if nothing differs and everything could be told.
	Same    bool          `json:"same"`
	Members []diffMember  `json:"members"`
	Refused []planProblem `json:"refused,omitempty"`
	Untold  *diffUntold   `json:"untold,omitempty"`
}

// diffMember is a member that is not as it should be.
type diffMember struct {
	Name string `json:"name"`
	// Wanted identifies the state that the resources ask for, Desired the one that
	// the hub last said it wants, Held the one that the member reported.
	Wanted  string        `json:"wanted"`
	Desired string        `json:"desired,omitempty"`
	Held    string        `json:"held,omitempty"`
	Parts   string        `json:"parts,omitempty"`
	Found   []diffFinding `json:"differences"`
}

// diffFinding is one thing that is not as it should be.
type diffFinding struct {
	// What is "agent", "hub", "state", a part's id, "link PEER" or "flow ...".
	What    string     `json:"what"`
	Reason  string     `json:"reason"`
	Since   *time.Time `json:"since,omitempty"`
	Message string     `json:"message,omitempty"`
	// Rollout is what the member waits for, if the reason is AwaitingWave.
	Rollout *diffWave `json:"rollout,omitempty"`
}

// diffWave is the wave of a rollout that is to reach a member.
type diffWave struct {
	Topology string `json:"topology"`
	Wave     int32  `json:"wave"`
	// State of the rollout, and what it waits for, in the hub's words.
	State    string `json:"state"`
	WaitsFor string `json:"waitsFor,omitempty"`
}

func (w *diffWave) String() string {
	return fmt.Sprintf("waits for wave %d of the rollout of topology %s, which is %s%s", w.Wave, w.Topology, w.State, because(w.WaitsFor))
}

// awaited is what rollouts keep a member waiting for; nil: nothing.
func awaited(kept []topology.Kept, member string) *diffWave {
	for _, k := range kept {
		if wave := k.Waves[member]; wave > 0 {
			return &diffWave{k.Topology, wave, string(k.State), k.Message}
		}
	}
	return nil
}

// difference compares the statuses in s with what is in effect of its resources, which
// may be forbidden to read.
func difference(s *hubapi.Snapshot, inEffect *topology.Effective, forbidden bool, members []string) *diffReport {
	plan := inEffect.Plan
	d := &diffReport{Members: []diffMember{}}
	lost := untold(inEffect.Lost, forbidden)
	// Of a refused object an earlier version may be in effect, which only the hub
	// knows: then its hashes are its own.
	certain, shaped := true, true
	for _, p := range plan.Problems {
		if !p.Waiting {
			certain, shaped = false, shaped && p.Object.Kind != topology.KindTopology
			if len(members) == 0 {
				d.Refused = append(d.Refused, problem(p))
			}
		}
	}
	links := map[string][]*topology.Link{}
	for i := range plan.Links {
		l := &plan.Links[i]
		links[l.Dialer], links[l.Acceptor] = append(links[l.Dialer], l), append(links[l.Acceptor], l)
	}
	for i := range s.Members {
		o := &s.Members[i]
		if len(members) > 0 && !slices.Contains(members, o.Name) {
			continue
		}
		m := diffMember{Name: o.Name, Wanted: plan.Members[o.Name].Hash, Desired: o.Status.DesiredHash, Held: o.Status.HeldHash, Parts: o.Status.Parts}
		if lost.concerns(&m) {
			d.Untold, lost.Members = lost, append(lost.Members, m.Name)
			m.compareState(o, false, nil)
			m.compareReported(o)
		} else {
			m.compareState(o, certain, awaited(inEffect.Kept, m.Name))
			m.compareLinks(o, links[o.Name], shaped)
		}
		for _, f := range o.Status.Flows {
			if f.State != v1alpha1.LinkUp {
				m.note("flow of bridge "+f.Bridge+" from "+f.From, string(f.State), f.Since.Time, fmt.Sprintf("stream %s of account %s, lag %d", f.Stream, f.Account, f.Lag)+because(f.Message))
			}
		}
		if len(m.Found) > 0 {
			d.Members = append(d.Members, m)
		}
	}
	d.Same = len(d.Members)+len(d.Refused) == 0 && d.Untold == nil
	return d
}

func because(message string) string {
	if message == "" {
		return ""
	}
	return ": " + message
}

func (m *diffMember) note(what, reason string, since time.Time, message string) {
	f := diffFinding{What: what, Reason: reason, Message: message}
	if !since.IsZero() {
		f.Since = &since
	}
	m.Found = append(m.Found, f)
}

// compareState looks at what the member holds and has applied. It waits for a wave, or
// for none if that is nil.
func (m *diffMember) compareState(o *v1alpha1.MemberCluster, certain bool, wave *diffWave) {
	switch c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionConnected); {
	case c == nil:
		m.note("agent", v1alpha1.ReasonNeverConnected, time.Time{}, "its agent has not connected yet")
		return
	case c.Status != "True":
		m.note("agent", c.Reason, c.LastTransitionTime.Time, c.Message+" (what follows is what it said last)")
	}
	if certain && m.Desired != m.Wanted {
		m.note("hub", v1alpha1.ReasonPending, time.Time{}, fmt.Sprintf("the hub wants state %s and the resources ask for %s: it has not planned the last change yet, or is of another version than this program",
			short(m.Desired), short(m.Wanted)))
	}
	applied, all := partCount(m.Parts)
	switch {
	case m.Held == m.Desired:
	case wave != nil:
		m.note("state", v1alpha1.ReasonAwaitingWave, time.Time{}, fmt.Sprintf("it holds %s, %s", short(m.Held), wave))
		m.Found[len(m.Found)-1].Rollout = wave
	default:
		m.note("state", v1alpha1.ReasonPending, time.Time{}, fmt.Sprintf("it holds %s and should hold %s; %d of %d parts are applied", short(m.Held), short(m.Desired), applied, all))
	}
	for _, p := range o.Status.Problems {
		m.note(p.Part, p.Code, time.Time{}, p.Message)
	}
	if rest := all - applied - len(o.Status.Problems); rest > 0 && m.Held == m.Desired {
		m.note("state", v1alpha1.ReasonPending, time.Time{}, count(rest, "part is", "parts are")+" held and not applied yet")
	}
}

// compareLinks looks at the links that there should be and, if all of these are
// known, at those that there are.
func (m *diffMember) compareLinks(o *v1alpha1.MemberCluster, wanted []*topology.Link, shaped bool) {
	expected := map[string]bool{}
	for _, l := range wanted {
		peer := l.Acceptor
		if peer == o.Name {
			peer = l.Dialer
		}
		expected[peer] = true
		i := slices.IndexFunc(o.Status.Links, func(s v1alpha1.LinkStatus) bool { return s.Peer == peer })
		switch {
		case i < 0 && !l.Granted:
			m.note("link "+peer, v1alpha1.ReasonPending, time.Time{}, l.Acceptor+" has not granted it to "+l.Dialer+" yet")
		case i < 0:
			m.note("link "+peer, "Missing", time.Time{}, "the member does not report it")
		default:
			m.noteLink(o.Status.Links[i])
		}
	}
	for _, st := range o.Status.Links {
		if shaped && !expected[st.Peer] {
			m.note("link "+st.Peer, "Unwanted", st.Since.Time, "it is "+string(st.State)+" and no resource asks for it")
		}
	}
}

// partCount reads "3/4".
func partCount(s string) (applied, all int) {
	a, b, _ := strings.Cut(s, "/")
	applied, errA := strconv.Atoi(a)
	all, errB := strconv.Atoi(b)
	if errA != nil || errB != nil {
		return 0, 0
	}
	return applied, all
}

func short(hash string) string {
	if hash == "" {
		return "nothing"
	}
	return hash[:min(len(hash), 8)]
}

func printDifference(env *environment, d *diffReport) {
	for i, m := range d.Members {
		if i == planLines {
			fmt.Fprintf(env.out, "and %d more members: -o json has all, sealane diff MEMBER shows one\n", len(d.Members)-i)
			break
		}
		fmt.Fprintln(env.out, env.paint(env.outColour, bold, m.Name))
		rows := make([][]cell, len(m.Found))
		for i, f := range m.Found {
			since := ""
			if f.Since != nil {
				since = "for " + age(env.now(), *f.Since)
			}
			rows[i] = []cell{text(f.What), {f.Reason, red}, text(since), text(f.Message)}
		}
		planPrinter{env}.rows("  ", rows)
	}
	if len(d.Refused) > 0 {
		fmt.Fprintln(env.out, env.paint(env.outColour, bold, "refused"))
		rows := make([][]cell, len(d.Refused))
		for i, p := range d.Refused {
			rows[i] = []cell{text(p.Object), {p.Reason, red}, text(p.Field + because(p.Message))}
		}
		planPrinter{env}.rows("  ", rows)
	}
	if d.Untold != nil {
		printUntold(env, d.Untold)
	}
}
