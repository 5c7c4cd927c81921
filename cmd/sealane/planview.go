package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/topology"
)

const (
	// someMembers is up to how many changed members are shown one by one.
	someMembers = 8
	// planLines is how many lines of a section fit the screen.
	planLines = 20
	// someNames is how many names of many are told.
	someNames = 3
)

// sortedKeys of a map.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// some is the first few of names.
func some(names []string) string {
	if len(names) <= someNames+1 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:someNames], ", "), len(names)-someNames)
}

// signs of actions, with their colours.
var signs = map[topology.Action]cell{
	topology.ActionAdd:     {"+", green},
	topology.ActionChange:  {"~", yellow},
	topology.ActionRemove:  {"-", red},
	topology.ActionRelease: {"<", yellow},
}

// planPrinter writes a plan for people.
type planPrinter struct {
	env *environment
}

func printPlan(env *environment, r *planReport, members []string) {
	var text strings.Builder
	buffered := *env
	buffered.out = &text
	p := planPrinter{&buffered}
	p.rollouts(r)
	p.held(r)
	if len(members) > 0 {
		p.inFull(r, members)
	} else {
		p.objects(r)
		p.changes(r)
		p.links(r)
		p.effects(r)
		p.storage(r)
	}
	p.problems("PROBLEMS", r.Problems, red)
	p.problems("SOLVED", r.Solved, green)
	p.problems("REFUSED ALREADY", r.Others, yellow)
	p.problems("WAITING", r.Waiting, yellow)
	if len(r.Notes) > 0 {
		p.title("NOTES")
		for _, n := range r.Notes {
			fmt.Fprintln(&text, "  "+n)
		}
	}
	if text.Len() > 0 {
		fmt.Fprintln(env.out, strings.TrimPrefix(text.String(), "\n"))
	}
	fmt.Fprintln(env.out, env.paint(env.outColour, bold, r.Summary))
}

func (p planPrinter) title(s string) {
	fmt.Fprintf(p.env.out, "\n%s\n", p.env.paint(p.env.outColour, bold, s))
}

// section prints rows under a title, as many as fit.
func (p planPrinter) section(title string, rows [][]cell) {
	if len(rows) == 0 {
		return
	}
	p.title(title)
	p.rows("  ", rows)
}

func (p planPrinter) rows(indent string, rows [][]cell) {
	more := max(0, len(rows)-planLines)
	p.env.table(p.env.out, p.env.outColour, indent, nil, rows[:len(rows)-more])
	if more > 0 {
		fmt.Fprintf(p.env.out, "%sand %d more: -o json has all, --member NAME shows one member\n", indent, more)
	}
}

func (p planPrinter) objects(r *planReport) {
	var rows [][]cell
	for _, o := range r.Objects {
		if o.Action != "" {
			rows = append(rows, []cell{signed(topology.Action(o.Action), o.Object), text(o.File)})
		}
	}
	p.section("OBJECTS", rows)
}

// signed is one cell, so that tables align what follows the sign.
func signed(a topology.Action, s string) cell {
	sign := signs[a]
	return cell{sign.text + " " + s, sign.colour}
}

// planLine is a change of a member in a few words.
type planLine struct {
	action topology.Action
	// what with "*" for peer, if there is one.
	what, peer, detail string
	// plus and minus count imports.
	plus, minus int
}

