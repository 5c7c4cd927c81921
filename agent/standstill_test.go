package agent

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker/brokertest"
	"github.com/sealane/sealane/broker/replica"
	"github.com/sealane/sealane/e2e/freeport"
)

// startThree starts three servers that are one broker.
func startThree(t *testing.T) *nats.Conn {
	t.Helper()
	var servers []*server.Server
	t.Cleanup(func() {
		for _, s := range servers {
			s.Shutdown()
			s.WaitForShutdown()
		}
	})
	// Routes are needed before there is any server.
	var routes []*url.URL
	for range 3 {
		routes = append(routes, &url.URL{Scheme: "nats", Host: freeport.Addr(t)})
	}
	for n := range 3 {
		port, err := strconv.Atoi(routes[n].Port())
		check(t, err)
		s, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprintf("s%d", n), Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: brokertest.Dir(t), NoSigs: true, NoLog: true,
			Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: port}, Routes: routes,
		})
		check(t, err)
		servers = append(servers, s)
		go s.Start()
	}
	for _, s := range servers {
		if !s.ReadyForConnections(30 * time.Second) {
			t.Fatal("the server does not start")
		}
	}
	eventually(t, "the group has a leader", func() error {
		for _, s := range servers {
			if s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) == 3 {
				return nil
			}
		}
		return errors.New("none")
	})
	nc, err := nats.Connect(servers[0].ClientURL())
	check(t, err)
	t.Cleanup(nc.Close)
	return nc
}

// copies is one stream and others that take from it, as over a bridge, in one
// account.
type copies struct {
	t     *testing.T
	nc    *nats.Conn
	js    jetstream.JetStream
	rests replica.Rests
	flows *flows
	specs []*federationv1.StreamSpec
	sent  int
}

func newCopies(t *testing.T, n int, queue bool) *copies {
	t.Helper()
	nc := startThree(t)
	c := &copies{t: t, nc: nc, js: mustJS(t, nc)}
	asked := &askedResets{}
	check(t, serveResets(nc, asked, func() <-chan struct{} { return c.rests.Until("app") }))
	// This is what the link and the imports do.
	_, err := nc.Subscribe("fedjs.here.>", func(m *nats.Msg) {
		there := *m
		there.Subject = federationv1.ResetPrefix + strings.TrimPrefix(m.Subject, "fedjs.here.")
		nc.PublishMsg(&there)
	})
	check(t, err)
	m := &member{log: testLog(t), pic: newPicture(nil), conns: &accountConns{open: map[string]*accountConn{"app": {nc: nc, js: c.js, asked: asked}}}}
	c.flows = newFlows(m)
	retry(t, "create S", func(ctx context.Context) error {
		_, err := c.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
		return err
	})
	for i := range n {
		consumer, deliver := fmt.Sprintf("c%d", i), fmt.Sprintf("d.%d", i)
		s := &federationv1.StreamSpec{Account: "app", Name: fmt.Sprintf("COPY%d", i), Sources: []*federationv1.Source{
			{Origin: "here", Stream: "S", ApiPrefix: "fedjs.here", Consumer: consumer, DeliverSubject: deliver},
		}}
		if queue {
			s.Retention = federationv1.StreamSpec_WORK_QUEUE
		}
		c.specs = append(c.specs, s)
		retry(t, "create "+s.Name, func(ctx context.Context) error {
			if _, err := c.js.CreateOrUpdatePushConsumer(ctx, "S", jetstream.ConsumerConfig{
				Durable: consumer, DeliverSubject: deliver, AckPolicy: jetstream.AckFlowControlPolicy,
				FlowControl: true, IdleHeartbeat: time.Second, MaxAckPending: maxAckPending,
			}); err != nil {
				return err
			}
			_, err := c.js.CreateOrUpdateStream(ctx, newStreamConfig(streamPart(s)))
			return err
		})
	}
	return c
}

