package embedded

import "testing"

// Endpoints are what a peer says of itself.
func FuzzEndpointURLs(f *testing.F) {
	for _, s := range []string{"host:7422", "[::1]:7422", "wss://h:1/a?b#c", "u:p@h:1", ":1", "h:0", "a/b:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, endpoint string) {
		urls, err := endpointURLs([]string{endpoint})
		if err != nil {
			return
		}
		if len(urls) != 1 {
			t.Fatalf("%q: %v", endpoint, urls)
		}
		u := urls[0]
		if u.Scheme != "tls" || u.Hostname() == "" || u.Port() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			t.Errorf("%q: %v", endpoint, u)
		}
	})
}
