package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/broker"
	"github.com/sealane/sealane/broker/embedded"
	"github.com/sealane/sealane/topology"
)

const (
	domain  = "bench.local"
	parent  = "west"
	beyond  = "berlin"
	account = "app"
	// few brokers start or stop at once: that is not what is measured.
	few = 8
)

// region is the brokers of sites, of their parent, and of a region beyond it. What
// agents do, it does itself: it gives each broker what the planner says.
type region struct {
	dir      string
	links    v1alpha1.SpokeLinks
	subjects int
	ca       *authority
	members  map[string]*member
	sites    []string
	issued   time.Time
	applied  int // changes of accounts so far
}

// member is one broker.
type member struct {
	name    string
	keyring *broker.Keyring
	rt      *embedded.Runtime
	config  broker.Config
	grants  map[string]*federationv1.Grant // by acceptor
	claims  map[string]*jwt.AccountClaims
	hash    string
	conn    *nats.Conn

	mu    sync.Mutex
	heard map[string]bool
}

func newRegion(links v1alpha1.SpokeLinks, subjects int) (*region, error) {
	dir, err := os.MkdirTemp("", "sealane-sites")
	if err != nil {
		return nil, err
	}
	ca, err := newAuthority()
	if err != nil {
		return nil, err
	}
	return &region{dir: dir, links: links, subjects: subjects, ca: ca, members: map[string]*member{}, issued: time.Now()}, nil
}

