package apiserver

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/server/dynamiccertificates"
)

// renewEvery is how often the certificates' remaining life is looked at.
const renewEvery = 12 * time.Hour

// servingCert hands the serving certificate to the server, and a new one when it
// changes. It is a dynamiccertificates.CertKeyContentProvider.
type servingCert struct {
	mu        sync.Mutex
	pair      keyPair
	listeners []dynamiccertificates.Listener
}

func (*servingCert) Name() string { return "api-server" }

func (s *servingCert) CurrentCertKeyContent() (cert, key []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pair.cert, s.pair.key
}

func (s *servingCert) AddListener(l dynamiccertificates.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listeners = append(s.listeners, l)
}

func (s *servingCert) set(pair keyPair) {
	s.mu.Lock()
	s.pair = pair
	told := s.listeners
	s.mu.Unlock()
	for _, l := range told {
		l.Enqueue()
	}
}

// certificates keeps what is on disk and in the server from expiring.
type certificates struct {
	pki        *pki
	hosts      []string
	url        string
	kubeconfig string
	serving    servingCert
}

func newCertificates(dir string, addr *address, extraHosts []string) (*certificates, error) {
	p, err := openPKI(filepath.Join(dir, "pki"), time.Now)
	if err != nil {
		return nil, err
	}
	c := &certificates{
		pki:        p,
		hosts:      addr.hosts(extraHosts),
		url:        addr.url(),
		kubeconfig: filepath.Join(dir, "kubeconfig"),
	}
	return c, c.renewServing()
}

// renew reissues what does not fit any more.
func (c *certificates) renew() error { return errors.Join(c.renewServing(), c.renewAdmin()) }

// renewServing reissues what the server shows, if it does not fit any more.
func (c *certificates) renewServing() error {
	pair, fresh, err := c.pki.server(c.hosts)
	if err != nil {
		return err
	}
	if fresh || c.serving.pair.cert == nil {
		c.serving.set(pair)
	}
	return nil
}

// renewAdmin writes the kubeconfig, or reissues what does not fit any more in it.
// Its appearance says to others that there is something to connect to.
func (c *certificates) renewAdmin() error { return c.pki.writeKubeconfig(c.kubeconfig, c.url) }

func (c *certificates) run(ctx context.Context, log *slog.Logger) {
	t := time.NewTicker(renewEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if err := c.renew(); err != nil {
				log.Error("Cannot renew the API's certificates, retried in twelve hours", "error", err)
			}
		}
	}
}
