package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sealane/sealane/cmd/sealane/hubapi"
	"github.com/sealane/sealane/topology"
)

// The results of a plan.
const (
	resultUnchanged = "unchanged"
	resultChanges   = "changes"
	resultProblems  = "problems"
)

// planReport is what "sealane plan" says, and prints with -o json.
type planReport struct {
	// Result is unchanged, changes or problems.
	Result  string       `json:"result"`
	Summary string       `json:"summary"`
	Objects []planObject `json:"objects"`
	// Problems of the files, or that they would cause.
	Problems []planProblem `json:"problems"`
	Members  []planMember  `json:"members"`
	Links    []planLink    `json:"links"`
	// Others are problems that are there today and stay, Solved those that would go,
	// Waiting what is right and has nothing to do yet.
	Others  []planProblem `json:"otherProblems,omitempty"`
	Solved  []planProblem `json:"solvedProblems,omitempty"`
	Waiting []planProblem `json:"waiting,omitempty"`
	// Rollouts that keep something else in effect than objects say, or by which what
	// is planned goes to members.
	Rollouts []planRollout `json:"rollouts,omitempty"`
	// HeldRemovals are those that the guard against mass removal holds back today.
	// Those that it will hold back stand at the members.
	HeldRemovals []planHeld `json:"heldRemovals,omitempty"`
	Notes        []string   `json:"notes,omitempty"`
}

type planObject struct {
	Object string `json:"object"`
	// Action is Add, Change, Remove or, if the object stays as it is, empty.
	Action    string `json:"action,omitempty"`
	File      string `json:"file,omitempty"`
	Unchecked string `json:"unchecked,omitempty"`
}

type planProblem struct {
	Object  string `json:"object"`
	Reason  string `json:"reason"`
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
}

type planMember struct {
	Name    string       `json:"name"`
	Parts   []planPart   `json:"parts"`
	Effects []planEffect `json:"effects,omitempty"`
	Storage planStorage  `json:"storage"`
	// HeldBack says why removals wait. NeedsPermission: somebody has to permit them
	// ("sealane allow-removal").
	HeldBack        string `json:"heldBack,omitempty"`
	NeedsPermission bool   `json:"needsPermission,omitempty"`

	change *topology.MemberChange
}

type planPart struct {
	ID     string      `json:"id"`
	Action string      `json:"action"`
	Fields []planField `json:"fields,omitempty"`
}

