package broker

import (
	"fmt"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/jwt/v2"
	"pgregory.net/rapid"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

func accountPart(name string, application bool, imports ...*federationv1.Import) *federationv1.Part {
	return &federationv1.Part{Id: federationv1.AccountID(name), Spec: &federationv1.Part_Account{
		Account: &federationv1.AccountSpec{Name: name, Application: application, Imports: imports},
	}}
}

func linkPart(peer string) *federationv1.Part {
	return &federationv1.Part{Id: federationv1.LinkID(peer), Spec: &federationv1.Part_Link{Link: &federationv1.LinkSpec{Peer: peer}}}
}

// describe is what claims say, readably and with names for keys.
func describe(k *Keyring, claims map[string]*jwt.AccountClaims) []string {
	names := map[string]string{}
	for n, c := range claims {
		names[c.Subject] = n
	}
	var lines []string
	for n, c := range claims {
		js := ""
		if c.Limits.IsJSEnabled() {
			js = fmt.Sprintf(" js=%d/%d/%d/%d", c.Limits.DiskStorage, c.Limits.MemoryStorage, c.Limits.Streams, c.Limits.Consumer)
		}
		lines = append(lines, fmt.Sprintf("%s: conn=%d subs=%d leafs=%d%s", n, c.Limits.Conn, c.Limits.Subs, c.Limits.LeafNodeConn, js))
		for _, e := range c.Exports {
			lines = append(lines, fmt.Sprintf("%s: export %s %s", n, e.Type, e.Subject))
		}
		for _, i := range c.Imports {
			lines = append(lines, fmt.Sprintf("%s: import %s %s from %s to %s", n, i.Type, i.Subject, names[i.Account], localSubject(i)))
		}
	}
	sort.Strings(lines)
	return lines
}

func TestAccounts(t *testing.T) {
	k := testKeyring(t, 1)
	parts := []*federationv1.Part{
		linkPart("b"),
		{Id: federationv1.AccountID("limited"), Spec: &federationv1.Part_Account{Account: &federationv1.AccountSpec{
			Name: "limited", Application: true,
			Limits: &federationv1.AccountLimits{Connections: 5, Subscriptions: 6, Storage: 7, Memory: 0, Streams: 8, Consumers: -1},
		}}},
		accountPart("app", true,
			&federationv1.Import{Account: "rx_b", Subject: "fo.b.app.orders.>", To: "orders.>"},
			&federationv1.Import{Account: "rx_b", Subject: "fo.b.app.orders.>", To: "orders.>"}, // twice is once
			&federationv1.Import{Account: "rx_b", Subject: "fedjs.b.app.CONSUMER.RESET.S.c", To: "fedjs.b.CONSUMER.RESET.S.c", Service: true}),
		accountPart("tx_b", false, &federationv1.Import{Account: "app", Subject: "orders.>", To: "fo.a.app.orders.>"}),
		{Id: federationv1.BrokerID, Spec: &federationv1.Part_Broker{Broker: &federationv1.BrokerSpec{}}},
	}
	claims, errs := k.Accounts("a", parts)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	want := strings.Split(strings.TrimSpace(`
_agent: conn=-1 subs=-1 leafs=0
_agent: export stream po.>
_agent: export stream pq.>
_agent: import stream pq from rx_b to pi.b
_agent: import stream pr from tx_b to pa.b
app: conn=-1 subs=-1 leafs=0 js=-1/-1/-1/-1
app: export service _fedjs.CONSUMER.RESET.*.*
app: export stream >
app: import service fedjs.b.app.CONSUMER.RESET.S.c from rx_b to fedjs.b.CONSUMER.RESET.S.c
app: import stream fo.b.app.orders.> from rx_b to orders.>
limited: conn=7 subs=6 leafs=0 js=7/0/8/-1
limited: export service _fedjs.CONSUMER.RESET.*.*
limited: export stream >
rx_b: conn=-1 subs=-1 leafs=-1
rx_b: export service fedjs.>
rx_b: export stream >
rx_b: import stream po.b from _agent to pr
tx_b: conn=-1 subs=-1 leafs=-1
tx_b: export service fedjs.>
tx_b: export stream >
tx_b: import stream orders.> from app to fo.a.app.orders.>
tx_b: import stream pq.b from _agent to pq`), "\n")
	sort.Strings(want)
	if diff := cmp.Diff(want, describe(k, claims)); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
}

// Links of a group share their accounts where they are accepted, and there only.
func TestGroupAccounts(t *testing.T) {
	k := testKeyring(t, 1)
	link := func(peer string, role federationv1.LinkSpec_Role) *federationv1.Part {
		p := linkPart(peer)
		p.GetLink().Role = role
		p.GetLink().Group = &federationv1.LinkGroup{Name: "edge", Origins: []string{"edge@a", peer}}
		return p
	}
	claims, errs := k.Accounts("a", []*federationv1.Part{
		link("s1", federationv1.LinkSpec_ACCEPT), link("s2", federationv1.LinkSpec_ACCEPT), link("b", federationv1.LinkSpec_DIAL), linkPart("c"),
		accountPart("tx_@edge", false, &federationv1.Import{Account: "rx_c", Subject: "fo.c.app.x"}),
	})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	var got []string
	for _, line := range describe(k, claims) {
		if strings.Contains(line, "import") {
			got = append(got, line)
		}
	}
	want := strings.Split(strings.TrimSpace(`
_agent: import stream pq from rx_c to pi.c
_agent: import stream pq.* from rx_@edge to pi.*
_agent: import stream pq.a from rx_b to pi.b
_agent: import stream pr from tx_c to pa.c
_agent: import stream pr.* from tx_@edge to pa.*
_agent: import stream pr.a from tx_b to pa.b
rx_@edge: import stream po.* from _agent to pr.*
rx_b: import stream po.b from _agent to pr.a
rx_c: import stream po.c from _agent to pr
tx_@edge: import stream fo.c.app.x from rx_c to fo.c.app.x
tx_@edge: import stream pq.* from _agent to pq.*
tx_b: import stream pq.b from _agent to pq.a
tx_c: import stream pq.c from _agent to pq`), "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("imports (-want +got):\n%s", diff)
	}
	for name, c := range claims {
		if (len(c.Mappings) > 0) != (name == "tx_@edge") {
			t.Errorf("%s has mappings %v", name, c.Mappings)
		}
	}
	for _, name := range []string{"tx_s1", "rx_s1", "tx_s2", "rx_s2"} {
		if claims[name] != nil {
			t.Errorf("there is an account %s", name)
		}
	}
	if _, errs := k.Accounts("a", []*federationv1.Part{accountPart("tx_@", false), accountPart("tx_@@x", false)}); len(errs) != 2 {
		t.Errorf("accounts of no group: %v", errs)
	}
}

func TestAccountErrors(t *testing.T) {
	k := testKeyring(t, 1)
	fine := &federationv1.Import{Account: "app", Subject: "orders.>", To: "fo.a.app.orders.>"}
	for name, tc := range map[string]struct {
		parts   []*federationv1.Part
		account string
		says    string
	}{
		"no such account":  {[]*federationv1.Part{accountPart("tx_b", false, fine)}, "tx_b", `"orders.>" from account "app": there is no such account`},
		"itself":           {[]*federationv1.Part{accountPart("app", true, &federationv1.Import{Account: "app", Subject: "x"})}, "app", "from itself"},
		"bad subject":      {[]*federationv1.Part{accountPart("app", true), accountPart("tx_b", false, &federationv1.Import{Account: "app", Subject: "a..b"}, fine)}, "tx_b", "consecutive"},
		"no subject":       {[]*federationv1.Part{accountPart("app", true), accountPart("tx_b", false, &federationv1.Import{Account: "app"}, fine)}, "tx_b", "empty"},
		"bad renaming":     {[]*federationv1.Part{accountPart("app", true), accountPart("tx_b", false, &federationv1.Import{Account: "app", Subject: "a.>", To: "b"}, fine)}, "tx_b", "end in >"},
		"two names":        {[]*federationv1.Part{accountPart("app", true), accountPart("tx_b", false, fine, &federationv1.Import{Account: "app", Subject: "orders.>", To: "other.>"})}, "tx_b", `to "other.>": it is imported to "fo.a.app.orders.>" already`},
		"service overlap":  {[]*federationv1.Part{accountPart("app", true, &federationv1.Import{Account: "rx_b", Subject: "fedjs.x", To: "y.x", Service: true}, &federationv1.Import{Account: "rx_b", Subject: "fedjs.*", To: "y.*", Service: true}), linkPart("b")}, "app", "overlaps"},
		"described twice":  {[]*federationv1.Part{accountPart("app", true), accountPart("app", true)}, "app", "twice"},
		"reserved":         {[]*federationv1.Part{accountPart(AgentAccount, true)}, AgentAccount, "taken"},
		"system":           {[]*federationv1.Part{accountPart(SystemAccount, true)}, SystemAccount, "not allowed"},
		"user's link name": {[]*federationv1.Part{accountPart("tx_b", true)}, "tx_b", "not allowed"},
		"bad name":         {[]*federationv1.Part{accountPart("a.b", true)}, "a.b", "not allowed"},
		"plain link name":  {[]*federationv1.Part{accountPart("b", false)}, "b", "not allowed"},
		"link to itself":   {[]*federationv1.Part{linkPart("a")}, "tx_a", "no link"},
		"wildcard peer":    {[]*federationv1.Part{linkPart("*")}, "tx_*", "no link"},
		"two links":        {[]*federationv1.Part{linkPart("b"), linkPart("b")}, "tx_b", "twice"},
	} {
		claims, errs := k.Accounts("a", append(tc.parts, accountPart("bystander", true)))
		if err := errs[tc.account]; err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, errs)
		}
		if len(errs) != 1 || claims["bystander"] == nil {
			t.Errorf("%s: others are affected: %v", name, errs)
		}
		if c := claims["tx_b"]; tc.account == "tx_b" && c != nil && claims["app"] != nil {
			found := false
			for _, i := range c.Imports {
				found = found || i.Subject == "orders.>"
			}
			if !found {
				t.Errorf("%s: the good import is missing", name)
			}
		}
	}
}

