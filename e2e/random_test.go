package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
)

// TestRandomFederations changes one running federation from one random shape to
// the next, each with random bridges, and checks with real messages that each
// arrives exactly once where a bridge says so and nowhere else.
//
// SEALANE_E2E_ROUNDS sets the number of shapes, SEALANE_E2E_SEED the first one.
func TestRandomFederations(t *testing.T) {
	t.Parallel()
	rounds, seed := number(t, "SEALANE_E2E_ROUNDS", 5), number(t, "SEALANE_E2E_SEED", 1)
	f := newFederation(t)
	accepting := []string{"m0", "m1", "m2", "m3", "m4"}
	dialing := []string{"m5", "m6", "m7"}
	f.join(accepting...)
	f.joinDialing(dialing...)
	for i := range rounds {
		seed := seed + i
		if !t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			round := *f
			round.t = t
			round.shape(rand.New(rand.NewPCG(uint64(seed), 0)), accepting, dialing) // a test's seed
		}) {
			return
		}
	}
}

func number(t testing.TB, env string, otherwise int) int {
	t.Helper()
	s := os.Getenv(env)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", env, err)
	}
	return n
}

// shape applies one random topology with random bridges to the federation and
// checks it.
func (f *federation) shape(r *rand.Rand, accepting, dialing []string) {
	t := f.t
	core := 3 + r.IntN(len(accepting)-2)
	members := slices.Clone(accepting[:core])
	edges := []v1alpha1.Edge{}
	for i := 1; i < core; i++ { // a random tree, and some edges more
		edges = append(edges, v1alpha1.Edge{A: members[i], B: members[r.IntN(i)]})
	}
	for range r.IntN(3) {
		if a, b := r.IntN(core), r.IntN(core); a != b && !joined(edges, members[a], members[b]) {
			edges = append(edges, v1alpha1.Edge{A: members[a], B: members[b]})
		}
	}
	for _, d := range dialing[:r.IntN(len(dialing)+1)] { // hanging on one or two of the others
		edges = append(edges, v1alpha1.Edge{A: d, B: accepting[r.IntN(core)]})
		if other := accepting[r.IntN(core)]; r.IntN(2) == 0 && !joined(edges, d, other) {
			edges = append(edges, v1alpha1.Edge{A: d, B: other})
		}
		members = append(members, d)
	}
	t.Logf("members %v, edges %v", members, edges)
	world := topology([]v1alpha1.LinkRule{{Name: "edges", Type: v1alpha1.LinkEdges, Edges: edges}}, members...)
	var flows []flow
	for i := range 3 + r.IntN(4) {
		flows = append(flows, randomFlow(r, i, members))
	}
	f.play(world, members, flows...)
}

// play applies a topology with bridges, checks them with messages, and takes
// everything away again.
func (f *federation) play(world *v1alpha1.MessagingTopology, members []string, flows ...flow) {
	t := f.t
	t.Helper()
	objects := []client.Object{world}
	for _, flow := range flows {
		objects = append(objects, flow.objects()...)
	}
	f.create(objects...)
	f.ready(objects...)

	conns := map[string]*nats.Conn{}
	for _, m := range members {
		conns[m] = f.connect(m, "app")
	}
	for _, flow := range flows {
		t.Logf("%s %s: %v -> %v", flow.kind, flow.name, flow.from, flow.to)
		flow.check(t, members, conns)
	}
	for _, nc := range conns {
		nc.Close()
	}
	f.clear(members, objects...)
}

// clear deletes objects and waits until the members hold nothing any more.
func (f *federation) clear(members []string, objects ...client.Object) {
	f.t.Helper()
	f.allow(members...) // or the guard against mass removal keeps it there
	slices.Reverse(objects)
	f.delete(objects...)
	for _, m := range members {
		object := &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: m}}
		eventually(f.t, 60*time.Second, m+" lets go of everything", func() error {
			if err := f.kube.Get(f.t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
				return err
			}
			if s := object.Status; s.HeldHash != s.DesiredHash || s.Parts != "0/0" {
				return fmt.Errorf("holds %s (%s), wanted %s", s.HeldHash, s.Parts, s.DesiredHash)
			}
			return nil
		})
	}
}

func joined(edges []v1alpha1.Edge, a, b string) bool {
	return slices.Contains(edges, v1alpha1.Edge{A: a, B: b}) || slices.Contains(edges, v1alpha1.Edge{A: b, B: a})
}

// flow is a random bridge with what it needs.
type flow struct {
	name     string
	kind     v1alpha1.BridgeType
	from, to []string
	renamed  bool
}

func randomFlow(r *rand.Rand, i int, members []string) flow {
	some := func() []string {
		all := slices.Clone(members)
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		return all[:1+r.IntN(len(all))]
	}
	kinds := []v1alpha1.BridgeType{v1alpha1.BridgeEvents, v1alpha1.BridgeRequests, v1alpha1.BridgeStream, v1alpha1.BridgeEvents}
	fl := flow{name: fmt.Sprintf("flow%d-%s", i, random(6)), kind: kinds[r.IntN(len(kinds))], renamed: r.IntN(3) == 0}
	fl.from, fl.to = some(), some()
	for len(fl.from) == 1 && slices.Equal(fl.from, fl.to) {
		fl.to = some()
	}
	return fl
}