func retry(t *testing.T, what string, f func(context.Context) error) {
	t.Helper()
	eventually(t, what, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), apiTimeout)
		defer cancel()
		return f(ctx)
	})
}

// load publishes until it is stopped.
func (c *copies) load() (stop func()) {
	ctx, cancel := context.WithCancel(c.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			pctx, timeout := context.WithTimeout(context.WithoutCancel(ctx), apiTimeout)
			_, err := c.js.PublishMsg(pctx, &nats.Msg{Subject: "s", Data: []byte(strconv.Itoa(c.sent))}, jetstream.WithMsgID(strconv.Itoa(c.sent)))
			timeout()
			if err == nil {
				c.sent++
			}
		}
	}()
	return func() { cancel(); <-done }
}

// toOne leaves a stream one replica, as a broker of several servers does.
func (c *copies) toOne(ctx context.Context, stream string) error {
	return replica.Stream{Conn: c.nc, Name: stream}.ToOne(context.WithoutCancel(ctx), nil, func() func() {
		c.rests.Hold("app", stream, replica.Timeout)
		return func() { c.rests.Release("app", stream) }
	})
}

// scale gives all copies so many replicas, and waits until they are current. How they
// are left one is up to toOne, nil: to NATS.
func (c *copies) scale(replicas int, toOne func(ctx context.Context, stream string) error) {
	c.t.Helper()
	for _, s := range c.specs {
		s.Replicas = int32(replicas)
		retry(c.t, "scale "+s.Name, func(ctx context.Context) error {
			info, err := streamOf(ctx, c.js, s.Name)
			if err != nil {
				return err
			}
			if toOne != nil && replicas == 1 {
				return toOne(ctx, s.Name)
			}
			_, err = c.js.UpdateStream(ctx, streamConfig(info.Config, streamPart(s)))
			return err
		})
	}
	for _, s := range c.specs {
		retry(c.t, s.Name+" is scaled", func(ctx context.Context) error {
			info, err := streamOf(ctx, c.js, s.Name)
			if err != nil {
				return err
			}
			if info.Cluster == nil || info.Cluster.Leader == "" || len(info.Cluster.Replicas) != replicas-1 {
				return fmt.Errorf("%+v", info.Cluster)
			}
			for _, r := range info.Cluster.Replicas {
				if !r.Current {
					return fmt.Errorf("%s is not current", r.Name)
				}
			}
			return nil
		})
	}
}

// look has the flows looked at once, as the agent does over and over.
func (c *copies) look() {
	for _, s := range c.specs {
		if info := c.flows.info(c.t.Context(), s); info != nil {
			c.flows.revive(c.t.Context(), s, info)
		}
	}
}

// complete waits until every copy has all messages once, in order.
func (c *copies) complete() {
	c.t.Helper()
	for _, s := range c.specs {
		within(c.t, 60*time.Second, s.Name+" is complete", func() error {
			c.look()
			info, err := streamOf(c.t.Context(), c.js, s.Name)
			if err != nil {
				return err
			}
			if info.State.LastSeq < uint64(c.sent) {
				return fmt.Errorf("%d of %d messages, sources %+v, out of place from %d on", info.State.LastSeq, c.sent, info.Sources, c.firstGap(s.Name, info))
			}
			if len(info.Config.Sources) != 1 {
				return fmt.Errorf("%d sources", len(info.Config.Sources))
			}
			return nil
		})
		st, err := c.js.Stream(c.t.Context(), s.Name)
		check(c.t, err)
		if got := st.CachedInfo().State.LastSeq; got != uint64(c.sent) {
			c.t.Errorf("%s took %d messages, want %d", s.Name, got, c.sent)
		}
		for _, seq := range []int{1, c.sent / 2, c.sent} {
			// Any replica answers, also one that does not have the message yet.
			retry(c.t, fmt.Sprintf("message %d of %s", seq, s.Name), func(ctx context.Context) error {
				m, err := st.GetMsg(ctx, uint64(seq))
				if errors.Is(err, jetstream.ErrMsgNotFound) && s.Retention == federationv1.StreamSpec_WORK_QUEUE {
					return nil // taken
				}
				if err == nil && string(m.Data) != strconv.Itoa(seq-1) {
					c.t.Errorf("%s: message %d is %s", s.Name, seq, m.Data)
				}
				return err
			})
		}
	}
}

