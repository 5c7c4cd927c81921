package topology

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// lowered is what an accepted bridge asks of the members.
type lowered struct {
	fabric *fabric
	// imports, perhaps with some twice, and without places: at tells which of them each
	// place has. Places that have the same share them.
	imports []imported
	at      []run
	largest int // size of a run
	// outlets at the origins.
	outlets []memberPart
	// sources of streams at the destinations, and partitions at the origins.
	sources    []sourceAt
	partitions []streamAt
	footprint  *Footprint
}

// place is an account of a member.
type place struct {
	member  int32
	account accountCode
}

func comparePlaces(a, b place) int {
	return cmp.Or(cmp.Compare(a.member, b.member), cmp.Compare(a.account, b.account))
}

// run is the part of lowered.imports that belongs to one place.
type run struct {
	place
	from, to int32
	size     int // that it takes of the claims of the place
}

// imported is one import into a place.
type imported struct {
	place
	source  accountCode
	service bool
	// renamed imports do more than change the tag: no other one stands in for them.
	renamed     bool
	subject, to string
}

type memberPart struct {
	member int32
	part   *PlannedPart
}

// sourceAt is a source of a stream of a member, and the outlet that it needs.
type sourceAt struct {
	streamAt
	source *federationv1.Source
	after  *PartRef
}

// streamAt is a stream of a member.
type streamAt struct {
	member  int32
	account int32
	name    string
}

func compareStreams(a, b streamAt) int {
	return cmp.Or(cmp.Compare(a.member, b.member), cmp.Compare(a.account, b.account), strings.Compare(a.name, b.name))
}

// lowering writes the imports of one bridge.
type lowering struct {
	scope
	out   []imported
	tags  map[string][]string // tagged forward subjects by marked origin
	led   bitset              // steps of routes that subjects were led over
	links bitset              // used
	// only is the one member of which imports are taken, or everyone: of members that
	// share their links the others need nothing but their own.
	only int32
}

// everyone stands for no member in particular.
const everyone = -1

func (l *lowering) add(x imported) {
	if l.only == everyone || l.only == x.member {
		l.out = append(l.out, x)
	}
}

// newLowering starts on a bridge; scratch is room for what it writes.
func newLowering(s scope, scratch []imported) *lowering {
	return &lowering{out: scratch[:0], scope: s, tags: map[string][]string{}, only: everyone}
}

func (l *lowering) accountName() string { return l.fabric.accounts[l.account] }

func (l *lowering) tag(kind, mark, subject string) string {
	return kind + "." + mark + "." + l.accountName() + "." + subject
}

// tagged are the subjects with the tag of a marked origin.
func (l *lowering) tagged(mark string, subjects []string) []string {
	t, ok := l.tags[mark]
	if !ok {
		for _, s := range subjects {
			t = append(t, l.tag(forwardTag, mark, s))
		}
		l.tags[mark] = t
	}
	return t
}

// forward leads the subjects of the bridge along a route; at the end to(i) is the
// i-th subject's name there and whether it is renamed. What was led over a step
// for an earlier destination of the same origin is not repeated.
func (l *lowering) forward(r route, subjects []string, to func(i int) (string, bool)) {
	f, n := l.fabric, len(r.nodes)-1
	last, prev := r.nodes[n], f.in(r.nodes[n-1])
	for i, s := range l.tagged(r.from(n-1), subjects) {
		local, renamed := to(i)
		l.add(imported{place{last, accountCode(l.account)}, prev, false, renamed, s, local})
	}
	for i := n - 1; i >= 0; i-- {
		if l.only != everyone && l.only != r.nodes[i] {
			continue
		}
		if !l.led.add(r.ids[i]) {
			if len(f.graph.choosers) == 0 {
				return // and so were all steps before
			}
			continue
		}
		at := place{r.nodes[i], f.out(r.nodes[i+1])}
		out := l.tagged(r.from(i), subjects)
		in, source := subjects, accountCode(l.account)
		if i > 0 {
			in, source = l.tagged(r.from(i-1), subjects), f.in(r.nodes[i-1])
		}
		for j, s := range in {
			l.add(imported{at, source, false, false, s, out[j]})
		}
	}
}

// deliver leads one subject, which belongs to this pair alone, along a route.
func (l *lowering) deliver(r route, subject string) {
	f, n := l.fabric, len(r.nodes)-1
	source, local := accountCode(l.account), subject
	for i := range n {
		tagged := l.tag(forwardTag, r.from(i), subject)
		if i == n-1 && f.shared(r.nodes[n]) != nil {
			tagged = l.tag(ownForwardTag, r.responder+"."+r.from(i), subject)
		}
		l.out = append(l.out, imported{place{r.nodes[i], f.out(r.nodes[i+1])}, source, false, false, local, tagged})
		source, local = f.in(r.nodes[i]), tagged
	}
	l.out = append(l.out, imported{place{r.nodes[n], accountCode(l.account)}, source, false, false, local, subject})
}

// reply leads subjects back along a route.
func (l *lowering) reply(r route, subject string) { l.lead(r, subject, l.replyTags(r, subject)) }

