package agent

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// health answers the checks of whoever runs the agent. A nil one answers nobody.
type health struct {
	server *http.Server
	done   chan struct{}
	ready  atomic.Bool
}

// serveHealth listens at addr; empty: it does not.
func serveHealth(addr string) (*health, error) {
	if addr == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("--health-listen: %w", err)
	}
	h := &health{done: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !h.ready.Load() {
			http.Error(w, "the broker does not run yet", http.StatusServiceUnavailable)
		}
	})
	h.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		defer close(h.done)
		_ = h.server.Serve(l) // until it is closed
	}()
	return h, nil
}

// setReady says that the member is enrolled and its broker has run.
func (h *health) setReady() {
	if h != nil {
		h.ready.Store(true)
	}
}

func (h *health) close() {
	if h == nil {
		return
	}
	if err := h.server.Close(); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return
	}
	<-h.done
}
