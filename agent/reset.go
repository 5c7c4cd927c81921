package agent

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/singleflight"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// A stream that starts to copy from a durable consumer asks it to go back to
// what is acknowledged, and takes the position in the answer as the last message
// that it has. Two things can go wrong there, and each loses messages (ADR 0010).
//
// NATS reads that position after the consumer is free to run again, so it may lie
// ahead of where the consumer was reset to (4 of 300 resets on an idle machine,
// nats-server 2.15.2): the messages between are taken for copies, and
// acknowledged. The sequence that the consumer was reset to is in the same answer.
//
// A reset that reaches the consumer late or twice, over a link that was half open
// or while two ways are open, starts the consumer's numbers anew behind the
// stream's back: as many messages as were acknowledged in between fit the numbers
// of others.
//
// So streams ask through the agents. The destination's asks the origin's for a
// fence, sends it with the reset, and corrects the position in the answer; the
// origin's passes on a reset with the present fence only, and each fence once.
const (
	// resetPrefix precedes the origin in what a stream takes for the prefix of the
	// origin's JetStream API.
	resetPrefix = "_fedjs"
	// resetRequests are the requests of streams that arrive there.
	resetRequests = resetPrefix + ".*.CONSUMER.RESET.*.*"
	// resetService is where the resets of other members arrive at the origin.
	resetService = federationv1.ResetPrefix + "CONSUMER.RESET.*.*"
	// fenceHeader carries the fence of a reset. A request without asks for one.
	fenceHeader = "Sealane-Fence"
	// maxFences bounds what applications of the account could make grow. When it is
	// reached all fences end, and whoever had one asks for another.
	maxFences = 10_000
	// resetHold is how long a consumer that would not wait for it gives a stream to
	// subscribe after a reset (1 to 60 ms on a busy machine).
	resetHold = time.Second
	// restPatience is how long a reset waits while the account rests. A stream asks again
	// when it has had no answer for five seconds.
	restPatience = 4 * time.Second
)

// viaAgent is the API prefix under which the agent serves resets at the origin
// of that API prefix.
func viaAgent(apiPrefix string) string { return "_" + apiPrefix }

// serveResets serves, until nc is closed, the resets that an account's streams
// ask of other members, and those that other members ask of its consumers. While the
// account rests none is asked of others; nil: it never does.
func serveResets(nc *nats.Conn, asked *askedResets, resting func() <-chan struct{}) error {
	var underway singleflight.Group
	if _, err := nc.Subscribe(resetRequests, func(m *nats.Msg) {
		asked.note(strings.TrimPrefix(m.Subject, "_"), time.Now())
		// An origin that is away must not keep the others from being asked.
		go func() {
			if rested(resting) {
				relayReset(nc, &underway, m)
			}
		}()
	}); err != nil {
		return fmt.Errorf("serving the resets of sources: %w", err)
	}
	f := fences{}
	if _, err := nc.Subscribe(resetService, func(m *nats.Msg) { f.serve(nc, m) }); err != nil {
		return fmt.Errorf("serving the resets of consumers: %w", err)
	}
	return nil
}

// rested waits until the account does not rest; false: for too long.
func rested(resting func() <-chan struct{}) bool {
	if resting == nil {
		return true
	}
	for end := time.After(restPatience); ; {
		over := resting()
		if over == nil {
			return true
		}
		select {
		case <-over:
		case <-end:
			return false
		}
	}
}

// askedResets is when streams last asked for a reset, by the subject at the origin.
type askedResets struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (a *askedResets) note(subject string, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at == nil || len(a.at) >= maxFences {
		a.at = map[string]time.Time{}
	}
	a.at[subject] = now
}

// last is when a reset was last asked for; zero: it is not known.
func (a *askedResets) last(subject string) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.at[subject]
}

// relayReset has one reset of a consumer under way at a time: a stream that asks
// again while it waits gets the answer to what it asked before.
func relayReset(nc *nats.Conn, asked *singleflight.Group, m *nats.Msg) {
	answer, err, _ := asked.Do(m.Subject, func() (any, error) {
		subject := strings.TrimPrefix(m.Subject, "_")
		ctx, cancel := context.WithTimeout(context.Background(), apiTimeout)
		defer cancel()
		fence, err := askFence(ctx, nc, subject)
		if err != nil {
			return nil, err
		}
		request := nats.NewMsg(subject)
		maps.Copy(request.Header, m.Header)
		request.Data = m.Data
		request.Header.Set(fenceHeader, fence)
		return nc.RequestMsgWithContext(ctx, request)
	})
	if err != nil {
		return // the stream asks again by itself
	}
	reply := nats.NewMsg(m.Reply)
	reply.Header, reply.Data = answer.(*nats.Msg).Header, positionOfReset(answer.(*nats.Msg).Data)
	nc.PublishMsg(reply) //nolint:errcheck // as above
}

// askFence asks the origin for the fence of the next reset on subject. That it
// answers says that there is a way to the origin and that its agent runs.
func askFence(ctx context.Context, nc *nats.Conn, subject string) (string, error) {
	m, err := nc.RequestMsgWithContext(ctx, nats.NewMsg(subject))
	if err != nil {
		return "", err
	}
	fence := m.Header.Get(fenceHeader)
	if fence == "" {
		return "", errors.New("the origin gave no fence")
	}
	return fence, nil
}

// fences are what the next reset of each consumer must bring along, by the
// subject of the request. They need not outlive the agent: what was given out
// before fits none of those that come.
type fences map[string]fence

type fence struct {
	text string // "": none is given out
	// passed is closed when the reset before has been passed on; nil: there was none.
	passed <-chan struct{}
}

