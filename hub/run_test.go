package hub

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/hub/apiserver/apiservertest"
)

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// runHub runs a whole hub and returns where it is and how to stop it.
func runHub(t *testing.T, o Options) (Addresses, func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, result := make(chan Addresses, 1), make(chan error, 1)
	o.Ready = func(a Addresses) { ready <- a }
	o.Listen, o.APIListen = "127.0.0.1:0", "127.0.0.1:0"
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	go func() { result <- Run(ctx, o) }()
	stop := sync.OnceValue(func() error { cancel(); return <-result })
	t.Cleanup(func() { _ = stop(); noneLeft(t) })
	select {
	case a := <-ready:
		return a, stop
	case err := <-result:
		result <- err
		t.Fatalf("the hub ended: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("the hub is not ready in time")
	}
	return Addresses{}, stop
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestRunEmbedded(t *testing.T) {
	dir := t.TempDir()
	log := &lockedBuffer{}
	o := Options{Embedded: true, DataDir: dir, MetricsListen: "127.0.0.1:0", Version: "v1", Log: slog.New(slog.NewTextHandler(log, nil))}
	where, stop := runHub(t, o)
	if where.Advertise != where.Agents || where.Kubeconfig != filepath.Join(dir, "kubeconfig") {
		t.Errorf("addresses: %+v", where)
	}
	for path, want := range map[string]string{
		"/healthz": "ok", "/readyz": "ok", "/metrics": "sealane_hub_connected_members 0",
	} {
		if code, body := get(t, "http://"+where.Metrics+path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d, %.200s", path, code, body)
		}
	}
	if s := log.String(); !strings.Contains(s, "hub is ready") || !strings.Contains(s, where.Agents) {
		t.Errorf("log:\n%s", s)
	}
	c := clientOf(t, where.Kubeconfig)
	token := &v1alpha1.JoinToken{
		ObjectMeta: metav1.ObjectMeta{Name: "kept"},
		Spec:       v1alpha1.JoinTokenSpec{SecretHash: strings.Repeat("0", 64), Cluster: "*", ExpiresAt: metav1.NewTime(time.Now().Add(time.Hour))},
	}
	if err := c.Create(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	announced := func(c client.Client) (v1alpha1.JoinTokenStatus, bool) {
		var got v1alpha1.JoinToken
		err := c.Get(t.Context(), keyOf("kept"), &got)
		return got.Status, err == nil && got.Status.Hub != ""
	}
	eventually(t, "the token is announced", func() bool { _, ok := announced(c); return ok })
	before, _ := announced(c)
	if before.Hub != where.Advertise || len(before.Authority) != 64 {
		t.Errorf("announced: %+v", before)
	}
	if err := stop(); err != nil {
		t.Fatalf("stop: %v", err)
	}

	// The next start is the same federation.
	where, stop = runHub(t, o)
	c = clientOf(t, where.Kubeconfig)
	eventually(t, "the token is announced anew", func() bool { s, _ := announced(c); return s.Hub == where.Advertise })
	if after, _ := announced(c); after.Authority != before.Authority {
		t.Error("another authority after a restart")
	}
	if err := stop(); err != nil {
		t.Fatalf("stop: %v", err)
	}
}

func clientOf(t *testing.T, kubeconfig string) client.Client {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRunWithKubeconfig(t *testing.T) {
	where, stop := runHub(t, Options{Kubeconfig: apiservertest.Kubeconfig(t), DataDir: t.TempDir(), TrustDomain: "test.local"})
	if where.Metrics != "" || where.Kubeconfig == "" || where.API == "" {
		t.Errorf("addresses: %+v", where)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestRunErrorsNameTheFlag(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	inUse := l.Addr().String()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	epoch := t.TempDir()
	if err := os.WriteFile(filepath.Join(epoch, "epoch"), []byte("?"), 0o600); err != nil {
		t.Fatal(err)
	}
	kubeconfig := apiservertest.Kubeconfig(t)
	for what, tt := range map[string]struct {
		o    Options
		want string
	}{
		"both":          {Options{Embedded: true, Kubeconfig: kubeconfig}, "--embedded and --kubeconfig exclude"},
		"neither":       {Options{}, "--embedded"},
		"no kubeconfig": {Options{Kubeconfig: "/does/not/exist"}, "--kubeconfig /does/not/exist"},
		"trust domain":  {Options{Embedded: true, TrustDomain: "no domain"}, "--trust-domain"},
		"data":          {Options{Embedded: true, DataDir: filepath.Join(file, "x")}, "--data"},
		"metrics":       {Options{Embedded: true, MetricsListen: inUse}, "--metrics-listen " + inUse},
		"listen":        {Options{Kubeconfig: kubeconfig, Listen: inUse}, "--listen " + inUse},
		"advertise":     {Options{Kubeconfig: kubeconfig, Listen: "127.0.0.1:0", Advertise: "hub"}, "--advertise hub"},
		"wildcard":      {Options{Kubeconfig: kubeconfig, Listen: "127.0.0.1:0", Advertise: "0.0.0.0:7443"}, "--advertise 0.0.0.0:7443"},
		"member's name": {Options{Kubeconfig: kubeconfig, Listen: "127.0.0.1:0", Advertise: "a.cluster.sealane.local:7443"}, "are those of members"},
		"epoch":         {Options{Embedded: true, DataDir: epoch}, "epoch"},
	} {
		t.Run(what, func(t *testing.T) {
			if tt.o.DataDir == "" {
				tt.o.DataDir = t.TempDir()
			}
			tt.o.Log = slog.New(slog.DiscardHandler)
			err := Run(t.Context(), tt.o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
	noneLeft(t)
}

func TestAdvertised(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	addr := &net.TCPAddr{IP: net.IPv4zero, Port: 7443}
	for listen, want := range map[string]string{
		":7443": fmt.Sprintf("%s:7443", host), "0.0.0.0:0": fmt.Sprintf("%s:7443", host), "10.1.2.3:0": "10.1.2.3:7443", "[::1]:0": "[::1]:7443",
	} {
		o := Options{Listen: listen, TrustDomain: DefaultTrustDomain}
		if got, err := o.advertised(addr); err != nil || got != want {
			t.Errorf("--listen %s: %q, %v; want %q", listen, got, err, want)
		}
	}
}

func TestStackStopsInReverse(t *testing.T) {
	s := newStack(t.Context())
	var order []string
	var mu sync.Mutex
	for _, name := range []string{"first", "second", "third"} {
		s.start(name, func(ctx context.Context) error {
			<-ctx.Done()
			mu.Lock()
			defer mu.Unlock()
			order = append(order, name)
			return ctx.Err()
		})
	}
	s.start("broken", func(context.Context) error { return io.ErrUnexpectedEOF })
	<-s.ctx.Done()
	if err := s.outcome(nil); err == nil || !strings.Contains(err.Error(), "the broken failed") {
		t.Errorf("outcome: %v", err)
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	equal(t, "order", order, []string{"third", "second", "first"})
}
