package agent

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/singleflight"
)

// A stream that starts to copy from a durable consumer asks it to go back to
// what is acknowledged, and takes the position in the answer as the last message
// that it has. NATS reads that position after the consumer is free to run again,
// so it may lie ahead of where the consumer was reset to (4 of 300 resets on an
// idle machine, nats-server 2.15.2): the messages between are taken for copies
// and acknowledged, and lost. The sequence that the consumer was reset to is in
// the same answer. So streams ask through the agent, which puts that one in place
// of the other (ADR 0010).
const (
	// resetPrefix precedes the origin in what a stream takes for the prefix of the
	// origin's JetStream API.
	resetPrefix = "_fedjs"
	// resetRequests are the requests that arrive there.
	resetRequests = resetPrefix + ".*.CONSUMER.RESET.*.*"
)

// viaAgent is the API prefix under which the agent serves resets at the origin
// of that API prefix.
func viaAgent(apiPrefix string) string { return "_" + apiPrefix }

// relayResets serves the resets of an account's streams until nc is closed.
func relayResets(nc *nats.Conn) error {
	var asked singleflight.Group
	_, err := nc.Subscribe(resetRequests, func(m *nats.Msg) {
		// An origin that is away must not keep the others from being asked.
		go relayReset(nc, &asked, m)
	})
	if err != nil {
		return fmt.Errorf("serving the resets of sources: %w", err)
	}
	return nil
}

// relayReset has one reset of a consumer under way at a time: a stream that asks
// again while it waits gets the answer to what it asked before. A second reset
// would reach the consumer after the first has begun to deliver, and where
// messages were acknowledged between the two its numbers would fit others.
func relayReset(nc *nats.Conn, asked *singleflight.Group, m *nats.Msg) {
	answer, err, _ := asked.Do(m.Subject, func() (any, error) {
		request := nats.NewMsg(strings.TrimPrefix(m.Subject, "_"))
		request.Header, request.Data = m.Header, m.Data
		return nc.RequestMsg(request, apiTimeout)
	})
	if err != nil {
		return // the stream asks again by itself
	}
	reply := nats.NewMsg(m.Reply)
	reply.Header, reply.Data = answer.(*nats.Msg).Header, positionOfReset(answer.(*nats.Msg).Data)
	nc.PublishMsg(reply) //nolint:errcheck // as above
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
