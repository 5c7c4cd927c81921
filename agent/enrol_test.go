package agent

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

func newEnrolment(t *testing.T, hub *testHub, name string) *enrolment {
	t.Helper()
	return &enrolment{
		dir: identityDir(filepath.Join(t.TempDir(), "identity")), name: name, hub: hub.addr, token: hub.token,
		log: testLog(t), retry: backoff{base: time.Millisecond, limit: 50 * time.Millisecond},
	}
}

func TestEnrols(t *testing.T) {
	hub := startHub(t, newCA(t))
	e := newEnrolment(t, hub, "tokyo")
	id, err := e.run(t.Context())
	check(t, err)
	if id.name != "tokyo" || id.trustDomain != testDomain {
		t.Errorf("identity %s in %s", id.name, id.trustDomain)
	}
	again, err := e.dir.load()
	check(t, err)
	if !again.cert.Leaf.Equal(id.cert.Leaf) || len(again.authorities) != 1 {
		t.Error("what was stored is not what was issued")
	}
	fi, err := os.Stat(e.dir.path(keyFile))
	check(t, err)
	if fi.Mode().Perm() != 0o600 {
		t.Errorf("key with mode %v", fi.Mode())
	}
}

// Each refusal is final, says what is wrong and how to go on.
func TestEnrolmentRefused(t *testing.T) {
	for _, tc := range []struct {
		name string
		prep func(*testing.T, *testHub, *enrolment)
		want []string
	}{
		{"token not accepted", func(_ *testing.T, h *testHub, _ *enrolment) {
			h.enrol = func(*federationv1.EnrolRequest) error {
				return status.Error(codes.Unauthenticated, "the token has expired")
			}
		}, []string{"the token has expired", `sealane token create --cluster tokyo`}},
		{"token for another name", func(_ *testing.T, h *testHub, _ *enrolment) {
			h.enrol = func(*federationv1.EnrolRequest) error {
				return status.Error(codes.PermissionDenied, `the token is for "edge-*"`)
			}
		}, []string{`as "tokyo"`, `the token is for "edge-*"`}},
		{"name taken", func(_ *testing.T, h *testHub, _ *enrolment) { h.keys["tokyo"] = "someone else's" },
			[]string{`the name "tokyo" is taken`, "--name", "MemberCluster"}},
		{"another hub", func(t *testing.T, _ *testHub, e *enrolment) { _, _ = rand.Read(e.token.Authority[:]) },
			[]string{"is not the one that this join token is for", "--hub"}},
		{"another name of the hub", func(t *testing.T, h *testHub, e *enrolment) {
			_, port, _ := net.SplitHostPort(h.addr)
			e.hub = "localhost:" + port // the certificate is for 127.0.0.1
		}, []string{`is not for "localhost"`, "--advertise"}},
		{"no hub at all", func(t *testing.T, _ *testHub, e *enrolment) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			check(t, err)
			t.Cleanup(func() { l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = c.Write([]byte("SSH-2.0-hello\r\n"))
					c.Close()
				}
			}()
			e.hub = l.Addr().String()
		}, []string{"does not speak TLS", "--hub"}},
		{"no address", func(_ *testing.T, _ *testHub, e *enrolment) { e.hub = "nonsense" }, []string{"host:port"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			hub := startHub(t, newCA(t))
			e := newEnrolment(t, hub, "tokyo")
			tc.prep(t, hub, e)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			_, err := e.run(ctx)
			var fatal fatalError
			if !errors.As(err, &fatal) {
				t.Fatalf("got %v, want a final refusal", err)
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
			if _, err := e.dir.load(); !errors.Is(err, errNotEnrolled) {
				t.Errorf("after the refusal: %v", err)
			}
		})
	}
}

