package agent

import (
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// connectProxy is an HTTP proxy that lets a user through to where it wants.
type connectProxy struct {
	*httptest.Server
	user string

	mu     sync.Mutex
	passed []string
}

func startConnectProxy(t *testing.T, user, password string) *connectProxy {
	t.Helper()
	p := &connectProxy{user: "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *connectProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
	p.passed = append(p.passed, r.Host)
	p.mu.Unlock()
	io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
	var both sync.WaitGroup
	both.Go(func() {
		io.Copy(out, buffered)
		out.Close()
	})
	both.Go(func() {
		io.Copy(in, out)
		in.Close()
	})
	both.Wait()
}

// A member that gets out through a proxy only dials its links there.
func TestLinksThroughProxy(t *testing.T) {
	t.Parallel()
	way := startConnectProxy(t, "site", "s3cret")
	hub := startHub(t, newCA(t))
	a, b := startAgent(t, hub, "tokyo"), newAgent(t, hub, "osaka")
	var mu sync.Mutex
	through := "http://127.0.0.1:1" // nobody listens there
	b.opts.LinkListen = ""
	b.opts.proxy = func(*url.URL) (*url.URL, error) {
		mu.Lock()
		defer mu.Unlock()
		return url.Parse(through)
	}
	b.start()
	f := newFed(t, hub, "tokyo", "osaka")
	f.accept("osaka", "tokyo")
	f.push()
	hub.applied("tokyo")
	f.dial("osaka", "tokyo", a.linkAddr(), "", 0)
	f.push()
	eventually(t, "the link's trouble names the proxy", func() error {
		if l := hub.link("osaka", "tokyo", federationv1.Health_DOWN); !strings.Contains(l.Message, "through proxy http://127.0.0.1:1") {
			return errors.New(l.Message)
		}
		return nil
	})
	mu.Lock()
	through = strings.Replace(way.URL, "http://", "http://site:s3cret@", 1)
	mu.Unlock()
	b.stop()
	b.start()
	hub.link("osaka", "tokyo", federationv1.Health_UP)
	way.mu.Lock()
	defer way.mu.Unlock()
	for _, host := range way.passed {
		if host != a.linkAddr() {
			t.Errorf("the proxy was asked for %s", host)
		}
	}
	if len(way.passed) < 2 {
		t.Errorf("of a link's two connections %d went through the proxy", len(way.passed))
	}
}

func TestProxyOf(t *testing.T) {
	for _, tc := range []struct{ env, want, err string }{
		{env: "", want: ""},
		{env: "http://proxy.example.com:3128", want: "http://proxy.example.com:3128"},
		{env: "https://u:p@proxy.example.com", want: "https://u:p@proxy.example.com"},
		{env: "proxy.example.com:3128", want: "http://proxy.example.com:3128"},
		{env: "socks5://proxy.example.com:1080", err: "http://HOST:PORT or https://HOST:PORT only"},
		{env: "http://u@proxy.example.com", err: "no password"},
	} {
		t.Run(tc.env, func(t *testing.T) {
			t.Setenv("HTTPS_PROXY", tc.env)
			t.Setenv("NO_PROXY", "near.example.com")
			p, err := environmentProxy().of([]string{"peer.example.com:7422"})
			if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error %v", err)
			}
			if err == nil && (p == nil) != (tc.want == "") || p != nil && p.String() != tc.want {
				t.Errorf("proxy %v", p)
			}
			if p, err := environmentProxy().of([]string{"near.example.com:7422"}); p != nil || err != nil {
				t.Errorf("of one that is excepted: %v %v", p, err)
			}
		})
	}
}
