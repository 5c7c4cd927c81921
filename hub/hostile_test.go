package hub

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/topology"
)

// everything is one of each message, with every field set.
func everything() []*federationv1.AgentMessage {
	hash, key := hashOf("x"), "U"+keyBody('A')
	facts := &federationv1.Facts{LinkKey: key, Endpoints: []string{"a:1"}}
	part := &federationv1.PartStatus{Id: "account/app", Hash: hash, State: federationv1.PartStatus_FAILED, Code: "NoSpace", Message: "m"}
	h := hello(federationv1.EmptyHash)
	h.Features = slices.Clone(h.Features)
	h.Agent.BrokerVersion, h.Agent.Runtime, h.Facts, h.Unapplied = "2", "embedded", facts, []*federationv1.PartStatus{part}
	return []*federationv1.AgentMessage{
		{Body: &federationv1.AgentMessage_Hello{Hello: h}},
		{Body: &federationv1.AgentMessage_Heartbeat{Heartbeat: &federationv1.Heartbeat{HeldHash: federationv1.EmptyHash}}},
		{Body: &federationv1.AgentMessage_Inventory{Inventory: &federationv1.Inventory{
			HeldHash: federationv1.StateHash(map[string]string{"account/a": hash}), Parts: []*federationv1.HeldPart{{Id: "account/a", Hash: hash}},
		}}},
		reporting(&federationv1.Report{
			HeldHash: federationv1.EmptyHash, Refusal: "no", Parts: []*federationv1.PartStatus{part}, Facts: facts,
			Grants: []*federationv1.Grant{{Peer: "b", Key: key, Out: "a.b.c", In: "d.e.f"}},
			Links:  []*federationv1.LinkHealth{{Peer: "b", State: federationv1.Health_UP, Message: "m"}},
			Flows:  []*federationv1.FlowHealth{{Bridge: "n/b", Origin: "b", Account: "a", Stream: "S", State: federationv1.Health_DOWN, Message: "m"}},
		}),
	}
}

// eachString calls f for every string in a message, with a way to set it.
func eachString(m protoreflect.Message, f func(path string, set func(string))) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		path := string(fd.FullName())
		switch {
		case fd.IsList() && fd.Kind() == protoreflect.StringKind:
			f(path, func(s string) { v.List().Set(0, protoreflect.ValueOfString(s)) })
		case fd.IsList() && fd.Message() != nil:
			eachString(v.List().Get(0).Message(), f)
		case fd.Message() != nil:
			eachString(v.Message(), f)
		case fd.Kind() == protoreflect.StringKind:
			f(path, func(s string) { m.Set(fd, protoreflect.ValueOfString(s)) })
		}
		return true
	})
}