func (fl flow) objects() []client.Object {
	spec := v1alpha1.BridgeSpec{Account: "app", Type: fl.kind, From: at(fl.from...), To: at(fl.to...)}
	bridge := &v1alpha1.Bridge{ObjectMeta: named(fl.name), Spec: spec}
	switch fl.kind {
	case v1alpha1.BridgeStream:
		bridge.Spec.Stream = &v1alpha1.BridgeStreams{Name: fl.name, Target: fl.name + "-all"}
		return []client.Object{
			stream(fl.name, v1alpha1.StreamSpec{Placement: at(fl.from...), Subjects: []string{fl.name + ".>"}, OnRemoval: v1alpha1.RemovalDelete}),
			stream(fl.name+"-all", v1alpha1.StreamSpec{Placement: at(fl.to...), OnRemoval: v1alpha1.RemovalDelete}),
			bridge,
		}
	case v1alpha1.BridgeEvents:
		if fl.renamed {
			bridge.Spec.Rename = []v1alpha1.Rename{{From: fl.name + ".*", To: "renamed." + fl.name + ".{{origin}}.{{wildcard(1)}}"}}
			bridge.Spec.Subjects = []string{fl.name + ".*"}
			return []client.Object{bridge}
		}
	}
	bridge.Spec.Subjects = []string{fl.name + ".>"}
	return []client.Object{bridge}
}

func (fl flow) check(t testing.TB, members []string, conns map[string]*nats.Conn) {
	t.Helper()
	switch fl.kind {
	case v1alpha1.BridgeEvents:
		fl.checkEvents(t, members, conns)
	case v1alpha1.BridgeRequests:
		fl.checkRequests(t, members, conns)
	default:
		fl.checkStream(t, conns)
	}
}

func (fl flow) checkEvents(t testing.TB, members []string, conns map[string]*nats.Conn) {
	t.Helper()
	type subject struct{ member, subject string }
	inboxes := map[subject]*inbox{}
	for _, m := range members {
		for _, s := range []string{fl.name + ".*", "renamed." + fl.name + ".*.*"} {
			inboxes[subject{m, s}] = listen(t, conns[m], m, s)
		}
	}
	arrivals := func(o string) []*inbox {
		in := []*inbox{inboxes[subject{o, fl.name + ".*"}]}
		for _, d := range fl.to {
			s := fl.name + ".*"
			if fl.renamed {
				s = "renamed." + fl.name + ".*.*"
			}
			if d != o && slices.Contains(fl.from, o) {
				in = append(in, inboxes[subject{d, s}])
			}
		}
		return in
	}
	publish := func(o, id string) {
		if err := conns[o].Publish(fl.name+".x", []byte(id)); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range members {
		eventually(t, 10*time.Second, fl.name+": interest reaches "+o, func() error {
			publish(o, warmUp+o)
			for _, in := range arrivals(o) {
				if err := in.saw(warmUp + o); err != nil {
					return err
				}
			}
			return nil
		})
	}
	want := map[*inbox]map[string]bool{}
	for _, in := range inboxes {
		want[in] = map[string]bool{}
	}
	send := func(o, id string) {
		for _, in := range arrivals(o) {
			want[in][id] = true
		}
		publish(o, id)
	}
	all := func() error {
		for _, in := range inboxes {
			if err := in.differs(want[in]); err != nil {
				return err
			}
		}
		return nil
	}
	for _, o := range members {
		for i := range 10 {
			send(o, fmt.Sprintf("%s-%d", o, i))
		}
	}
	eventually(t, 10*time.Second, fl.name+": each event exactly once where it belongs", all)
	// What should not arrive would come before these: the same ways, in order.
	for _, o := range members {
		send(o, "last-"+o)
	}
	eventually(t, 10*time.Second, fl.name+": and nothing else", all)
}

func (fl flow) checkRequests(t testing.TB, members []string, conns map[string]*nats.Conn) {
	t.Helper()
	for _, responder := range fl.to {
		var subs []*nats.Subscription
		sub, err := conns[responder].QueueSubscribe(fl.name+".ask", "workers", func(m *nats.Msg) {
			m.Respond([]byte(responder)) // its absence is seen by the requester
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := conns[responder].Flush(); err != nil {
			t.Fatal(err)
		}
		subs = append(subs, sub)
		for _, o := range members {
			if o == responder || slices.Contains(fl.from, o) {
				eventually(t, 10*time.Second, fmt.Sprintf("%s: %s is answered by %s", fl.name, o, responder), func() error {
					m, err := conns[o].Request(fl.name+".ask", nil, time.Second)
					if err != nil {
						return err
					}
					if string(m.Data) != responder {
						return fmt.Errorf("answered by %q", m.Data)
					}
					return nil
				})
				continue
			}
			if m, err := conns[o].Request(fl.name+".ask", nil, 300*time.Millisecond); err == nil {
				t.Errorf("%s: %s, which is no requester, was answered by %s", fl.name, o, m.Data)
			}
		}
		for _, s := range subs {
			if err := s.Unsubscribe(); err != nil {
				t.Fatal(err)
			}
		}
		if err := conns[responder].Flush(); err != nil {
			t.Fatal(err)
		}
	}
}

func (fl flow) checkStream(t testing.TB, conns map[string]*nats.Conn) {
	t.Helper()
	want := map[string]int{}
	for _, o := range fl.from {
		w := writer{subject: fl.name + ".x", origin: o}
		for range 20 {
			if err := w.write(t.Context(), conns[o]); err != nil {
				t.Fatal(err)
			}
		}
		want[o] = w.next
	}
	for _, d := range fl.to {
		eventually(t, 30*time.Second, fl.name+": everything arrives at "+d, func() error {
			return holds(t.Context(), conns[d], fl.name+"-all", want)
		})
	}
}
