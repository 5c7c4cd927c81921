package agent

import (
	"log/slog"
	"maps"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// dice makes choices of bytes, so that a fuzzer steers what is generated.
type dice struct{ bytes []byte }

func (d *dice) n(n int) int {
	if len(d.bytes) == 0 {
		return 0
	}
	b := d.bytes[0]
	d.bytes = d.bytes[1:]
	return int(b) % n
}

func pickOf[T any](d *dice, l ...T) T { return l[d.n(len(l))] }

func (d *dice) name() string {
	return pickOf(d, "app", "two", "tx_b", "rx_b", "_agent", "", "App", "a/b", strings.Repeat("n", 80), "a..b", "\x00")
}

func (d *dice) subject() string {
	return pickOf(d, "a", "a.>", "a.*", "", ">", "a..b", " ", "$JS.API.>")
}

func (d *dice) number() int64 { return pickOf[int64](d, 0, 1, -1, 1<<62, -1<<63) }

// part is one of any kind, most of them as they should be.
func (d *dice) part() *federationv1.Part {
	p := &federationv1.Part{}
	switch d.n(7) {
	case 0:
		p.Id, p.Spec = federationv1.BrokerID, &federationv1.Part_Broker{Broker: &federationv1.BrokerSpec{MaxStorage: d.number(), MaxPayload: int32(d.number()), Replicas: int32(d.number())}}
	case 1, 2:
		a := &federationv1.AccountSpec{Name: d.name(), Application: d.n(2) == 0}
		for range d.n(3) {
			a.Imports = append(a.Imports, &federationv1.Import{Account: d.name(), Subject: d.subject(), To: d.subject(), Service: d.n(2) == 0})
		}
		p.Id, p.Spec = federationv1.AccountID(a.Name), &federationv1.Part_Account{Account: a}
	case 3:
		l := &federationv1.LinkSpec{Peer: d.name(), Role: federationv1.LinkSpec_Role(d.n(4)), Endpoints: []string{pickOf(d, "a:1", "[::1]:1", "a", "http://a:1")}}
		if d.n(2) == 0 {
			l.Grant = &federationv1.Grant{Peer: l.Peer, Out: "a.b.c", In: "a.b.c"}
		}
		p.Id, p.Spec = federationv1.LinkID(l.Peer), &federationv1.Part_Link{Link: l}
	case 4:
		s := &federationv1.StreamSpec{Account: d.name(), Name: pickOf(d, "S", "s.s", ""), Subjects: []string{d.subject()}, MaxBytes: d.number(), Retention: federationv1.StreamSpec_Retention(d.n(5))}
		if d.n(2) == 0 {
			s.Sources = []*federationv1.Source{{Bridge: "n/b", Origin: d.name(), Stream: "S", Consumer: "c", DeliverSubject: d.subject()}, nil}[:1+d.n(2)]
		}
		p.Id, p.Spec = federationv1.StreamID(s.Account, s.Name), &federationv1.Part_Stream{Stream: s}
	case 5:
		o := &federationv1.OutletSpec{Bridge: "n/b", Destination: d.name(), Account: d.name(), Stream: "S", Consumer: pickOf(d, "c", "c c"), DeliverSubject: d.subject(), RateLimit: d.number()}
		p.Id, p.Spec = federationv1.OutletID(o.Destination, o.Account, o.Stream, o.Consumer), &federationv1.Part_Outlet{Outlet: o}
	default:
		p.Id, p.Hash = pickOf(d, "future/x", "", "broker"), pickOf(d, federationv1.EmptyHash, "x")
		return p
	}
	federationv1.Seal(p)
	switch d.n(12) {
	case 10:
		p.Hash = federationv1.EmptyHash
	case 11:
		p.Id = "account/other"
	}
	return p
}

// update is one from what is held, most of them as they should be.
func (d *dice) update(held map[string]string) *federationv1.Update {
	u := &federationv1.Update{Epoch: pickOf[uint64](d, 1, 1, 1, 2, 0), Revision: uint64(d.n(5)), BaseHash: federationv1.StateHash(held), RemovalMeant: d.n(2) == 0}
	after := maps.Clone(held)
	for range d.n(4) {
		p := d.part()
		u.Upserts = append(u.Upserts, p)
		after[p.Id] = p.Hash
	}
	for id := range held {
		if d.n(4) == 3 && len(u.Removals) < 2 {
			u.Removals = append(u.Removals, id)
			delete(after, id)
		}
	}
	u.TargetHash = federationv1.StateHash(after)
	switch d.n(12) {
	case 8:
		u.BaseHash = federationv1.EmptyHash
	case 9:
		u.TargetHash = federationv1.EmptyHash
	case 10:
		u.Removals = append(u.Removals, "account/nothing", "account/nothing")
	case 11:
		u.Upserts = append(u.Upserts, nil)
	}
	return u
}

// FuzzHubMessages has a hub say anything in any order: nothing panics, and the
// member goes from one whole, valid state to the next, which a restart finds.
func FuzzHubMessages(f *testing.F) {
	for i := range 8 {
		seed := make([]byte, 300)
		for j := range seed {
			seed[j] = byte(j * (2*i + 1) / 3)
		}
		f.Add(seed)
	}
	log := slog.New(slog.DiscardHandler)
	f.Fuzz(func(t *testing.T, raw []byte) {
		d := &dice{raw[:min(len(raw), 400)]}
		x, err := OpenExchange("", log)
		check(t, err)
		_, err = x.Begin()
		check(t, err)
		for len(d.bytes) > 0 {
			before := x.client.holder.now()
			m := &federationv1.HubMessage{}
			switch d.n(12) {
			case 0:
				m.Body = &federationv1.HubMessage_Welcome{Welcome: &federationv1.Welcome{Epoch: uint64(d.n(4)), HeartbeatSeconds: uint32(d.n(200)), WantInventory: d.n(2) == 0}}
			case 1: // nothing that is known
			default:
				m.Body = &federationv1.HubMessage_Update{Update: d.update(before.hashes())}
			}
			out, err := x.Take(m)
			now := x.client.holder.now()
			if now.epoch < before.epoch {
				t.Fatalf("epoch %d after %d", now.epoch, before.epoch)
			}
			if u := m.GetUpdate(); now.hash != before.hash && (u == nil || u.BaseHash != before.hash || u.TargetHash != now.hash) {
				t.Fatalf("%s after %s, by %v", now.hash, before.hash, m)
			}
			for id, p := range now.parts {
				if p.Id != id || validatePart(p) != nil {
					t.Fatalf("held: %v", p)
				}
			}
			for _, o := range out {
				if _, err := proto.Marshal(o); err != nil {
					t.Fatalf("said: %v", err)
				}
			}
			if err != nil || d.n(20) == 19 {
				journalled, err := encodeJournal(now.state())
				check(t, err)
				read, err := decodeJournal(journalled)
				check(t, err)
				x = newExchange(&holder{cur: heldFrom(read)}, log)
				if again := x.client.holder.now(); again.hash != now.hash || again.epoch != now.epoch {
					t.Fatalf("after a restart it holds %s, before %s", again.hash, now.hash)
				}
				_, err = x.Begin()
				check(t, err)
			}
		}
	})
}