func drawParts(rt *rapid.T) []*federationv1.Part {
	accounts := []string{"app", "other", "tx_b", "rx_b", "tx_c", "rx_c", "ghost", AgentAccount, "B.ad"}
	subjects := []string{"orders.>", "orders.*", "fo.b.app.orders.>", "fedjs.b.x", "$JS.FC.S.>", "a..b", ">", "", "x y"}
	var parts []*federationv1.Part
	for range rapid.IntRange(0, 6).Draw(rt, "n") {
		if rapid.Bool().Draw(rt, "link") {
			parts = append(parts, linkPart(rapid.SampledFrom([]string{"b", "c", "self", "*", ""}).Draw(rt, "peer")))
			continue
		}
		name := rapid.SampledFrom(accounts).Draw(rt, "name")
		var imports []*federationv1.Import
		for range rapid.IntRange(0, 4).Draw(rt, "imports") {
			imports = append(imports, &federationv1.Import{
				Account: rapid.SampledFrom(accounts).Draw(rt, "from"),
				Subject: rapid.SampledFrom(subjects).Draw(rt, "subject"),
				To:      rapid.SampledFrom(subjects).Draw(rt, "to"),
				Service: rapid.Bool().Draw(rt, "service"),
			})
		}
		parts = append(parts, accountPart(name, rapid.Bool().Draw(rt, "app"), imports...))
	}
	return parts
}

