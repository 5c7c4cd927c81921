package topology

import (
	"cmp"
	"fmt"
	"slices"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// A work queue that one bridge moves to several destinations is shared out: the
// origin stores each message under fedq.PARTITION.subject, with a partition
// picked at random, each destination takes some of the partitions, and takes the
// prefix off again. Messages that the queue held before it was shared have no
// partition: one destination takes them.
//
// A queue that is no longer shared may still hold partitions, so that prefixes are
// always taken off, and asked for, as long as a bridge moves the queue.
//
// While the destinations are the same every message goes to exactly one. When
// they change, few partitions move; messages of those that are on their way at
// that moment (delivered, not acknowledged) may arrive at both. Consumers of
// applications at the origin see the changed subjects.
const (
	partitions      = 32
	maxDestinations = 16
)

// partitionTransform is applied as the origin stores messages.
func partitionTransform() *federationv1.Transform {
	return &federationv1.Transform{From: ">", To: fmt.Sprintf("%s.{{random(%d)}}.>", partitionTag, partitions)}
}

// checkShared refuses a queue that cannot be shared over its destinations.
func (d *durable) checkShared(b *bridge) {
	of, most := map[int32]int{}, 0
	for _, fl := range d.flows {
		of[fl.o]++
		most = max(most, of[fl.o])
	}
	if d.shared = most > 1; !d.shared {
		return
	}
	if most > maxDestinations {
		b.report.refuse("spec.to", v1alpha1.ReasonLimitExceeded, "a work queue is shared over at most %d members, not %d: name fewer destinations", maxDestinations, most)
		return
	}
	for _, p := range d.origins {
		if !p.at.meets(b.from) {
			continue
		}
		if len(d.filters)+len(p.spec.Subjects) == 0 {
			b.report.refuse("spec.to", v1alpha1.ReasonQueueConflict,
				"Stream %s binds no subjects, so that what it holds cannot be shared over several members: list the bridge's subjects, or name one destination", p.ref.path())
			continue
		}
		d.checkApart(b, p, "is shared over several members")
	}
}

// checkQueueSubjects refuses wildcards where partitions would be taken for
// subjects.
func checkQueueSubjects(spec v1alpha1.BridgeSpec, rep *report) {
	check := func(field, s string) {
		if first, _, _ := cutToken(s); (first == "*" || first == ">") && s != ">" {
			rep.refuse(field, v1alpha1.ReasonInvalidSubject, "%s begins with a wildcard: name the first token of what the queue moves", s)
		}
	}
	for i, s := range spec.Subjects {
		check(index("spec.subjects", i), s)
	}
	for i, r := range spec.Rename {
		field := index("spec.rename", i) + ".from"
		if r.From == ">" {
			rep.refuse(field, v1alpha1.ReasonInvalidSubject, "> is everything: name the first token of what is renamed")
		}
		check(field, r.From)
	}
}

// held are the subjects that the bridge takes from the queue of an origin.
func (d *durable) held(origin int32) []string {
	if len(d.filters) > 0 {
		return d.filters
	}
	for _, p := range d.origins {
		if p.at.has(origin) {
			return minimal(p.spec.Subjects)
		}
	}
	return nil
}

// share divides the partitions of an origin evenly over its destinations, by
// name, such that few move when these change. old is the one that takes what has
// no partition.
func share(destinations []string) (parts map[string][]int, old string) {
	parts = map[string][]int{}
	each, more := partitions/len(destinations), partitions%len(destinations)
	ranked := func(key string) []string {
		by := slices.Clone(destinations)
		slices.SortFunc(by, func(a, b string) int {
			return cmp.Or(cmp.Compare(rendezvous(b, key), rendezvous(a, key)), cmp.Compare(a, b))
		})
		return by
	}
	for p := range partitions {
		for _, d := range ranked(fmt.Sprint(p)) {
			if n := len(parts[d]); n < each || n == each && more > 0 {
				if n == each {
					more--
				}
				parts[d] = append(parts[d], p)
				break
			}
		}
	}
	return parts, ranked("old")[0]
}

// partitionFilters are what the outlet of a shared queue takes.
func (d *durable) partitionFilters(origin int32, parts []int, old bool) []string {
	var out []string
	for _, p := range parts {
		if len(d.filters) == 0 {
			out = append(out, fmt.Sprintf("%s.%d.>", partitionTag, p))
			continue
		}
		for _, s := range d.filters {
			out = append(out, fmt.Sprintf("%s.%d.%s", partitionTag, p, s))
		}
	}
	if old {
		out = append(out, d.held(origin)...)
	}
	return out
}

// queueFilters are what the only outlet of a queue takes: also what is left in
// partitions if the queue was shared before.
func (d *durable) queueFilters() []string {
	var out []string
	for _, s := range d.filters {
		out = append(out, s, partitionTag+".*."+s)
	}
	return out
}

// queueTransforms rename what a queue moves, and take partitions off.
func (d *durable) queueTransforms(origin int32, name string) []*federationv1.Transform {
	if len(d.renames) == 0 {
		return []*federationv1.Transform{{From: partitionTag + ".*.>", To: ">"}}
	}
	var out []*federationv1.Transform
	for _, r := range d.renames {
		out = append(out,
			&federationv1.Transform{From: partitionTag + ".*." + r.from, To: r.transform(name, 1)},
			&federationv1.Transform{From: r.from, To: r.transform(name, 0)})
	}
	for _, s := range d.held(origin) {
		if !slices.ContainsFunc(d.renames, func(r *rename) bool { return overlaps(r.from, s) }) {
			out = append(out, &federationv1.Transform{From: partitionTag + ".*." + s, To: identity(s, 1)})
		}
	}
	return out
}
