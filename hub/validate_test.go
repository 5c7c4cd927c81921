package hub

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/topology"
)

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "a\x1b[31mb": "a [31mb", "two\nlines": "two lines", "ünïcode": "ünïcode",
		strings.Repeat("ü", 40): strings.Repeat("ü", 31), "bad\xff": "bad ",
	} {
		if got := clean(in, 63); got != want || !utf8.ValidString(got) {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestValidReport(t *testing.T) {
	hash, key := hashOf("x"), "U"+keyBody('A')
	ok := func(change func(*federationv1.Report)) *federationv1.Report {
		r := &federationv1.Report{
			HeldHash: hash,
			Parts:    []*federationv1.PartStatus{{Id: "account/a", Hash: hash, State: federationv1.PartStatus_FAILED, Code: "NoSpace"}},
			Facts:    &federationv1.Facts{LinkKey: key, Endpoints: []string{"a:1", "[::1]:2"}, Storage: 1},
			Grants:   []*federationv1.Grant{{Peer: "p", Key: key, Out: "a.b.c", In: "d.e.f"}},
			Links:    []*federationv1.LinkHealth{{Peer: "p", State: federationv1.Health_STANDBY}},
			Flows:    []*federationv1.FlowHealth{{Bridge: "ns/b", Origin: "o", Account: "a", Stream: "S", State: federationv1.Health_UP}},
		}
		change(r)
		return r
	}
	if err := validReport(ok(func(*federationv1.Report) {})); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*federationv1.Report){
		"no held hash":       func(r *federationv1.Report) { r.HeldHash = "" },
		"part without id":    func(r *federationv1.Report) { r.Parts[0].Id = "" },
		"nil part":           func(r *federationv1.Report) { r.Parts[0] = nil },
		"long id":            func(r *federationv1.Report) { r.Parts[0].Id = strings.Repeat("a", maxID+1) },
		"part hash":          func(r *federationv1.Report) { r.Parts[0].Hash = strings.ToUpper(hash) },
		"part state":         func(r *federationv1.Report) { r.Parts[0].State = 0 },
		"part code":          func(r *federationv1.Report) { r.Parts[0].Code = "no space" },
		"link key":           func(r *federationv1.Report) { r.Facts.LinkKey = "SUSECRET!" },
		"seed as link key":   func(r *federationv1.Report) { r.Facts.LinkKey = "S" + key },
		"endpoint twice":     func(r *federationv1.Report) { r.Facts.Endpoints = []string{"a:1", "a:1"} },
		"endpoint with line": func(r *federationv1.Report) { r.Facts.Endpoints = []string{"a:1\n"} },
		"many endpoints":     func(r *federationv1.Report) { r.Facts.Endpoints = make([]string, 17) },
		"negative storage":   func(r *federationv1.Report) { r.Facts.Storage = -1 },
		"grant peer":         func(r *federationv1.Report) { r.Grants[0].Peer = "P" },
		"grant no JWT":       func(r *federationv1.Report) { r.Grants[0].In = "x" },
		"grant huge":         func(r *federationv1.Report) { r.Grants[0].In = "a." + strings.Repeat("b", maxJWT) + ".c" },
		"link peer":          func(r *federationv1.Report) { r.Links[0].Peer = "" },
		"link state":         func(r *federationv1.Report) { r.Links[0].State = 7 },
		"link since":         func(r *federationv1.Report) { r.Links[0].Since = maxMillis + 1 },
		"link round trip":    func(r *federationv1.Report) { r.Links[0].RttMicros = -1 },
		"flow origin":        func(r *federationv1.Report) { r.Flows[0].Origin = "o\x00" },
		"flow lag":           func(r *federationv1.Report) { r.Flows[0].Lag = -1 },
		"many links":         func(r *federationv1.Report) { r.Links = make([]*federationv1.LinkHealth, maxEntries+1) },
	} {
		if err := validReport(ok(change)); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

// What is kept of a message is what was judged.
func TestValidReportStripsTheUnknown(t *testing.T) {
	g := &federationv1.Grant{Peer: "p", Key: "U" + keyBody('A'), Out: "a.b.c", In: "d.e.f"}
	g.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
	r := &federationv1.Report{HeldHash: hashOf("x"), Grants: []*federationv1.Grant{g}}
	if err := validReport(r); err != nil || len(g.ProtoReflect().GetUnknown()) != 0 {
		t.Errorf("%v, unknown fields %x", err, g.ProtoReflect().GetUnknown())
	}
}

// FuzzAgentMessage feeds a session what a hostile agent may send after Hello,
// and Hello itself: nothing panics, and what is kept is within bounds and can be
// written into a resource.
func FuzzAgentMessage(f *testing.F) {
	add := func(m *federationv1.AgentMessage) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	hash := hashOf("x")
	add(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Hello{Hello: hello(federationv1.EmptyHash)}})
	add(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Hello{Hello: &federationv1.Hello{
		Protocol: 1, HeldHash: hash, Unapplied: []*federationv1.PartStatus{{Id: "account/a", Hash: hash, State: federationv1.PartStatus_FAILED, Message: "\x1b"}},
	}}})
	add(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Heartbeat{Heartbeat: &federationv1.Heartbeat{HeldHash: federationv1.EmptyHash}}})
	add(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Inventory{Inventory: &federationv1.Inventory{
		HeldHash: federationv1.StateHash(map[string]string{"account/a": hash}), Parts: []*federationv1.HeldPart{{Id: "account/a", Hash: hash}},
	}}})
	add(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Report{Report: &federationv1.Report{
		HeldHash: federationv1.EmptyHash, Refusal: "no\n", Parts: []*federationv1.PartStatus{{Id: "link/b", Hash: hash, State: federationv1.PartStatus_PENDING}},
		Facts:  &federationv1.Facts{LinkKey: "U" + keyBody('A'), Endpoints: []string{"a:1"}},
		Grants: []*federationv1.Grant{{Peer: "b", Key: "U" + keyBody('A'), Out: "a.b.c", In: "d.e.f"}},
		Links:  []*federationv1.LinkHealth{{Peer: "b", State: federationv1.Health_UP, Since: maxMillis, Message: "\xf0\x9f"[:0] + "ok"}},
		Flows:  []*federationv1.FlowHealth{{Bridge: "n/b", Origin: "b", Account: "a", Stream: "S", State: federationv1.Health_DOWN}},
	}}})
	now := plan(state("a", account("app"), link("b", federationv1.LinkSpec_ACCEPT, "U"+keyBody('A'))), state("b"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		msg := &federationv1.AgentMessage{}
		if proto.Unmarshal(raw, msg) != nil {
			t.Skip()
		}
		fleet := quietFleet()
		fleet.Publish(now)
		id := connect(t, fleet, "a", federationv1.EmptyHash).identity
		if h := msg.GetHello(); h != nil {
			_, _, _ = fleet.open(id, h)
		} else {
			s := fleet.members["a"].session
			fleet.next(s)
			_ = fleet.handle(s, msg)
			_ = fleet.handle(s, msg)
			fleet.next(s)
		}
		o := fleet.Observe()
		p := o.Progress["a"]
		texts := []string{p.Refusal, o.Members["a"].Agent.GetVersion()}
		for id := range p.All() {
			texts = append(texts, id)
		}
		for id, why := range p.Unapplied {
			texts = append(texts, id, why.Code, why.Message)
		}
		for peer, l := range p.Links {
			texts = append(texts, peer, l.State, l.Message)
			if _, err := json.Marshal(metav1.NewTime(time.UnixMilli(l.SinceMillis))); err != nil || l.RTTMicros < 0 {
				t.Errorf("link: %+v, %v", l, err)
			}
		}
		for k, w := range p.Flows {
			texts = append(texts, k.Account, k.Stream, w.Message)
		}
		for _, s := range texts {
			if !plain(s, maxMessage) {
				t.Errorf("kept: %q", s)
			}
		}
		_ = topology.Next(now, o.Progress, "a")
	})
}

func TestValidJWT(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{
		"a.b.c": true, "a-Z_0.b9.c": true,
		"": false, ".": false, "..": false, "a.b": false, "a.b.": false, ".b.c": false, "a..c": false, "a.b.c.d": false, "a.b.c.": false, "a.b.c=": false, "a.b. c": false, "a.b.ä": false,
		"a.b." + strings.Repeat("c", maxJWT): false,
	} {
		if got := validJWT(s); got != want {
			t.Errorf("%.20q: %v", s, got)
		}
	}
}
