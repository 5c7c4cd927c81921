package agent

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
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
	s, err := server.NewServer(&server.Options{Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer s.WaitForShutdown()
	defer s.Shutdown()
	nc, err := nats.Connect(s.ClientURL(), nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
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

func FuzzPositionOfReset(f *testing.F) {
	f.Add([]byte(`{"reset_seq":4,"delivered":{"stream_seq":69}}`))
	f.Add([]byte(`{"reset_seq":18446744073709551615,"delivered":null}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		if got := positionOfReset(answer); json.Valid(answer) && !json.Valid(got) {
			t.Errorf("%q became %q, which is no JSON", answer, got)
		}
	})
}
