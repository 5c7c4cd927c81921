package topology

import (
	"cmp"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sealane/sealane/api/v1alpha1"
)

// BenchmarkRollout is what the hub computes for a rollout of a change that concerns
// all members, in its last wave but one: with each plan (Plan), with each look at
// what members reported (Advance), and for the statuses (Summarize).
func BenchmarkRollout(b *testing.B) {
	for _, c := range []struct {
		members, bridges, waves int
		named                   bool
	}{{250, 0, 10, false}, {500, 0, 10, false}, {1000, 0, 10, false}, {1000, 0, 10, true}, {1000, 0, 1000, false}, {1000, 200, 10, false}} {
		in := benchInput(c.bridges, 1)
		in.Members = in.Members[:c.members]
		size := intstr.FromInt32(int32(c.members / c.waves))
		in.Topologies[0].Spec.Rollout = &v1alpha1.Rollout{Size: &size}
		name := fmt.Sprintf("%d-%d-bridges-%d-waves", c.members, c.bridges, c.waves)
		if c.named { // the order is that of a group that names its members
			edges := &in.Topologies[0].Spec.Groups[1]
			edges.Selector = nil
			for _, m := range in.Members[benchRegions:] {
				edges.Clusters = append(edges.Clusters, m.Name)
			}
			in.Topologies[0].Spec.Rollout.Order = []v1alpha1.RolloutStep{{Group: "edges"}}
			name += "-named"
		}
		before := Compile(in)
		later := in
		world := in.Topologies[0].DeepCopy()
		world.Generation++
		for i := range world.Spec.Groups {
			limit := int32(4242)
			world.Spec.Groups[i].Broker.MaxConnections = &limit
		}
		world.Status.Rollout = &v1alpha1.RolloutStatus{State: v1alpha1.RolloutProgressing, Current: "old", Target: "new", Wave: int32(c.waves) - 2, Attempt: 1, WaveStarted: &metav1.MicroTime{}}
		later.Topologies = []*v1alpha1.MessagingTopology{world}
		p := Recompile(before, later)
		all := concerned(world, p, before, in.Members)
		if len(all) != c.members {
			b.Fatalf("%d members are concerned", len(all))
		}
		world.Status.Rollout.Through = &all[len(all)-2*c.members/c.waves]
		stage := []Stage{{world, world.Status.Rollout.Through}}
		staged := p.WithStaged(before, stage, in.Members)
		prog := Progress{}
		for name := range staged.Members {
			m := &MemberProgress{Connected: true, Features: allFeatures, Held: map[string]string{}, Links: map[string]LinkReport{}, Flows: map[FlowKey]FlowReport{}}
			for _, part := range staged.Desired(name).Parts {
				m.Held[part.Part.Id] = part.Part.Hash
				if l := part.Part.GetLink(); l != nil {
					m.Links[l.Peer] = LinkReport{State: "Up"}
				}
				stream := part.Part.GetStream()
				for _, from := range stream.GetSources() {
					m.Flows[FlowKey{Origin: cmp.Or(from.Origin, name), Account: stream.Account, Stream: stream.Name, Bridge: from.Bridge}] = FlowReport{State: "Up"}
				}
			}
			prog[name] = m
		}
		b.Run(name+"/Plan", func(b *testing.B) {
			for b.Loop() {
				Recompile(staged, later).WithStaged(Recompile(before, in), stage, in.Members)
			}
		})
		b.Run(name+"/Advance", func(b *testing.B) {
			for b.Loop() {
				Advance(RolloutInput{
					Topology: world, Members: in.Members, Live: "new", Exists: func(string) bool { return true },
					Plan: staged, Base: before, Progress: prog, Now: metav1.MicroTime{},
				})
			}
		})
		b.Run(name+"/Summarize", func(b *testing.B) {
			for b.Loop() {
				Summarize(staged, later, prog)
			}
		})
	}
}
