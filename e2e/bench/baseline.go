package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealane/sealane/e2e/child"
)

// plain is what one would write by hand with NATS alone, to compare with: a
// chain of servers, each a process, joined by leaf connections in one account,
// with or without TLS.
type plain struct {
	urls  []string
	procs []*exec.Cmd
	dir   string
}

// plainServer is the command that runs one server of plain.
const plainServer = "plain-server"

// runPlainServer runs until it is told to stop.
func runPlainServer(args []string) error {
	fs := flag.NewFlagSet(plainServer, flag.ContinueOnError)
	name, dir := fs.String("name", "", "server name and JetStream domain"), fs.String("dir", "", "store")
	port, leaf := fs.Int("port", 0, "client port"), fs.Int("leaf", 0, "port that accepts leaf connections")
	remote := fs.Int("remote", 0, "port to open a leaf connection to")
	certs := fs.String("tls", "", "folder of the certificate for leaf connections; empty: they are in the clear")
	if err := fs.Parse(args); err != nil {
		return err
	}
	o := &server.Options{
		ServerName: *name, Host: "127.0.0.1", Port: *port, NoSigs: true,
		JetStream: true, JetStreamDomain: *name, StoreDir: *dir,
		JetStreamMaxMemory: 256 << 20, JetStreamMaxStore: 8 << 30, SyncInterval: time.Second,
	}
	o.LeafNode.Host, o.LeafNode.Port = "127.0.0.1", *leaf
	if *remote != 0 {
		o.LeafNode.Remotes = []*server.RemoteLeafOpts{{URLs: []*url.URL{{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", *remote)}}}}
	}
	if *certs != "" {
		if err := leafTLS(o, *certs); err != nil {
			return err
		}
	}
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	s.Start()
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// startPlain starts n servers, each a leaf of the one before it; secure: over
// TLS.
func startPlain(ctx context.Context, n int, secure bool) (_ *plain, err error) {
	p := &plain{}
	defer func() {
		if err != nil {
			p.stop()
		}
	}()
	if p.dir, err = os.MkdirTemp("", "sealane-bench-plain"); err != nil {
		return nil, err
	}
	certs := ""
	if secure {
		certs = p.dir
		if err := makeCertificate(certs); err != nil {
			return nil, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	accept := 0 // the leaf port of the server before
	for i := range n {
		ports, err := freePorts(2)
		if err != nil {
			return nil, err
		}
		name := fmt.Sprintf("plain%d", i)
		cmd := exec.Command(self, plainServer, "-name", name, "-dir", filepath.Join(p.dir, name), // ourselves
			"-port", fmt.Sprint(ports[0]), "-leaf", fmt.Sprint(ports[1]), "-remote", fmt.Sprint(accept), "-tls", certs)
		cmd.Stderr = os.Stderr
		if err := child.Start(cmd); err != nil {
			return nil, err
		}
		p.procs = append(p.procs, cmd)
		p.urls = append(p.urls, fmt.Sprintf("nats://127.0.0.1:%d", ports[0]))
		accept = ports[1]
		if err := p.up(ctx, i); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *plain) up(ctx context.Context, i int) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		nc, err := p.connect(i)
		if err == nil {
			nc.Close()
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("plain server %d does not start: %w", i, err)
		}
	}
}

func (p *plain) connect(i int) (*nats.Conn, error) { return nats.Connect(p.urls[i]) }

func (p *plain) stop() {
	for _, c := range p.procs {
		c.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
		c.Wait()                          //nolint:errcheck // as above
	}
	os.RemoveAll(p.dir) // a temporary folder
}

// durable joins stream name of server 0 to a stream of the same name on server
// 1 by a durable JetStream source over the leaf connection.
func (p *plain) durable(ctx context.Context, a, b jetstream.JetStream, name, subject string) error {
	const consumer, deliver = "by-hand", "by-hand.deliver"
	if _, err := a.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{subject}}); err != nil {
		return err
	}
	if _, err := a.CreatePushConsumer(ctx, name, jetstream.ConsumerConfig{
		Durable: consumer, DeliverSubject: deliver, AckPolicy: jetstream.AckFlowControlPolicy,
		FlowControl: true, IdleHeartbeat: time.Second, MaxAckPending: 4096,
	}); err != nil {
		return err
	}
	_, err := b.CreateStream(ctx, jetstream.StreamConfig{Name: name, Sources: []*jetstream.StreamSource{{
		Name: name, External: &jetstream.ExternalStream{APIPrefix: "$JS.plain0.API"},
		Consumer: &jetstream.StreamConsumerSource{Name: consumer, DeliverSubject: deliver},
	}}})
	return err
}

func freePorts(n int) (ports []int, err error) {
	for range n {
		l, err2 := net.Listen("tcp", "127.0.0.1:0")
		if err2 != nil {
			return nil, err2
		}
		defer func() { err = errors.Join(err, l.Close()) }()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