// planField is one difference. In a list each element is a field of its own, of
// which one side is empty.
type planField struct {
	Field  string `json:"field"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

type planEffect struct {
	Kind    string `json:"kind"`
	Part    string `json:"part"`
	Message string `json:"message"`
}

type planStorage struct {
	Before planReserved `json:"before"`
	After  planReserved `json:"after"`
}

// planReserved is in bytes, summed over all servers of a broker.
type planReserved struct {
	File           int64 `json:"file"`
	FileCapacity   int64 `json:"fileCapacity"`
	Memory         int64 `json:"memory"`
	MemoryCapacity int64 `json:"memoryCapacity"`
	Unlimited      int   `json:"unlimitedStreams"`
}

type planLink struct {
	Link     string `json:"link"`
	Action   string `json:"action"`
	Dialer   string `json:"dialer"`
	Acceptor string `json:"acceptor"`
	// Interrupted says why a link that stays blinks.
	Interrupted []string `json:"interrupted,omitempty"`
}

func reportPlan(c *topology.Changes, rehearsed *hubapi.Rehearsal) *planReport {
	r := &planReport{Objects: []planObject{}, Problems: []planProblem{}, Members: []planMember{}, Links: []planLink{}}
	asked := map[topology.ObjectRef]bool{}
	for _, o := range rehearsed.Objects {
		asked[o.Object] = o.Source != ""
		r.Objects = append(r.Objects, planObject{hubapi.Shown(o.Object), string(o.Action), o.Source, o.Unchecked})
	}
	for _, p := range rehearsed.Refused {
		r.Problems = append(r.Problems, problem(p))
	}
	for i, list := range [][]topology.Problem{c.Introduced, c.Remaining} {
		for _, p := range list {
			switch isNew := i == 0; {
			case p.Waiting:
				r.Waiting = append(r.Waiting, problem(p))
			case isNew || asked[p.Object]:
				r.Problems = append(r.Problems, problem(p))
			default:
				r.Others = append(r.Others, problem(p))
			}
		}
	}
	for _, p := range c.Solved {
		if !p.Waiting {
			r.Solved = append(r.Solved, problem(p))
		}
	}
	for i := range c.Members {
		r.Members = append(r.Members, reportMember(&c.Members[i]))
	}
	for i := range c.Links {
		l := &c.Links[i]
		a, b := l.Ends()
		k := planLink{Link: a + "<->" + b, Action: string(l.Action()), Interrupted: l.Interrupted}
		if l.After != nil {
			k.Dialer, k.Acceptor = l.After.Dialer, l.After.Acceptor
		} else {
			k.Dialer, k.Acceptor = l.Before.Dialer, l.Before.Acceptor
		}
		r.Links = append(r.Links, k)
	}
	r.judge(c)
	return r
}

func problem(p topology.Problem) planProblem {
	return planProblem{hubapi.Shown(p.Object), p.Reason, p.Field, p.Message}
}

func reportMember(m *topology.MemberChange) planMember {
	held := slices.DeleteFunc([]string{m.Frozen, m.Guarded}, func(s string) bool { return s == "" })
	out := planMember{
		Name: m.Cluster, HeldBack: strings.Join(held, "; "), NeedsPermission: m.Guarded != "",
		Storage: planStorage{reserved(m.Before), reserved(m.After)}, change: m,
	}
	for _, p := range m.Parts {
		out.Parts = append(out.Parts, planPart{p.ID, string(p.Action()), fieldsOf(p)})
	}
	for _, e := range m.Effects {
		out.Effects = append(out.Effects, planEffect{string(e.Kind), e.Part, e.Message})
	}
	return out
}

func reserved(r topology.Reservation) planReserved {
	return planReserved{r.File, r.FileCapacity, r.Memory, r.MemoryCapacity, r.Unlimited}
}

// judge finds the result and says it in one line.
func (r *planReport) judge(c *topology.Changes) {
	objects := map[topology.Action]int{}
	for _, o := range r.Objects {
		objects[topology.Action(o.Action)]++
	}
	edited := objects[topology.ActionAdd] + objects[topology.ActionChange] + objects[topology.ActionRemove]
	switch {
	case len(r.Problems) > 0:
		r.Result = resultProblems
	case edited > 0 || c.Changing():
		r.Result = resultChanges
	default:
		r.Result = resultUnchanged
	}
	var say []string
	add := func(n int, one, many string) {
		if n > 0 {
			say = append(say, count(n, one, many))
		}
	}
	add(len(r.Problems), "problem", "problems")
	var resources []string
	for _, w := range []struct {
		action topology.Action
		word   string
	}{{topology.ActionAdd, "to add"}, {topology.ActionChange, "to change"}, {topology.ActionRemove, "to remove"}} {
		if n := objects[w.action]; n > 0 {
			resources = append(resources, fmt.Sprintf("%d %s", n, w.word))
		}
	}
	if edited > 0 {
		say = append(say, "resources "+strings.Join(resources, ", "))
	}
	parts, restarts, guarded, links := map[topology.Action]int{}, 0, 0, map[topology.Action]int{}
	for _, m := range c.Members {
		if m.Guarded != "" {
			guarded++
		}
		for _, p := range m.Parts {
			parts[p.Action()]++
		}
		if slices.ContainsFunc(m.Effects, func(e topology.Effect) bool { return e.Kind == topology.EffectRestart }) {
			restarts++
		}
	}
	for i := range c.Links {
		links[c.Links[i].Action()]++
	}
	if len(c.Members) > 0 {
		say = append(say, fmt.Sprintf("%s change (%d parts added, %d changed, %d removed)", count(len(c.Members), "member", "members"),
			parts[topology.ActionAdd], parts[topology.ActionChange], parts[topology.ActionRemove]+parts[topology.ActionRelease]))
	} else {
		say = append(say, "no member changes")
	}
	add(guarded, "member keeps what goes until that is permitted", "members keep what goes until that is permitted")
	add(restarts, "broker restarts", "brokers restart")
	add(links[topology.ActionAdd], "link comes", "links come")
	add(links[topology.ActionRemove], "link goes", "links go")
	add(links[topology.ActionChange], "link blinks", "links blink")
	r.Summary = "Plan: " + strings.Join(say, "; ") + "."
	if r.Result == resultUnchanged {
		r.Summary = "Plan: no changes."
	}
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// addNotes says what the plan cannot know.
func (r *planReport) addNotes(before *topology.Plan, ignored []string) {
	if len(ignored) > 0 {
		slices.Sort(ignored)
		r.Notes = append(r.Notes, "not of Sealane, and left out: "+some(ignored))
	}
	why := map[string][]string{}
	for _, o := range r.Objects {
		if o.Unchecked != "" {
			why[o.Unchecked] = append(why[o.Unchecked], o.Object)
		}
	}
	for _, reason := range sortedKeys(why) {
		if reason == "offline" {
			r.Notes = append(r.Notes, "offline: values that the API would refuse are not found")
			continue
		}
		r.Notes = append(r.Notes, fmt.Sprintf("not checked by the API (%s): %s", reason, some(why[reason])))
	}
	refused := map[string]bool{}
	for _, p := range before.Problems {
		if !p.Waiting {
			refused[hubapi.Shown(p.Object)] = true
		}
	}
	if len(refused) > 0 {
		r.Notes = append(r.Notes, "refused today, so that an earlier version may still be in effect, which only the hub knows: "+some(sortedKeys(refused)))
	}
}
