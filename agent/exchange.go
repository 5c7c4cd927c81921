package agent

import (
	"log/slog"

	"google.golang.org/grpc"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	journalv1 "github.com/sealane/sealane/api/journal/v1"
)

// Exchange is a member's side of the protocol, message by message: what it says
// to a hub, and what a hub's messages do to what it holds. It is what the
// sessions of an Agent are made of, without their network, clock and broker, so
// that both sides together can be explored. It is for one goroutine.
type Exchange struct {
	client *hubClient
	now    *session // nil: none is open
	opened bool     // the hub has welcomed it
	out    outbox
}

// OpenExchange reads the journal in a folder, as an agent does when it starts.
// Without a folder it holds nothing, and keeps what it comes to hold in memory.
func OpenExchange(dir string, log *slog.Logger) (*Exchange, error) {
	if dir == "" {
		return newExchange(&holder{cur: heldFrom(&journalv1.State{})}, log), nil
	}
	h, err := openHolder(&journal{dir: dir, log: log})
	if err != nil {
		return nil, err
	}
	return newExchange(h, log), nil
}

func newExchange(h *holder, log *slog.Logger) *Exchange {
	pic := newPicture(&federationv1.Facts{})
	pic.hold(h.now())
	return &Exchange{client: &hubClient{
		info: &federationv1.AgentInfo{}, holder: h, pic: pic, updated: func() {}, log: log, metrics: newMetrics(),
	}}
}

// Begin opens a session, in place of the one before.
func (x *Exchange) Begin() ([]*federationv1.AgentMessage, error) {
	x.now, x.opened, x.out.messages = &session{hubClient: x.client, stream: &x.out}, false, nil
	return x.said(x.now.hello())
}

// Take takes a message of the hub and returns what is answered. An error ends
// the session.
func (x *Exchange) Take(m *federationv1.HubMessage) ([]*federationv1.AgentMessage, error) {
	if x.opened {
		return x.said(x.now.handle(m))
	}
	w, err := x.now.judge(m)
	if err != nil {
		return nil, err
	}
	x.opened = true
	return x.said(x.now.begin(w))
}

// Tell says what is new, if anything is and the session is open.
func (x *Exchange) Tell() ([]*federationv1.AgentMessage, error) {
	if !x.opened {
		return nil, nil
	}
	return x.said(x.now.report())
}

// Beat is a heartbeat.
func (x *Exchange) Beat() ([]*federationv1.AgentMessage, error) {
	if !x.opened {
		return nil, nil
	}
	return x.said(x.now.heartbeat())
}

// Show notes how the application of a part went.
func (x *Exchange) Show(s *federationv1.PartStatus) {
	x.client.pic.setParts([]*federationv1.PartStatus{s})
}

// Held maps the ids of the held parts to their hashes.
func (x *Exchange) Held() map[string]string { return x.client.holder.now().hashes() }

func (x *Exchange) said(err error) ([]*federationv1.AgentMessage, error) {
	out := x.out.messages
	x.out.messages = nil
	return out, err
}

// outbox is a stream of which only the sending side exists.
type outbox struct {
	grpc.BidiStreamingClient[federationv1.AgentMessage, federationv1.HubMessage]
	messages []*federationv1.AgentMessage
}

// Send implements grpc.BidiStreamingClient.
func (o *outbox) Send(m *federationv1.AgentMessage) error {
	o.messages = append(o.messages, m)
	return nil
}