// linesOf says what changes on a member. Links, and the accounts that each has,
// are shown apart.
func linesOf(m *topology.MemberChange) []planLine {
	var out []planLine
	plus, minus := 0, 0
	var accounts []string
	for _, c := range m.Parts {
		p := c.After
		if p == nil {
			p = c.Before
		}
		switch s := p.Spec.(type) {
		case *federationv1.Part_Broker:
			out = append(out, planLine{action: c.Action(), what: "broker", detail: fieldText(c)})
		case *federationv1.Part_Account:
			more, less := 0, 0
			for _, f := range fieldsOf(c) {
				if f.Field == "imports" && f.After != "" {
					more++
				} else if f.Field == "imports" {
					less++
				}
			}
			if more+less > 0 {
				plus, minus, accounts = plus+more, minus+less, append(accounts, s.Account.Name)
			}
			if s.Account.Application && (c.Action() != topology.ActionChange || fieldText(c) != "") {
				out = append(out, planLine{action: c.Action(), what: "account " + s.Account.Name, detail: fieldText(c)})
			}
		case *federationv1.Part_Stream:
			detail := ""
			switch c.Action() {
			case topology.ActionAdd:
				detail = streamText(s.Stream)
			case topology.ActionChange:
				detail = fieldText(c)
			case topology.ActionRemove:
				detail = "deleted with its messages"
			case topology.ActionRelease:
				detail = "stays on the member with its messages, unmanaged"
			}
			out = append(out, planLine{action: c.Action(), what: "stream " + s.Stream.Account + "/" + s.Stream.Name, detail: detail})
		case *federationv1.Part_Outlet:
			o := s.Outlet
			detail := "stream " + o.Account + "/" + o.Stream
			if c.Action() == topology.ActionChange {
				detail = fieldText(c)
			}
			out = append(out, planLine{action: c.Action(), what: "outlet of bridge " + o.Bridge + " to *", peer: o.Destination, detail: detail})
		}
	}
	if plus+minus > 0 {
		out = append(out, planLine{action: topology.ActionChange, what: "imports", plus: plus, minus: minus, detail: "in " + some(accounts)})
	}
	return out
}

// fieldText says which fields change, but for imports.
func fieldText(c topology.PartChange) string {
	if c.Action() != topology.ActionChange {
		return ""
	}
	var words []string
	for _, f := range fieldsOf(c) {
		switch {
		case f.Field == "imports":
		case f.Before == "":
			words = append(words, "+"+f.Field+" "+f.After)
		case f.After == "":
			words = append(words, "-"+f.Field+" "+f.Before)
		default:
			words = append(words, f.Field+" "+f.Before+" -> "+f.After)
		}
	}
	if len(words) > 4 {
		words = append(words[:4], fmt.Sprintf("and %d more", len(words)-4))
	}
	return strings.Join(words, "; ")
}

func streamText(s *federationv1.StreamSpec) string {
	words := []string{"no size limit"}
	if s.MaxBytes > 0 {
		words[0] = topology.Bytes(s.MaxBytes)
	}
	if s.Replicas > 1 {
		words[0] += fmt.Sprintf(" on each of %d servers", s.Replicas)
	}
	if s.MemoryStorage {
		words = append(words, "in memory")
	}
	if len(s.Subjects) > 0 {
		words = append(words, "stores "+some(s.Subjects))
	}
	if n := len(s.Sources); n > 0 {
		words = append(words, "copies from "+count(n, "stream", "streams"))
	}
	return strings.Join(words, ", ")
}

func importText(plus, minus int) string {
	var words []string
	if plus > 0 {
		words = append(words, fmt.Sprintf("+%d", plus))
	}
	if minus > 0 {
		words = append(words, fmt.Sprintf("-%d", minus))
	}
	return strings.Join(words, " ")
}

// changes shows few members one by one, and of many which change they share.
func (p planPrinter) changes(r *planReport) {
	if len(r.Members) > someMembers {
		p.shared(r)
		return
	}
	titled := false
	for _, m := range r.Members {
		var rows [][]cell
		for _, l := range linesOf(m.change) {
			detail := l.detail
			if n := importText(l.plus, l.minus); n != "" {
				detail = n + " " + detail
			}
			rows = append(rows, []cell{signed(l.action, strings.ReplaceAll(l.what, "*", l.peer)), text(detail)})
		}
		if len(rows) == 0 {
			continue // only links
		}
		if !titled {
			p.title("MEMBERS")
			titled = true
		}
		fmt.Fprintln(p.env.out, "  "+p.env.paint(p.env.outColour, bold, m.Name)+heldBack(m))
		p.rows("    ", rows)
	}
}

