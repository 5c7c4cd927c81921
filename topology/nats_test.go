package topology

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker/brokertest"
)

// TestImportsAreAccepted gives the imports of random plans to the accounts of
// nats-server, which refuses cycles, doubles and mappings that it cannot do.
func TestImportsAreAccepted(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		for name, m := range Compile(genInput(t)).Members {
			accounts := map[string]*server.Account{}
			for _, part := range m.Parts {
				if a := part.Part.GetAccount(); a != nil {
					acct := server.NewAccount(a.Name)
					if err := acct.AddStreamExport(">", nil); err != nil {
						t.Fatal(err)
					}
					service := "fedjs.>"
					if a.Application {
						service = federationv1.ResetPrefix + "CONSUMER.RESET.*.*"
					}
					if err := acct.AddServiceExport(service, nil); err != nil {
						t.Fatal(err)
					}
					accounts[a.Name] = acct
				}
			}
			for _, part := range m.Parts {
				a := part.Part.GetAccount()
				for _, i := range a.GetImports() {
					to := i.To
					if to == "" {
						to = i.Subject
					}
					var err error
					if i.Service {
						err = accounts[a.Name].AddServiceImport(accounts[i.Account], to, i.Subject)
					} else {
						err = accounts[a.Name].AddMappedStreamImport(accounts[i.Account], i.Subject, to)
					}
					if err != nil {
						t.Errorf("%s: %s imports %v: %v", name, a.Name, i, err)
					}
				}
			}
		}
	})
}

// cluster is a federation of real servers that run a plan, without the agents'
// keys and certificates.
type cluster struct {
	t       *testing.T
	plan    *Plan
	servers map[string]*server.Server
}

// startCluster starts a server for each member. Of the links of a choice those
// in dead are not opened.
func startCluster(t *testing.T, p *Plan, dead map[[2]string]bool) *cluster {
	t.Helper()
	c := &cluster{t: t, plan: p, servers: map[string]*server.Server{}}
	ports := map[string]int{}
	// Acceptors first: a dialer needs the port. Links form no cycle of dialing.
	for left := slices.Sorted(maps.Keys(p.Members)); len(left) > 0; {
		n := len(left)
		left = slices.DeleteFunc(left, func(name string) bool {
			for _, l := range p.Links {
				if l.Dialer == name && ports[l.Acceptor] == 0 {
					return false
				}
			}
			c.servers[name], ports[name] = startServer(t, p, name, ports, dead)
			return true
		})
		if len(left) == n {
			t.Skip("members dial in a circle")
		}
	}
	want := map[string]int{}
	for _, l := range p.Links {
		if !dead[[2]string{l.Dialer, l.Acceptor}] {
			want[l.Dialer] += 2
			want[l.Acceptor] += 2
		}
	}
	for name, n := range want {
		poll(t, fmt.Sprintf("the links of %s", name), func() bool { return c.servers[name].NumLeafNodes() == n })
	}
	return c
}

