package e2e

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
)

// impostor listens where others expect a member, and shows them a certificate.
type impostor struct {
	listener net.Listener

	mu       sync.Mutex
	cert     *tls.Certificate // nil: it does not speak TLS
	tried    int              // connections
	believed int              // by whom its certificate was accepted
	told     []string         // what it was told
}

func newImpostor(t testing.TB) *impostor {
	t.Helper()
	i := &impostor{}
	i.listener = accepting(t, i.serve)
	return i
}

// serve greets as a broker does, and notes what it hears.
func (i *impostor) serve(c net.Conn) {
	defer c.Close() // it has heard enough
	i.mu.Lock()
	i.tried++
	cert := i.cert
	i.mu.Unlock()
	if c.SetDeadline(time.Now().Add(10*time.Second)) != nil {
		return
	}
	if cert != nil {
		secure := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert})
		if secure.Handshake() != nil {
			return
		}
		i.mu.Lock()
		i.believed++
		i.mu.Unlock()
		c = secure
	} else if _, err := c.Read(make([]byte, 4096)); err != nil { // what asks for TLS
		return
	}
	fmt.Fprint(c, `INFO {"server_id":"X","client_id":1,"version":"2.15.2","proto":1,"headers":true,"max_payload":1048576,"nonce":"abcdefghijk","auth_required":true,"cluster":"x","leafnode_urls":[]}`+"\r\n")
	in := bufio.NewReader(c)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		i.mu.Lock()
		i.told = append(i.told, line)
		i.mu.Unlock()
	}
}

func (i *impostor) shows(cert *tls.Certificate) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.cert, i.tried, i.believed, i.told = cert, 0, 0, nil
}

func (i *impostor) seen() (tried, believed int, told string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.tried, i.believed, strings.Join(i.told, "")
}

// TestImpostor listens where berlin accepts links, with everything that is not
// berlin's: who dials refuses it, says so, and tells it nothing. With what was stolen
// from berlin itself it is believed until berlin is revoked, and also not when another
// member has taken the name since.
func TestImpostor(t *testing.T) {
	t.Parallel()
	f, other := newFederation(t), newFederation(t)
	f.join("berlin")
	f.joinDialing("tokyo", "evil")
	other.join("berlin")
	world := topology([]v1alpha1.LinkRule{{Name: "edges", Type: v1alpha1.LinkEdges, Edges: []v1alpha1.Edge{{A: "berlin", B: "tokyo"}, {A: "berlin", B: "evil"}}}}, "berlin", "tokyo", "evil")
	events := &v1alpha1.Bridge{ObjectMeta: named("news"), Spec: v1alpha1.BridgeSpec{
		Account: "app", Type: v1alpha1.BridgeEvents, From: at("tokyo"), To: at("berlin"), Subjects: []string{"news.>"},
	}}
	f.create(world, events)
	f.ready(world, events)
	stolen := func(f *federation, name string) *tls.Certificate { return &steal(t, f, f.members[name].dir).cert }
	evil, foreign, berlin := stolen(f, "evil"), stolen(other, "berlin"), stolen(f, "berlin")
	fake := newImpostor(t)
	way := f.members["berlin"].proxy
	f.members["evil"].stop()

	for _, c := range []struct {
		what string
		cert *tls.Certificate
		says string // in tokyo's log
	}{
		{"evil's certificate", evil, ", not berlin.cluster.sealane.local"},
		{"a certificate of berlin in another federation", foreign, "certificate signed by unknown authority"},
		{"no TLS", nil, ""}, // how that ends differs
	} {
		fake.shows(c.cert)
		way.lead(fake.listener.Addr().String())
		way.set(refused) // what stands
		way.set(open)
		eventually(t, 60*time.Second, c.what+": tokyo refuses it, and says why", func() error {
			if tried, _, _ := fake.seen(); tried < 4 {
				return fmt.Errorf("dialed %d times", tried)
			}
			if !strings.Contains(f.members["tokyo"].logged(), c.says) {
				return errors.New("nothing in the log")
			}
			return nil
		})
		if _, believed, told := fake.seen(); believed > 0 || strings.Contains(told, "CONNECT") {
			t.Errorf("%s: believed by %d, and told %q", c.what, believed, told)
		}
		f.linkState("tokyo", "berlin", v1alpha1.LinkDown)
	}
	tokyo := &v1alpha1.MemberCluster{}
	if err := f.kube.Get(t.Context(), client.ObjectKey{Name: "tokyo"}, tokyo); err != nil {
		t.Fatal(err)
	}
	if l := tokyo.Status.Links; len(l) != 1 || l[0].Message == "" {
		t.Errorf("the status says %+v", l)
	}

	// With what berlin has it is berlin.
	fake.shows(berlin)
	eventually(t, 60*time.Second, "it is believed with berlin's own certificate", func() error {
		if _, believed, told := fake.seen(); believed == 0 || !strings.Contains(told, "CONNECT") {
			return fmt.Errorf("believed by %d, told %q", believed, told)
		}
		return nil
	})
	f.members["berlin"].stop()
	f.edit("berlin", func(m *v1alpha1.MemberCluster) {
		m.Spec.RevokedKeys = []string{m.Status.Identity.KeyHash, m.Status.LinkKey}
	})
	eventually(t, 60*time.Second, "tokyo does not hold the link any more", func() error {
		journal, err := os.ReadFile(filepath.Join(f.members["tokyo"].dir, "journal", "current"))
		if err != nil || strings.Contains(string(journal), "link/berlin") {
			return fmt.Errorf("it does (%v)", err)
		}
		if peers := f.linksOf("tokyo"); len(peers) > 0 {
			return fmt.Errorf("it reports links to %v", peers)
		}
		return nil
	})
	fake.shows(berlin)
	world.Spec.Accounts = append(world.Spec.Accounts, v1alpha1.Account{Name: "more", Namespaces: []string{"*"}})
	eventually(t, 30*time.Second, "the topology is changed", func() error {
		now := &v1alpha1.MessagingTopology{}
		if err := f.kube.Get(t.Context(), client.ObjectKeyFromObject(world), now); err != nil {
			return err
		}
		now.Spec.Accounts = world.Spec.Accounts
		return f.kube.Update(t.Context(), now)
	})
	f.connect("tokyo", "more") // everything was looked at again since
	if _, believed, told := fake.seen(); believed > 0 {
		t.Errorf("the revoked berlin is believed, and told %q", told)
	}

	// Its name is taken again, by a member that is reached where the thief listens.
	m := f.members["berlin"]
	if err := os.RemoveAll(m.dir); err != nil {
		t.Fatal(err)
	}
	fake.shows(berlin)
	f.launch(m, "--link-listen", m.links, "--advertise", way.address())
	eventually(t, 60*time.Second, "tokyo dials the new berlin, refuses the former one, and says why", func() error {
		if tried, _, _ := fake.seen(); tried < 4 {
			return fmt.Errorf("dialed %d times", tried)
		}
		if !strings.Contains(f.members["tokyo"].logged(), "the certificate is of a former member berlin") {
			return errors.New("nothing in the log")
		}
		return nil
	})
	if _, believed, told := fake.seen(); believed > 0 || strings.Contains(told, "CONNECT") {
		t.Errorf("the former berlin is believed by %d, and told %q", believed, told)
	}
	f.linkState("tokyo", "berlin", v1alpha1.LinkDown)
	way.lead(m.links)
	f.linkState("tokyo", "berlin", v1alpha1.LinkUp)
	if _, believed, _ := fake.seen(); believed > 0 {
		t.Errorf("the former berlin was believed by %d", believed)
	}
}
