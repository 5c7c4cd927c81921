package statefulset

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// counted is a server that has counted so much by now.
func counted(name string, u *brokerv1.Usage) serverView {
	return serverView{Server: Server{Exists: true}, seen: &brokerv1.Observation{Server: name, Phase: brokerv1.Observation_RUNNING, Usage: u}}
}

func TestSamples(t *testing.T) {
	spec := &federationv1.Autoscaling{Min: 1, Max: 3, Connections: 5, UpSeconds: 60, DownSeconds: 600}
	second := func(n int) time.Time { return time.Unix(int64(n), 0) }
	var s scaler
	usage := func(connections, messages int64, cpu time.Duration) *brokerv1.Usage {
		return &brokerv1.Usage{Connections: connections, Messages: messages, Cpu: cpu.Nanoseconds(), Processors: 2, Storage: 30 * connections, StorageLimit: 1000}
	}
	steps := []struct {
		what    string
		at      int
		servers []serverView
		want    bool
	}{
		{"rates need two looks", 0, []serverView{counted("a", usage(3, 100, time.Second)), counted("b", usage(4, 0, 0))}, false},
		{"too soon", 5, []serverView{counted("a", usage(3, 100, time.Second)), counted("b", usage(4, 0, 0))}, false},
		{"a sample", 20, []serverView{counted("a", usage(3, 300, 21*time.Second)), counted("b", usage(4, 200, 20*time.Second))}, true},
		{"one is not seen", 40, []serverView{counted("a", usage(0, 300, 21*time.Second)), {}}, false},
		{"and is back", 60, []serverView{counted("a", usage(0, 300, 21*time.Second)), counted("b", usage(0, 200, 20*time.Second))}, false},
		{"one has started anew", 80, []serverView{counted("a", usage(0, 10, 21*time.Second)), counted("b", usage(0, 200, 20*time.Second))}, false},
		{"nothing happens", 100, []serverView{counted("a", usage(0, 10, 21*time.Second)), counted("b", usage(0, 200, 20*time.Second))}, true},
		{"no server", 120, nil, false},
	}
	for _, step := range steps {
		if got := s.look(spec, step.servers, second(step.at)); got != step.want {
			t.Errorf("%s: got %t", step.what, got)
		}
	}
	if len(s.history) != 2 {
		t.Fatalf("%d samples", len(s.history))
	}
	first := s.history[0]
	if first.Servers != 2 || first.Connections != 7 || first.MessageRate != 20 || first.StoragePercent != 12 || first.CPUPercent != 50 {
		t.Errorf("got %+v", first)
	}
	for n := 140; n < 140+10000; n += 15 {
		s.look(spec, []serverView{counted("a", usage(0, int64(n), 0))}, second(n))
	}
	if got := len(s.history); got > 60 {
		t.Errorf("%d samples are kept of 690 s", got)
	}
}

// However the windows are, what is remembered is bounded.
func TestSamplesAreBounded(t *testing.T) {
	spec := &federationv1.Autoscaling{Min: 1, Max: 3, Connections: 5, UpSeconds: 0, DownSeconds: 86400}
	var s scaler
	for n := range 100_000 {
		s.look(spec, []serverView{counted("a", &brokerv1.Usage{Messages: int64(n)})}, time.Unix(int64(n), 0))
	}
	if got := len(s.history); got > maxSamples+1 || got < maxSamples/2 {
		t.Errorf("%d samples are kept", got)
	}
}

// What was chosen outlives the agent, and is within the bounds of the spec.
func TestChosenServers(t *testing.T) {
	dir := t.TempDir()
	open := func(count int) *Runtime { return &Runtime{dir: dir, count: count, log: quiet()} }
	auto := func(least, most int32) *federationv1.BrokerSpec {
		return &federationv1.BrokerSpec{Replicas: least, Autoscaling: &federationv1.Autoscaling{Min: least, Max: most, Connections: 5}}
	}
	check := func(what string, r *Runtime, want int) {
		t.Helper()
		if r.want.Servers != want {
			t.Errorf("%s: %d servers, want %d", what, r.want.Servers, want)
		}
	}
	r := open(1)
	r.aim(auto(1, 5))
	check("a new broker", r, 1)
	r = open(4)
	_ = os.Remove(r.chosenFile())
	r.aim(auto(1, 5))
	check("servers of which is not known why", r, 5)
	r.aim(auto(1, 3))
	check("fewer are allowed", r, 3)
	r = open(1) // it died before it had made them
	r.aim(auto(1, 5))
	check("an agent that comes back", r, 3)
	r.aim(&federationv1.BrokerSpec{Replicas: 1})
	check("the load decides no more", r, 1)
	r = open(1)
	r.aim(auto(1, 5))
	check("what was chosen before is forgotten", r, 1)
	if err := os.WriteFile(r.chosenFile(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	r = open(2)
	r.aim(auto(1, 5))
	check("a damaged file", r, 3)
}

// The servers follow the load up, and down when it was small all through the
// window, which begins anew with the agent.
func TestServersFollowLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	const down = 6 * time.Second
	auto := &federationv1.Autoscaling{Min: 1, Max: 3, Connections: 8, UpSeconds: 2, DownSeconds: int32(down / time.Second)}
	w.config.Spec = &federationv1.BrokerSpec{MaxStorage: 64 << 20, MaxMemory: 8 << 20, Replicas: 1, Autoscaling: auto}
	w.account("app")
	w.start()
	w.settled(1)
	w.stream(w.app("app", -1), "S", 1, 20)
	var load []*nats.Conn
	for range 10 {
		load = append(load, w.app("app", 0))
	}
	w.settled(3)
	if c := w.rt.Capacity(); c.Wanted != 3 || c.Servers != 3 || c.Why != "more than the target with fewer: connections" {
		t.Errorf("%+v", c)
	}
	w.close()
	w.open()
	for _, nc := range load {
		nc.Close()
	}
	start := time.Now()
	w.setAccounts()
	w.configure()
	eventually(t, "fewer servers are wanted", func() error {
		switch c := w.rt.Capacity(); {
		case c.Wanted == 3 && c.Why == "more than the target with fewer: connections":
			return errors.New("not yet")
		case c.Wanted != 1 || c.Why != "all targets hold with 1":
			t.Fatalf("%+v", c)
		}
		return nil
	})
	if after := time.Since(start); after < down {
		t.Errorf("after %v already", after)
	}
	w.settled(1)
	w.wantMessages(w.app("app", -1), "S", 20)

	// Where no more are allowed, that they are too few is said.
	w.config.Spec.Autoscaling = &federationv1.Autoscaling{Min: 1, Max: 3, MessageRate: 1, UpSeconds: 0, DownSeconds: 3600}
	w.configure()
	nc := w.app("app", -1)
	eventually(t, "it is said that more are needed", func() error {
		for range 100 {
			if err := nc.Publish("x", nil); err != nil {
				return err
			}
		}
		want := "more than the target with fewer: messageRate; more are not allowed, and it is more than the target: messageRate"
		if c := w.rt.Capacity(); c.Why != want {
			return fmt.Errorf("%q: %s", c.Why, w.rt.Status())
		}
		return nil
	})
}
