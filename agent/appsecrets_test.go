package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
	"github.com/sealane/sealane/broker/statefulset/kube"
)

// place is a broker elsewhere of which only addresses are asked.
type place struct{ broker.Runtime }

func (place) ClientURL() string         { return "tls://broker:4222" }
func (place) ClientCA() []byte          { return []byte("ca") }
func (place) Capacity() broker.Capacity { return broker.Capacity{} }

type secretAPI struct {
	objects map[string]map[string]string // data by namespace/name
	writes  int
	refuse  bool
}

func (a *secretAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := strings.Split(strings.TrimPrefix(r.URL.Path, "/api/v1/namespaces/"), "/") // ns, secrets, name
	key := p[0] + "/" + p[2]
	switch {
	case a.refuse:
		w.WriteHeader(http.StatusForbidden)
	case r.Method == http.MethodDelete:
		delete(a.objects, key)
	default:
		var o struct{ Data map[string]string }
		b, _ := io.ReadAll(r.Body)
		_ = json.Unmarshal(b, &o)
		a.objects[key] = o.Data
		a.writes++
	}
}

func TestAppSecrets(t *testing.T) {
	dir := t.TempDir()
	api := &secretAPI{objects: map[string]map[string]string{}}
	server := httptest.NewServer(api)
	defer server.Close()
	keyring, err := broker.LoadOrCreateKeyring(filepath.Join(dir, "seed"))
	check(t, err)
	holder, err := openHolder(&journal{dir: filepath.Join(dir, "journal"), log: slog.Default()})
	check(t, err)
	hold := func(accounts ...*federationv1.AccountSpec) {
		t.Helper()
		_, err := holder.change(func(h *held) bool {
			clear(h.parts)
			for _, a := range accounts {
				p := &federationv1.Part{Id: federationv1.AccountID(a.Name), Spec: &federationv1.Part_Account{Account: a}}
				h.parts[p.Id] = p
			}
			return true
		})
		check(t, err)
	}
	now := time.Now()
	open := func(granted ...string) *appSecrets {
		m := &member{name: "a", log: slog.New(slog.DiscardHandler), rt: place{}, keyring: keyring, holder: holder, work: make(chan struct{}, 1)}
		k := &KubernetesOptions{CredentialNamespaces: granted, Client: &kube.Client{Base: server.URL, HTTP: server.Client()}}
		s := k.secrets(m, dir)
		s.now = func() time.Time { return now }
		return s
	}
	want := func(keys ...string) {
		t.Helper()
		if len(api.objects) != len(keys) {
			t.Errorf("there are %v, want %v", api.objects, keys)
		}
		for _, k := range keys {
			if api.objects[k] == nil {
				t.Errorf("there is no %s", k)
			}
		}
	}
	ctx := context.Background()
	s := open("shop", "web")
	hold(
		&federationv1.AccountSpec{Name: "app", Application: true, Namespaces: []string{"elsewhere", "shop"}},
		&federationv1.AccountSpec{Name: "all", Application: true, Namespaces: []string{"*"}},
		&federationv1.AccountSpec{Name: "none", Application: true},
		&federationv1.AccountSpec{Name: "tx_b", Namespaces: []string{"*"}},
	)
	check(t, s.pass(ctx))
	want("shop/sealane-app", "shop/sealane-all", "web/sealane-all")
	data := api.objects["shop/sealane-app"]
	decode := func(k string) string {
		b, err := base64.StdEncoding.DecodeString(data[k])
		check(t, err)
		return string(b)
	}
	if decode("url") != "tls://broker:4222" || decode("ca.crt") != "ca" {
		t.Errorf("url %q, ca %q", decode("url"), decode("ca.crt"))
	}
	token, err := jwt.ParseDecoratedJWT([]byte(decode("user.creds")))
	check(t, err)
	claims, err := jwt.DecodeUserClaims(token)
	check(t, err)
	if left := time.Unix(claims.Expires, 0).Sub(now); left < credsLife-time.Minute || left > credsLife {
		t.Errorf("the credentials end in %v", left)
	}

	// Nothing changed: nothing is written, and a new process writes the same.
	writes := api.writes
	check(t, s.pass(ctx))
	if api.writes != writes {
		t.Error("written again although nothing changed")
	}
	before := data["user.creds"]
	s = open("shop", "web")
	check(t, s.pass(ctx))
	if data = api.objects["shop/sealane-app"]; data["user.creds"] != before {
		t.Error("a new process made other credentials")
	}
	// Somebody removed one: it is there again after a while.
	delete(api.objects, "web/sealane-all")
	now = now.Add(secretsRefresh + time.Second)
	check(t, s.pass(ctx))
	want("shop/sealane-app", "shop/sealane-all", "web/sealane-all")
	// They are renewed long before they end.
	now = now.Add(credsLife/3 + time.Second)
	check(t, s.pass(ctx))
	if data = api.objects["shop/sealane-app"]; data["user.creds"] == before {
		t.Error("not renewed")
	}

	// Access ends: also one that could not be removed at first, and by another process.
	hold(&federationv1.AccountSpec{Name: "app", Application: true, Namespaces: []string{"web"}})
	api.refuse = true
	check(t, s.pass(ctx))
	want("shop/sealane-app", "shop/sealane-all", "web/sealane-all")
	api.refuse = false
	s = open("web")
	check(t, s.pass(ctx))
	want("web/sealane-app")

	// The users of those that lost access are revoked, and no others: until what they
	// had has expired, or for good what was issued before they had access again.
	revoked := func(s *appSecrets, account, namespace string, issued time.Time) bool {
		t.Helper()
		c := jwt.NewAccountClaims(keyring.Account(account).Public)
		check(t, s.revoke(account, c))
		return c.Revocations.IsRevoked(keyring.AppUserIn(account, namespace).Public, issued)
	}
	for _, s := range []*appSecrets{s, open("web")} {
		if !revoked(s, "app", "shop", now) || !revoked(s, "all", "web", now) || revoked(s, "app", "web", now.Add(-credsLife)) {
			t.Errorf("revoked: %+v", s.written)
		}
	}
	s = open("shop", "web")
	hold(&federationv1.AccountSpec{Name: "app", Application: true, Namespaces: []string{"shop", "web"}})
	check(t, s.pass(ctx))
	want("shop/sealane-app", "web/sealane-app")
	data = api.objects["shop/sealane-app"]
	token, err = jwt.ParseDecoratedJWT([]byte(decode("user.creds")))
	check(t, err)
	claims, err = jwt.DecodeUserClaims(token)
	check(t, err)
	if issued := time.Unix(claims.IssuedAt, 0); revoked(s, "app", "shop", issued) || !revoked(s, "app", "shop", issued.Add(-time.Second)) {
		t.Errorf("what is issued now shall work, what was before not: %+v", s.written)
	}
	now = now.Add(credsLife + time.Minute)
	check(t, s.pass(ctx))
	if c := jwt.NewAccountClaims(keyring.Account("app").Public); s.revoke("app", c) != nil || len(c.Revocations) > 0 {
		t.Errorf("what has expired is remembered: %v", c.Revocations)
	}
	if len(s.written) != 2 {
		t.Errorf("what has gone is remembered: %+v", s.written)
	}
}
