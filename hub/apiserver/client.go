package apiserver

import (
	"context"
	"io"
	"net/http"
	"time"

	"k8s.io/client-go/rest"
)

// poll is the pause between two looks at a server on this machine.
const poll = 10 * time.Millisecond

// ownConfig is the hub's own way into its API. Its key is never written, and the
// certificate ends with the authority: a hub may run for years, while what lies
// on disk is renewed.
func ownConfig(c *certificates) (*rest.Config, error) {
	pair, err := c.pki.client("sealane-hub", caLife)
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host:            c.url,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.pki.caPEM, CertData: pair.cert, KeyData: pair.key},
		QPS:             -1,
	}, nil
}

// ownClient shares its connection with all clients of this process that are made
// of the same configuration.
type ownClient struct {
	http *http.Client
	host string
}

func newOwnClient(cfg *rest.Config) (*ownClient, error) {
	c, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, err
	}
	return &ownClient{http: c, host: cfg.Host}, nil
}

// await returns when path answers with success, or stop or ctx ends first. The
// library's own clients would take the server's word that a second is a good
// time to wait.
func (c *ownClient) await(ctx context.Context, path string, stop <-chan struct{}) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.host+path, nil)
		if err != nil {
			return err
		}
		if resp, err := c.http.Do(req); err == nil {
			// Closing it half read would look to the server like a client that broke off.
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-stop:
			return errStopped
		case <-time.After(poll):
		}
	}
}
