package topology

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sealane/sealane/api/v1alpha1"
)

// flowVerdict says what is wrong with the flows of durable bridges together.
type flowVerdict struct {
	reason, message string
}

// flowMemo is the verdict (nil: nothing is wrong) of some bridges.
type flowMemo struct {
	bridges []*bridge
	verdict *flowVerdict
}

// verdict judges the durable bridges of one account.
func (p *bridgeStep) verdict(bridges []*bridge) *flowVerdict {
	find := func(in []flowMemo) (flowMemo, bool) {
		i := slices.IndexFunc(in, func(m flowMemo) bool { return slices.Equal(m.bridges, bridges) })
		if i < 0 {
			return flowMemo{}, false
		}
		return in[i], true
	}
	m, ok := find(p.flows)
	if ok {
		return m.verdict
	}
	if p.old != nil {
		m, ok = find(p.old.flows)
	}
	if !ok {
		m = flowMemo{slices.Clone(bridges), judgeFlows(bridges)}
	}
	p.flows = append(p.flows, m)
	return m.verdict
}

// A flowNode is a stream of a member.
type flowNode struct {
	member int32
	stream string
}

// flowEdge copies from one stream to another.
type flowEdge struct {
	from, to int32
	bridge   *bridge
}

// flowGraph is what the durable bridges of an account come to. Members that are
// in the same placements of all bridges are alike, so that four of them stand for
// all: a shortest cycle, or the shortest two ways between two streams, can be led
// over those four, because two neighbours on it need only be different.
type flowGraph struct {
	f       *fabric
	account string
	nodes   []flowNode
	number  map[flowNode]int32
	edges   []flowEdge
	out     [][]int32 // edges by their source
}

const alike = 4

func judgeFlows(bridges []*bridge) *flowVerdict {
	bridges = chained(bridges)
	if len(bridges) == 0 {
		return nil
	}
	g := newFlowGraph(bridges)
	if v := g.cycle(); v != nil {
		return v
	}
	return g.secondWay()
}

// chained are the bridges that could be part of a cycle or of a second way: those
// of which a stream is fed and feeds others, or that run beside another one, and
// all others of the same streams' names.
func chained(bridges []*bridge) []*bridge {
	if len(bridges) == 0 {
		return nil
	}
	// Names of streams that bridges join belong together.
	root := map[string]string{}
	var find func(s string) string
	find = func(s string) string {
		if r, ok := root[s]; ok && r != s {
			root[s] = find(r)
			return root[s]
		}
		root[s] = s
		return s
	}
	fed, feeding := map[string]set{}, map[string]set{}
	none := newSet(len(bridges[0].fabric.names))
	grow := func(in map[string]set, name string, by set) {
		if in[name] == nil {
			in[name] = none
		}
		in[name] = in[name].or(by)
	}
	for _, b := range bridges {
		d := b.durable
		root[find(d.stream)] = find(d.target)
		grow(feeding, d.stream, b.from)
		grow(fed, d.target, b.to)
	}
	suspect := map[string]bool{}
	for name, at := range fed {
		if out := feeding[name]; out != nil && out.meets(at) {
			suspect[find(name)] = true
		}
	}
	type pair struct{ from, to string }
	beside := map[pair][]*bridge{}
	for _, b := range bridges {
		key := pair{b.durable.stream, b.durable.target}
		for _, o := range beside[key] {
			if b.from.meets(o.from) && b.to.meets(o.to) {
				suspect[find(key.from)] = true
			}
		}
		beside[key] = append(beside[key], b)
	}
	var out []*bridge
	for _, b := range bridges {
		if suspect[find(b.durable.stream)] {
			out = append(out, b)
		}
	}
	return out
}

func newFlowGraph(bridges []*bridge) *flowGraph {
	f := bridges[0].fabric
	g := &flowGraph{f: f, account: f.accounts[bridges[0].account], number: map[flowNode]int32{}}
	kind := make([]uint64, len(f.names))
	for i, b := range bridges {
		for _, m := range b.from.list() {
			kind[m] ^= mix(uint64(2*i + 1))
		}
		for _, m := range b.to.list() {
			kind[m] ^= mix(uint64(2*i + 2))
		}
	}
	stand := newSet(len(f.names))
	seen := map[uint64]int{}
	for m, k := range kind {
		if k != 0 && seen[k] < alike {
			seen[k]++
			stand.add(int32(m))
		}
	}
	for _, b := range bridges {
		to := b.to.and(stand).list()
		for _, o := range b.from.and(stand).list() {
			for _, d := range to {
				if o != d || b.durable.local() {
					g.edges = append(g.edges, flowEdge{g.node(o, b.durable.stream), g.node(d, b.durable.target), b})
				}
			}
		}
	}
	g.out = make([][]int32, len(g.nodes))
	for i, e := range g.edges {
		g.out[e.from] = append(g.out[e.from], int32(i))
	}
	return g
}

func (g *flowGraph) node(m int32, stream string) int32 {
	n := flowNode{m, stream}
	i, ok := g.number[n]
	if !ok {
		i = int32(len(g.nodes))
		g.number[n] = i
		g.nodes = append(g.nodes, n)
	}
	return i
}

