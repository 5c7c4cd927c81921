package agent

import (
	"fmt"
	"net/url"

	"golang.org/x/net/http/httpproxy"
)

// proxyFunc tells through which HTTP proxy an https URL is reached; nil: none.
type proxyFunc func(*url.URL) (*url.URL, error)

// environmentProxy is the proxy that HTTPS_PROXY and NO_PROXY name. The session with the
// hub goes through it too, which gRPC sees to.
func environmentProxy() proxyFunc { return httpproxy.FromEnvironment().ProxyFunc() }

// of is the proxy for the links to a peer. NATS takes one for all endpoints, and the first
// says which. It is checked here, where a wrong one concerns its link only.
func (f proxyFunc) of(endpoints []string) (*url.URL, error) {
	if len(endpoints) == 0 {
		return nil, nil
	}
	p, err := f(&url.URL{Scheme: "https", Host: endpoints[0]})
	switch {
	case err != nil:
		return nil, fmt.Errorf("HTTPS_PROXY: %w", err)
	case p == nil:
		return nil, nil
	case p.Scheme != "http" && p.Scheme != "https" || p.Hostname() == "":
		return nil, fmt.Errorf("HTTPS_PROXY %s: links take http://HOST:PORT or https://HOST:PORT only", p.Redacted())
	}
	if _, ok := p.User.Password(); p.User != nil && !ok {
		return nil, fmt.Errorf("HTTPS_PROXY %s: its user has no password", p.Redacted())
	}
	return p, nil
}
