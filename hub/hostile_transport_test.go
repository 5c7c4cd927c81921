package hub

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// tls opens a connection as far as TLS.
func (h *testHub) tls(t *testing.T, certs ...tls.Certificate) (*tls.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{
		RootCAs: h.authority.pool(), ServerName: "localhost", MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Certificates: certs,
	}}
	c, err := d.DialContext(ctx, "tcp", h.addr)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	return c.(*tls.Conn), nil
}

// http2Conn speaks HTTP/2 by hand.
type http2Conn struct {
	net.Conn
	*http2.Framer
	headers bytes.Buffer
	enc     *hpack.Encoder
	gone    chan struct{} // closed when the hub has ended the connection
}

func (h *testHub) http2(t *testing.T, cert tls.Certificate) *http2Conn {
	t.Helper()
	conn, err := h.tls(t, cert)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second)) // the hub may stop to read
	c := &http2Conn{Conn: conn, Framer: http2.NewFramer(conn, conn), gone: make(chan struct{})}
	c.enc = hpack.NewEncoder(&c.headers)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.gone)
		for {
			if _, err := c.ReadFrame(); err != nil {
				return
			}
		}
	}()
	return c
}

// block encodes the headers of a call, and more.
func (c *http2Conn) block(method string, more ...string) []byte {
	c.headers.Reset()
	all := append([]string{":method", "POST", ":scheme", "https", ":path", method, ":authority", "hub", "content-type", "application/grpc", "te", "trailers"}, more...)
	for i := 0; i < len(all); i += 2 {
		_ = c.enc.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1]})
	}
	return bytes.Clone(c.headers.Bytes())
}

const syncMethod = "/sealane.federation.v1.Federation/Sync"

