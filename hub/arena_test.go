package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/topology"
)

// arena is a real hub, and a replica that passes sessions on to it, with an
// honest member that must not notice what happens around it.
type arena struct {
	*testHub
	t        *testing.T
	replica  *testHub
	registry *prometheus.Registry // of the hub
	passes   *prometheus.Registry // of the replica
	victim   string
	// bystander has a link with victim, and never a session.
	bystander string

	mu     sync.Mutex
	states map[string]*topology.MemberState // of hostile members
	round  int

	held  chan string // what the honest agent came to hold
	ended chan error
}

type fixedLeader string

func (l fixedLeader) leader() (string, bool) { return string(l), false }

func newArena(t *testing.T) *arena {
	t.Helper()
	a := &arena{
		testHub: newTestHub(t), t: t, registry: prometheus.NewRegistry(), states: map[string]*topology.MemberState{},
		victim: unique("honest"), bystander: unique("bystander"), held: make(chan string, 1000), ended: make(chan error, 1),
	}
	a.fleet.metrics.register(a.registry, a.fleet)
	a.replica = a.standby(t)
	a.passes = prometheus.NewRegistry()
	a.replica.fleet.metrics.register(a.passes, a.replica.fleet)
	cert := a.join(t, a.victim)
	a.publish()
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := federationv1.NewFederationClient(a.dial(t, cert)).Sync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		a.ended <- a.honest(ctx, stream)
	}()
	return a
}

// standby starts a replica in front of the hub.
func (a *arena) standby(t *testing.T) *testHub {
	t.Helper()
	f := NewFleet(1, a.fleet.log)
	ids := &identities{
		trustDomain: "test.local", authority: a.authority, cached: a.cluster.GetCache(),
		live: a.cluster.GetAPIReader(), writer: a.cluster.GetClient(),
	}
	s, err := newServer(f, a.authority, ids, []string{"localhost"}, f.log)
	if err != nil {
		t.Fatal(err)
	}
	s.relay = newRelay(fixedLeader(a.addr), a.authority, f.metrics)
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	parts := newStack(t.Context())
	parts.start("replica", func(ctx context.Context) error { return s.serve(ctx, l) })
	t.Cleanup(func() {
		if err := parts.stop(); err != nil {
			t.Error(err)
		}
	})
	r := *a.testHub
	r.fleet, r.addr = f, l.Addr().String()
	return &r
}

// publish makes a plan with a new state of the honest member, and returns the
// hash of that.
func (a *arena) publish() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.round++
	own := state(a.victim, account("app", fmt.Sprintf("round.%d", a.round)), link(a.bystander, federationv1.LinkSpec_ACCEPT, "U"+keyBody('A')))
	states := []*topology.MemberState{own, state(a.bystander, account("app"))}
	for _, s := range a.states {
		states = append(states, s)
	}
	a.fleet.Publish(plan(states...))
	return own.Hash
}

// honest is an agent as it should be.
func (a *arena) honest(ctx context.Context, stream grpc.BidiStreamingClient[federationv1.AgentMessage, federationv1.HubMessage]) error {
	held := federationv1.EmptyHash
	if err := stream.Send(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Hello{Hello: hello(held)}}); err != nil {
		return err
	}
	got, failed := make(chan *federationv1.HubMessage), make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case got <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	beat := time.NewTicker(2 * time.Second)
	defer beat.Stop()
	for {
		msg := &federationv1.AgentMessage{}
		select {
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-beat.C:
			msg.Body = &federationv1.AgentMessage_Heartbeat{Heartbeat: &federationv1.Heartbeat{HeldHash: held}}
		case m := <-got:
			r := &federationv1.Report{HeldHash: held}
			if u := m.GetUpdate(); u != nil {
				held = u.TargetHash
				r = done(u)
				a.held <- held
			}
			r.Grants = []*federationv1.Grant{{Peer: a.bystander, Key: "U" + keyBody('A'), Out: "a.b.c", In: "d.e.f"}}
			msg.Body = &federationv1.AgentMessage_Report{Report: r}
		}
		if err := stream.Send(msg); err != nil {
			return err
		}
	}
}

