//go:build e2e

package kind

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/e2e/kind/lab"
)

// install makes the federation: a hub in its cluster, a member in each of two
// others, and an edge outside.
func install(t *testing.T) *federation {
	t.Helper()
	images := builtImages(t)
	var wg sync.WaitGroup
	for c, i := range map[*lab.Cluster]image{hub: images["sealane-hub"], berlin: images["sealane-agent"], tokyo: images["sealane-agent"]} {
		wg.Go(func() {
			if err := c.Load(t.Context(), i.archive); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	address := fmt.Sprintf("%s:%d", hub.IP, hubPort)
	name, tag, _ := cutLast(images["sealane-hub"].ref, ":")
	if out, err := hub.Helm(t.Context(), "upgrade", "--install", "sealane-hub", "charts/hub", "--namespace", system, "--create-namespace",
		"--set", "image.repository="+name, "--set-string", "image.tag="+tag, "--set", "image.pullPolicy=Never",
		"--set", "advertise="+address, "--set", "service.type=NodePort", "--set", fmt.Sprintf("service.nodePort=%d", hubPort)); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	kubectl(t, hub, "-n", system, "rollout", "status", "deployment/sealane-hub", "--timeout=300s")
	kubectl(t, hub, "create", "namespace", applications)
	f := &federation{kube: clientOf(t, hub), members: map[string]member{}}
	eventually(t, time.Minute, "the hub's resources are served", func() error {
		return f.kube.List(t.Context(), &v1alpha1.JoinTokenList{})
	})
	for _, c := range []*lab.Cluster{berlin, tokyo} {
		certificate, key, roots := selfSigned(t, c.IP)
		f.members[c.Name] = &inPod{cluster: c, roots: roots}
		apply(t, c, system, render(t, "agent.yaml", map[string]any{
			"Namespace": system, "Image": images["sealane-agent"].ref, "Name": c.Name, "Hub": address, "Token": f.token(t, c.Name),
			"IP": c.IP, "LinkPort": linkPort, "ClientPort": clientPort, "Certificate": certificate, "Key": key,
		}))
	}
	data := t.TempDir()
	f.members["edge"] = &onMachine{name: "edge", dir: data, process: start(t, "edge.log", "sealane-agent", "--name", "edge", "--hub", address,
		"--token", f.token(t, "edge"), "--data", data, "--client-listen", freeAddress(t))}
	for _, name := range everywhere {
		f.wait(t, memberCluster(name), v1alpha1.ConditionConnected, metav1.ConditionTrue)
	}
	return f
}

// render fills in a manifest of testdata.
func render(t testing.TB, file string, values map[string]any) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	indent := func(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n    ") }
	var out bytes.Buffer
	parsed, err := template.New(file).Option("missingkey=error").Funcs(template.FuncMap{"indent": indent}).Parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := parsed.Execute(&out, values); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// selfSigned makes a certificate for an address.
func selfSigned(t testing.TB, ip string) (certificate, key string, roots *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "e2e"}, IPAddresses: []net.IP{net.ParseIP(ip)},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, of, of, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(certificate))
	return certificate, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})), roots
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // nothing was accepted
	return l.Addr().String()
}
