package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"k8s.io/client-go/rest"

	"github.com/sealane/sealane/hub/crds"
)

const minTLS = tls.VersionTLS13

// ErrInUse means that another process runs on the data folder.
var ErrInUse = errors.New("data folder in use")

var errStopped = errors.New("it stopped")

// Options say where a server keeps its data and where it listens.
type Options struct {
	// DataDir holds everything that must survive; it is made if it is missing:
	// etcd/ (the objects), pki/api-*.pem (the API's authority and serving
	// certificate), kubeconfig (all rights), api-port, apiserver.lock, run/.
	DataDir string
	// Listen is the host and port to serve at. With port 0 a free port is chosen
	// once and kept for the next start.
	Listen string
	// Hosts are further names and addresses of this machine, by which others
	// reach it: they go into the serving certificate.
	Hosts []string
	// Kinds makes the server serve the kinds of api/v1alpha1 as this version of the
	// program knows them, before the kubeconfig appears: whoever waits for that
	// file finds all kinds. Without it the server serves what it has.
	Kinds bool
	// Log takes what the server has to say, and from then on also what the
	// Kubernetes client libraries of the whole process say. Default:
	// slog.Default().
	Log *slog.Logger
}

// Server is a running API server with its store.
type Server struct {
	rest       *rest.Config
	kubeconfig string
	cancel     context.CancelFunc
	done       chan struct{}
	err        error
}

// Start runs a server until ctx ends, or Close. It returns when the API answers,
// CustomResourceDefinitions from an earlier run included, and only then writes
// the kubeconfig.
//
// Stopping ends every goroutine that starting began.
func Start(ctx context.Context, o Options) (_ *Server, err error) {
	log := o.Log
	if log == nil {
		log = slog.Default()
	}
	log = log.With("component", "apiserver")
	klogTarget.Store(log)

	// undo holds what to take down, in reverse, when a later step fails.
	var undo []func()
	defer func() {
		if err != nil {
			for i := len(undo) - 1; i >= 0; i-- {
				undo[i]()
			}
		}
	}()

	if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
		return nil, err
	}
	unlock, err := lockDir(o.DataDir)
	if err != nil {
		return nil, err
	}
	undo = append(undo, unlock)
	addr, err := listen(ctx, o.DataDir, o.Listen, log)
	if err != nil {
		return nil, err
	}
	undo = append(undo, func() { _ = addr.Close() })
	certs, err := newCertificates(o.DataDir, addr, o.Hosts)
	if err != nil {
		return nil, err
	}
	own, err := ownConfig(certs)
	if err != nil {
		return nil, err
	}
	store, err := startStore(ctx, o.DataDir, storeQuota, log)
	if err != nil {
		return nil, err
	}
	undo = append(undo, store.close)
	client, err := newOwnClient(own)
	if err != nil {
		return nil, err
	}
	api, err := newAPIServer(store, addr, certs, own)
	if err != nil {
		return nil, err
	}

	ctx, cancel := context.WithCancel(ctx)
	s := &Server{rest: own, kubeconfig: certs.kubeconfig, cancel: cancel, done: make(chan struct{})}
	served := make(chan error, 1)
	go func() { served <- api.run(ctx, addr) }()
	go func() {
		defer close(s.done)
		defer cancel()
		s.err = run(ctx, cancel, served, store, certs, log)
		store.close()
		unlock()
	}()
	undo = []func(){func() { _ = s.Close() }}
	if err := s.ready(ctx, client); err != nil {
		return nil, err
	}
	if o.Kinds {
		if err := crds.Install(ctx, own); err != nil {
			return nil, err
		}
		if err := settle(ctx, own, api.crds); err != nil {
			return nil, err
		}
	}
	if err := certs.renewAdmin(); err != nil {
		return nil, fmt.Errorf("write the kubeconfig: %w", err)
	}
	store.loud.Store(true)
	return s, nil
}

// run serves until ctx ends or a part fails.
func run(ctx context.Context, cancel context.CancelFunc, served <-chan error, store *store, certs *certificates, log *slog.Logger) error {
	var renewer sync.WaitGroup
	renewer.Go(func() { certs.run(ctx, log) })
	defer renewer.Wait()
	select {
	case err := <-served:
		cancel()
		return err
	case err := <-store.failed():
		cancel()
		return errors.Join(fmt.Errorf("the store failed: %w", err), <-served)
	case <-ctx.Done():
		store.loud.Store(false)
		return <-served
	}
}

// ready waits until definitions from an earlier run are served, too.
func (s *Server) ready(ctx context.Context, client *ownClient) error {
	err := client.await(ctx, "/readyz", s.done)
	if errors.Is(err, errStopped) {
		err = errors.Join(err, s.err)
	}
	if err != nil {
		return fmt.Errorf("start the API server: %w", err)
	}
	return nil
}

// RESTConfig gives this process all rights at the server, without limit of rate.
// It holds while the server runs; what is kept longer, or given to others, is
// the kubeconfig.
func (s *Server) RESTConfig() *rest.Config { return rest.CopyConfig(s.rest) }

// KubeconfigPath is the file that gives its reader all rights at the server.
func (s *Server) KubeconfigPath() string { return s.kubeconfig }

// Wait blocks until the server has stopped and says why, if it was not asked to.
func (s *Server) Wait() error {
	<-s.done
	return s.err
}

// Close stops the server and waits until all is on disk.
func (s *Server) Close() error {
	s.cancel()
	return s.Wait()
}