// TestHostileMessages: what an enrolled agent may say that it should not.
func TestHostileMessages(t *testing.T) {
	a := newArena(t)
	key := "U" + keyBody('B')
	a.attack(t, "claims", []string{reasonClaim}, func(t *testing.T, at *testHub) {
		name, cert := a.hostile(t, account("app"), link(a.victim, federationv1.LinkSpec_ACCEPT, "U"+keyBody('C')))
		held := map[string]string{"link/" + a.bystander: hashOf("l"), "account/app": hashOf("a"), "stream/app/S": hashOf("s")}
		s := at.sync(t, cert, hello(federationv1.StateHash(held)))
		s.welcome()
		s.inventory(held)
		u := s.update()
		r := &federationv1.Report{HeldHash: u.BaseHash, Facts: &federationv1.Facts{LinkKey: key, Endpoints: []string{a.victim + ":7422"}}}
		for _, peer := range []string{a.victim, a.bystander, "nobody", name} {
			r.Grants = append(r.Grants, &federationv1.Grant{Peer: peer, Key: key, Out: "x.y.z", In: "x.y.z"})
			r.Links = append(r.Links, &federationv1.LinkHealth{Peer: peer, State: federationv1.Health_DOWN})
			r.Flows = append(r.Flows, &federationv1.FlowHealth{Bridge: "n/b", Origin: peer, Account: "app", Stream: "S", State: federationv1.Health_DOWN, Lag: 1})
			r.Parts = append(r.Parts, &federationv1.PartStatus{Id: "link/" + peer, Hash: hashOf("l"), State: federationv1.PartStatus_APPLIED})
		}
		s.report(r)
		eventually(t, "the report is there", func() bool { return a.fleet.Observe().Members[name].Facts.GetLinkKey() == key })
		o := a.fleet.Observe()
		if len(o.Grants[name]) > 0 || len(o.Progress[name].Flows) > 0 || o.Progress[name].Links["nobody"].State != "" {
			t.Errorf("claims count: %v, %+v", o.Grants[name], o.Progress[name])
		}
	})
	a.attack(t, "malformed credentials", []string{reasonMessage}, func(t *testing.T, at *testHub) {
		name, cert := a.hostile(t, link(a.victim, federationv1.LinkSpec_ACCEPT, key))
		for _, jwt := range []string{"x", "..", "a.b.c.d", "a.b.c\n", strings.Repeat("a", 5000) + ".b." + strings.Repeat("c", 5000), "a.b.🙂"} {
			s := at.sync(t, cert, hello(a.hashOf(name)))
			s.welcome()
			s.report(&federationv1.Report{HeldHash: a.hashOf(name), Grants: []*federationv1.Grant{{Peer: a.victim, Key: key, Out: jwt, In: "a.b.c"}}})
			s.ended(codes.InvalidArgument, "malformed")
		}
	})
	a.attack(t, "replayed and reordered", []string{reasonHeld}, func(t *testing.T, at *testHub) {
		name, cert := a.hostile(t, account("a"))
		s := at.sync(t, cert, hello(federationv1.EmptyHash))
		s.welcome()
		u := s.update()
		for range 20 {
			s.applied(u) // many times the same is no harm
		}
		a.replan(name, account("a"), account("b"))
		again := s.update()
		s.applied(u) // not that one
		s.applied(again)
		s.applied(u)
		s.ended(codes.Aborted, "start a new session")
		s = at.sync(t, cert, hello(federationv1.EmptyHash))
		s.applied(u) // before it was sent, or welcomed
		s.ended(codes.Aborted, "start a new session")
	})
	a.attack(t, "hello twice", []string{reasonMessage}, func(t *testing.T, at *testHub) {
		_, cert := a.hostile(t)
		s := at.sync(t, cert, hello(federationv1.EmptyHash))
		s.send(opening(federationv1.EmptyHash))
		s.ended(codes.InvalidArgument, "second Hello")
	})
	a.attack(t, "report first", []string{reasonMessage}, func(t *testing.T, at *testHub) {
		_, cert := a.hostile(t)
		s, _ := at.raw(t, cert)
		_ = s.SendMsg(encode(t, reporting(&federationv1.Report{HeldHash: federationv1.EmptyHash})))
		wantStatus(t, endOf(s), codes.InvalidArgument, "must be Hello")
	})
	a.attack(t, "another epoch, revision and version", []string{reasonVersion}, func(t *testing.T, at *testHub) {
		_, cert := a.hostile(t)
		for _, change := range []func(*federationv1.Hello){
			func(h *federationv1.Hello) { h.Epoch = 1<<64 - 1 },
			func(h *federationv1.Hello) { h.Protocol = 0 },
			func(h *federationv1.Hello) { h.Epoch, h.Revision = 1, 1<<64-1 },
		} {
			h := hello(federationv1.EmptyHash)
			change(h)
			at.sync(t, cert, h).ended(codes.FailedPrecondition, "")
		}
	})
	a.attack(t, "invalid UTF-8", []string{reasonEncoding}, func(t *testing.T, at *testHub) {
		const mark, bad = "\x01\x02\x03\x04", "\xff\xfe\xff\xfe"
		var cert tls.Certificate
		n := 0
		for i, m := range everything() {
			eachString(m.ProtoReflect(), func(path string, set func(string)) {
				if n++; n%7 == 1 {
					_, cert = a.hostile(t) // each has so many sessions only
				}
				m := everything()[i]
				eachString(m.ProtoReflect(), func(other string, set func(string)) {
					if other == path {
						set(mark)
					}
				})
				s, cancel := at.raw(t, cert)
				defer cancel()
				if i > 0 {
					_ = s.SendMsg(encode(t, opening(federationv1.EmptyHash)))
				}
				_ = s.SendMsg(rawMessage(bytes.ReplaceAll(encode(t, m), []byte(mark), []byte(bad))))
				if err := endOf(s); grpcCode(err) != codes.InvalidArgument && grpcCode(err) != codes.Internal {
					t.Errorf("%s: %v", path, err)
				}
			})
		}
		if n < 25 {
			t.Errorf("only %d strings", n)
		}
	})
	a.attack(t, "garbage", []string{reasonEncoding}, func(t *testing.T, at *testHub) {
		_, cert := a.hostile(t)
		for _, b := range [][]byte{{0xff}, bytes.Repeat([]byte{0x0a}, 1000), bytes.Repeat([]byte{0xff, 0xff, 0xff, 0x7f}, 1000)} {
			s, _ := at.raw(t, cert)
			_ = s.SendMsg(rawMessage(b))
			if err := endOf(s); grpcCode(err) != codes.InvalidArgument && grpcCode(err) != codes.Internal {
				t.Errorf("%x: %v", b[:1], err)
			}
		}
	})
	a.attack(t, "oversized", []string{reasonSize}, func(t *testing.T, at *testHub) {
		_, cert := a.hostile(t)
		big := encode(t, reporting(&federationv1.Report{HeldHash: federationv1.EmptyHash, Refusal: strings.Repeat("a", 5<<20)}))
		for _, opts := range [][]grpc.CallOption{nil, {grpc.UseCompressor(gzip.Name)}} { // the second is 5 kB on the wire
			s, _ := at.raw(t, cert, opts...)
			_ = s.SendMsg(big)
			wantStatus(t, endOf(s), codes.ResourceExhausted, "")
		}
	})
	a.attack(t, "endless report", []string{reasonMessage, reasonSize}, func(t *testing.T, at *testHub) {
		name, cert := a.hostile(t)
		for _, n := range []int{1, 900} {
			s, _ := at.raw(t, cert)
			_ = s.SendMsg(encode(t, opening(federationv1.EmptyHash)))
			r := &federationv1.Report{HeldHash: federationv1.EmptyHash, More: true}
			for i := range 3000 {
				r.Parts = append(r.Parts, &federationv1.PartStatus{Id: fmt.Sprintf("account/%d", i), Hash: hashOf("x"), State: federationv1.PartStatus_FAILED, Code: "No", Message: strings.Repeat("m", n)})
			}
			msg := encode(t, reporting(r))
			for err := error(nil); err == nil; {
				err = s.SendMsg(msg)
			}
			wantStatus(t, endOf(s), codes.InvalidArgument, "at most")
		}
		if p := a.progress(name); p != nil && len(p.Unapplied) > 0 {
			t.Error("an unfinished report counts")
		}
	})
	a.attack(t, "all that is allowed", nil, func(t *testing.T, at *testHub) {
		name, cert := a.hostile(t)
		held := map[string]string{}
		inv := &federationv1.Inventory{}
		r := &federationv1.Report{}
		for i := range maxParts {
			id := fmt.Sprintf("account/%060d", i)
			held[id] = hashOf(id)
			inv.Parts = append(inv.Parts, &federationv1.HeldPart{Id: id, Hash: held[id]})
			if i%10 == 0 {
				r.Parts = append(r.Parts, &federationv1.PartStatus{Id: id, Hash: held[id], State: federationv1.PartStatus_FAILED, Code: "No", Message: strings.Repeat("m", maxMessage)})
			}
		}
		inv.HeldHash = federationv1.StateHash(held)
		r.HeldHash = inv.HeldHash
		s := at.sync(t, cert, hello(inv.HeldHash))
		s.welcome()
		s.send(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Inventory{Inventory: inv}})
		s.report(r)
		eventually(t, "it is known", func() bool { p := a.progress(name); return p != nil && len(p.Unapplied) == maxParts/10 })
		kept := 0
		for _, why := range a.progress(name).Unapplied {
			kept += len(why.Message)
		}
		if kept > 1<<20 {
			t.Errorf("%d bytes of reasons are kept", kept)
		}
	})
	a.attack(t, "restless facts", []string{reasonChurn}, func(t *testing.T, at *testHub) {
		_, cert := a.hostile(t)
		s := at.sync(t, cert, hello(federationv1.EmptyHash))
		s.welcome()
		for i := range churnBurst + 5 {
			s.report(&federationv1.Report{HeldHash: federationv1.EmptyHash, Facts: &federationv1.Facts{LinkKey: key, Endpoints: []string{fmt.Sprintf("h:%d", i)}}})
		}
		s.ended(codes.ResourceExhausted, "all the time")
		h := hello(federationv1.EmptyHash)
		h.Facts = &federationv1.Facts{Endpoints: []string{"again:1"}}
		at.sync(t, cert, h).ended(codes.ResourceExhausted, "all the time")
	})
	a.floods(t)
	a.attack(t, "never reads", nil, func(t *testing.T, at *testHub) {
		var imports []string
		for i := range 20_000 {
			imports = append(imports, fmt.Sprintf("subject.%d.%s", i, strings.Repeat("x", 100)))
		}
		name, cert := a.hostile(t, account("app", imports...))
		s, stop := at.raw(t, cert)
		_ = s.SendMsg(encode(t, opening(federationv1.EmptyHash)))
		eventually(t, "its session", func() bool { p := a.progress(name); return p != nil && p.Connected })
		for i := range 20 {
			a.replan(name, account("app", imports[i:]...))
			_ = s.SendMsg(encode(t, &federationv1.AgentMessage{Body: &federationv1.AgentMessage_Heartbeat{Heartbeat: &federationv1.Heartbeat{HeldHash: federationv1.EmptyHash}}}))
		}
		a.unharmed(t)
		stop()
		eventually(t, "it is gone", func() bool { return !a.progress(name).Connected })
	})
}

func (a *arena) hashOf(name string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.states[name].Hash
}

func (a *arena) replan(name string, parts ...*topology.PlannedPart) {
	a.mu.Lock()
	a.states[name] = state(name, parts...)
	a.mu.Unlock()
	a.publish()
}

func grpcCode(err error) codes.Code { return status.Code(err) }
