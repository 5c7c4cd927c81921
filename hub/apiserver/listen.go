package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// address is what the server listens on, with the connections that are open.
type address struct {
	net.Listener
	// host is the host of Options.Listen, empty for all addresses.
	host string
	port string

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// Accept makes a connection known to hangUp.
func (a *address) Accept() (net.Conn, error) {
	c, err := a.Listener.Accept()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conns[c] = struct{}{}
	return &conn{c, a}, nil
}

type conn struct {
	net.Conn
	of *address
}

func (c *conn) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c.Conn)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// hangUp closes every connection. To be called when all requests are answered: a
// stopping server would leave clients a second to close idle connections.
func (a *address) hangUp() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for c := range a.conns {
		_ = c.Close()
	}
}

// listen opens the address. For port 0 the system chooses one the first time;
// it is kept in dir and used again, so that kubeconfigs made of this folder stay
// true. Should another program have taken it meanwhile, a new one is chosen.
func listen(ctx context.Context, dir, addr string, log *slog.Logger) (*address, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("listen address %q: %w", addr, err)
	}
	kept := filepath.Join(dir, "api-port")
	open := func(port string) (*address, error) {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(host, port))
		if err != nil {
			return nil, err
		}
		_, port, err = net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
		return &address{Listener: l, host: host, port: port, conns: map[net.Conn]struct{}{}}, nil
	}
	if port != "0" {
		return open(port)
	}
	if b, err := os.ReadFile(kept); err == nil {
		port := strings.TrimSpace(string(b))
		a, err := open(port)
		if err == nil {
			return a, nil
		}
		log.Warn("The API's port is taken, another one is chosen", "port", port, "error", err)
	}
	a, err := open("0")
	if err != nil {
		return nil, err
	}
	if err := writeFile(kept, []byte(a.port+"\n")); err != nil {
		_ = a.Close()
		return nil, err
	}
	return a, nil
}

func (a *address) wildcard() bool {
	ip := net.ParseIP(a.host)
	return a.host == "" || (ip != nil && ip.IsUnspecified())
}

// url is where this machine reaches the API.
func (a *address) url() string {
	host := a.host
	if a.wildcard() {
		host = "127.0.0.1"
	}
	return "https://" + net.JoinHostPort(host, a.port)
}

// hosts are the names that the serving certificate must carry.
func (a *address) hosts(extra []string) []string {
	all := append([]string{"localhost", "127.0.0.1", "::1"}, extra...)
	if !a.wildcard() {
		all = append(all, a.host)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
