package hub

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// health answers whether the hub lives and whether it is ready: it has read all
// resources and published a plan, or passes sessions on to a replica that has.
type health struct {
	planned <-chan struct{}
	// passes is closed when a replica that does not lead passes sessions on.
	passes <-chan struct{}
}

func (h *health) handler(registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-h.planned:
			_, _ = w.Write([]byte("ok\n"))
		case <-h.passes:
			_, _ = w.Write([]byte("ok\n"))
		default:
			http.Error(w, "starting: the resources are not read yet", http.StatusServiceUnavailable)
		}
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return mux
}

// serve answers on l until ctx ends.
func (h *health) serve(ctx context.Context, l net.Listener, registry *prometheus.Registry) error {
	s := &http.Server{Handler: h.handler(registry), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := s.Shutdown(stop); err != nil {
		_ = s.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
