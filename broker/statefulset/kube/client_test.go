package kube

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestClient(t *testing.T) {
	type request struct{ method, path, query, contentType, auth, body string }
	var got request
	code, answer := 200, `{}`
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = request{r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("Content-Type"), r.Header.Get("Authorization"), string(b)}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, answer)
	}))
	defer s.Close()
	c := &Client{Base: s.URL, HTTP: s.Client(), Manager: "me", Token: func() (string, error) { return "t", nil }}
	ctx := context.Background()

	o := Object{"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": Object{"namespace": "ns", "name": "x"}}
	if err := c.Apply(ctx, o); err != nil {
		t.Fatal(err)
	}
	body, _ := json.Marshal(o)
	want := request{"PATCH", "/apis/apps/v1/namespaces/ns/statefulsets/x", "fieldManager=me&force=true", "application/apply-patch+yaml", "Bearer t", string(body)}
	if got != want {
		t.Errorf("apply:\n got %v\nwant %v", got, want)
	}

	answer = `{"spec":{"replicas":3}}`
	var to struct{ Spec struct{ Replicas int } }
	if err := c.Get(ctx, "v1/Pod", "ns", "p", &to); err != nil || to.Spec.Replicas != 3 || got.path != "/api/v1/namespaces/ns/pods/p" {
		t.Errorf("get: %v %v %s", err, to, got.path)
	}

	code, answer = 404, `{"kind":"Status","reason":"NotFound","message":"pods \"p\" not found"}`
	err := c.Get(ctx, "v1/Pod", "ns", "p", &to)
	if !IsNotFound(err) || err.Error() != `get v1/Pod ns/p: pods "p" not found` {
		t.Errorf("get of what is not there: %v", err)
	}
	if err := c.Delete(ctx, "v1/Pod", "ns", "p"); err != nil {
		t.Errorf("delete of what is not there: %v", err)
	}
	if err := c.Get(ctx, "v1/Node", "", "n", nil); err == nil {
		t.Error("a kind that is not used is known")
	}
}