// serve gives out a fence, or passes on the reset that brings it. Resets of one
// consumer reach it in the order in which their fences were given out. What is too
// late is not answered: another way may have brought the same request in time.
func (f fences) serve(nc *nats.Conn, m *nats.Msg) {
	given, is := m.Header.Get(fenceHeader), f[m.Subject]
	if given == "" {
		if is.text == "" {
			f.makeRoom()
			is.text = rand.Text()
			f[m.Subject] = is
		}
		answer := nats.NewMsg(m.Reply)
		answer.Header.Set(fenceHeader, is.text)
		nc.PublishMsg(answer) //nolint:errcheck // whoever asked asks again
		return
	}
	if given != is.text {
		return
	}
	passed := make(chan struct{})
	f[m.Subject] = fence{passed: passed}
	go func() {
		if is.passed != nil {
			<-is.passed
		}
		passReset(nc, m, func() { close(passed) })
	}()
}

// makeRoom forgets what is past, and if need be everything: whoever has a fence then
// asks for another.
func (f fences) makeRoom() {
	if len(f) < maxFences {
		return
	}
	maps.DeleteFunc(f, func(_ string, is fence) bool {
		if is.text != "" {
			return false
		}
		select {
		case <-is.passed:
			return true
		default:
			return false
		}
	})
	if len(f) >= maxFences {
		clear(f)
	}
}

// passReset has the consumer go back to what is acknowledged, and answers. Of the
// request nothing counts but that it came: its text could name any other place. Nor may
// the consumer choose the place itself. Who takes part in flow control can name a
// sequence that was never sent, which the consumer keeps in mind but does not store,
// and would go to (nats-server 2.15.2). So it is told what it has stored. passed is
// called when later resets may follow.
func passReset(nc *nats.Conn, m *nats.Msg, passed func()) {
	passed = sync.OnceFunc(passed)
	defer passed()
	request := nats.NewMsg("$JS.API." + strings.TrimPrefix(m.Subject, federationv1.ResetPrefix))
	for _, h := range resetHeaders {
		if v := m.Header.Get(h); v != "" {
			request.Header.Set(h, v)
		}
	}
	consumer := strings.TrimPrefix(m.Subject, federationv1.ResetPrefix+"CONSUMER.RESET.")
	is, err := holdBack(nc, consumer)
	if err != nil {
		return // whoever asked asks again
	}
	request.Data = is.floor()
	request.Reply = nats.NewInbox()
	answers, err := nc.SubscribeSync(request.Reply)
	if err != nil {
		return // the connection is closed
	}
	defer answers.Unsubscribe() //nolint:errcheck // the connection may be closed
	nc.PublishMsg(request)      //nolint:errcheck // as above
	passed()
	answer, err := answers.NextMsg(apiTimeout)
	if err != nil {
		return
	}
	m.RespondMsg(&nats.Msg{Header: answer.Header, Data: answer.Data}) //nolint:errcheck // as above
}

// resetHeaders are those of a stream's request for a reset.
var resetHeaders = []string{"Nats-Required-Api-Level", "Nats-Stream-Identity"}

// outletInfo is what counts for a reset in the answer to what INFO asks of a consumer.
type outletInfo struct {
	// AckFloor is nil if there is no such consumer.
	AckFloor *jetstream.SequenceInfo `json:"ack_floor"`
	Bound    bool                    `json:"push_bound"`
	Paused   bool                    `json:"paused"`
	Now      time.Time               `json:"ts"`
}

func askOutlet(nc *nats.Conn, consumer string) (outletInfo, error) {
	var info outletInfo
	m, err := nc.Request("$JS.API.CONSUMER.INFO."+consumer, nil, apiTimeout)
	if err != nil {
		return info, err
	}
	return info, json.Unmarshal(m.Data, &info)
}

// floor is the request to go back to what a consumer has stored as acknowledged; nil: to
// what it has in mind, as there is no such consumer, which the reset then tells.
func (i outletInfo) floor() []byte {
	if i.AckFloor == nil {
		return nil
	}
	return fmt.Appendf(nil, `{"seq":%d}`, i.AckFloor.Stream+1)
}

// holdBack pauses a consumer ("STREAM.NAME") for resetHold if it would send at once, and
// tells how it stands. A stream subscribes when it has the answer to a reset, so nobody
// listens before. But it can look as if somebody did: nats-server 2.15.2 counts interest
// that goes over a leaf node once more with each change of an account's imports, and
// never takes that back. All that is sent too early is a gap, and leads to another
// reset, which ends as the one before.
func holdBack(nc *nats.Conn, consumer string) (outletInfo, error) {
	is, err := askOutlet(nc, consumer)
	if err != nil || !is.Bound || is.Paused {
		return is, err
	}
	end := is.Now.Add(resetHold)
	until := fmt.Appendf(nil, `{"pause_until":%q}`, end.Format(time.RFC3339Nano))
	if _, err := nc.Request("$JS.API.CONSUMER.PAUSE."+consumer, until, apiTimeout); err != nil {
		return is, err
	}
	// In a cluster the answer says only that the consumer will be told.
	for err == nil && !is.Paused && is.Now.Before(end) {
		is, err = askOutlet(nc, consumer)
	}
	return is, err
}

// positionOfReset makes the position in the answer to a reset that of the reset.
// An answer that tells of no reset, an error for one, stays as it is.
func positionOfReset(answer []byte) []byte {
	var info map[string]json.RawMessage
	var seq uint64
	if json.Unmarshal(answer, &info) != nil || json.Unmarshal(info["reset_seq"], &seq) != nil || seq == 0 || info["delivered"] == nil {
		return answer
	}
	info["delivered"] = fmt.Appendf(nil, `{"consumer_seq":0,"stream_seq":%d}`, seq-1)
	changed, err := json.Marshal(info)
	if err != nil {
		return answer
	}
	return changed
}
