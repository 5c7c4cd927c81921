package statefulset

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

// wayOut is an HTTP proxy that lets a user through, and counts to where.
type wayOut struct {
	user string

	mu     sync.Mutex
	passed map[string]int
}

func (p *wayOut) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect || r.Header.Get("Proxy-Authorization") != p.user {
		http.Error(w, "only known users may pass", http.StatusProxyAuthRequired)
		return
	}
	out, err := net.Dial("tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer out.Close()
	in, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer in.Close()
	p.mu.Lock()
	p.passed[r.Host]++
	p.mu.Unlock()
	_, _ = io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(out, buffered)
		out.Close()
	})
	both.Go(func() {
		_, _ = io.Copy(in, out)
		in.Close()
	})
	both.Wait()
}

// TestLinksOfServersThroughProxy: servers dial a link through the proxy that the agent
// names, which has a password, and without it when the agent names none any more.
// Their own environment says nothing of it.
func TestLinksOfServersThroughProxy(t *testing.T) {
	t.Parallel()
	proxy := &wayOut{user: "Basic " + base64.StdEncoding.EncodeToString([]byte("site:s3cret")), passed: map[string]int{}}
	front := httptest.NewServer(proxy)
	t.Cleanup(front.Close)
	through, err := url.Parse(front.URL)
	if err != nil {
		t.Fatal(err)
	}
	through.User = url.UserPassword("site", "s3cret")

	w := newWorld(t, 2)
	w.account("app")
	w.start()
	w.settled(2)
	peer, grant := w.acceptor("p")
	w.parts = append(w.parts, &federationv1.Part{Id: federationv1.LinkID("p"), Spec: &federationv1.Part_Link{
		Link: &federationv1.LinkSpec{Peer: "p", Role: federationv1.LinkSpec_DIAL, Grant: grant, Spoke: true},
	}})
	w.setAccounts()
	link := func(p *url.URL) {
		t.Helper()
		w.config.Remotes = []broker.Remote{
			{Peer: "p", Out: true, Endpoints: []string{peer}, JWT: grant.Out, Spoke: true, Proxy: p},
			{Peer: "p", Out: false, Endpoints: []string{peer}, JWT: grant.In, Spoke: true, Proxy: p},
		}
		w.configure()
	}
	link(through)
	before := leafSet(w.leafs(4))
	passed := func() int {
		proxy.mu.Lock()
		defer proxy.mu.Unlock()
		if n := proxy.passed[peer]; len(proxy.passed) == 1 {
			return n
		}
		t.Fatalf("the proxy was asked for %v", proxy.passed)
		return 0
	}
	if n := passed(); n < 4 {
		t.Errorf("of four connections %d went through the proxy", n)
	}
	link(nil)
	eventually(t, "four other connections", func() error {
		conns, err := w.rt.LeafConns()
		if err != nil {
			return err
		}
		if len(conns) != 4 {
			return fmt.Errorf("%d connections", len(conns))
		}
		for _, c := range conns {
			if before[c] {
				return errors.New("one is still that through the proxy")
			}
		}
		return nil
	})
}
