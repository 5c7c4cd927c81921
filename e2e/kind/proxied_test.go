//go:build e2e

package kind

import (
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// wayOut is an HTTP proxy on this machine that lets a user through. It counts to
// where, and what is open.
type wayOut struct {
	address, user string

	mu           sync.Mutex
	passed, open map[string]int
}

func startWayOut(t testing.TB, user, password string) *wayOut {
	t.Helper()
	// This machine's address in the network of the clusters.
	route, err := net.Dial("udp", hubAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer route.Close() // nothing was sent
	l, err := net.Listen("tcp", net.JoinHostPort(route.LocalAddr().(*net.UDPAddr).IP.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	p := &wayOut{
		address: l.Addr().String(), user: "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)),
		passed: map[string]int{}, open: map[string]int{},
	}
	server := &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // until it is closed
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return p
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
	p.count(r.Host, 1)
	defer p.count(r.Host, -1)
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

func (p *wayOut) count(host string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.passed[host] += max(n, 0)
	p.open[host] += n
}

// counted tells how many connections are open to where, and what was asked for.
func (p *wayOut) counted() (open, passed map[string]int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.open), maps.Clone(p.passed)
}

// proxied puts the member that dials the other one behind an HTTP proxy, and takes it
// out again, while orders are copied: its session and its links go through it, and
// nothing that is inside the cluster.
func proxied(t *testing.T, f *federation, p plan) {
	dialer, peer, servers := tokyo, berlin, 1
	m := memberCluster(tokyo.Name)
	if err := f.kube.Get(t.Context(), client.ObjectKeyFromObject(m), m); err != nil {
		t.Fatal(err)
	}
	for _, l := range m.Status.Links {
		if l.Peer == berlin.Name && l.Role != "Dial" {
			dialer, peer, servers = berlin, tokyo, 3
		}
	}
	far := fmt.Sprintf("%s:%d", peer.IP, linkPort)
	way := startWayOut(t, "site", "s3cret")
	end := f.load(t)
	f.installAgent(t, dialer, "--set", "proxy.url=http://site:s3cret@"+way.address)
	eventually(t, 5*time.Minute, dialer.Name+" goes through the proxy", func() error {
		open, _ := way.counted()
		if open[hubAddress()] != 1 || open[far] != 2*servers {
			return fmt.Errorf("open are %v", open)
		}
		return nil
	})
	rolledOut(t, dialer)
	p.ready(t, f)
	f.checkEvents(t)
	f.installAgent(t, dialer)
	eventually(t, 5*time.Minute, dialer.Name+" goes without the proxy", func() error {
		open, _ := way.counted()
		for to, n := range open {
			if n > 0 {
				return fmt.Errorf("%d open to %s", n, to)
			}
		}
		return nil
	})
	rolledOut(t, dialer)
	p.ready(t, f)
	f.checkEvents(t)
	f.checkCopies(t, "orders", end(), everywhere...)
	_, passed := way.counted()
	t.Logf("%s went through the proxy to %v", dialer.Name, passed)
	for to := range passed {
		if !slices.Contains([]string{hubAddress(), far}, to) {
			t.Errorf("the proxy was asked for %s", to)
		}
	}
}
