package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nats-io/nkeys"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

// size says how large a federation is.
type size struct {
	members int
	// subjects that every member gets from the first region, and streams that every
	// member has: they make up its state.
	subjects, streams int
	// parents is how many regions an edge site has links to.
	parents int
}

// regions are one in a hundred members, at most 20. All others are edge sites behind
// them.
func (s size) regions() int { return min(max(s.members/100, 2), 20) }

// perBridge is how many subjects one bridge has, of those that every member gets.
const perBridge = 32

func (s size) bridges() int { return (s.subjects+perBridge-1)/perBridge + 2 }

func regionName(i int) string { return fmt.Sprintf("region-%02d", i) }
func edgeName(i int) string   { return fmt.Sprintf("edge-%04d", i) }

const (
	tierLabel   = "tier"
	regionLabel = "topology.kubernetes.io/region"
	namespace   = "bench"
)

var tenants = []string{"orders", "billing", "telemetry"}

// names are the members with their labels, the regions first.
func (s size) names() (names []string, labels []map[string]string) {
	for i := range s.regions() {
		names = append(names, regionName(i))
		labels = append(labels, map[string]string{tierLabel: "region", regionLabel: regionName(i)})
	}
	for i := range s.members - s.regions() {
		names = append(names, edgeName(i))
		labels = append(labels, map[string]string{tierLabel: "edge", regionLabel: regionName(i % s.regions())})
	}
	return names, labels
}

// objects are the resources: regions in a mesh, edge sites behind their nearest
// region, subjects that every member gets from the first region, one bridge between
// that region and one of its edge sites, and streams everywhere.
func (s size) objects() []client.Object {
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: namespace, Name: name} }
	tier := func(v string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{tierLabel: v}}
	}
	topo := &v1alpha1.MessagingTopology{ObjectMeta: metav1.ObjectMeta{Name: "world"}, Spec: v1alpha1.MessagingTopologySpec{
		Groups: []v1alpha1.Group{{Name: "regions", Selector: tier("region")}, {Name: "edges", Selector: tier("edge")}},
		Links: []v1alpha1.LinkRule{
			{Name: "mesh", Type: v1alpha1.LinkMesh, Groups: []string{"regions"}},
			{Name: "spokes", Type: v1alpha1.LinkHubAndSpoke, HubAndSpoke: &v1alpha1.HubAndSpoke{
				Hubs: "regions", Spokes: "edges", Parents: v1alpha1.ParentsNearest, MaxParents: int32(s.parents),
			}},
		},
	}}
	for _, name := range tenants {
		topo.Spec.Accounts = append(topo.Spec.Accounts, v1alpha1.Account{Name: name, Namespaces: []string{"*"}})
	}
	out := []client.Object{topo}
	everywhere := v1alpha1.Placement{Selector: &metav1.LabelSelector{}}
	origin := v1alpha1.Placement{Clusters: []string{regionName(0)}}
	for i := 0; i < s.subjects; i += perBridge {
		b := &v1alpha1.Bridge{ObjectMeta: meta(fmt.Sprintf("catalogue-%02d", i/perBridge)), Spec: v1alpha1.BridgeSpec{
			Account: tenants[i/perBridge%len(tenants)], Type: v1alpha1.BridgeEvents, From: origin, To: everywhere,
		}}
		for j := i; j < min(i+perBridge, s.subjects); j++ {
			b.Spec.Subjects = append(b.Spec.Subjects, fmt.Sprintf("catalogue.%02d.item-%04d.>", i/perBridge, j))
		}
		out = append(out, b)
	}
	for i := range s.streams {
		out = append(out, stream(i, int64(i+1)<<20))
	}
	return append(out, everyone(0), pair(0))
}

// stream is one that every member has.
func stream(i int, maxBytes int64) *v1alpha1.Stream {
	return &v1alpha1.Stream{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("log-%02d", i)}, Spec: v1alpha1.StreamSpec{
		Account: tenants[i%len(tenants)], Name: fmt.Sprintf("LOG-%02d", i), Placement: v1alpha1.Placement{Selector: &metav1.LabelSelector{}},
		Subjects: []string{fmt.Sprintf("log-%02d.>", i)}, MaxBytes: resource.NewQuantity(maxBytes, resource.BinarySI),
	}}
}

// everyone is a bridge to every member, with another subject each round.
func everyone(round int) *v1alpha1.Bridge {
	return &v1alpha1.Bridge{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "everyone"}, Spec: v1alpha1.BridgeSpec{
		Account: tenants[0], Type: v1alpha1.BridgeEvents, From: v1alpha1.Placement{Clusters: []string{regionName(0)}},
		To: v1alpha1.Placement{Selector: &metav1.LabelSelector{}}, Subjects: []string{fmt.Sprintf("everyone.%d.>", round)},
	}}
}

// pair is a bridge between two members: a region and an edge site of it.
func pair(round int) *v1alpha1.Bridge {
	return &v1alpha1.Bridge{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "pair"}, Spec: v1alpha1.BridgeSpec{
		Account: tenants[0], Type: v1alpha1.BridgeEvents, From: v1alpha1.Placement{Clusters: []string{edgeName(0)}},
		To: v1alpha1.Placement{Clusters: []string{regionName(0)}}, Subjects: []string{fmt.Sprintf("pair.%d.>", round)},
	}}
}

// connectAPI is a client of the hub's own API server.
func connectAPI(kubeconfig string) (client.Client, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg.QPS = -1
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	return client.New(cfg, client.Options{Scheme: scheme})
}

// perToken is how many members use one token: each use is a write of it.
const perToken = 25

