package embedded

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/sealane/sealane/broker/brokertest"
	"github.com/sealane/sealane/e2e/freeport"
)

// An island is a member whose broker is a cluster of servers, without keys and
// certificates: what it is about are the roles of leaf connections, which do not
// depend on them.
type island struct {
	t        *testing.T
	name     string
	size     int
	js       bool
	dir      string
	accounts map[string][]string // their imports
	remotes  []string
	routes   []int // ports by server
	leafs    []int
	clients  []int
	servers  []*server.Server
}

func newIsland(t *testing.T, name string, size int, js bool) *island {
	t.Helper()
	i := &island{t: t, name: name, size: size, js: js, dir: brokertest.Dir(t), accounts: map[string][]string{"app": nil}, servers: make([]*server.Server, size)}
	for range size {
		i.routes, i.leafs, i.clients = append(i.routes, freeport.Port(t)), append(i.leafs, freeport.Port(t)), append(i.clients, freeport.Port(t))
	}
	t.Cleanup(func() {
		for at := range i.servers {
			i.kill(at)
		}
	})
	return i
}

func (i *island) imports(into, from, subject, to string) { i.add(into, "stream", from, subject, to) }

func (i *island) importsService(into, from, subject, to string) {
	i.add(into, "service", from, subject, to)
}

func (i *island) add(into, kind, from, subject, to string) {
	line := fmt.Sprintf("{%s: {account: %q, subject: %q}", kind, from, subject)
	if to != "" && to != subject {
		line += fmt.Sprintf(", to: %q", to)
	}
	line += "}"
	if i.accounts[from] == nil {
		i.accounts[from] = []string{}
	}
	if !slices.Contains(i.accounts[into], line) {
		i.accounts[into] = append(i.accounts[into], line)
	}
}

// dial makes i open the two connections of a link. With hub each member is the
// hub of the connection on which it sends; else the other one is of both.
func (i *island) dial(to *island, hub bool) {
	for _, side := range []struct {
		local, remote string
		hub           bool
	}{{"tx_" + to.name, "rx_" + i.name, hub}, {"rx_" + to.name, "tx_" + i.name, false}} {
		var urls []string
		for _, p := range to.leafs {
			urls = append(urls, fmt.Sprintf(`"nats://%s:p@127.0.0.1:%d"`, side.remote, p))
		}
		i.remotes = append(i.remotes, fmt.Sprintf("{urls: [%s], account: %q, hub: %t, ignore_discovered_servers: true, no_randomize: true}", strings.Join(urls, ", "), side.local, side.hub))
		for _, x := range []struct {
			at      *island
			account string
		}{{i, side.local}, {to, side.remote}} {
			if x.at.accounts[x.account] == nil {
				x.at.accounts[x.account] = []string{}
			}
		}
	}
}

func (i *island) config(at int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "server_name: %s-%d\nlisten: \"127.0.0.1:%d\"\nno_fast_producer_stall: true\n", i.name, at, i.clients[at])
	if i.js {
		fmt.Fprintf(&b, "jetstream { domain: %s, store_dir: %q, max_mem: 64M, max_file: 64M }\n", i.name, filepath.Join(i.dir, fmt.Sprint(at)))
	}
	fmt.Fprintf(&b, "cluster { name: %s, listen: \"127.0.0.1:%d\", pool_size: -1, no_advertise: true, routes: [", i.name, i.routes[at])
	for other, p := range i.routes {
		if other != at {
			fmt.Fprintf(&b, "\"nats://127.0.0.1:%d\", ", p)
		}
	}
	b.WriteString("] }\n")
	fmt.Fprintf(&b, "leafnodes { listen: \"127.0.0.1:%d\", no_advertise: true, reconnect: \"250ms\", remotes: [\n%s\n] }\n", i.leafs[at], strings.Join(i.remotes, "\n"))
	b.WriteString("system_account: SYS\naccounts {\nSYS { users: [{user: sys, password: p}] }\n")
	for name, imports := range i.accounts {
		js, service := "", "fedjs.>"
		if name == "app" {
			service = "$JS.API.CONSUMER.RESET.*.*"
			if i.js {
				js = "jetstream: enabled"
			}
		}
		fmt.Fprintf(&b, "%q { %s\n users: [{user: %q, password: p}]\n exports: [{stream: \">\"}, {service: %q}]\n imports: [\n%s\n] }\n",
			name, js, name, service, strings.Join(imports, "\n"))
	}
	b.WriteString("}\n")
	return b.String()
}