func startServer(t *testing.T, p *Plan, name string, ports map[string]int, dead map[[2]string]bool) (*server.Server, int) {
	t.Helper()
	var b strings.Builder
	dir := brokertest.Dir(t)
	fmt.Fprintf(&b, "server_name: %s\nlisten: 127.0.0.1:-1\njetstream { domain: %s, store_dir: %q }\naccounts {\n SYS { users: [{user: SYS, password: p}] }\n", name, name, dir)
	for _, part := range p.Members[name].Parts {
		a := part.Part.GetAccount()
		if a == nil {
			continue
		}
		service, js := "fedjs.>", ""
		if a.Application {
			service, js = federationv1.ResetPrefix+"CONSUMER.RESET.*.*", "jetstream: enabled"
		}
		users, mappings := fmt.Sprintf("{user: %q, password: p}", a.Name), ""
		if strings.Contains(a.Name, federationv1.GroupPeer("")) {
			users = siteUsers(p, name, a.Name)
		}
		if strings.HasPrefix(a.Name, federationv1.OutAccount(federationv1.GroupPeer(""))) {
			mappings = `mappings: {"fo.>": "void.fo.>", "re.>": "re.>"}`
		}
		fmt.Fprintf(&b, " %q {\n  %s\n  users: [%s]\n  %s\n  exports: [{stream: \">\"}, {service: %q}]\n  imports: [\n", a.Name, js, users, mappings, service)
		for _, i := range a.Imports {
			kind, to := "stream", i.To
			if i.Service {
				kind = "service"
			}
			if to == "" {
				to = i.Subject
			}
			fmt.Fprintf(&b, "   {%s: {account: %q, subject: %q}, to: %q}\n", kind, i.Account, i.Subject, to)
		}
		b.WriteString("  ] }\n")
	}
	b.WriteString("}\nsystem_account: SYS\nleafnodes { listen: 127.0.0.1:-1, reconnect: 250ms\n remotes: [\n")
	for _, l := range p.Links {
		if l.Dialer != name || dead[[2]string{l.Dialer, l.Acceptor}] {
			continue
		}
		out, in := federationv1.OutAccount(l.Acceptor), federationv1.InAccount(l.Acceptor)
		fmt.Fprintf(&b, "  {url: \"nats-leaf://%s:p@127.0.0.1:%d\", account: %s, hub: %t}\n", federationv1.InAccount(name), ports[l.Acceptor], out, l.Split)
		shared := p.Members[name].Part(federationv1.LinkID(l.Acceptor)).Part.GetLink().GetGroup() != nil
		fmt.Fprintf(&b, "  {url: \"nats-leaf://%s:p@127.0.0.1:%d\", account: %s, request_isolation: %t}\n", federationv1.OutAccount(name), ports[l.Acceptor], in, shared)
	}
	b.WriteString(" ] }\n")
	file := filepath.Join(dir, "nats.conf")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, b.String())
	}
	opts.NoSigs, opts.NoLog = true, true
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, b.String())
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	poll(t, name, func() bool { return s.ReadyForConnections(time.Second) })
	return s, opts.LeafNode.Port
}

func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// passResets has resets of other members passed on, as the agent does.
func (c *cluster) passResets(member, account string) {
	c.t.Helper()
	nc := c.connect(member, account)
	if _, err := nc.Subscribe(federationv1.ResetPrefix+"CONSUMER.RESET.*.*", func(r *nats.Msg) {
		request := &nats.Msg{Subject: "$JS.API." + strings.TrimPrefix(r.Subject, federationv1.ResetPrefix), Header: r.Header}
		if answer, err := nc.RequestMsg(request, 5*time.Second); err == nil {
			_ = r.RespondMsg(answer)
		}
	}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) connect(member, account string) *nats.Conn {
	c.t.Helper()
	nc, err := nats.Connect(c.servers[member].ClientURL(), nats.UserInfo(account, "p"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(nc.Close)
	return nc
}

// listener counts what one account of one member receives.
type listener struct {
	nc *nats.Conn
	mu sync.Mutex
	in map[string]int // by payload and subject
}

func (l *listener) count(payload string) map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]int{}
	for k, n := range l.in {
		if subject, ok := strings.CutSuffix(k, " "+payload); ok {
			out[subject] += n
		}
	}
	return out
}

// TestOnServers runs random plans on real servers: what a client publishes on one
// member is received by clients of the others as the bridges say, once.
func TestOnServers(t *testing.T) {
	if testing.Short() {
		t.Skip("starts servers")
	}
	t.Parallel()
	inputs := rapid.Custom(genInput)
	for seed, plain, choosing, sharing := 1, 2, 2, 3; plain+choosing+sharing > 0; seed++ {
		in := inputs.Example(seed)
		p := Compile(in)
		if len(inEffect(p)) < 2 || len(p.Links) < 2 {
			continue
		}
		left := &plain
		switch f := p.memo.world.fabrics[0]; {
		case sharesLive(p):
			left = &sharing
		case len(f.graph.choosers) > 0:
			left = &choosing
		}
		if *left == 0 {
			continue
		}
		*left--
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runOnServers(t, p, seed) })
	}
}

