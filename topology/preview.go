package topology

import (
	"maps"
	"slices"
	"strings"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// Action is what happens to something between two plans.
type Action string

// The actions.
const (
	ActionAdd    Action = "Add"
	ActionChange Action = "Change"
	ActionRemove Action = "Remove"
	// ActionRelease takes a stream out of the federation and leaves it, with its
	// messages, on the member.
	ActionRelease Action = "Release"
)

// Changes is what one plan asks for that another does not. It shares memory with
// both.
type Changes struct {
	// Members of which something is asked that was not, by name.
	Members []MemberChange
	// Links that come, go, or are interrupted, by name.
	Links []LinkChange
	// Introduced are the problems that only the later plan has, Solved those that
	// only the earlier one has, Remaining those of both, as the later one words
	// them.
	Introduced, Solved, Remaining []Problem
}

// Empty tells that both plans ask for the same and have the same problems.
func (c *Changes) Empty() bool {
	return !c.Changing() && len(c.Introduced)+len(c.Solved) == 0
}

// Changing tells whether anything changes on a member or between two.
func (c *Changes) Changing() bool { return len(c.Members)+len(c.Links) > 0 }

// Member is the change of that member, or nil.
func (c *Changes) Member(name string) *MemberChange {
	if i, ok := slices.BinarySearchFunc(c.Members, name, func(m MemberChange, n string) int { return strings.Compare(m.Cluster, n) }); ok {
		return &c.Members[i]
	}
	return nil
}

// MemberChange is what changes on one member.
type MemberChange struct {
	Cluster string
	// Parts that differ, by id.
	Parts []PartChange
	// Effects are what applications on the member notice.
	Effects []Effect
	// Before and After are what the member's streams reserve.
	Before, After Reservation
	// Frozen says why the member is sent no removals for now, if there are any, and
	// Guarded that there are so many that somebody has to permit them.
	Frozen, Guarded string
}

// PartChange is a part that differs. One of its versions may be nil.
type PartChange struct {
	ID            string
	Before, After *federationv1.Part
}

// Action is what happens to the part.
func (c PartChange) Action() Action {
	switch {
	case c.Before == nil:
		return ActionAdd
	case c.After != nil:
		return ActionChange
	case c.Before.GetStream().GetRetain():
		return ActionRelease
	}
	return ActionRemove
}

// LinkChange is a link that comes, goes or is interrupted.
type LinkChange struct {
	// Before and After are the link in either plan; one may be nil.
	Before, After *Link
	// Interrupted says why the connections of a link that stays are made anew.
	Interrupted []string
}

// Ends are the two members of the link, the first in order first.
func (c *LinkChange) Ends() (string, string) {
	l := either(c.After, c.Before)
	return min(l.Dialer, l.Acceptor), max(l.Dialer, l.Acceptor)
}

// Action is what happens to the link.
func (c *LinkChange) Action() Action {
	switch {
	case c.Before == nil:
		return ActionAdd
	case c.After == nil:
		return ActionRemove
	}
	return ActionChange
}

// Preview compares two plans. It is a function of what members are to hold, or keep
// where they are staged, of the links and of the problems; who made the plans and
// from what does not matter.
func Preview(before, after *Plan) *Changes {
	c := &Changes{}
	names := slices.Collect(maps.Keys(after.Members))
	for name := range before.Members {
		if after.Members[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		old, now := before.Desired(name), after.Desired(name)
		if old == now || old != nil && now != nil && old.Hash == now.Hash {
			continue
		}
		m := MemberChange{Cluster: name, Parts: compareParts(old, now)}
		if len(m.Parts) == 0 {
			continue // a member without parts comes or goes
		}
		m.Before, m.After = reservation(old), reservation(now)
		m.Effects = effects(&m, serversOf(now))
		if slices.ContainsFunc(m.Parts, func(p PartChange) bool { return p.takesAway() }) {
			m.Frozen = after.Frozen[name]
		}
		m.Guarded = after.guarded(&m, old, now)
		c.Members = append(c.Members, m)
	}
	c.Links = compareLinks(before, after, c)
	c.Introduced, c.Solved, c.Remaining = compareProblemLists(before.Problems, after.Problems)
	return c
}

// takesAway tells whether a frozen member is not sent the change as it is.
func (c PartChange) takesAway() bool {
	if c.After == nil {
		return true
	}
	return len(c.Before.GetAccount().GetImports()) > 0 && slices.ContainsFunc(c.Before.GetAccount().GetImports(), func(i *federationv1.Import) bool {
		return !slices.ContainsFunc(c.After.GetAccount().GetImports(), func(j *federationv1.Import) bool { return sameImport(i, j) })
	})
}

func sameImport(a, b *federationv1.Import) bool {
	return a.Account == b.Account && a.Subject == b.Subject && a.To == b.To && a.Service == b.Service
}

func compareParts(before, after *MemberState) []PartChange {
	var a, b []*PlannedPart
	if before != nil {
		a = before.Parts
	}
	if after != nil {
		b = after.Parts
	}
	var out []PartChange
	for len(a)+len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].Part.Id < b[0].Part.Id:
			out = append(out, PartChange{ID: a[0].Part.Id, Before: a[0].Part})
			a = a[1:]
		case len(a) == 0 || b[0].Part.Id < a[0].Part.Id:
			out = append(out, PartChange{ID: b[0].Part.Id, After: b[0].Part})
			b = b[1:]
		default:
			if a[0].Part.Hash != b[0].Part.Hash {
				out = append(out, PartChange{ID: a[0].Part.Id, Before: a[0].Part, After: b[0].Part})
			}
			a, b = a[1:], b[1:]
		}
	}
	return out
}