// acknowledge leads back what belongs to this pair alone.
func (l *lowering) acknowledge(r route, subject string) {
	tagged := l.replyTags(r, subject)
	if l.fabric.shared(r.nodes[0]) != nil {
		tagged[0] = l.tag(ownReplyTag, r.origin, subject)
	}
	l.lead(r, subject, tagged)
}

func (l *lowering) replyTags(r route, subject string) []string {
	tagged := make([]string, len(r.nodes)-1)
	for i := range tagged {
		if i > 0 && r.back(i) == r.back(i-1) {
			tagged[i] = tagged[i-1]
		} else {
			tagged[i] = l.tag(replyTag, r.back(i), subject)
		}
	}
	return tagged
}

// lead leads a subject back along a route, tagged on each step.
func (l *lowering) lead(r route, subject string, tagged []string) {
	f, n := l.fabric, len(r.nodes)-1
	for i := n; i > 0; i-- {
		at := place{r.nodes[i], f.in(r.nodes[i-1])}
		if i == n {
			l.add(imported{at, accountCode(l.account), false, false, subject, tagged[i-1]})
		} else {
			l.add(imported{at, f.out(r.nodes[i+1]), false, false, tagged[i], tagged[i-1]})
		}
	}
	l.add(imported{place{r.nodes[0], accountCode(l.account)}, f.out(r.nodes[1]), false, false, tagged[0], subject})
}

// reset offers the reset of a durable consumer of the origin, which its agent
// serves, to the destination. The request goes back along the route, so
// that the origin in its subject bears the marks of the destination.
func (l *lowering) reset(r route, stream, consumer string) {
	f, n := l.fabric, len(r.nodes)-1
	request := "CONSUMER.RESET." + stream + "." + consumer
	tagged := func(step int) string {
		switch {
		case step == 0 && f.shared(r.nodes[0]) != nil: // its own plane, as the next
			return l.tag(resetTag, r.origin, request)
		case step == n-1 && f.shared(r.nodes[n]) != nil:
			return l.tag(resetTag, f.names[r.nodes[n]]+"."+r.origin, request)
		}
		return l.tag(resetTag, r.origin+strings.TrimPrefix(r.back(step), r.responder), request)
	}
	source, subject := accountCode(l.account), federationv1.ResetPrefix+request
	for i := range n {
		l.out = append(l.out, imported{place{r.nodes[i], f.out(r.nodes[i+1])}, source, true, false, subject, tagged(i)})
		source, subject = f.in(r.nodes[i]), tagged(i)
	}
	l.out = append(l.out, imported{place{r.nodes[n], accountCode(l.account)}, source, true, false, subject, resetTag + "." + r.origin + "." + request})
}

// walk notes the links of a route.
func (l *lowering) walk(r route) {
	for _, i := range r.links {
		l.links.add(i)
	}
}

// hops are the links noted.
func (l *lowering) hops() []Hop {
	f := l.fabric
	var out []Hop
	chosen := map[int32]bool{}
	for i, x := range f.links {
		switch {
		case !l.links.has(int32(i)):
		case x.group == "":
			out = append(out, Hop{f.names[min(x.dialer, x.acceptor)], []string{f.names[max(x.dialer, x.acceptor)]}})
		default:
			chosen[x.dialer] = true
		}
	}
	for _, c := range f.graph.choosers {
		if chosen[c.child] {
			h := Hop{Member: f.names[c.child]}
			for _, p := range c.parents {
				h.Peers = append(h.Peers, f.names[p])
			}
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b Hop) int {
		return cmp.Or(strings.Compare(a.Member, b.Member), slices.Compare(a.Peers, b.Peers))
	})
	return out
}

// compareImports orders the imports of one place.
func compareImports(a, b imported) int {
	if a.service != b.service {
		if b.service {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.source, b.source), strings.Compare(a.subject, b.subject), strings.Compare(a.to, b.to))
}

// finish sorts the imports by place.
func (l *lowering) finish() *lowered {
	keys := make([]uint64, len(l.out))
	width := uint(bits.Len(uint(len(l.out))))
	accounts := uint64(len(l.fabric.accountNames))
	for i := range l.out {
		p := l.out[i].place
		keys[i] = (uint64(p.member)*accounts+uint64(p.account))<<width | uint64(i)
	}
	slices.Sort(keys)
	out := &lowered{fabric: l.fabric}
	// Most places get what others get: what is alike is kept once.
	var ranges sharedRanges
	var in []imported
	for i := 0; i < len(keys); {
		at := l.out[keys[i]&(1<<width-1)].place
		in = in[:0]
		for ; i < len(keys); i++ {
			x := l.out[keys[i]&(1<<width-1)]
			if x.place != at {
				break
			}
			x.place = place{}
			in = append(in, x)
		}
		from, to := ranges.add(out, in)
		out.at = append(out.at, run{at, from, to, 0})
	}
	out.imports = slices.Clip(out.imports)
	out.sizes()
	return out
}

// into are the imports of one place.
func (l *lowered) into(p place) []imported {
	r := l.runAt(p)
	if r == nil {
		return nil
	}
	return l.imports[r.from:r.to]
}