func runOnServers(t *testing.T, p *Plan, seed int) {
	dead := map[[2]string]bool{}
	byChild := map[string][]string{}
	for _, l := range p.Links {
		if l.FailoverGroup != "" {
			byChild[l.Dialer] = append(byChild[l.Dialer], l.Acceptor)
		}
	}
	for child, parents := range byChild {
		for i, parent := range parents {
			if i != seed%len(parents) {
				dead[[2]string{child, parent}] = true
			}
		}
	}
	c := startCluster(t, p, dead)
	f := p.memo.world.fabrics[0]
	listeners := map[[2]string]*listener{}
	for _, m := range f.names {
		for _, a := range f.accounts {
			l := &listener{nc: c.connect(m, a), in: map[string]int{}}
			for _, s := range []string{"a.>", "b.>", "c.>", "new.>", strings.TrimSuffix(inboxOf(f, m), "x") + ">", "ready.>"} {
				if _, err := l.nc.Subscribe(s, func(msg *nats.Msg) {
					l.mu.Lock()
					defer l.mu.Unlock()
					l.in[msg.Subject+" "+string(msg.Data)]++
				}); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.nc.Flush(); err != nil {
				t.Fatal(err)
			}
			listeners[[2]string{m, a}] = l
		}
	}
	counted := map[string]map[delivery]int{} // by payload
	for _, origin := range f.names {
		for _, account := range f.accounts {
			nc := listeners[[2]string{origin, account}].nc
			send := func(subject, payload string) {
				if err := nc.Publish(subject, []byte(payload)); err != nil {
					t.Fatal(err)
				}
			}
			publish := func(subject string, want map[delivery]int) {
				// Interest spreads in its own time: publish until it is there, then count.
				what := subject + " " + origin + " " + account
				probes := 0
				poll(t, what, func() bool {
					for n := range probes {
						if compareCounts(listeners, account, fmt.Sprint("probe ", n, what), want) == "" {
							return true
						}
					}
					send(subject, fmt.Sprint("probe ", probes, what))
					probes++
					return false
				})
				counted[account+" counted "+what] = want
				send(subject, account+" counted "+what)
			}
			for _, subject := range genLiterals {
				want := wantEvents(f, p, origin, account, subject)
				want[delivery{origin, account, subject}]++ // its own
				publish(subject, want)
			}
			for _, requester := range f.names {
				if requester != origin {
					inbox := inboxOf(f, requester)
					want := wantReplies(f, p, origin, account, requester, inbox)
					maps.DeleteFunc(want, func(d delivery, _ int) bool { return d.member != requester }) // others do not listen
					publish(inbox, want)
				}
			}
		}
	}
	for payload, want := range counted {
		account, _, _ := strings.Cut(payload, " ")
		poll(t, payload, func() bool { return compareCounts(listeners, account, payload, want) == "" })
	}
	for payload, want := range counted { // no more came in the meantime
		account, _, _ := strings.Cut(payload, " ")
		if diff := compareCounts(listeners, account, payload, want); diff != "" {
			t.Errorf("%s: %s", payload, diff)
		}
	}
}

// compareCounts tells how what was received of a payload differs from what should
// have been.
func compareCounts(listeners map[[2]string]*listener, account, payload string, want map[delivery]int) string {
	for at, l := range listeners {
		got := l.count(payload)
		for d, n := range want {
			if d.member == at[0] && d.account == at[1] && got[d.subject] != n {
				return fmt.Sprintf("%d copies of %s at %v, want %d", got[d.subject], d.subject, at, n)
			}
		}
		for subject, n := range got {
			if at[1] != account || want[delivery{at[0], account, subject}] != n {
				return fmt.Sprintf("%d copies of %s at %v, want %d", n, subject, at, want[delivery{at[0], account, subject}])
			}
		}
	}
	return ""
}

// TestDurableOnServers copies a stream from an edge site with two parents to the
// other side of a federation, first over one parent, then over the other.
func TestDurableOnServers(t *testing.T) {
	if testing.Short() {
		t.Skip("starts servers")
	}
	t.Parallel()
	durableOnServers(t, durableScenario)
}

func durableOnServers(t *testing.T, scenario string) {
	_, sections := parseArchive(scenario)
	in := readInput(t, sections)
	p := Compile(in)
	if refusals(p) > 0 {
		t.Fatal(p.Problems)
	}
	for _, dead := range []string{"hub1", "hub2"} {
		t.Run("without "+dead, func(t *testing.T) {
			c := startCluster(t, p, map[[2]string]bool{{"edge", dead}: true, {"far", "hub1"}: true})
			c.passResets("edge", "orders")
			c.applyStreams()
			js, err := c.connect("edge", "orders").JetStream()
			if err != nil {
				t.Fatal(err)
			}
			const n = 200
			for i := range n {
				if _, err := js.Publish("orders.x", fmt.Append(nil, i)); err != nil {
					t.Fatal(err)
				}
			}
			there, err := c.connect("far", "orders").JetStream()
			if err != nil {
				t.Fatal(err)
			}
			poll(t, "the copies", func() bool {
				info, err := there.StreamInfo("ORDERS")
				return err == nil && info.State.Msgs == n
			})
			poll(t, "the acknowledgement at the origin", func() bool {
				for ci := range js.Consumers("ORDERS") {
					if ci.AckFloor.Stream == n {
						return true
					}
				}
				return false
			})
		})
	}
}

const durableScenario = `
-- members --
hub1
hub2
edge -
far -
-- main.yaml --
kind: MessagingTopology
metadata: {name: main}
spec:
  groups: [{name: hubs, clusters: [hub1, hub2]}, {name: edges, clusters: [edge, far]}]
  links:
  - {name: mesh, type: Mesh, groups: [hubs]}
  - {name: spokes, type: HubAndSpoke, hubAndSpoke: {hubs: hubs, spokes: edges}}
  accounts: [{name: orders, namespaces: ["*"]}]
---
kind: Stream
metadata: {namespace: apps, name: orders}
spec: {account: orders, name: ORDERS, placement: {clusters: [edge]}, subjects: ["orders.>"]}
---
kind: Bridge
metadata: {namespace: apps, name: copy}
spec: {account: orders, type: Stream, from: {clusters: [edge]}, to: {clusters: [far]}, stream: {name: ORDERS}}
`

// applyStreams makes the streams and outlets of the plan, as agents do.
func (c *cluster) applyStreams() {
	c.t.Helper()
	for _, member := range slices.Sorted(maps.Keys(c.plan.Members)) {
		for _, part := range c.plan.Members[member].Parts {
			if s := part.Part.GetStream(); s != nil {
				var sources []map[string]any
				for _, x := range s.Sources {
					sources = append(sources, map[string]any{
						"name": x.Stream, "external": map[string]any{"api": x.ApiPrefix},
						"consumer": map[string]any{"name": x.Consumer, "deliver_subject": x.DeliverSubject},
					})
				}
				c.call(member, s.Account, "STREAM.CREATE."+s.Name, map[string]any{"name": s.Name, "subjects": s.Subjects, "storage": "memory", "retention": "limits", "sources": sources})
			}
		}
	}
	for _, member := range slices.Sorted(maps.Keys(c.plan.Members)) {
		for _, part := range c.plan.Members[member].Parts {
			if o := part.Part.GetOutlet(); o != nil {
				c.call(member, o.Account, "CONSUMER.CREATE."+o.Stream+"."+o.Consumer, map[string]any{"stream_name": o.Stream, "config": map[string]any{
					"durable_name": o.Consumer, "name": o.Consumer, "deliver_subject": o.DeliverSubject, "ack_policy": "flow_control",
					"flow_control": true, "idle_heartbeat": time.Second, "max_ack_pending": 4096,
				}})
			}
		}
	}
}

func (c *cluster) call(member, account, api string, body any) {
	c.t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		c.t.Fatal(err)
	}
	answer, err := c.connect(member, account).Request("$JS.API."+api, data, 5*time.Second)
	if err != nil {
		c.t.Fatalf("%s of %s: %v", api, member, err)
	}
	var reply struct {
		Error *struct{ Description string } `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &reply); err != nil || reply.Error != nil {
		c.t.Fatalf("%s of %s: %v %v", api, member, err, reply.Error)
	}
}