// compareLinks finds the links that come and go, and those of which a part
// changed so that its connections are made anew.
func compareLinks(before, after *Plan, c *Changes) []LinkChange {
	type ends struct{ a, b string }
	endsOf := func(a, b string) ends { return ends{min(a, b), max(a, b)} }
	byEnds := map[ends]*LinkChange{}
	at := func(e ends) *LinkChange {
		if byEnds[e] == nil {
			byEnds[e] = &LinkChange{}
		}
		return byEnds[e]
	}
	old, now := map[ends]*Link{}, map[ends]*Link{}
	for i := range before.Links {
		l := &before.Links[i]
		old[endsOf(l.Dialer, l.Acceptor)] = l
	}
	for i := range after.Links {
		l := &after.Links[i]
		e := endsOf(l.Dialer, l.Acceptor)
		now[e] = l
		if old[e] == nil {
			at(e).After = l
		} else if old[e].Dialer != l.Dialer {
			at(e).Interrupted = append(at(e).Interrupted, l.Dialer+" dials now")
		}
	}
	for e, l := range old {
		if now[e] == nil {
			at(e).Before = l
		}
	}
	for i := range c.Members {
		m := &c.Members[i]
		for _, p := range m.Parts {
			x, y := p.Before.GetLink(), p.After.GetLink()
			if x == nil || y == nil || x.Role != y.Role {
				continue
			}
			if e := endsOf(m.Cluster, x.Peer); old[e] != nil && now[e] != nil {
				if why := interruptions(m.Cluster, x, y); len(why) > 0 {
					at(e).Interrupted = append(at(e).Interrupted, why...)
				}
			}
		}
	}
	out := make([]LinkChange, 0, len(byEnds))
	for e, l := range byEnds {
		if old[e] != nil && now[e] != nil {
			l.Before, l.After = old[e], now[e]
		}
		slices.Sort(l.Interrupted)
		out = append(out, *l)
	}
	slices.SortFunc(out, func(x, y LinkChange) int {
		xa, xb := x.Ends()
		ya, yb := y.Ends()
		return comparePairs(xa, xb, ya, yb)
	})
	return out
}

func comparePairs(xa, xb, ya, yb string) int {
	if c := strings.Compare(xa, ya); c != 0 {
		return c
	}
	return strings.Compare(xb, yb)
}

// compareProblemLists compares by all but the message, in which numbers may vary.
func compareProblemLists(before, after []Problem) (introduced, solved, remaining []Problem) {
	key := func(p Problem) Problem {
		p.Message = ""
		return p
	}
	had, has := map[Problem]bool{}, map[Problem]bool{}
	for _, p := range before {
		had[key(p)] = true
	}
	for _, p := range after {
		has[key(p)] = true
		if had[key(p)] {
			remaining = append(remaining, p)
		} else {
			introduced = append(introduced, p)
		}
	}
	for _, p := range before {
		if !has[key(p)] {
			solved = append(solved, p)
		}
	}
	return introduced, solved, remaining
}
