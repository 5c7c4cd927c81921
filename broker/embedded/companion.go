package embedded

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const companionPoll = 20 * time.Millisecond

// companion keeps a server that starts alone company until it leads itself. The
// group that assigns streams does not begin to run in a server that has no
// connection to any other, even where it is the only peer. The companion is a
// second server in this process that has no JetStream and keeps nothing: it only
// holds a route. It does nothing where there are routes already.
type companion struct {
	cancel context.CancelFunc
	done   chan struct{}
}

func (n *Node) keepCompany(srv *server.Server, local *tls.Config, cluster string) *companion {
	ctx, cancel := context.WithCancel(context.Background())
	c := &companion{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		var other *server.Server
		defer func() {
			if other != nil {
				other.Shutdown()
				other.WaitForShutdown()
			}
		}()
		for t := time.NewTicker(companionPoll); ; {
			j, err := srv.Jsz(nil)
			routes := srv.NumRoutes()
			switch {
			case err == nil && j.Meta != nil && j.Meta.Leader != "":
				t.Stop()
				return
			case other == nil && routes == 0:
				if other, err = n.startCompanion(local, cluster); err != nil {
					n.log.Warn("the server has no company", "error", err)
				}
			}
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-t.C:
			}
		}
	}()
	return c
}

// leave ends the company.
func (c *companion) leave() {
	c.cancel()
	<-c.done
}

func (n *Node) startCompanion(local *tls.Config, cluster string) (*server.Server, error) {
	host := n.route.host
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	so := &server.Options{
		ServerName: cluster + "." + n.opts.Name + ".companion",
		// A server that does not listen does not route. Nobody knows the password.
		Host: "127.0.0.1", Port: -1, Username: rand.Text(), Password: rand.Text(),
		NoSigs: true, NoLog: true,
	}
	so.Cluster.Name = cluster
	so.Cluster.Host, so.Cluster.Port = "127.0.0.1", -1
	so.Cluster.TLSConfig = acceptTLS(local)
	so.Cluster.TLSTimeout = leafTLSSeconds
	so.Cluster.NoAdvertise = true
	so.Cluster.PoolSize = -1
	so.Routes = []*url.URL{{Scheme: "nats-route", Host: net.JoinHostPort(host, strconv.Itoa(n.route.port))}}
	srv, err := server.NewServer(so)
	if err != nil {
		return nil, fmt.Errorf("companion: %w", err)
	}
	// It knows none of the accounts, and says so of each subject.
	srv.SetLoggerV2(newServerLog(slog.New(slog.DiscardHandler)), false, false, false)
	go srv.Start()
	return srv, nil
}