// TestHostileTransport: what an enrolled agent may do below the messages.
func TestHostileTransport(t *testing.T) {
	a := newArena(t)
	a.attack(t, "half open", []string{reasonHandshake}, func(t *testing.T, at *testHub) {
		for range 200 {
			c, err := new(net.Dialer).DialContext(t.Context(), "tcp", at.addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
		}
		for range 20 { // not TLS at all
			c, err := new(net.Dialer).DialContext(t.Context(), "tcp", at.addr)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: hub\r\n\r\n")
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
		a.unharmed(t)
	})
	a.attack(t, "many connections", []string{reasonConnections}, func(t *testing.T, at *testHub) {
		_, cert := a.hostile(t)
		var open []*tls.Conn
		for range 50 {
			c, err := at.tls(t, cert)
			if err == nil {
				open = append(open, c)
			}
		}
		alive := 0
		for _, c := range open {
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := c.Read(make([]byte, 1)); err == nil { // the hub's settings
				alive++
			}
		}
		if alive > memberConns {
			t.Errorf("%d connections of one member", alive)
		}
		a.unharmed(t)
	})
	a.attack(t, "many sessions", []string{reasonRate}, func(t *testing.T, at *testHub) {
		_, cert := a.hostile(t)
		conn := federationv1.NewFederationClient(at.dial(t, cert))
		var refusals atomic.Int32
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for i := 0; i < 200 && refusals.Load() < 10; i++ {
					ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
					s, err := conn.Sync(ctx)
					if err == nil {
						_ = s.Send(opening(federationv1.EmptyHash))
						_, err = s.Recv()
					}
					if grpcCode(err) == codes.ResourceExhausted {
						refusals.Add(1)
					}
					cancel()
				}
			})
		}
		all.Wait()
		if refusals.Load() < 10 {
			t.Errorf("%d refusals", refusals.Load())
		}
	})
	a.attack(t, "streams that say nothing", []string{reasonHello}, func(t *testing.T, at *testHub) {
		_, cert := a.hostile(t)
		conn := federationv1.NewFederationClient(at.dial(t, cert))
		for range maxStreams {
			s, err := conn.Sync(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { wantStatus(t, endOf(s), codes.DeadlineExceeded, "no Hello") }()
		}
		a.unharmed(t)
	})
	a.attack(t, "rapid reset", nil, func(t *testing.T, at *testHub) {
		_, cert := a.hostile(t)
		c := at.http2(t, cert)
		for i := range uint32(10_000) {
			id := 2*i + 1
			if c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block(syncMethod), EndHeaders: true}) != nil ||
				c.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
				break
			}
		}
		a.unharmed(t)
	})
	a.attack(t, "more streams than allowed", nil, func(t *testing.T, at *testHub) {
		_, cert := a.hostile(t)
		c := at.http2(t, cert)
		for i := range uint32(2000) {
			if c.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: c.block(syncMethod), EndHeaders: true}) != nil {
				break
			}
		}
		a.unharmed(t)
	})
	a.attack(t, "header floods", nil, func(t *testing.T, at *testHub) {
		_, cert := a.hostile(t)
		var much []string
		for i := range 2000 {
			much = append(much, fmt.Sprintf("x-%d", i), strings.Repeat("v", 1000))
		}
		c := at.http2(t, cert)
		block := c.block(syncMethod, much...)
		_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:16000]})
		for rest := block[16000:]; len(rest) > 0; rest = rest[min(16000, len(rest)):] {
			if c.WriteContinuation(1, len(rest) <= 16000, rest[:min(16000, len(rest))]) != nil {
				break
			}
		}
		a.unharmed(t)
		// Continuations without an end, mostly empty.
		c = at.http2(t, cert)
		_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block(syncMethod)})
		for range 50_000 {
			if c.WriteContinuation(1, false, nil) != nil {
				break
			}
		}
		a.unharmed(t)
		// A table that is referred to again and again: small on the wire.
		c = at.http2(t, cert)
		large := strings.Repeat("v", 3000)
		many := make([]string, 0, 16000)
		for range 8000 {
			many = append(many, "x-bomb", large)
		}
		_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block(syncMethod, many...), EndHeaders: true})
		a.unharmed(t)
	})
	a.attack(t, "control frames", nil, func(t *testing.T, at *testHub) {
		_, cert := a.hostile(t)
		c := at.http2(t, cert)
		for i := range uint64(20_000) {
			var data [8]byte
			binary.BigEndian.PutUint64(data[:], i)
			if c.WritePing(false, data) != nil || c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(i)}) != nil {
				break
			}
		}
		a.unharmed(t)
		c = at.http2(t, cert)
		for i := range uint32(1000) { // windows that overflow, data of no stream, frames of no kind
			if c.WriteWindowUpdate(0, 1<<31-1) != nil || c.WriteData(2*i+1, false, make([]byte, 1000)) != nil || c.WriteRawFrame(0xee, 0xff, 7, make([]byte, 100)) != nil {
				break
			}
		}
	})
	a.attack(t, "the header of a replica", nil, func(t *testing.T, at *testHub) {
		name, cert := a.hostile(t)
		other := a.join(t, unique("other"))
		ctx := metadata.AppendToOutgoingContext(t.Context(), memberHeader, string(other.Certificate[0]), fromHeader, "elsewhere")
		s, err := federationv1.NewFederationClient(at.dial(t, cert)).Sync(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Send(opening(federationv1.EmptyHash))
		eventually(t, "it is itself", func() bool { p := a.progress(name); return p != nil && p.Connected })
		if p := a.progress(other.Leaf.Subject.CommonName); p != nil {
			t.Error("it is another")
		}
	})
}