// firstGap is the sequence of the first message that is not the one that was sent
// then; messages are in order otherwise.
func (c *copies) firstGap(name string, info *jetstream.StreamInfo) uint64 {
	st, err := c.js.Stream(c.t.Context(), name)
	if err != nil {
		return 0
	}
	n := int(info.State.LastSeq - info.State.FirstSeq + 1)
	return info.State.FirstSeq + uint64(sort.Search(n, func(i int) bool {
		seq := info.State.FirstSeq + uint64(i)
		m, err := st.GetMsg(c.t.Context(), seq)
		return err == nil && string(m.Data) != strconv.FormatUint(seq-1, 10)
	}))
}

// TestStreamsGrow gives streams more replicas while messages arrive: NATS forgets what
// they take, and the agent reminds it.
func TestStreamsGrow(t *testing.T) {
	c := newCopies(t, 3, false)
	stop := c.load()
	c.look()
	c.scale(3, nil)
	stop()
	c.complete()
}

// TestStreamsStandStillAlone has streams forgotten as they grow, and found as they
// have one replica again.
func TestStreamsStandStillAlone(t *testing.T) {
	c := newCopies(t, 2, false)
	stop := c.load()
	c.some()
	c.scale(3, nil)
	c.scale(1, nil)
	stop()
	c.complete()
}

// TestQueuesShrink has queues forgotten as they grow, with all gone that was taken
// from them, and fewer replicas wanted at once: nothing is lost nor comes twice.
func TestQueuesShrink(t *testing.T) {
	c := newCopies(t, 2, true)
	stop := c.load()
	c.some()
	c.scale(3, nil)
	for _, s := range c.specs {
		st, err := c.js.Stream(t.Context(), s.Name)
		check(t, err)
		retry(t, "taken", func(ctx context.Context) error { return st.Purge(ctx) })
	}
	c.scale(1, c.toOne)
	stop()
	c.complete()
}

// some waits until all copies have messages.
func (c *copies) some() {
	c.t.Helper()
	for _, s := range c.specs {
		retry(c.t, "messages", func(ctx context.Context) error {
			info, err := streamOf(ctx, c.js, s.Name)
			if err == nil && info.State.LastSeq < 100 {
				err = errors.New("too few")
			}
			return err
		})
	}
}

func TestStandings(t *testing.T) {
	at := func(seconds int) time.Time { return time.Unix(1_000_000+int64(seconds), 0) }
	var s standing
	for _, step := range []struct {
		at, replicas int
		silent, want bool
	}{
		{0, 1, false, false},
		{2, 1, true, false},
		{16, 1, true, false},
		{17, 1, true, true}, // tried
		{46, 1, true, false},
		{47, 1, true, true}, // tried
		{106, 1, true, false},
		{107, 1, true, true},
		{109, 1, false, false},
		{200, 3, true, true}, // it has grown: NATS is not waited for
		{229, 3, true, false},
		{230, 3, true, true},
		{232, 1, false, false},
		{234, 1, true, true}, // still lately
		{500, 1, false, false},
		{502, 1, true, false},
	} {
		got := s.note(at(step.at), step.replicas, step.silent)
		if got != step.want {
			t.Errorf("after %d s: %t, want %t", step.at, got, step.want)
		}
		if got {
			s.tried(at(step.at))
		}
	}
	for range 100 {
		s.tried(at(0))
	}
	if wait := s.next.Sub(at(0)); wait != reviveSeldom {
		t.Errorf("after many attempts the next is after %v", wait)
	}
}
