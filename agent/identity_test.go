package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

// issue has ca make a certificate for the key in a file.
func issue(t *testing.T, ca *testCA, d identityDir, file string) *identity {
	t.Helper()
	key, err := d.keyFor(file)
	check(t, err)
	der, err := ca.member(key.Public(), "tokyo", 0)
	check(t, err)
	id, err := parseIssued([][]byte{der}, [][]byte{ca.cert.Raw}, key)
	check(t, err)
	return id
}

// A renewal that is interrupted at any point leaves one whole identity: the old
// one until the new certificate is in place, the new one from then on.
func TestRenewalIsAtomic(t *testing.T) {
	ca := newCA(t)
	d := identityDir(t.TempDir())
	old := issue(t, ca, d, keyFile)
	check(t, d.store(old, keyFile))
	next := issue(t, ca, d, nextKeyFile)
	is := func(when string, want *identity) {
		t.Helper()
		got, err := d.load()
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if !got.cert.Leaf.Equal(want.cert.Leaf) {
			t.Errorf("%s: not the right certificate", when)
		}
	}
	is("the next key is there", old)
	again, err := d.keyFor(nextKeyFile)
	check(t, err)
	if !sameKey(next.cert.Leaf, again) {
		t.Error("a renewal that is tried again makes another key")
	}
	check(t, broker.WriteFile(d.path(authoritiesFile), encodeCertificates(next.authorities), 0o644))
	is("the authorities are there", old)
	check(t, broker.WriteFile(d.path(certFile), encodeCertificates([]*x509.Certificate{next.cert.Leaf}), 0o644))
	is("the certificate is there", next)
	if _, err := os.Stat(d.path(nextKeyFile)); err == nil {
		t.Error("the next key is still the next one")
	}
	is("all is done", next)

	check(t, d.store(old, keyFile)) // whose key is gone
	if _, err := d.load(); err == nil || !strings.Contains(err.Error(), "do not belong together") {
		t.Errorf("got %v", err)
	}
}

func TestMemberOf(t *testing.T) {
	for uri, want := range map[string]string{
		"spiffe://test.local/cluster/tokyo":   "tokyo",
		"spiffe://test.local/cluster/tokyo/":  "",
		"spiffe://test.local/cluster/a/b":     "",
		"spiffe://test.local/cluster/":        "",
		"spiffe://test.local/cluster/TOKYO":   "",
		"spiffe:///cluster/tokyo":             "",
		"https://test.local/cluster/tokyo":    "",
		"spiffe://test.local/cluster/tokyo?x": "",
		"spiffe://test.local/x/cluster/tokyo": "",
	} {
		u, err := url.Parse(uri)
		check(t, err)
		_, name, err := memberOf(&x509.Certificate{URIs: []*url.URL{u}})
		if name != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", uri, name, err)
		}
	}
	u, _ := url.Parse("spiffe://test.local/cluster/tokyo")
	if _, _, err := memberOf(&x509.Certificate{URIs: []*url.URL{u, u}}); err == nil {
		t.Error("two URIs are accepted")
	}
}

func TestIssuedForSomeoneElse(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	d := identityDir(t.TempDir())
	key, err := d.keyFor(keyFile)
	check(t, err)
	der, err := ca.member(key.Public(), "tokyo", 0)
	check(t, err)
	if _, err := parseIssued([][]byte{der}, [][]byte{other.cert.Raw}, key); err == nil {
		t.Error("a certificate of another authority is taken")
	}
	second, err := d.keyFor(nextKeyFile)
	check(t, err)
	if _, err := parseIssued([][]byte{der}, [][]byte{ca.cert.Raw}, second); err == nil {
		t.Error("a certificate for another key is taken")
	}
	for _, l := range [][][]byte{nil, {[]byte("x")}} {
		if _, err := parseIssued(l, [][]byte{ca.cert.Raw}, key); err == nil {
			t.Errorf("%v is taken for a certificate", l)
		}
	}
}

func TestRenewAt(t *testing.T) {
	from := time.Unix(0, 0)
	to := from.Add(90 * time.Hour)
	if got := renewAt(from, to, 0); got != from.Add(30*time.Hour) {
		t.Errorf("earliest: %v", got)
	}
	if got := renewAt(from, to, 1); got != from.Add(34*time.Hour+30*time.Minute) {
		t.Errorf("latest: %v", got)
	}
}

// The certificate is renewed over the session, links and session go on, and a
// restart uses the new one.
func TestRenews(t *testing.T) {
	t.Parallel()
	hub := startHub(t, newCA(t))
	hub.life = 6 * time.Second
	hub.want("tokyo", accountPart("app"))
	a := startAgent(t, hub, "tokyo")
	hub.applied("tokyo")
	nc := a.connect("app")
	eventually(t, "it is renewed", func() error {
		hub.mu.Lock()
		defer hub.mu.Unlock()
		if hub.renewed["tokyo"] == 0 {
			return os.ErrNotExist
		}
		return nil
	})
	dir := identityDir(a.opts.DataDir + "/identity")
	eventually(t, "the new certificate is in place", func() error {
		id, err := dir.load()
		if err == nil && time.Until(id.notAfter()) < time.Minute {
			err = os.ErrNotExist
		}
		return err
	})
	more := proto.CloneOf(ordersPart())
	hub.want("tokyo", accountPart("app"), federationv1.Seal(more))
	hub.applied("tokyo")
	if !nc.IsConnected() || nc.Stats().Reconnects != 0 {
		t.Error("the renewal cost a client its connection")
	}
	a.stop()
	a.start()
	hub.applied("tokyo")
}

// A member whose certificate expired runs on, and enrols again with the same
// key when it is given a token.
func TestExpired(t *testing.T) {
	hub := startHub(t, newCA(t))
	hub.life = time.Second
	o := newAgent(t, hub, "tokyo").opts
	dir := identityDir(t.TempDir())
	first, err := o.identity(t.Context(), dir)
	check(t, err)
	eventually(t, "it expires", func() error {
		if time.Now().Before(first.notAfter()) {
			return os.ErrExist
		}
		return nil
	})
	hub.life = 0
	token := o.Token
	o.Token = ""
	id, err := o.identity(t.Context(), dir)
	check(t, err)
	if !id.cert.Leaf.Equal(first.cert.Leaf) {
		t.Error("another certificate without a token")
	}
	if o.again(dir, id.name) != nil {
		t.Error("it would enrol again without a token")
	}
	o.Token = token
	id, err = o.identity(t.Context(), dir) // which does not wait for the hub
	check(t, err)
	renewed := make(chan struct{})
	r := &renewal{dir: dir, ident: &atomic.Pointer[identity]{}, conn: func() *grpc.ClientConn { return nil }, enrol: o.again(dir, id.name),
		renewed: func() { close(renewed) }, log: testLog(t)}
	r.ident.Store(id)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var loop sync.WaitGroup
	loop.Go(func() { r.run(ctx) })
	select {
	case <-renewed:
	case <-time.After(30 * time.Second):
		t.Fatal("not enrolled again")
	}
	cancel()
	loop.Wait()
	stored, err := dir.load()
	check(t, err)
	for _, id := range []*identity{r.ident.Load(), stored} {
		if time.Until(id.notAfter()) < time.Minute || !sameKey(id.cert.Leaf, first.cert.PrivateKey.(*ecdsa.PrivateKey)) {
			t.Errorf("not enrolled again: until %v", id.notAfter())
		}
	}
}