// Whatever the parts say: the claims are valid, import only from accounts that are
// there, and do not depend on the order of parts with different ids.
func TestAccountsProperties(t *testing.T) {
	k := testKeyring(t, 1)
	rapid.Check(t, func(rt *rapid.T) {
		parts := drawParts(rt)
		claims, errs := k.Accounts("self", parts)
		keys := map[string]bool{}
		for _, c := range claims {
			keys[c.Subject] = true
		}
		for name, c := range claims {
			vr := jwt.CreateValidationResults()
			c.Validate(vr)
			if vr.IsBlocking(true) {
				rt.Fatalf("%s: %v", name, vr.Errors())
			}
			for _, i := range c.Imports {
				if !keys[i.Account] || i.Account == c.Subject {
					rt.Fatalf("%s imports from nowhere: %v", name, i)
				}
			}
			if c.Subject != k.Account(name).Public || c.Name != name {
				rt.Fatalf("%s has the key or name of another", name)
			}
			if c.Limits.IsJSEnabled() != nameRE.MatchString(name) {
				rt.Fatalf("%s: JetStream %v", name, c.Limits.IsJSEnabled())
			}
		}
		ids := map[string]bool{}
		for _, p := range parts {
			if ids[p.Id] {
				return // of two parts of one id either may win
			}
			ids[p.Id] = true
		}
		shuffled := rapid.Permutation(parts).Draw(rt, "order")
		again, errsAgain := k.Accounts("self", shuffled)
		if diff := cmp.Diff(describe(k, claims), describe(k, again)); diff != "" {
			rt.Fatalf("the order matters:\n%s", diff)
		}
		if fmt.Sprint(errs) != fmt.Sprint(errsAgain) {
			rt.Fatalf("errors differ: %v, %v", errs, errsAgain)
		}
	})
}

func TestWithDefaults(t *testing.T) {
	d := DefaultSpec()
	if got := WithDefaults(nil); got.String() != d.String() {
		t.Errorf("defaults: %v", got)
	}
	in := &federationv1.BrokerSpec{MaxStorage: 5, SyncAlways: true}
	got := WithDefaults(in)
	if got.MaxStorage != 5 || !got.SyncAlways || got.MaxPayload != d.MaxPayload || got.MaxMemory != d.MaxMemory || got.MaxConnections != d.MaxConnections {
		t.Errorf("filled in: %v", got)
	}
	if in.MaxPayload != 0 {
		t.Error("the argument was modified")
	}
}