func heldBack(m planMember) string {
	if m.HeldBack == "" {
		return ""
	}
	return " (removals wait: " + m.HeldBack + ")"
}

// shared shows each change once, with the members that it concerns.
func (p planPrinter) shared(r *planReport) {
	type key struct {
		action       topology.Action
		what, detail string
	}
	type group struct {
		members     []string
		peers       map[string]bool
		plus, minus int
	}
	groups := map[key]*group{}
	var order []key
	held := map[string][]string{}
	for _, m := range r.Members {
		if m.HeldBack != "" {
			held[m.HeldBack] = append(held[m.HeldBack], m.Name)
		}
		for _, l := range linesOf(m.change) {
			k := key{l.action, l.what, l.detail}
			if l.plus+l.minus > 0 {
				k.detail = ""
			}
			g := groups[k]
			if g == nil {
				g = &group{peers: map[string]bool{}}
				groups[k], order = g, append(order, k)
			}
			if n := len(g.members); n == 0 || g.members[n-1] != m.Name {
				g.members = append(g.members, m.Name)
			}
			if l.peer != "" {
				g.peers[l.peer] = true
			}
			g.plus, g.minus = g.plus+l.plus, g.minus+l.minus
		}
	}
	// What concerns most members first; what is alike stays in the order of members.
	slices.SortStableFunc(order, func(a, b key) int { return len(groups[b].members) - len(groups[a].members) })
	var rows [][]cell
	for _, k := range order {
		g := groups[k]
		peers := some(sortedKeys(g.peers))
		if len(g.peers) > someNames+1 {
			peers = fmt.Sprintf("%d members", len(g.peers))
		}
		detail := k.detail
		if n := importText(g.plus, g.minus); n != "" {
			detail = n
		}
		rows = append(rows, []cell{signed(k.action, strings.ReplaceAll(k.what, "*", peers)), text("on " + nameMany(g.members)), text(detail)})
	}
	p.section("MEMBERS", rows)
	for _, why := range sortedKeys(held) {
		fmt.Fprintf(p.env.out, "  removals wait on %s: %s\n", nameMany(held[why]), why)
	}
}