func (i *island) run(at int) {
	i.t.Helper()
	file := filepath.Join(i.dir, fmt.Sprintf("%d.conf", at))
	if err := os.WriteFile(file, []byte(i.config(at)), 0o600); err != nil {
		i.t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(file)
	if err != nil {
		i.t.Fatalf("%v in\n%s", err, i.config(at))
	}
	opts.NoSigs, opts.NoLog, opts.DisableJetStreamBanner = true, true, true
	s, err := server.NewServer(opts)
	if err != nil {
		i.t.Fatal(err)
	}
	i.servers[at] = s
	go s.Start()
}

func (i *island) kill(at int) {
	if s := i.servers[at]; s != nil {
		s.Shutdown()
		s.WaitForShutdown()
		i.servers[at] = nil
	}
}

// startIslands starts all servers and waits until the links are there.
func startIslands(t *testing.T, all ...*island) {
	t.Helper()
	for _, i := range all {
		for at := range i.servers {
			i.run(at)
		}
	}
	for _, i := range all {
		i.waitRoutes()
		i.waitRemotes()
	}
}

func (i *island) running() []*server.Server {
	return slices.DeleteFunc(slices.Clone(i.servers), func(s *server.Server) bool { return s == nil })
}

func (i *island) waitRoutes() {
	i.t.Helper()
	up := i.running()
	eventually(i.t, i.name+": the servers find each other", func() error {
		for _, s := range up {
			if n := s.NumRoutes(); n < len(up)-1 || !s.ReadyForConnections(time.Millisecond) {
				return fmt.Errorf("%s has %d routes", s.Name(), n)
			}
			if i.js && !slices.ContainsFunc(up, (*server.Server).JetStreamIsLeader) && i.size > 1 {
				return fmt.Errorf("no leader")
			}
		}
		return nil
	})
}

// waitRemotes waits until each server has the connections that it opens.
func (i *island) waitRemotes() {
	i.t.Helper()
	eventually(i.t, i.name+": links", func() error {
		for _, s := range i.running() {
			z, err := s.Leafz(nil)
			if err != nil {
				return err
			}
			mine := 0
			for _, l := range z.Leafs {
				if strings.HasPrefix(l.Account, "tx_") || strings.HasPrefix(l.Account, "rx_") {
					mine++
				}
			}
			if mine < len(i.remotes) {
				return fmt.Errorf("%s has %d of %d", s.Name(), mine, len(i.remotes))
			}
		}
		return nil
	})
}

// connect is a client of one server.
func (i *island) connect(at int, opts ...nats.Option) *nats.Conn {
	i.t.Helper()
	nc, err := nats.Connect(fmt.Sprintf("nats://app:p@127.0.0.1:%d", i.clients[at]), append([]nats.Option{
		nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), nats.CustomInboxPrefix("_INBOX." + i.name),
	}, opts...)...)
	if err != nil {
		i.t.Fatal(err)
	}
	i.t.Cleanup(nc.Close)
	return nc
}

// anywhere is a client that goes to another server when its own dies.
func (i *island) anywhere() *nats.Conn {
	i.t.Helper()
	var urls []string
	for _, p := range i.clients {
		urls = append(urls, fmt.Sprintf("nats://app:p@127.0.0.1:%d", p))
	}
	nc, err := nats.Connect(strings.Join(urls, ","), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		i.t.Fatal(err)
	}
	i.t.Cleanup(nc.Close)
	return nc
}

// isles is a way from the first island to the last, as path is for members.
type isles []*island

func (p isles) forward(subject string) {
	o, d := p[0], p[len(p)-1]
	tagged := "fo." + o.name + ".app." + subject
	o.imports("tx_"+p[1].name, "app", subject, tagged)
	for i := 1; i < len(p)-1; i++ {
		p[i].imports("tx_"+p[i+1].name, "rx_"+p[i-1].name, tagged, "")
	}
	d.imports("app", "rx_"+p[len(p)-2].name, tagged, subject)
}

func (p isles) reply(subject string) {
	o, d := p[0], p[len(p)-1]
	tagged := "re." + d.name + ".app." + subject
	d.imports("rx_"+p[len(p)-2].name, "app", subject, tagged)
	for i := 1; i < len(p)-1; i++ {
		p[i].imports("rx_"+p[i-1].name, "tx_"+p[i+1].name, tagged, "")
	}
	o.imports("app", "tx_"+p[1].name, tagged, subject)
}

func (p isles) reset(stream, consumer string) {
	o, d := p[0], p[len(p)-1]
	op := "CONSUMER.RESET." + stream + "." + consumer
	tagged := "fedjs." + o.name + ".app." + op
	o.importsService("tx_"+p[1].name, "app", "$JS.API."+op, tagged)
	for i := 1; i < len(p)-1; i++ {
		p[i].importsService("tx_"+p[i+1].name, "rx_"+p[i-1].name, tagged, "")
	}
	d.importsService("app", "rx_"+p[len(p)-2].name, tagged, "fedjs."+o.name+"."+op)
}

func (p isles) reversed() isles {
	r := slices.Clone(p)
	slices.Reverse(r)
	return r
}

// everything lets events and requests flow both ways.
func (p isles) everything() {
	for _, w := range []isles{p, p.reversed()} {
		w.forward("ev.>")
		w.forward("svc.>")
		w.reply("_INBOX." + w[0].name + ".>")
	}
}