// TestHostileCertificates: with which no session is had.
func TestHostileCertificates(t *testing.T) {
	a := newArena(t)
	forge := func(t *testing.T, change func(*x509.Certificate), names ...string) tls.Certificate {
		t.Helper()
		tmpl := a.authority.hubTemplate()
		tmpl.Subject = pkix.Name{CommonName: a.victim}
		tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		for _, n := range names {
			u, err := url.Parse(n)
			if err != nil {
				t.Fatal(err)
			}
			tmpl.URIs = append(tmpl.URIs, u)
		}
		if change != nil {
			change(tmpl)
		}
		c, err := a.authority.current.Load().certify(tmpl)
		if err != nil {
			t.Fatal(err)
		}
		return *c
	}
	id := federationv1.MemberID("test.local", a.victim)
	refusedBy := func(t *testing.T, at *testHub, what string, cert tls.Certificate, want ...codes.Code) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		s, err := federationv1.NewFederationClient(at.dial(t, cert)).Sync(ctx)
		if err == nil {
			_ = s.Send(opening(federationv1.EmptyHash))
			_, err = s.Recv()
		}
		for _, code := range want {
			if grpcCode(err) == code {
				return
			}
		}
		t.Errorf("%s: %v, want %v", what, err, want)
	}
	a.attack(t, "names", []string{reasonIdentity}, func(t *testing.T, at *testHub) {
		for what, cert := range map[string]tls.Certificate{
			"two names":        forge(t, nil, id, federationv1.MemberID("test.local", "other")),
			"twice the name":   forge(t, nil, id, id),
			"no name":          forge(t, nil),
			"another domain":   forge(t, nil, federationv1.MemberID("other.local", a.victim)),
			"domain as prefix": forge(t, nil, federationv1.MemberID("test.local.evil", a.victim)),
			"a path":           forge(t, nil, id+"/more"),
			"a slash":          forge(t, nil, id+"/"),
			"a query":          forge(t, nil, id+"?x"),
			"a fragment":       forge(t, nil, id+"#x"),
			"a port":           forge(t, nil, "spiffe://test.local:1/cluster/"+a.victim),
			"upper case":       forge(t, nil, federationv1.MemberID("test.local", strings.ToUpper(a.victim))),
			"encoded":          forge(t, nil, federationv1.MemberID("test.local", "%68"+a.victim[1:])),
			"another path":     forge(t, nil, "spiffe://test.local/hub/"+a.victim),
		} {
			refusedBy(t, at, what, cert, codes.Unauthenticated)
		}
	})
	a.attack(t, "prefix of a name", []string{reasonIdentity}, func(t *testing.T, at *testHub) {
		for _, name := range []string{a.victim[:len(a.victim)-1], a.victim + "1", "x" + a.victim} {
			refusedBy(t, at, name, forge(t, nil, federationv1.MemberID("test.local", name)), codes.PermissionDenied)
		}
		refusedBy(t, at, "the name with another key", forge(t, nil, id), codes.PermissionDenied)
		if p := a.progress(a.victim); !p.Connected {
			t.Error("the session of the honest member was taken over")
		}
	})
	a.attack(t, "expired and foreign", []string{reasonHandshake}, func(t *testing.T, at *testHub) {
		refusedBy(t, at, "expired", forge(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, id), codes.Unavailable)
		refusedBy(t, at, "not yet valid", forge(t, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
		}, id), codes.Unavailable)
		refusedBy(t, at, "for servers", forge(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, id), codes.Unavailable)
		key := newKey(t)
		der, _, err := newAuthority(t).Issue(a.victim, anIncarnation, key.Public())
		if err != nil {
			t.Fatal(err)
		}
		refusedBy(t, at, "of another authority", pair(t, [][]byte{der}, key), codes.Unavailable)
	})
	a.attack(t, "of a deleted member", []string{reasonIdentity}, func(t *testing.T, at *testHub) {
		name := unique("deleted")
		cert := a.join(t, name)
		remove(t, a.client, name)
		eventually(t, "it is gone", func() bool {
			return a.cluster.GetClient().Get(t.Context(), keyOf(name), &v1alpha1.MemberCluster{}) != nil
		})
		refusedBy(t, at, "deleted", cert, codes.PermissionDenied)
		_, err := federationv1.NewFederationClient(at.dial(t, cert)).Renew(t.Context(), &federationv1.RenewRequest{Csr: request(t, newKey(t))})
		wantStatus(t, err, codes.PermissionDenied, "")
	})
}
