package main

import (
	"fmt"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/cmd/sealane/hubapi"
	"github.com/sealane/sealane/topology"
)

// planRollout is a topology that goes to members in waves, if it is not what its
// objects say that is in effect today, or if the plan changes it.
type planRollout struct {
	Topology string `json:"topology"`
	// State of the rollout today, and why it is there.
	State   string `json:"state,omitempty"`
	Message string `json:"message,omitempty"`
	// InEffect is the revision that is kept instead of the one that ObjectsSay, by
	// these members, or by All until somebody acts. Empty: none is.
	InEffect   string   `json:"inEffect,omitempty"`
	ObjectsSay string   `json:"objectsSay,omitempty"`
	All        bool     `json:"all,omitempty"`
	Members    []string `json:"members,omitempty"`
	// NextWave is the one that is to reach the first of these members, if one is.
	NextWave int32 `json:"nextWave,omitempty"`
	// Unknown: what InEffect says could not be read. The plan takes for in effect what
	// the objects say.
	Unknown bool `json:"unknown,omitempty"`
	// Waves: what is planned goes to members in waves, of which none begins while it
	// is Paused.
	Waves  bool `json:"waves,omitempty"`
	Paused bool `json:"paused,omitempty"`
}

// planHeld is a removal that the guard holds back already.
type planHeld struct {
	Member  string `json:"member"`
	Message string `json:"message"`
}

// addRollouts says what is in effect instead of what objects say, and how what they
// will say gets to members.
func (r *planReport) addRollouts(before, after *topology.Effective, next topology.Input) {
	at := map[string]*planRollout{}
	of := func(name string) *planRollout {
		if at[name] == nil {
			at[name] = &planRollout{Topology: name}
		}
		return at[name]
	}
	for i, list := range [][]topology.Kept{before.Kept, before.Lost} {
		for _, k := range list {
			*of(k.Topology) = planRollout{
				Topology: k.Topology, State: string(k.State), Message: k.Message, InEffect: k.InEffect, ObjectsSay: k.Says, All: k.All, Members: k.Members, Unknown: i == 1,
			}
			for _, wave := range k.Waves {
				if o := of(k.Topology); o.NextWave == 0 || wave < o.NextWave {
					o.NextWave = wave
				}
			}
		}
	}
	for _, t := range next.Topologies {
		if says := after.Says[t.Name]; says != "" && says != before.Says[t.Name] && t.Annotations[v1alpha1.RolloutNowAnnotation] != v1alpha1.RolloutAlways {
			o := of(t.Name)
			o.Waves, o.Paused = true, t.Spec.Rollout.Paused
		}
	}
	for _, name := range sortedKeys(at) {
		r.Rollouts = append(r.Rollouts, *at[name])
	}
}

// addHeld says what the guard against mass removal holds back today.
func (r *planReport) addHeld(members []*v1alpha1.MemberCluster) {
	for _, m := range members {
		if why := hubapi.Held(m); why != "" {
			r.HeldRemovals = append(r.HeldRemovals, planHeld{m.Name, why})
		}
	}
}

// rollouts tells of them to people.
func (p planPrinter) rollouts(r *planReport) {
	var rows [][]cell
	for _, o := range r.Rollouts {
		row := func(state string, c colour, format string, args ...any) {
			rows = append(rows, []cell{text("topology " + o.Topology), {state, c}, text(fmt.Sprintf(format, args...))})
		}
		switch {
		case o.Unknown:
			row(o.State, red, "revision %s is in effect, of which this user does not see what it says: what follows begins with what the objects say", o.InEffect)
		case o.All:
			row(o.State, yellow, "revision %s is in effect, and not %s, which the objects say", o.InEffect, o.ObjectsSay)
		case o.InEffect != "":
			row(o.State, yellow, "revision %s is in effect on %s, and not %s, which the objects say", o.InEffect, nameMany(o.Members), o.ObjectsSay)
			if o.NextWave > 0 {
				row(fmt.Sprintf("Wave %d", o.NextWave), yellow, "is to reach the first of them%s", because(o.Message))
			}
		}
		switch {
		case o.Waves && o.Paused:
			row("Paused", yellow, "what changes goes to members in waves, of which none begins: sealane rollout resume %s", o.Topology)
		case o.Waves:
			row("Waves", plain, "what changes goes to members in waves")
		case o.InEffect != "":
			row("Unchanged", plain, "this plan does not go on with it: sealane rollout status %s", o.Topology)
		}
	}
	p.section("ROLLOUTS", rows)
}

// held tells of removals that are held back already.
func (p planPrinter) held(r *planReport) {
	var rows [][]cell
	for _, h := range r.HeldRemovals {
		rows = append(rows, []cell{text(h.Member), text(h.Message)})
	}
	p.section("HELD BACK TODAY", rows)
}
