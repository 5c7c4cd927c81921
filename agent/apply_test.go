package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

func TestRepairsDrift(t *testing.T) {
	t.Parallel()
	hub := startHub(t, newCA(t))
	outlet := outletPart(&federationv1.OutletSpec{
		Bridge: "demo/orders", Destination: "osaka", Account: "app", Stream: "ORDERS", Consumer: "fed-osaka-00000000",
		DeliverSubject: "fedjd.osaka.tokyo.ORDERS.00000000", Filters: []string{"orders.eu.>", "orders.us.>"}, RateLimit: 1 << 20,
	})
	hub.want("tokyo", accountPart("app"), ordersPart(), outlet)
	a := startAgent(t, hub, "tokyo")
	hub.applied("tokyo")
	js := a.js("app")
	ctx := t.Context()
	consumer := func() (jetstream.ConsumerConfig, error) {
		c, err := js.PushConsumer(ctx, "ORDERS", "fed-osaka-00000000")
		if err != nil {
			return jetstream.ConsumerConfig{}, err
		}
		return c.CachedInfo().Config, nil
	}
	cfg, err := consumer()
	check(t, err)
	if cfg.RateLimit != 8<<20 || len(cfg.FilterSubjects) != 2 || cfg.AckPolicy != jetstream.AckFlowControlPolicy || cfg.MaxAckPending != maxAckPending {
		t.Errorf("outlet: %+v", cfg)
	}

	for name, tamper := range map[string]func() error{
		"stream changed, its metadata lost": func() error {
			_, err := js.UpdateStream(ctx, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>", "more.>"}, MaxBytes: 5})
			return err
		},
		"stream deleted":   func() error { return js.DeleteStream(ctx, "ORDERS") },
		"consumer deleted": func() error { return js.DeleteConsumer(ctx, "ORDERS", "fed-osaka-00000000") },
		"consumer changed, its metadata lost": func() error {
			c := cfg
			c.Metadata, c.FilterSubjects, c.RateLimit = nil, []string{"orders.zz.>", "orders.yy.>"}, 0
			_, err := js.UpdatePushConsumer(ctx, "ORDERS", c)
			return err
		},
		"consumer paused": func() error {
			_, err := js.PauseConsumer(ctx, "ORDERS", "fed-osaka-00000000", time.Now().Add(time.Hour))
			return err
		},
		"consumer of another kind": func() error {
			for { // the agent may mend the first half before the second
				if err := js.DeleteConsumer(ctx, "ORDERS", "fed-osaka-00000000"); err != nil {
					return err
				}
				_, err := js.CreatePushConsumer(ctx, "ORDERS", jetstream.ConsumerConfig{
					Durable: "fed-osaka-00000000", DeliverSubject: "x.y", AckPolicy: jetstream.AckNonePolicy,
				})
				if !errors.Is(err, jetstream.ErrConsumerExists) {
					return err
				}
			}
		},
	} {
		check(t, tamper())
		within(t, 8*time.Second, name+" is repaired", func() error {
			info, err := streamInfo(js, "ORDERS")
			if err != nil {
				return err
			}
			if c := info.Config; len(c.Subjects) != 1 || c.MaxBytes != 1<<20 || c.Metadata[metaManaged] != "true" {
				return fmt.Errorf("%+v", c)
			}
			c, err := consumer()
			if err != nil {
				return err
			}
			if !sameOutlet(c, outletConfig(c, outlet)) {
				return fmt.Errorf("%+v", c)
			}
			return nil
		})
	}
}

func TestStreamLife(t *testing.T) {
	t.Parallel()
	hub := startHub(t, newCA(t))
	kept := &federationv1.StreamSpec{Account: "app", Name: "KEPT", Subjects: []string{"kept.>"}, Retain: true,
		Sources: []*federationv1.Source{{Bridge: "demo/local", Stream: "ORDERS", Filters: []string{"orders.eu.>"}}}}
	hub.want("tokyo", accountPart("app"), ordersPart(), streamPart(kept))
	a := startAgent(t, hub, "tokyo")
	hub.applied("tokyo")
	nc := a.connect("app")
	js := mustJS(t, nc)
	publish(t, nc, "orders.eu.1", 1, 3)
	publish(t, nc, "orders.us.1", 1, 3)
	publish(t, nc, "kept.1", 1, 2)
	messages := func(name string, want uint64) func() error {
		return func() error {
			info, err := streamInfo(js, name)
			if err == nil && info.State.Msgs != want {
				err = fmt.Errorf("%d messages", info.State.Msgs)
			}
			return err
		}
	}
	eventually(t, "the local source delivers", messages("KEPT", 5))
	eventually(t, "the local flow is up", func() (err error) {
		hub.look("tokyo", func(m *hubMember) {
			if f := m.flows[flowKey{"demo/local", "", "app", "KEPT"}]; f.GetState() != federationv1.Health_UP {
				err = fmt.Errorf("%v", m.flows)
			}
		})
		return err
	})

	// What users set and the part does not speak of stays.
	info, err := streamInfo(js, "ORDERS")
	check(t, err)
	c := info.Config
	c.Description, c.MaxMsgSize = "mine", 4096
	_, err = js.UpdateStream(t.Context(), c)
	check(t, err)
	grown := proto.CloneOf(ordersPart())
	grown.GetStream().MaxBytes = 2 << 20
	hub.want("tokyo", accountPart("app"), federationv1.Seal(grown), streamPart(kept))
	hub.applied("tokyo")
	info, err = streamInfo(js, "ORDERS")
	check(t, err)
	if c := info.Config; c.Description != "mine" || c.MaxMsgSize != 4096 || c.MaxBytes != 2<<20 || info.State.Msgs != 6 {
		t.Errorf("stream: %+v", info)
	}

	// What cannot be changed is said to be so, and everything else goes on.
	stuck := proto.CloneOf(ordersPart())
	stuck.GetStream().Retention = federationv1.StreamSpec_WORK_QUEUE
	extra := streamPart(&federationv1.StreamSpec{Account: "app", Name: "EXTRA", Subjects: []string{"extra"}})
	overlap := streamPart(&federationv1.StreamSpec{Account: "app", Name: "OVERLAP", Subjects: []string{"orders.eu.*"}})
	nowhere := streamPart(&federationv1.StreamSpec{Account: "nowhere", Name: "S", Subjects: []string{"s"}})
	unfed := outletPart(&federationv1.OutletSpec{Bridge: "demo/x", Destination: "osaka", Account: "app", Stream: "MISSING", Consumer: "fed-osaka-1", DeliverSubject: "x"})
	future := &federationv1.Part{Id: "novelty/1", Hash: strings.Repeat("a", 32)}
	badImport := accountPart("second", imp("absent", "x", ""))
	hub.want("tokyo", accountPart("app"), federationv1.Seal(stuck), streamPart(kept), extra, overlap, nowhere, unfed, future, badImport)
	if s := hub.failed("tokyo", stuck.Id, codeImmutable); !strings.Contains(s.Message, "WorkQueue") || !s.Retrying {
		t.Errorf("immutable: %v", s)
	}
	hub.failed("tokyo", overlap.Id, codeOverlap)
	hub.failed("tokyo", nowhere.Id, codeNoAccount)
	hub.failed("tokyo", unfed.Id, codeNoStream)
	hub.failed("tokyo", badImport.Id, codeAccount)
	if s := hub.failed("tokyo", future.Id, codeUnsupported); s.Retrying {
		t.Errorf("unsupported: %v", s)
	}
	hub.status("tokyo", extra.Id, func(s *federationv1.PartStatus) bool { return s.State == federationv1.PartStatus_APPLIED })

	// A failure ends when its cause does.
	hub.want("tokyo", accountPart("app"), federationv1.Seal(stuck), streamPart(kept), extra)
	hub.status("tokyo", extra.Id, func(s *federationv1.PartStatus) bool { return s.State == federationv1.PartStatus_APPLIED })
	check(t, js.DeleteStream(t.Context(), "ORDERS"))
	hub.status("tokyo", stuck.Id, func(s *federationv1.PartStatus) bool { return s.State == federationv1.PartStatus_APPLIED })

	// A retained stream stays, unfed, and is taken over again; others go.
	hub.want("tokyo", accountPart("app"))
	hub.applied("tokyo")
	eventually(t, "ORDERS is gone", func() error {
		if _, err := streamInfo(js, "ORDERS"); !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
	info, err = streamInfo(js, "KEPT")
	check(t, err)
	if len(info.Config.Sources) != 0 || info.Config.Metadata[metaRetained] != "true" || info.State.Msgs != 5 {
		t.Errorf("retained: %+v", info)
	}
	hub.want("tokyo", accountPart("app"), ordersPart(), streamPart(kept))
	hub.applied("tokyo")
	check(t, messages("KEPT", 5)())
	info, err = streamInfo(js, "KEPT")
	check(t, err)
	if len(info.Config.Sources) != 1 || isRetained(info.Config.Metadata) {
		t.Errorf("taken over: %+v", info.Config)
	}

	// A stream that someone else made is never touched.
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "THEIRS", Subjects: []string{"theirs"}})
	check(t, err)
	theirs := streamPart(&federationv1.StreamSpec{Account: "app", Name: "THEIRS", Subjects: []string{"ours"}})
	hub.want("tokyo", accountPart("app"), theirs)
	hub.failed("tokyo", theirs.Id, codeNotOurs)
	hub.want("tokyo", accountPart("app"), extra)
	hub.applied("tokyo")
	info, err = streamInfo(js, "THEIRS")
	check(t, err)
	if info.Config.Subjects[0] != "theirs" {
		t.Errorf("theirs: %+v", info.Config)
	}
}

func isRetained(meta map[string]string) bool { return meta[metaRetained] != "" }

// A stream whose removal was journalled but not done when the agent was killed
// is removed at the next start; one that is not in the journal at all is not.
func TestFinishesRemovals(t *testing.T) {
	hub := startHub(t, newCA(t))
	hub.want("tokyo", accountPart("app"), accountPart("gone"), ordersPart(),
		streamPart(&federationv1.StreamSpec{Account: "gone", Name: "S", Subjects: []string{"s"}}))
	a := startAgent(t, hub, "tokyo")
	hub.applied("tokyo")
	a.stop()

	h, err := openHolder(&journal{dir: a.opts.DataDir + "/journal", log: testLog(t)})
	check(t, err)
	_, err = h.change(func(n *held) bool {
		for id, p := range n.parts {
			if id != "account/app" {
				n.doomed[id] = p
				delete(n.parts, id)
			}
		}
		return true
	})
	check(t, err)
	hub.want("tokyo", accountPart("app"))
	a.start()
	js := a.js("app")
	eventually(t, "the stream is gone", func() error {
		if _, err := streamInfo(js, "ORDERS"); !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
	hub.applied("tokyo")
	a.stop()
	h, err = openHolder(&journal{dir: a.opts.DataDir + "/journal", log: testLog(t)})
	check(t, err)
	if n := h.now(); len(n.doomed) != 0 || len(n.owned) != 0 || len(n.parts) != 1 {
		t.Errorf("journal: doomed %v, owned %v, parts %v", n.doomed, n.owned, n.ids())
	}
}

func TestBrokerLimits(t *testing.T) {
	hub := startHub(t, newCA(t))
	limits := func(payload int32) *federationv1.Part {
		return part(federationv1.BrokerID, func(p *federationv1.Part) {
			p.Spec = &federationv1.Part_Broker{Broker: &federationv1.BrokerSpec{MaxPayload: payload, MaxStorage: 1 << 30}}
		})
	}
	hub.want("tokyo", limits(1<<20), accountPart("app"), ordersPart())
	a := startAgent(t, hub, "tokyo")
	hub.applied("tokyo")
	hub.want("tokyo", limits(2<<20), accountPart("app"), ordersPart())
	hub.applied("tokyo")
	if got := a.connect("app").MaxPayload(); got != 2<<20 {
		t.Errorf("the largest message is %d", got)
	}
	// Less storage than is reserved is refused, and what runs goes on.
	small := proto.CloneOf(limits(2 << 20))
	small.GetBroker().MaxStorage = 1
	hub.want("tokyo", federationv1.Seal(small), accountPart("app"), ordersPart())
	hub.failed("tokyo", federationv1.BrokerID, codeBroker)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := a.js("app").Publish(ctx, "orders.1", nil); err != nil {
		t.Error(err)
	}
}