func (g *flowGraph) nodeName(i int32) string {
	n := g.nodes[i]
	return g.f.names[n.member] + "/" + g.account + "/" + n.stream
}

// spell writes a way along edges.
func (g *flowGraph) spell(edges []int32) string {
	names := []string{g.nodeName(g.edges[edges[0]].from)}
	var by []string
	for _, e := range edges {
		names = append(names, g.nodeName(g.edges[e].to))
		by = append(by, g.edges[e].bridge.ref.path())
	}
	slices.Sort(by)
	by = slices.Compact(by)
	word := "bridge"
	if len(by) > 1 {
		word = "bridges"
	}
	return fmt.Sprintf("%s (%s %s)", strings.Join(names, " -> "), word, strings.Join(by, ", "))
}

// cycle finds the shortest cycle, from its first member in order.
func (g *flowGraph) cycle() *flowVerdict {
	if g.order() != nil {
		return nil
	}
	starts := make([]int32, len(g.nodes))
	for i := range starts {
		starts[i] = int32(i)
	}
	slices.SortFunc(starts, func(a, b int32) int { return strings.Compare(g.nodeName(a), g.nodeName(b)) })
	var best []int32
	for _, s := range starts {
		if c := g.shortestBack(s); c != nil && (best == nil || len(c) < len(best)) {
			best = c
		}
	}
	return &flowVerdict{v1alpha1.ReasonStreamCycle, fmt.Sprintf("streams would feed each other for ever: %s: leave one of these steps out; to merge both ways, copy into a stream of another name that feeds none of them (stream.target)", g.spell(best))}
}

// shortestBack is the shortest way from s to s, as edges.
func (g *flowGraph) shortestBack(s int32) []int32 {
	came := map[int32]int32{}
	todo := []int32{s}
	for len(todo) > 0 {
		n := todo[0]
		todo = todo[1:]
		for _, e := range g.out[n] {
			to := g.edges[e].to
			if to == s {
				way := []int32{e}
				for n != s {
					way = append(way, came[n])
					n = g.edges[came[n]].from
				}
				slices.Reverse(way)
				return way
			}
			if _, seen := came[to]; !seen {
				came[to] = e
				todo = append(todo, to)
			}
		}
	}
	return nil
}

// order sorts the nodes so that edges lead forward; nil if there is a cycle.
func (g *flowGraph) order() []int32 {
	in := make([]int, len(g.nodes))
	for _, e := range g.edges {
		in[e.to]++
	}
	out := make([]int32, 0, len(g.nodes))
	for n := range g.nodes {
		if in[n] == 0 {
			out = append(out, int32(n))
		}
	}
	for i := 0; i < len(out); i++ {
		for _, e := range g.out[out[i]] {
			if in[g.edges[e].to]--; in[g.edges[e].to] == 0 {
				out = append(out, g.edges[e].to)
			}
		}
	}
	if len(out) < len(g.nodes) {
		return nil
	}
	return out
}

// arrival is what of the messages published at root reaches a stream on one way.
type arrival struct {
	root     int32
	subjects []string // as published; empty: all
	renamed  bool     // subjects are others by now, so that later filters say nothing
	edge     int32
	before   *arrival
}

// secondWay finds a stream that a message would reach on two ways.
func (g *flowGraph) secondWay() *flowVerdict {
	arrivals := make([][]*arrival, len(g.nodes))
	for _, n := range g.order() {
		for _, e := range g.out[n] {
			to := g.edges[e].to
			for _, a := range append([]*arrival{{root: n, edge: -1}}, arrivals[n]...) {
				next := g.pass(a, e)
				if next == nil {
					continue
				}
				for _, other := range arrivals[to] {
					if other.root != next.root {
						continue
					}
					if s, t, found := anyOverlap(next.subjects, other.subjects); found {
						both, _ := intersect(s, t)
						return &flowVerdict{v1alpha1.ReasonDuplicateFlow, fmt.Sprintf(
							"messages of %s (%s) would reach %s on two ways and be stored twice: %s; and %s: leave one of them out, or give them disjoint subjects",
							g.nodeName(next.root), both, g.nodeName(to), g.spell(other.way()), g.spell(next.way()))}
					}
				}
				arrivals[to] = append(arrivals[to], next)
			}
		}
	}
	return nil
}

// pass is what of an arrival an edge carries on; nil if nothing.
func (g *flowGraph) pass(a *arrival, edge int32) *arrival {
	d := g.edges[edge].bridge.durable
	next := &arrival{root: a.root, subjects: a.subjects, renamed: a.renamed || len(d.renames) > 0, edge: edge, before: a}
	if a.renamed || len(d.filters) == 0 {
		return next
	}
	if len(a.subjects) == 0 {
		next.subjects = d.filters
		return next
	}
	next.subjects = nil
	for _, s := range a.subjects {
		for _, t := range d.filters {
			if both, ok := intersect(s, t); ok {
				next.subjects = append(next.subjects, both)
			}
		}
	}
	if len(next.subjects) == 0 {
		return nil
	}
	return next
}

// way is how it came, as edges.
func (a *arrival) way() []int32 {
	var out []int32
	for ; a.before != nil; a = a.before {
		out = append(out, a.edge)
	}
	slices.Reverse(out)
	return out
}