func nameMany(names []string) string {
	if len(names) <= someNames {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%d members: %s", len(names), some(names))
}

func (p planPrinter) links(r *planReport) {
	var rows [][]cell
	if len(r.Links) <= 2*someMembers {
		for _, l := range r.Links {
			detail := l.Dialer + " dials " + l.Acceptor
			if len(l.Interrupted) > 0 {
				detail = "blinks: " + strings.Join(l.Interrupted, "; ")
			}
			rows = append(rows, []cell{signed(topology.Action(l.Action), l.Link), text(detail)})
		}
		p.section("LINKS", rows)
		return
	}
	by := map[topology.Action][]string{}
	for _, l := range r.Links {
		by[topology.Action(l.Action)] = append(by[topology.Action(l.Action)], l.Link)
	}
	for _, a := range []topology.Action{topology.ActionAdd, topology.ActionChange, topology.ActionRemove} {
		if names := by[a]; len(names) > 0 {
			word := map[topology.Action]string{topology.ActionAdd: "new", topology.ActionChange: "blinking", topology.ActionRemove: "removed"}[a]
			rows = append(rows, []cell{signed(a, fmt.Sprintf("%d %s", len(names), word)), text(some(names))})
		}
	}
	p.section("LINKS", rows)
}

func (p planPrinter) effects(r *planReport) {
	members := map[string][]string{}
	var order []string
	for _, m := range r.Members {
		for _, e := range m.Effects {
			if members[e.Message] == nil {
				order = append(order, e.Message)
			}
			members[e.Message] = append(members[e.Message], m.Name)
		}
	}
	var rows [][]cell
	for _, message := range order {
		rows = append(rows, []cell{{nameMany(members[message]), red}, text(message)})
	}
	p.section("CLIENTS NOTICE", rows)
}

func (p planPrinter) storage(r *planReport) {
	members := map[planStorage][]string{}
	var order []planStorage
	for _, m := range r.Members {
		if m.Storage.Before == m.Storage.After {
			continue
		}
		if members[m.Storage] == nil {
			order = append(order, m.Storage)
		}
		members[m.Storage] = append(members[m.Storage], m.Name)
	}
	var rows [][]cell
	for _, s := range order {
		row := []cell{text(nameMany(members[s]))}
		var words []string
		if s.Before.File != s.After.File || s.Before.FileCapacity != s.After.FileCapacity {
			words = append(words, amounts("disk", s.Before.File, s.After.File, s.Before.FileCapacity, s.After.FileCapacity))
		}
		if s.Before.Memory != s.After.Memory || s.Before.MemoryCapacity != s.After.MemoryCapacity {
			words = append(words, amounts("memory", s.Before.Memory, s.After.Memory, s.Before.MemoryCapacity, s.After.MemoryCapacity))
		}
		if s.Before.Unlimited != s.After.Unlimited {
			words = append(words, fmt.Sprintf("streams without a limit %d -> %d", s.Before.Unlimited, s.After.Unlimited))
		}
		rows = append(rows, append(row, text(strings.Join(words, "; "))))
	}
	p.section("STORAGE RESERVED", rows)
}

func amounts(what string, before, after, capacityBefore, capacityAfter int64) string {
	change := func(a, b int64) string {
		if a == b {
			return topology.Bytes(b)
		}
		return topology.Bytes(a) + " -> " + topology.Bytes(b)
	}
	return what + " " + change(before, after) + " of " + change(capacityBefore, capacityAfter)
}

func (p planPrinter) problems(title string, list []planProblem, c colour) {
	type kind struct{ object, reason string }
	of, shown := map[kind]int{}, map[kind]int{}
	for _, x := range list {
		of[kind{x.Object, x.Reason}]++
	}
	var rows [][]cell
	for _, x := range list {
		k := kind{x.Object, x.Reason}
		shown[k]++
		message := x.Message
		if x.Field != "" {
			message = x.Field + ": " + message
		}
		switch more := of[k] - someNames; {
		case more <= 1 || shown[k] <= someNames:
			rows = append(rows, []cell{text(x.Object), {x.Reason, c}, text(message)})
		case shown[k] == someNames+1:
			rows = append(rows, []cell{text(x.Object), {x.Reason, c}, text(fmt.Sprintf("and %d more of these", more))})
		}
	}
	p.section(title, rows)
}

// inFull shows all that changes on some members.
func (p planPrinter) inFull(r *planReport, names []string) {
	for _, m := range r.Members {
		if !slices.Contains(names, m.Name) {
			continue
		}
		p.title(m.Name + heldBack(m))
		for _, part := range m.Parts {
			a := topology.Action(part.Action)
			fmt.Fprintln(p.env.out, "  "+p.env.paint(p.env.outColour, signs[a].colour, signs[a].text)+" "+part.ID)
			if a == topology.ActionRemove || a == topology.ActionRelease {
				continue
			}
			for _, f := range part.Fields {
				switch {
				case f.Before == "":
					fmt.Fprintf(p.env.out, "      + %s %s\n", f.Field, f.After)
				case f.After == "":
					fmt.Fprintf(p.env.out, "      - %s %s\n", f.Field, f.Before)
				default:
					fmt.Fprintf(p.env.out, "      ~ %s %s -> %s\n", f.Field, f.Before, f.After)
				}
			}
		}
		for _, l := range r.Links {
			if l.Dialer == m.Name || l.Acceptor == m.Name {
				fmt.Fprintln(p.env.out, "  "+signs[topology.Action(l.Action)].text+" link "+l.Link+" "+strings.Join(l.Interrupted, "; "))
			}
		}
		for _, e := range m.Effects {
			fmt.Fprintln(p.env.out, "  ! "+e.Message)
		}
	}
}
