package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker/brokertest"
)

func TestPositionOfReset(t *testing.T) {
	for name, c := range map[string]struct{ answer, want string }{
		"ran ahead": {
			`{"type":"t","name":"c","delivered":{"consumer_seq":65,"stream_seq":69},"num_pending":0,"reset_seq":4}`,
			`{"type":"t","name":"c","delivered":{"consumer_seq":0,"stream_seq":3},"num_pending":0,"reset_seq":4}`,
		},
		"where it was reset to": {
			`{"delivered":{"consumer_seq":0,"stream_seq":0},"reset_seq":1}`,
			`{"delivered":{"consumer_seq":0,"stream_seq":0},"reset_seq":1}`,
		},
		"no reset":     {`{"delivered":{"stream_seq":9}}`, `{"delivered":{"stream_seq":9}}`},
		"error":        {`{"error":{"code":404}}`, `{"error":{"code":404}}`},
		"no object":    {`"reset_seq"`, `"reset_seq"`},
		"without info": {`{"reset_seq":4}`, `{"reset_seq":4}`},
	} {
		t.Run(name, func(t *testing.T) {
			var got, want any
			if err := json.Unmarshal(positionOfReset([]byte(c.answer)), &got); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(c.want), &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	if got := string(positionOfReset([]byte("not JSON"))); got != "not JSON" {
		t.Errorf("an answer that is no JSON became %q", got)
	}
}

// TestResetAnswerOfServer holds the answer of a real server to what
// positionOfReset expects of it.
func TestResetAnswerOfServer(t *testing.T) {
	nc := deliveredConsumer(t)
	answer, err := nc.Request("$JS.API.CONSUMER.RESET.S.c", nil, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var got server.JSApiConsumerResetResponse
	if err := json.Unmarshal(positionOfReset(answer.Data), &got); err != nil {
		t.Fatal(err)
	}
	if got.ConsumerInfo == nil || got.ResetSeq != 1 || got.Delivered.Stream != 0 || got.Config == nil {
		t.Errorf("after a reset to the first message the answer is %s", positionOfReset(answer.Data))
	}
	// An answer in which the consumer has run ahead, as the server would write it.
	got.Delivered.Stream, got.Delivered.Consumer = 3, 3
	ahead, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var mended server.JSApiConsumerResetResponse
	if err := json.Unmarshal(positionOfReset(ahead), &mended); err != nil {
		t.Fatal(err)
	}
	if mended.Delivered.Stream != 0 {
		t.Errorf("an answer that is ahead keeps position %d", mended.Delivered.Stream)
	}
}

// deliveredConsumer starts a server with stream S of three messages and consumer c,
// which has delivered them and got no acknowledgement.
func deliveredConsumer(t *testing.T) *nats.Conn {
	t.Helper()
	s, err := server.NewServer(&server.Options{Port: -1, JetStream: true, StoreDir: brokertest.Dir(t), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	nc, err := nats.Connect(s.ClientURL(), nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := js.Publish(t.Context(), "s", nil); err != nil {
			t.Fatal(err)
		}
	}
	delivered, err := nc.SubscribeSync("d")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreatePushConsumer(t.Context(), "S", jetstream.ConsumerConfig{
		Durable: "c", DeliverSubject: "d", AckPolicy: jetstream.AckFlowControlPolicy,
		FlowControl: true, IdleHeartbeat: time.Second, MaxAckPending: 4096,
	}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := delivered.NextMsg(5 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	return nc
}

// TestFence has resets reach the consumer once each and in the order in which
// they were asked for, whatever the way between the agents does to them.
func TestFence(t *testing.T) {
	nc := deliveredConsumer(t)
	if err := serveResets(nc, &askedResets{}, nil); err != nil {
		t.Fatal(err)
	}
	arrived, err := nc.SubscribeSync("$JS.API.CONSUMER.RESET.>")
	if err != nil {
		t.Fatal(err)
	}
	const subject = federationv1.ResetPrefix + "CONSUMER.RESET.S.c"
	ask := func() string {
		t.Helper()
		fence, err := askFence(t.Context(), nc, subject)
		if err != nil {
			t.Fatal(err)
		}
		return fence
	}
	with := func(fence string) *nats.Msg {
		m := nats.NewMsg(subject)
		m.Header.Set(fenceHeader, fence)
		return m
	}
	reset := func(fence string) {
		t.Helper()
		answer, err := nc.RequestMsg(with(fence), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var got server.JSApiConsumerResetResponse
		if err := json.Unmarshal(answer.Data, &got); err != nil || got.Error != nil || got.ResetSeq != 1 {
			t.Fatalf("the answer is %s (%v)", answer.Data, err)
		}
	}
	first := ask()
	if again := ask(); again != first {
		t.Errorf("a fence that was not used gave way to another: two ways to the origin would disagree")
	}
	reset(first)
	second := ask()
	for _, late := range []string{first, "", "of before a restart"} {
		m := with(late)
		m.Reply = "nobody"
		if err := nc.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	reset(second)
	for range 2 {
		m, err := arrived.NextMsg(10 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if m.Header.Get(fenceHeader) != "" {
			t.Error("the consumer was shown the fence")
		}
	}
	// Whatever was passed on was published before the answer to the last reset.
	if n, _, err := arrived.Pending(); err != nil || n != 0 {
		t.Errorf("%d resets too many reached the consumer (%v)", n, err)
	}
}

// TestResetGoesWhereItIsStored has somebody confirm what was never sent, and ask for a
// reset to where nothing is: the consumer goes back to what is acknowledged all the same.
func TestResetGoesWhereItIsStored(t *testing.T) {
	nc := deliveredConsumer(t)
	if err := serveResets(nc, &askedResets{}, nil); err != nil {
		t.Fatal(err)
	}
	control, err := nc.SubscribeSync("d")
	if err != nil {
		t.Fatal(err)
	}
	asked := func() string { // by flow control, once what it asked before is answered
		t.Helper()
		for range 30 { // heartbeats come each second
			m, err := control.NextMsg(30 * time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(m.Reply, "$JS.FC.") {
				return m.Reply
			}
		}
		t.Fatal("the consumer asks nothing")
		return ""
	}
	confirm := func(dseq, sseq int) {
		t.Helper()
		answer := nats.NewMsg(asked())
		answer.Header.Set("Nats-Last-Consumer", fmt.Sprint(dseq))
		answer.Header.Set("Nats-Last-Stream", fmt.Sprint(sseq))
		if err := nc.PublishMsg(answer); err != nil {
			t.Fatal(err)
		}
	}
	const subject = federationv1.ResetPrefix + "CONSUMER.RESET.S.c"
	reset := func() server.JSApiConsumerResetResponse {
		t.Helper()
		fence, err := askFence(t.Context(), nc, subject)
		if err != nil {
			t.Fatal(err)
		}
		m := nats.NewMsg(subject)
		m.Header.Set(fenceHeader, fence)
		m.Data = []byte(`{"seq":3000}`)
		answer, err := nc.RequestMsg(m, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var got server.JSApiConsumerResetResponse
		if err := json.Unmarshal(answer.Data, &got); err != nil || got.Error != nil {
			t.Fatalf("the answer is %s (%v)", answer.Data, err)
		}
		return got
	}
	confirm(1, 1)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for floor := uint64(0); floor != 1; {
		c, err := js.PushConsumer(t.Context(), "S", "c")
		if err != nil {
			t.Fatal(err)
		}
		floor = c.CachedInfo().AckFloor.Stream
	}
	confirm(2, 2000)
	if _, err := js.Publish(t.Context(), "s", nil); err != nil {
		t.Fatal(err)
	}
	asked()
	if got := reset(); got.ResetSeq != 2 {
		t.Errorf("the consumer went to %d, not to what follows the one acknowledged message", got.ResetSeq)
	}
}

// TestResetWaitsForSubscription asks for a reset while somebody else listens who gives
// nothing on, and subscribes when the answer has come, as streams do.
func TestResetWaitsForSubscription(t *testing.T) {
	nc := deliveredConsumer(t)
	check(t, serveResets(nc, &askedResets{}, nil))
	const subject = federationv1.ResetPrefix + "CONSUMER.RESET.S.c"
	for range 3 {
		fence, err := askFence(t.Context(), nc, subject)
		check(t, err)
		m := nats.NewMsg(subject)
		m.Header.Set(fenceHeader, fence)
		_, err = nc.RequestMsg(m, 10*time.Second)
		check(t, err)
		sub, err := nc.SubscribeSync("d")
		check(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		for i := 1; i <= 3; {
			m, err := sub.NextMsgWithContext(ctx)
			check(t, err)
			if !strings.HasPrefix(m.Reply, "$JS.ACK.") {
				continue // heartbeat or flow control
			}
			if meta, err := m.Metadata(); err != nil || meta.Sequence.Consumer != uint64(i) || meta.Sequence.Stream != uint64(i) {
				t.Fatalf("message %d is %+v (%v)", i, meta, err)
			}
			i++
		}
		cancel()
		check(t, sub.Unsubscribe())
	}
}

// TestFencesAreBounded gives out more fences than are kept.
func TestFencesAreBounded(t *testing.T) {
	nc := deliveredConsumer(t)
	f := fences{}
	for i := range maxFences + 10 {
		f.serve(nc, nats.NewMsg(fmt.Sprintf("%sCONSUMER.RESET.S.%d", federationv1.ResetPrefix, i)))
	}
	if len(f) > maxFences {
		t.Errorf("%d fences are kept, at most %d should be", len(f), maxFences)
	}
}

func FuzzPositionOfReset(f *testing.F) {
	f.Add([]byte(`{"reset_seq":4,"delivered":{"stream_seq":69}}`))
	f.Add([]byte(`{"reset_seq":18446744073709551615,"delivered":null}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		if got := positionOfReset(answer); json.Valid(answer) && !json.Valid(got) {
			t.Errorf("%q became %q, which is no JSON", answer, got)
		}
	})
}