// An impostor that shows the right authority beside a certificate of its own
// does not get to see the token.
func TestImpostor(t *testing.T) {
	ca, evil := newCA(t), newCA(t)
	impostor := startHub(t, evil)
	impostor.stop()
	impostor.shown = ca.cert
	impostor.restart()
	impostor.token.Authority = sha256.Sum256(ca.cert.Raw)
	e := newEnrolment(t, impostor, "tokyo")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := e.run(ctx)
	var fatal fatalError
	if !errors.As(err, &fatal) || !strings.Contains(err.Error(), "does not verify") {
		t.Errorf("got %v", err)
	}
	if len(impostor.keys) != 0 {
		t.Error("the token reached the impostor")
	}
}

// While the hub is not there, or cannot answer, the agent tries again; a lost
// answer is asked for again with the same key.
func TestEnrolmentRetries(t *testing.T) {
	hub := startHub(t, newCA(t))
	var calls atomic.Int32
	hub.enrol = func(*federationv1.EnrolRequest) error {
		if calls.Add(1) < 3 {
			return status.Error(codes.Unavailable, "busy")
		}
		return nil
	}
	hub.stop()
	e := newEnrolment(t, hub, "tokyo")
	type outcome struct {
		id  *identity
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		id, err := e.run(t.Context())
		done <- outcome{id, err}
	}()
	eventually(t, "the key is there before the hub", func() error {
		_, err := os.Stat(e.dir.path(keyFile))
		return err
	})
	hub.restart()
	o := <-done
	check(t, o.err)
	if calls.Load() != 3 {
		t.Errorf("%d calls", calls.Load())
	}

	// The answer was lost with the process: the next one uses the same key, so
	// that its name is not taken.
	check(t, os.Remove(e.dir.path(certFile)))
	if _, err := e.run(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRunRefuses(t *testing.T) {
	hub := startHub(t, newCA(t))
	enrolled := t.TempDir()
	a := newAgent(t, hub, "tokyo")
	a.opts.DataDir = enrolled
	a.start()
	a.url()
	for _, tc := range []struct {
		name   string
		change func(*Options)
		want   []string
	}{
		{"two of them", func(o *Options) { o.DataDir = enrolled }, []string{"another agent is running", "--data"}},
		{"no folder", func(o *Options) { o.DataDir = "" }, []string{"--data"}},
		{"bad name", func(o *Options) { o.Name = "To_kyo" }, []string{`"To_kyo"`, "--name"}},
		{"no name", func(o *Options) { o.Name = "" }, []string{"--name"}},
		{"no hub", func(o *Options) { o.Hub = "" }, []string{"--hub"}},
		{"bad hub", func(o *Options) { o.Hub = "hub" }, []string{"--hub", "HOST:PORT"}},
		{"no token", func(o *Options) { o.Token = "" }, []string{"sealane token create --cluster tokyo", "--token"}},
		{"bad token", func(o *Options) { o.Token = "abc" }, []string{"malformed join token"}},
		{"open to all", func(o *Options) { o.ClientListen = "0.0.0.0:0" }, []string{"--client-tls-cert"}},
		{"advertised in vain", func(o *Options) { o.LinkListen, o.Advertise = "", []string{"h:1"} }, []string{"--link-listen"}},
		{"bad address", func(o *Options) { o.Advertise = []string{"h"} }, []string{"--advertise", `"h"`}},
		{"address twice", func(o *Options) { o.Advertise = []string{"h:1", "h:1"} }, []string{"twice"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := newAgent(t, hub, "tokyo").opts
			tc.change(&o)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err := Run(ctx, o)
			if err == nil {
				t.Fatal("it ran")
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
	t.Run("another name than enrolled", func(t *testing.T) {
		a.stop()
		o := a.opts
		o.Name = "osaka"
		if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), `belongs to member "tokyo"`) {
			t.Errorf("got %v", err)
		}
	})
}

func TestStopsWhileEnrolling(t *testing.T) {
	hub := startHub(t, newCA(t))
	hub.stop()
	a := startAgent(t, hub, "tokyo")
	eventually(t, "it tries", func() error {
		_, err := os.Stat(filepath.Join(a.opts.DataDir, "identity", keyFile))
		return err
	})
	a.stop()
}