// unharmed checks that the honest member gets a change, in its one session, and
// that nobody put anything into its mouth.
func (a *arena) unharmed(t *testing.T) {
	t.Helper()
	want := a.publish()
	deadline := time.After(30 * time.Second)
	for got := ""; got != want; {
		select {
		case got = <-a.held:
		case err := <-a.ended:
			t.Fatalf("the session of the honest member ended: %v", err)
		case <-deadline:
			t.Fatal("the honest member did not get a change in time")
		}
	}
	eventually(t, "the change is applied", func() bool {
		o := a.fleet.Observe()
		p := o.Progress[a.victim]
		return federationv1.StateHash(holding(p)) == want && len(p.Unapplied) == 0
	})
	o := a.fleet.Observe()
	p := o.Progress[a.victim]
	if len(p.Links)+len(p.Flows) > 0 || p.Refusal != "" || o.Members[a.victim].Facts != nil {
		t.Errorf("said in the name of the honest member: %+v, %v", p, o.Members[a.victim])
	}
	if g := o.Grants[a.victim]; len(g) != 1 || g[a.bystander].GetOut() != "a.b.c" {
		t.Errorf("grants of the honest member: %v", g)
	}
	if b := o.Progress[a.bystander]; b != nil {
		t.Errorf("said in the name of who was never there: %+v", b)
	}
}

// hostile enrols a member, planned to hold the parts.
func (a *arena) hostile(t *testing.T, parts ...*topology.PlannedPart) (string, tls.Certificate) {
	t.Helper()
	name := unique("hostile")
	cert := a.join(t, name)
	a.mu.Lock()
	a.states[name] = state(name, parts...)
	a.mu.Unlock()
	a.publish()
	return name, cert
}

// count is the sum of the refusals for any of the reasons, here and at the replica.
func (a *arena) count(t *testing.T, reasons ...string) (n float64) {
	t.Helper()
	families, err := a.registry.Gather()
	more, other := a.passes.Gather()
	err, families = errors.Join(err, other), append(families, more...)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "sealane_hub_agents_refused_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, r := range reasons {
				if m.GetLabel()[0].GetValue() == r {
					n += m.GetCounter().GetValue()
				}
			}
		}
	}
	return n
}

func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// attack does what a hostile agent does, and checks what became of it: others
// notice nothing, it is counted, and memory is as it was.
func (a *arena) attack(t *testing.T, name string, reasons []string, do func(t *testing.T, at *testHub)) {
	for where, at := range map[string]*testHub{"direct": a.testHub, "replica": a.replica} {
		t.Run(name+"/"+where, func(t *testing.T) {
			before, was := a.count(t, reasons...), heapInUse()
			t.Run("do", func(t *testing.T) { do(t, at) }) // its connections are closed at its end
			a.unharmed(t)
			if len(reasons) > 0 {
				eventually(t, fmt.Sprintf("it is counted as %v", reasons), func() bool { return a.count(t, reasons...) > before })
			}
			const slack = 64 << 20 // the API server in this process lives on
			var now int64
			if !poll(func() bool { now = heapInUse(); return now < was+slack }) {
				t.Errorf("memory: %d MiB before, %d after", was>>20, now>>20)
			}
		})
	}
}

// rawCodec sends bytes as they are.
type rawCodec struct{ encoding.CodecV2 }

type rawMessage []byte

func (c rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.(rawMessage); ok {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// raw opens a stream on which anything can be sent.
func (h *testHub) raw(t *testing.T, cert tls.Certificate, opts ...grpc.CallOption) (grpc.ClientStream, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	conn := h.dial(t, cert)
	stop := func() { cancel(); conn.Close() }
	t.Cleanup(stop)
	opts = append(opts, grpc.ForceCodecV2(rawCodec{encoding.GetCodecV2("proto")}))
	s, err := conn.NewStream(ctx, &federationv1.Federation_ServiceDesc.Streams[0], "/"+federationv1.Federation_ServiceDesc.ServiceName+"/Sync", opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s, stop
}

func encode(t *testing.T, m proto.Message) rawMessage {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// endOf is how a stream ends, whatever comes before.
func endOf(s grpc.ClientStream) error {
	for {
		if err := s.RecvMsg(&federationv1.HubMessage{}); err != nil {
			return err
		}
	}
}

func opening(held string) *federationv1.AgentMessage {
	return &federationv1.AgentMessage{Body: &federationv1.AgentMessage_Hello{Hello: hello(held)}}
}

func reporting(r *federationv1.Report) *federationv1.AgentMessage {
	return &federationv1.AgentMessage{Body: &federationv1.AgentMessage_Report{Report: r}}
}
