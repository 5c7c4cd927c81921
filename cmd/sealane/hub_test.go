package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/cmd/sealane/hubapi"
	"github.com/sealane/sealane/e2e/freeport"
	"github.com/sealane/sealane/hub/apiserver/apiservertest"
)

// hub is the shared API server, found as a user would find it.
func hub(t *testing.T) *hubapi.Hub {
	t.Helper()
	t.Setenv("KUBECONFIG", apiservertest.Kubeconfig(t))
	h, err := hubapi.Connect(hubapi.Where{})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// load puts a fixture on the API server, status and all, and removes it again.
func load(t *testing.T, h *hubapi.Hub, file string) {
	t.Helper()
	for _, u := range documents(t, file) {
		if u.GetKind() == "MemberCluster" {
			_ = unstructured.SetNestedMap(u.Object, map[string]any{}, "spec")
		}
		status := u.Object["status"]
		if err := h.Create(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := h.Delete(context.Background(), u); err != nil {
				t.Error(err)
			}
		})
		u.Object["status"] = status
		_ = unstructured.SetNestedField(u.Object, u.GetGeneration(), "status", "observedGeneration")
		if err := h.Status().Update(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
}

func TestGetFromAHub(t *testing.T) {
	h := hub(t)
	load(t, h, "testdata/fine.yaml")
	for _, c := range []struct {
		args string
		code int
		want []string
	}{
		{"get members", 0, []string{"NAME", "berlin", "tokyo"}},
		{"get members tokyo -o name", 0, []string{"membercluster/tokyo\n"}},
		{"get members oslo", 1, []string{`no membercluster "oslo"; there are: berlin, tokyo`}},
		{"get links -o json", 0, []string{`"dialer": "tokyo"`, `"rttMicros": 231400`}},
		{"get links berlin -o name", 0, []string{"link/berlin<->tokyo\n"}},
		{"get links oslo", 1, []string{`no member "oslo"; there are: berlin, tokyo`}},
		{"get bridges -n press", 0, []string{"There is no bridge in namespace press."}},
		{"get bridges -A -o yaml", 0, []string{"kind: List", "kind: Bridge", "lag: 3"}},
		{"get bridge orders -n shop -o json", 0, []string{`"kind": "Bridge"`, `"target": "ORDERS_ALL"`}},
		{"get streams", 0, []string{"ORDERS"}},
		{"get topologies", 0, []string{"retail"}},
		{"status", 0, []string{"Fine: 1 topology, 2 members, 1 link, 1 stream and 1 bridge work."}},
		{"__complete get members b", 0, []string{"berlin\n"}},
		{"__complete get bridges -n shop ''", 0, nil},
	} {
		code, stdout, stderr := call(t, strings.Fields(c.args)...)
		if code != c.code {
			t.Errorf("sealane %s: status %d, want %d\n%s%s", c.args, code, c.code, stdout, stderr)
		}
		for _, w := range c.want {
			if !strings.Contains(stdout+stderr, w) {
				t.Errorf("sealane %s: no %q in\n%s%s", c.args, w, stdout, stderr)
			}
		}
	}
}

func TestStatusOfABrokenFederation(t *testing.T) {
	load(t, hub(t), "testdata/broken.yaml")
	code, stdout, stderr := call(t, "status", "-o", "json")
	var r hubapi.Report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || code != 1 || r.Fine || stderr != "" {
		t.Fatalf("status %d, %v\n%s%s", code, err, stdout, stderr)
	}
	if !slices.ContainsFunc(r.Findings, func(f hubapi.Finding) bool {
		return f.Area == hubapi.AreaRefused && f.Object == "bridge shop/loop" && f.Reason == v1alpha1.ReasonStreamCycle
	}) {
		t.Errorf("the refused bridge is missing:\n%s", stdout)
	}
}

// answer plays the hub's part for one token.
func answer(t *testing.T, h *hubapi.Hub, name, addr, authority string) {
	t.Helper()
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	go func() {
		obj := &v1alpha1.JoinToken{}
		err := hubapi.Poll(ctx, 10*time.Millisecond, func() (bool, error) {
			err := h.Get(ctx, client.ObjectKey{Name: name}, obj)
			return err == nil, client.IgnoreNotFound(err)
		})
		if err == nil {
			obj.Status.Hub, obj.Status.Authority = addr, authority
			err = h.Status().Update(ctx, obj)
		}
		done <- err
	}()
	t.Cleanup(func() {
		defer cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestTokens(t *testing.T) {
	h := hub(t)
	authority := strings.Repeat("ab", 32)
	answer(t, h, "for-edges", "hub.example:7443", authority)
	code, stdout, stderr := call(t, "token", "create", "--name", "for-edges", "--cluster", "edge-*", "--uses", "3", "--label", "region=eu", "-o", "json")
	var made hubapi.Token
	if err := json.Unmarshal([]byte(stdout), &made); code != 0 || err != nil {
		t.Fatalf("status %d, %v\n%s%s", code, err, stdout, stderr)
	}
	token, err := federationv1.ParseJoinToken(made.Text)
	if err != nil {
		t.Fatal(err)
	}
	var obj v1alpha1.JoinToken
	if err := h.Get(t.Context(), client.ObjectKey{Name: "for-edges"}, &obj); err != nil {
		t.Fatal(err)
	}
	if obj.Spec.SecretHash != token.SecretHash() || token.Name != "for-edges" || obj.Spec.Labels["region"] != "eu" || obj.Spec.MaxUses != 3 {
		t.Errorf("the token and its resource do not match: %+v", obj.Spec)
	}
	if want := "sealane-agent --name NAME --hub hub.example:7443 --token " + made.Text; made.Command != want {
		t.Errorf("command %q, want %q", made.Command, want)
	}

	code, _, stderr = call(t, "token", "create", "--name", "for-edges", "--cluster", "edge-*")
	if code != 1 || !strings.Contains(stderr, "there is a token \"for-edges\" already") {
		t.Errorf("a second token of the name: status %d, %s", code, stderr)
	}
	if code, stdout, _ = call(t, "token", "list"); code != 0 || !strings.Contains(stdout, "for-edges   edge-*   0/3") || !strings.Contains(stdout, "Usable") {
		t.Errorf("list: status %d\n%s", code, stdout)
	}
	if code, stdout, _ = call(t, "token", "delete", "for-edges"); code != 0 || stdout != "token for-edges deleted\n" {
		t.Errorf("delete: status %d, %s", code, stdout)
	}
	code, _, stderr = call(t, "token", "delete", "for-edges")
	if code != 1 || !strings.Contains(stderr, `there is no token "for-edges"`) {
		t.Errorf("delete again: status %d, %s", code, stderr)
	}
}

func TestTokenOfASilentHub(t *testing.T) {
	h := hub(t)
	code, stdout, stderr := call(t, "token", "create", "--name", "unanswered", "--cluster", "oslo", "--timeout", "300ms")
	if code != 1 || stdout != "" || !strings.Contains(stderr, "Is sealane-hub running") {
		t.Errorf("status %d, %q, %s", code, stdout, stderr)
	}
	if err := h.Get(t.Context(), client.ObjectKey{Name: "unanswered"}, &v1alpha1.JoinToken{}); !apierrors.IsNotFound(err) {
		t.Errorf("the token that nobody can use is still there: %v", err)
	}
}

func TestExplainedErrors(t *testing.T) {
	nobody := "https://" + freeport.Addr(t)
	good := apiservertest.Kubeconfig(t)
	variant := func(change func(server *string, clientCert, ca *[]byte)) string {
		cfg, err := clientcmd.LoadFromFile(good)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cfg.Clusters {
			for _, a := range cfg.AuthInfos {
				change(&c.Server, &a.ClientCertificateData, &c.CertificateAuthorityData)
				if a.ClientCertificateData == nil {
					a.ClientKeyData, a.ClientKey = nil, ""
				}
			}
		}
		file := filepath.Join(t.TempDir(), "kubeconfig")
		if err := clientcmd.WriteToFile(*cfg, file); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for _, c := range []struct {
		name, file, want string
	}{
		{"nobody listens", variant(func(s *string, _, _ *[]byte) { *s = nobody }), "refuses connections: is the hub running?"},
		{"no certificate", variant(func(_ *string, cert, _ *[]byte) { *cert = nil }), "does not know this user"},
		{"foreign authority", variant(func(_ *string, cert, ca *[]byte) { *ca = *cert }), "is not the one that the kubeconfig trusts"},
	} {
		code, _, stderr := call(t, "status", "--kubeconfig", c.file)
		if code != 2 || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: status %d, %s; want %q", c.name, code, stderr, c.want)
		}
	}
}

func TestCreds(t *testing.T) {
	noHub(t)
	root := t.TempDir()
	write := func(path, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	berlin := filepath.Join(root, "members", "berlin")
	write(filepath.Join(berlin, "creds", "shop.creds"), "secret of berlin\n")
	write(filepath.Join(berlin, "creds", "press.creds"), "another\n")
	write(filepath.Join(berlin, "url"), "nats://127.0.0.1:4222\n")
	if err := os.MkdirAll(filepath.Join(root, "members", "tokyo", "identity"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"creds berlin shop --dir " + root, 0, "secret of berlin\n"},
		{"creds berlin shop --dir " + berlin, 0, "secret of berlin\n"},
		{"creds berlin shop --url --dir " + root, 0, "nats://127.0.0.1:4222\n"},
		{"creds berlin shop --path --dir " + root, 0, filepath.Join(berlin, "creds", "shop.creds") + "\n"},
		{"creds berlin bank --dir " + root, 1, `berlin has no account "bank"; there are: press, shop`},
		{"creds berlin ../shop --dir " + root, 1, "is no name of an account"},
		{"creds tokyo shop --dir " + root, 1, "tokyo has no accounts yet"},
		{"creds oslo shop --dir " + root, 1, `no member "oslo" in ` + root + "; there are: berlin, tokyo"},
		{"creds ../berlin shop --dir " + root, 1, "is no name of a member"},
		{"creds berlin shop --dir " + filepath.Join(root, "nowhere"), 1, "with --dir naming its data folder"},
		{"__complete creds --dir " + root + " be", 0, "berlin\n"},
		{"__complete creds --dir " + root + " berlin s", 0, "shop\n"},
	} {
		code, stdout, stderr := call(t, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(stdout+stderr, c.want) {
			t.Errorf("sealane %s: status %d\n%s%s; want %q", c.args, code, stdout, stderr, c.want)
		}
	}
}