func (r *region) stop() {
	_ = each(slices.Collect(maps.Values(r.members)), few, func(m *member) error { // it is over
		if m.conn != nil {
			m.conn.Close()
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return m.rt.Shutdown(ctx)
	})
	os.RemoveAll(r.dir) // a temporary folder
}

// each calls fn for all members, for so many at once.
func each(members []*member, atOnce int, fn func(*member) error) error {
	errs := make([]error, len(members))
	turns := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			if err := fn(m); err != nil {
				errs[i] = fmt.Errorf("%s: %w", m.name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// start starts the brokers, without links.
func (r *region) start(ctx context.Context, sites int) error {
	names := []string{parent, beyond}
	for i := range sites {
		r.sites = append(r.sites, fmt.Sprintf("site%04d", i))
	}
	for _, name := range append(names, r.sites...) {
		m, err := r.newMember(name)
		if err != nil {
			return err
		}
		r.members[name] = m
	}
	return each(slices.Collect(maps.Values(r.members)), few, func(m *member) error {
		claims, _ := m.keyring.Accounts(m.name, []*federationv1.Part{{Spec: &federationv1.Part_Account{Account: &federationv1.AccountSpec{Name: account, Application: true}}}})
		m.rt.SetAccounts(ctx, claims)
		if _, err := m.rt.Configure(ctx, m.config); err != nil {
			return err
		}
		return m.listen()
	})
}

func (r *region) newMember(name string) (*member, error) {
	dir := filepath.Join(r.dir, name)
	keyring, err := broker.LoadOrCreateKeyring(filepath.Join(dir, "seed"))
	if err != nil {
		return nil, err
	}
	tls, err := r.ca.issue(name)
	if err != nil {
		return nil, err
	}
	m := &member{name: name, keyring: keyring, grants: map[string]*federationv1.Grant{}, heard: map[string]bool{}, config: broker.Config{
		Cluster: name, TrustDomain: domain, TLS: tls, Spec: &federationv1.BrokerSpec{MaxStorage: 64 << 20, MaxMemory: 8 << 20},
	}}
	options := embedded.Options{DataDir: dir, ClientListen: "127.0.0.1:0", Keyring: keyring, Log: slog.New(slog.DiscardHandler)}
	if name == parent || name == beyond {
		options.LinkListen = "127.0.0.1:0"
	}
	m.rt, err = embedded.New(options)
	return m, err
}

// listen notes the subjects that the member hears events on.
func (m *member) listen() (err error) {
	if m.conn, err = m.rt.Connect(account, nats.Timeout(time.Minute)); err != nil {
		return err
	}
	_, err = m.conn.Subscribe("*.*.*", func(msg *nats.Msg) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.heard[msg.Subject+" "+string(msg.Data)] = true
	})
	if err != nil {
		return err
	}
	return m.conn.Flush()
}

// plan is what the planner says with so many sites.
func (r *region) plan(sites int) *topology.Plan {
	in := topology.Input{}
	names := make([]string, sites)
	for i := range names {
		names[i] = fmt.Sprintf("site%04d", i)
	}
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "bench", Name: name, UID: types.UID(name), Generation: 1}
	}
	for _, name := range append([]string{parent, beyond}, names...) {
		object := &v1alpha1.MemberCluster{ObjectMeta: meta(name)}
		object.Status.LinkKey = "U" + name
		object.Status.Agent = &v1alpha1.AgentInfo{LinkRoles: true, LinkGroups: true}
		if m := r.members[name]; m != nil {
			object.Status.LinkKey = m.keyring.LinkUser().Public
			if port := m.rt.LinkPort(); port != 0 {
				object.Status.Endpoints = []string{fmt.Sprintf("127.0.0.1:%d", port)}
			}
			for acceptor, g := range m.grants {
				object.Status.Grants = append(object.Status.Grants, v1alpha1.Grant{Peer: acceptor, Key: g.Key, Out: g.Out, In: g.In})
			}
		}
		in.Members = append(in.Members, object)
	}
	in.Topologies = []*v1alpha1.MessagingTopology{{ObjectMeta: meta("main"), Spec: v1alpha1.MessagingTopologySpec{
		Groups: []v1alpha1.Group{{Name: "core", Clusters: []string{parent, beyond}}, {Name: "sites", Clusters: names}},
		Links: []v1alpha1.LinkRule{
			{Name: "core", Type: v1alpha1.LinkMesh, Groups: []string{"core"}},
			{Name: "edge", Type: v1alpha1.LinkHubAndSpoke, HubAndSpoke: &v1alpha1.HubAndSpoke{
				Hubs: "core", Spokes: "sites", MaxParents: 1, Order: []string{parent}, Links: r.links,
			}},
		},
		Accounts: []v1alpha1.Account{{Name: account, Namespaces: []string{"*"}}},
	}}}
	for i := range r.subjects {
		for _, way := range []struct {
			name     string
			from, to v1alpha1.Placement
		}{
			{"up", v1alpha1.Placement{Group: "sites"}, v1alpha1.Placement{Group: "core"}},
			{"down", v1alpha1.Placement{Clusters: []string{beyond}}, v1alpha1.Placement{Group: "sites"}},
		} {
			in.Bridges = append(in.Bridges, &v1alpha1.Bridge{ObjectMeta: meta(fmt.Sprintf("%s-%d", way.name, i)), Spec: v1alpha1.BridgeSpec{
				Account: account, Type: v1alpha1.BridgeEvents, From: way.from, To: way.to, Subjects: []string{fmt.Sprintf("%s.%d.*", way.name, i)},
			}})
		}
	}
	return topology.Compile(in)
}

// apply brings all brokers to the plan with so many sites: accounts and grants at the
// acceptors, then what the dialers have.
func (r *region) apply(ctx context.Context, sites int) error {
	p := r.plan(sites)
	for _, x := range p.Problems {
		return fmt.Errorf("%s %s: %s", x.Object.Kind, x.Object.Name, x.Message)
	}
	for name, state := range p.Members {
		for _, part := range state.Parts {
			l := part.Part.GetLink()
			if l.GetRole() != federationv1.LinkSpec_ACCEPT || r.members[l.Peer].grants[name] != nil {
				continue
			}
			g, err := broker.IssueLinkGrant(r.members[name].keyring, l, r.issued)
			if err != nil {
				return err
			}
			r.members[l.Peer].grants[name] = g
		}
	}
	p = r.plan(sites)
	var changed []*member
	for _, name := range append([]string{parent, beyond}, r.sites[:sites]...) {
		if m := r.members[name]; m.hash != p.Members[name].Hash {
			m.hash = p.Members[name].Hash
			changed = append(changed, m)
		}
	}
	return each(changed, len(changed), func(m *member) error { return m.apply(ctx, p.Members[m.name]) })
}

func (m *member) apply(ctx context.Context, state *topology.MemberState) error {
	var parts []*federationv1.Part
	m.config.Remotes = nil
	for _, planned := range state.Parts {
		parts = append(parts, planned.Part)
		l := planned.Part.GetLink()
		if l.GetRole() != federationv1.LinkSpec_DIAL {
			continue
		}
		m.config.Remotes = append(m.config.Remotes,
			broker.Remote{Peer: l.Peer, Out: true, Endpoints: l.Endpoints, JWT: l.Grant.Out, Spoke: l.Spoke, Shared: l.Group != nil},
			broker.Remote{Peer: l.Peer, Endpoints: l.Endpoints, JWT: l.Grant.In, Spoke: l.Spoke, Shared: l.Group != nil})
	}
	claims, errs := m.keyring.Accounts(m.name, parts)
	m.claims = claims
	maps.Copy(errs, m.rt.SetAccounts(ctx, claims))
	if len(errs) > 0 {
		return fmt.Errorf("accounts: %v", errs)
	}
	_, err := m.rt.Configure(ctx, m.config)
	return err
}

// claims are the accounts of a member's links, and the bytes of all its claims.
func (r *region) claims(name string) (links, bytes int) {
	return sizeOf(r.members[name], r.members[name].claims)
}

func sizeOf(m *member, claims map[string]*jwt.AccountClaims) (links, bytes int) {
	for account, c := range claims {
		if len(account) > 3 && (account[:3] == "tx_" || account[:3] == "rx_") {
			links++
		}
		token, err := broker.Sign(c, m.keyring.Operator(), time.Now())
		if err != nil {
			return 0, 0
		}
		bytes += len(token)
	}
	return links, bytes
}

// planned are the bytes of the parent's claims with so many sites.
func (r *region) planned(sites int) (int, error) {
	m := r.members[parent]
	var parts []*federationv1.Part
	for _, part := range r.plan(sites).Members[parent].Parts {
		parts = append(parts, part.Part)
	}
	claims, errs := m.keyring.Accounts(parent, parts)
	if len(errs) > 0 {
		return 0, fmt.Errorf("accounts: %v", errs)
	}
	_, n := sizeOf(m, claims)
	return n, nil
}

// heard waits until an event of the region beyond has come to each of the first
// sites, and one of each of them to the region.
func (r *region) heard(ctx context.Context, subject string, sites int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	r.applied++
	id := fmt.Sprint(r.applied)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	up := "up" + subject[len("down"):]
	for {
		if err := r.members[beyond].conn.Publish(subject, []byte(id)); err != nil {
			return err
		}
		missing := 0
		for _, name := range r.sites[:sites] {
			if m := r.members[name]; !m.has(subject + " " + id) {
				missing++
			} else if !r.members[beyond].has(up + " " + name + id) {
				missing++
				if err := m.conn.Publish(up, []byte(name+id)); err != nil {
					return err
				}
			}
		}
		if missing == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d sites do not hear: %w", missing, sites, ctx.Err())
		}
	}
}

func (m *member) has(what string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.heard[what]
}