// enrolAll makes every member a member through the hub's Enrol, as agents do.
func enrolAll(ctx context.Context, api client.Client, hub string, s size) (*fleet, error) {
	f := &fleet{hub: hub, byName: map[string]*member{}}
	names, labels := s.names()
	byRegion := map[string][]*member{}
	var order []string
	labelsOf := map[string]map[string]string{}
	for i, name := range names {
		key, err := nkeys.CreateUser()
		if err != nil {
			return nil, err
		}
		public, err := key.PublicKey()
		if err != nil {
			return nil, err
		}
		m := &member{name: name, linkKey: public, fleet: f, held: map[string]string{}, hash: federationv1.EmptyHash, links: map[string]bool{}, grants: map[string]*federationv1.Grant{}}
		if labels[i][tierLabel] == "region" {
			m.endpoints = []string{name + ".example.com:7422"}
		}
		f.members, f.byName[name] = append(f.members, m), m
		group := labels[i][tierLabel] + labels[i][regionLabel]
		if byRegion[group] == nil {
			order, labelsOf[group] = append(order, group), labels[i]
		}
		byRegion[group] = append(byRegion[group], m)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	n := 0
	for _, group := range order {
		for left := byRegion[group]; len(left) > 0; {
			some := left[:min(perToken, len(left))]
			left = left[len(some):]
			n++
			token := fmt.Sprintf("bench-%d", n)
			g.Go(func() error { return enrolSome(ctx, api, hub, token, labelsOf[group], some) })
		}
	}
	return f, g.Wait()
}

func enrolSome(ctx context.Context, api client.Client, hub, token string, labels map[string]string, members []*member) error {
	t := federationv1.JoinToken{Name: token, Secret: make([]byte, 32)}
	if _, err := rand.Read(t.Secret); err != nil {
		return err
	}
	o := &v1alpha1.JoinToken{ObjectMeta: metav1.ObjectMeta{Name: token}, Spec: v1alpha1.JoinTokenSpec{
		SecretHash: t.SecretHash(), ExpiresAt: metav1.NewTime(time.Now().Add(time.Hour)), MaxUses: int32(len(members)), Cluster: "*", Labels: labels,
	}}
	if err := api.Create(ctx, o); err != nil {
		return err
	}
	err := poll(ctx, time.Minute, 5*time.Millisecond, "the token is announced", func() (bool, error) {
		return o.Status.Authority != "", api.Get(ctx, client.ObjectKeyFromObject(o), o)
	})
	if err != nil {
		return err
	}
	hash, err := hex.DecodeString(o.Status.Authority)
	if err != nil {
		return err
	}
	copy(t.Authority[:], hash)
	authority, err := findAuthority(ctx, hub)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AddCert(authority)
	conn, err := enrolmentConn(hub, pool)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing is left to say
	for _, m := range members {
		if err := m.enrol(ctx, federationv1.NewEnrolmentClient(conn), t.String(), pool); err != nil {
			return fmt.Errorf("enrol %s: %w", m.name, err)
		}
	}
	return nil
}

var nextSource struct {
	sync.Mutex
	n byte
}

// enrolmentConn dials from a loopback address of its own: the hub bounds how many
// members enrol from one.
func enrolmentConn(hub string, pool *x509.CertPool) (*grpc.ClientConn, error) {
	nextSource.Lock()
	nextSource.n++
	local := &net.TCPAddr{IP: net.IPv4(127, 0, 1, nextSource.n)}
	nextSource.Unlock()
	return grpc.NewClient("passthrough:///"+hub,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: "127.0.0.1"})),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{LocalAddr: local}).DialContext(ctx, "tcp", addr)
		}))
}

// findAuthority is the last certificate that the hub shows. Agents compare it with
// the token; here both come from the same hub.
func findAuthority(ctx context.Context, hub string) (*x509.Certificate, error) {
	var last *x509.Certificate
	d := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, //nolint:gosec // only looked at; nothing is sent
		VerifyConnection: func(s tls.ConnectionState) error {
			last = s.PeerCertificates[len(s.PeerCertificates)-1]
			return nil
		},
	}}
	conn, err := d.DialContext(ctx, "tcp", hub)
	if err != nil {
		return nil, err
	}
	return last, conn.Close()
}

func (m *member) enrol(ctx context.Context, c federationv1.EnrolmentClient, token string, pool *x509.CertPool) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	return poll(ctx, 5*time.Minute, 250*time.Millisecond, "the hub has let the member in", func() (bool, error) {
		resp, err := c.Enrol(ctx, &federationv1.EnrolRequest{Token: token, Cluster: m.name, Csr: csr})
		if c := status.Code(err); c == codes.ResourceExhausted || c == codes.Unavailable {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		m.cert, m.roots = tls.Certificate{Certificate: resp.Certificates, PrivateKey: key}, pool
		return true, nil
	})
}

// planned is what the planner makes of what is there now: the state of every member.
func planned(ctx context.Context, api client.Client) (*topology.Plan, error) {
	var (
		in         topology.Input
		topologies v1alpha1.MessagingTopologyList
		members    v1alpha1.MemberClusterList
		streams    v1alpha1.StreamList
		bridges    v1alpha1.BridgeList
	)
	for _, l := range []client.ObjectList{&topologies, &members, &streams, &bridges} {
		if err := api.List(ctx, l); err != nil {
			return nil, err
		}
	}
	for i := range topologies.Items {
		in.Topologies = append(in.Topologies, &topologies.Items[i])
	}
	for i := range members.Items {
		in.Members = append(in.Members, &members.Items[i])
	}
	for i := range streams.Items {
		in.Streams = append(in.Streams, &streams.Items[i])
	}
	for i := range bridges.Items {
		in.Bridges = append(in.Bridges, &bridges.Items[i])
	}
	return topology.Compile(in), nil
}
