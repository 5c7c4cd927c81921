package apiserver

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// clock is a time that tests move.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func TestServingCertificate(t *testing.T) {
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	const day = 24 * time.Hour
	for name, test := range map[string]struct {
		later time.Duration
		hosts []string
		fresh bool
	}{
		"the same day":           {0, hosts, false},
		"in another order":       {0, []string{"::1", "localhost", "127.0.0.1"}, false},
		"spelt otherwise":        {0, []string{"0:0:0:0:0:0:0:1", "localhost", "127.0.0.1"}, false},
		"two thirds of its life": {242 * day, hosts, false},
		"near its end":           {245 * day, hosts, true},
		"after its end":          {400 * day, hosts, true},
		"with another host":      {0, append([]string{"hub.example.com"}, hosts...), true},
		"with a host less":       {0, hosts[:2], true},
		"after the authority":    {10 * 365 * day, hosts, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := &clock{time.Now()}
			p, err := openPKI(dir, c.now)
			if err != nil {
				t.Fatal(err)
			}
			first, fresh, err := p.server(hosts)
			if err != nil || !fresh {
				t.Fatal(fresh, err)
			}
			c.t = c.t.Add(test.later)
			if p, err = openPKI(dir, c.now); err != nil {
				t.Fatal(err)
			}
			second, fresh, err := p.server(test.hosts)
			if err != nil {
				t.Fatal(err)
			}
			if fresh != test.fresh || bytes.Equal(first.cert, second.cert) == fresh {
				t.Errorf("fresh: %v, want %v", fresh, test.fresh)
			}
			cert, _, err := parsePair(second)
			if err != nil {
				t.Fatal(err)
			}
			roots := x509.NewCertPool()
			roots.AddCert(p.caCert)
			for _, h := range test.hosts {
				if _, err := cert.Verify(x509.VerifyOptions{DNSName: h, Roots: roots, CurrentTime: c.t}); err != nil {
					t.Errorf("%s: %v", h, err)
				}
			}
		})
	}
}

func TestKubeconfig(t *testing.T) {
	const day = 24 * time.Hour
	const url = "https://127.0.0.1:1234"
	for name, test := range map[string]struct {
		later     time.Duration
		url       string
		change    func(t *testing.T, path string)
		sameFile  bool
		sameAdmin bool
	}{
		"nothing changed":    {url: url, sameFile: true, sameAdmin: true},
		"another address":    {url: "https://127.0.0.1:5678", sameAdmin: true},
		"near its end":       {url: url, later: 300 * day},
		"authority replaced": {url: url, later: 10 * 365 * day},
		"readable by others": {url: url, change: func(t *testing.T, path string) { must(t, os.Chmod(path, 0o644)) }, sameFile: true, sameAdmin: true},
		"gone":               {url: url, change: func(t *testing.T, path string) { must(t, os.Remove(path)) }},
		"no kubeconfig":      {url: url, change: func(t *testing.T, path string) { must(t, os.WriteFile(path, []byte("{"), 0o600)) }},
		"another kubeconfig": {url: url, change: func(t *testing.T, path string) {
			must(t, os.WriteFile(path, []byte("apiVersion: v1\nkind: Config\n"), 0o600))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "kubeconfig")
			c := &clock{time.Now()}
			write := func(url string) (file, admin []byte) {
				t.Helper()
				p, err := openPKI(filepath.Join(dir, "pki"), c.now)
				must(t, err)
				must(t, p.writeKubeconfig(path, url))
				file, err = os.ReadFile(path)
				must(t, err)
				info, err := os.Stat(path)
				must(t, err)
				if info.Mode().Perm() != 0o600 {
					t.Errorf("mode %v", info.Mode())
				}
				cfg, err := clientcmd.Load(file)
				must(t, err)
				if got := cfg.Clusters[cfg.Contexts[cfg.CurrentContext].Cluster].Server; got != url {
					t.Errorf("server %s, want %s", got, url)
				}
				admin = cfg.AuthInfos[cfg.Contexts[cfg.CurrentContext].AuthInfo].ClientCertificateData
				cert, _, err := parsePair(keyPair{admin, cfg.AuthInfos[contextName].ClientKeyData})
				must(t, err)
				must(t, cert.CheckSignatureFrom(p.caCert))
				if cert.NotAfter.Before(c.t.Add(30 * day)) {
					t.Errorf("ends at %v", cert.NotAfter)
				}
				return file, admin
			}
			file, admin := write(url)
			c.t = c.t.Add(test.later)
			if test.change != nil {
				test.change(t, path)
			}
			file2, admin2 := write(test.url)
			if bytes.Equal(file, file2) != test.sameFile || bytes.Equal(admin, admin2) != test.sameAdmin {
				t.Errorf("same file: %v, same certificate: %v", bytes.Equal(file, file2), bytes.Equal(admin, admin2))
			}
		})
	}
}

// TestRenew: a server that runs for years swaps its certificate without a restart.
func TestRenew(t *testing.T) {
	dir := t.TempDir()
	c := &clock{time.Now()}
	p, err := openPKI(filepath.Join(dir, "pki"), c.now)
	must(t, err)
	certs := &certificates{pki: p, hosts: []string{"localhost"}, url: "https://localhost:1", kubeconfig: filepath.Join(dir, "kubeconfig")}
	told := make(listener, 10)
	certs.serving.AddListener(told)
	state := func() (cert, kubeconfig []byte) {
		t.Helper()
		must(t, certs.renew())
		cert, _ = certs.serving.CurrentCertKeyContent()
		kubeconfig, err := os.ReadFile(certs.kubeconfig)
		must(t, err)
		return cert, kubeconfig
	}
	cert, kubeconfig := state()
	<-told
	if cert2, kubeconfig2 := state(); !bytes.Equal(cert, cert2) || !bytes.Equal(kubeconfig, kubeconfig2) || len(told) > 0 {
		t.Error("renewed without need")
	}
	c.t = c.t.Add(300 * 24 * time.Hour)
	if cert2, kubeconfig2 := state(); bytes.Equal(cert, cert2) || bytes.Equal(kubeconfig, kubeconfig2) || len(told) != 1 {
		t.Error("not renewed, or the server was not told")
	}
}

type listener chan struct{}

func (l listener) Enqueue() { l <- struct{}{} }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
