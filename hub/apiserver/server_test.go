package apiserver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	clientset "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/typed/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/e2e/freeport"
	"github.com/sealane/sealane/hub/apiserver"
)

func readFile(t *testing.T, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// reach checks that the configuration leads to the server and is let in.
func reach(t *testing.T, cfg *rest.Config) {
	t.Helper()
	if got := get(t, cfg, "/version"); got != http.StatusOK {
		t.Errorf("%s: status %d", cfg.Host, got)
	}
}

// get returns the status with which path is answered.
func get(t *testing.T, cfg *rest.Config, path string) int {
	t.Helper()
	c, err := rest.HTTPClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer utilnet.CloseIdleConnectionsFor(c.Transport)
	resp, err := c.Get(cfg.Host + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

func fromKubeconfig(t *testing.T, path string) *rest.Config {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestRestart: what a server leaves behind is private, and another one on the same
// folder is the same to everybody: address, kubeconfig, objects.
func TestRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by-start")
	s := start(t, dir)
	install(t, s.RESTConfig())
	member := &v1alpha1.MemberCluster{}
	member.Name = "a"
	member.Labels = map[string]string{"tier": "core"}
	if err := newClient(t, fromKubeconfig(t, s.KubeconfigPath())).Create(t.Context(), member); err != nil {
		t.Fatal(err)
	}
	kubeconfig, host := readFile(t, s.KubeconfigPath()), s.RESTConfig().Host

	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		// The socket is guarded by its folder.
		if d.Type() != fs.ModeSocket && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: mode %v lets others in", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}

	s = start(t, dir)
	if got := s.RESTConfig().Host; got != host {
		t.Errorf("serves at %s after a restart, before at %s", got, host)
	}
	if !bytes.Equal(kubeconfig, readFile(t, s.KubeconfigPath())) {
		t.Error("the kubeconfig changed at a restart")
	}
	// No InstallCRDs: the kinds were served when Start returned.
	got := &v1alpha1.MemberCluster{}
	if err := newClient(t, s.RESTConfig()).Get(t.Context(), client.ObjectKey{Name: "a"}, got); err != nil {
		t.Fatal(err)
	}
	if got.UID != member.UID || got.Labels["tier"] != "core" {
		t.Errorf("got %+v after a restart", got.ObjectMeta)
	}
}

// TestKubeconfigLast: who waits for the kubeconfig finds every kind in it, and can create
// objects without being held up.
func TestKubeconfigLast(t *testing.T) {
	dir := t.TempDir()
	started := make(chan *apiserver.Server, 1)
	go func() {
		defer close(started)
		s, err := apiserver.Start(context.Background(), apiserver.Options{DataDir: dir, Listen: "127.0.0.1:0", Kinds: true, Log: quiet()})
		if err != nil {
			t.Error(err)
			return
		}
		started <- s
	}()
	defer func() {
		if s := <-started; s != nil {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	await(t, func() error { _, err := os.Stat(kubeconfig); return err })
	cfg := fromKubeconfig(t, kubeconfig)
	c := newClient(t, cfg)
	for _, list := range []client.ObjectList{
		&v1alpha1.MessagingTopologyList{}, &v1alpha1.MemberClusterList{}, &v1alpha1.JoinTokenList{}, &v1alpha1.StreamList{}, &v1alpha1.BridgeList{},
	} {
		if err := c.List(t.Context(), list); err != nil {
			t.Errorf("%T as the kubeconfig appears: %v", list, err)
		}
	}
	// The library holds up creations for two seconds after this time.
	crds, err := clientset.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	all, err := crds.CustomResourceDefinitions().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, crd := range all.Items {
		for _, cond := range crd.Status.Conditions {
			if cond.Type == apiextensionsv1.Established && time.Since(cond.LastTransitionTime.Time) < 2*time.Second {
				t.Errorf("%s was established at %v, just now", crd.Name, cond.LastTransitionTime)
			}
		}
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	start(t, dir)
	_, err := apiserver.Start(t.Context(), apiserver.Options{DataDir: dir, Listen: "127.0.0.1:0", Log: quiet()})
	if !errors.Is(err, apiserver.ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second server on one folder: error %v, want ErrInUse that names the folder", err)
	}
}

// TestStop: the end of the context is as good as Close, also for those who watch.
func TestStop(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s, err := apiserver.Start(ctx, apiserver.Options{DataDir: t.TempDir(), Listen: "127.0.0.1:0", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	install(t, s.RESTConfig())
	w, err := newClient(t, fromKubeconfig(t, s.KubeconfigPath())).Watch(t.Context(), &v1alpha1.StreamList{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	began := time.Now()
	cancel()
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("took %v to stop", d)
	}
	for range w.ResultChan() { // ends because the server hung up
	}
}

func TestListen(t *testing.T) {
	host := func(t *testing.T, s *apiserver.Server, name string) {
		t.Helper()
		cfg := fromKubeconfig(t, s.KubeconfigPath())
		_, port, err := net.SplitHostPort(strings.TrimPrefix(cfg.Host, "https://"))
		if err != nil {
			t.Fatal(err)
		}
		cfg.Host = "https://" + net.JoinHostPort("127.0.0.1", port)
		cfg.ServerName = name
		reach(t, cfg)
	}
	t.Run("every address", func(t *testing.T) {
		s := startWith(t, apiserver.Options{DataDir: t.TempDir(), Listen: "0.0.0.0:0", Hosts: []string{"hub.example.com", "10.1.2.3"}, Log: quiet()})
		for _, name := range []string{"", "localhost", "127.0.0.1", "::1", "hub.example.com", "10.1.2.3"} {
			host(t, s, name)
		}
	})
	t.Run("a name, and a port", func(t *testing.T) {
		o := apiserver.Options{DataDir: t.TempDir(), Listen: fmt.Sprintf("localhost:%d", freeport.Port(t)), Log: quiet()}
		s := startWith(t, o)
		host(t, s, "localhost")
		if got, want := s.RESTConfig().Host, "https://"+o.Listen; got != want {
			t.Errorf("serves at %s, want %s", got, want)
		}
	})
	t.Run("a port that is taken", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		dir := t.TempDir()
		if _, err := apiserver.Start(t.Context(), apiserver.Options{DataDir: dir, Listen: l.Addr().String(), Log: quiet()}); err == nil {
			t.Fatal("started on a port that is taken")
		}
		// The failed start left nothing locked, and a kept port gives way.
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "api-port"), []byte(port), 0o600); err != nil {
			t.Fatal(err)
		}
		s := start(t, dir)
		reach(t, fromKubeconfig(t, s.KubeconfigPath()))
		if strings.HasSuffix(s.RESTConfig().Host, ":"+port) {
			t.Errorf("serves at %s, which is another's", s.RESTConfig().Host)
		}
	})
	t.Run("no address", func(t *testing.T) {
		if _, err := apiserver.Start(t.Context(), apiserver.Options{DataDir: t.TempDir(), Listen: "nonsense", Log: quiet()}); err == nil {
			t.Error("started")
		}
	})
}

// TestLongPath: unix sockets have short paths, data folders need not.
func TestLongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 100), strings.Repeat("e", 100))
	s := start(t, dir)
	reach(t, s.RESTConfig())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	start(t, dir) // with another socket on the same data
}

func TestDamage(t *testing.T) {
	for name, test := range map[string]struct {
		damage func(t *testing.T, dir string)
		want   string
	}{
		"authority": {
			damage: func(t *testing.T, dir string) { write(t, "no key", dir, "pki", "api-ca.pem") },
			want:   "api-ca.pem is damaged",
		},
		"log of the store": {
			damage: func(t *testing.T, dir string) {
				files, err := filepath.Glob(filepath.Join(dir, "etcd", "member", "wal", "*.wal"))
				if err != nil || len(files) == 0 {
					t.Fatal(files, err)
				}
				for _, f := range files {
					write(t, strings.Repeat("nonsense", 1000), f)
				}
			},
			want: "start the store",
		},
		"objects of the store": {
			damage: func(t *testing.T, dir string) {
				write(t, strings.Repeat("nonsense", 10000), dir, "etcd", "member", "snap", "db")
			},
			want: "start the store",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := start(t, dir).Close(); err != nil {
				t.Fatal(err)
			}
			test.damage(t, dir)
			// In a process of its own: etcd leaves goroutines behind when it fails so.
			out, err := childOn(t, dir).CombinedOutput()
			if err == nil || !strings.Contains(string(out), test.want) || strings.Contains(string(out), "goroutine ") {
				t.Errorf("%v: %s\nwant %q", err, out, test.want)
			}
		})
	}
}

// TestRepair: what can be made again is made again.
func TestRepair(t *testing.T) {
	dir := t.TempDir()
	if err := start(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	write(t, "nonsense", dir, "kubeconfig")
	write(t, "nonsense", dir, "api-port")
	write(t, "nonsense", dir, "pki", "api-server.pem")
	s := start(t, dir)
	reach(t, fromKubeconfig(t, s.KubeconfigPath()))
}

func write(t *testing.T, content string, path ...string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(path...), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
