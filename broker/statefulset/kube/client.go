// Package kube is as much of a Kubernetes client as an agent needs to look after
// a few objects whose names it knows: get, server-side apply, merge patch and
// delete. Objects are what is in their JSON. There is no watch, no list and no
// cache, so that the program stays small and the rights it needs few.
package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount/"
	requestTimeout    = 15 * time.Second
	maxAnswer         = 8 << 20
)

// Object is any Kubernetes object.
type Object map[string]any

// Client talks to one API server.
type Client struct {
	// Base is the server's URL, without a path.
	Base string
	HTTP *http.Client
	// Token returns the bearer token for a request; "" : none.
	Token func() (string, error)
	// Manager is the name under which fields are owned.
	Manager string
}

// InCluster makes a client of what Kubernetes gives to each pod, and tells the
// namespace that the pod is in.
func InCluster(manager string) (*Client, string, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, "", errors.New("this is not a pod of a Kubernetes cluster: KUBERNETES_SERVICE_HOST and _PORT are not set")
	}
	ca, err := os.ReadFile(serviceAccountDir + "ca.crt")
	if err != nil {
		return nil, "", fmt.Errorf("the pod's service account: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, "", fmt.Errorf("%sca.crt holds no certificate", serviceAccountDir)
	}
	ns, err := os.ReadFile(serviceAccountDir + "namespace")
	if err != nil {
		return nil, "", fmt.Errorf("the pod's service account: %w", err)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	t.Proxy = nil
	return &Client{
		Base: "https://" + net.JoinHostPort(host, port), Manager: manager,
		HTTP: &http.Client{Transport: t, Timeout: requestTimeout},
		// It is renewed on the disk.
		Token: func() (string, error) {
			b, err := os.ReadFile(serviceAccountDir + "token")
			return strings.TrimSpace(string(b)), err
		},
	}, strings.TrimSpace(string(ns)), nil
}

// Error is an answer other than success.
type Error struct {
	Code   int
	Reason string
	// What was asked.
	What    string
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.What, e.Message) }

// IsNotFound tells that an object does not exist.
func IsNotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == http.StatusNotFound
}

// resources are the paths of the kinds of objects that are used, by API version
// and kind.
var resources = map[string]string{
	"v1/Secret":                     "api/v1/%s/secrets",
	"v1/Service":                    "api/v1/%s/services",
	"v1/Pod":                        "api/v1/%s/pods",
	"v1/PersistentVolumeClaim":      "api/v1/%s/persistentvolumeclaims",
	"apps/v1/StatefulSet":           "apis/apps/v1/%s/statefulsets",
	"policy/v1/PodDisruptionBudget": "apis/policy/v1/%s/poddisruptionbudgets",
}

func (c *Client) path(kind, namespace, name string) (string, error) {
	p, ok := resources[kind]
	if !ok {
		return "", fmt.Errorf("kind %s is not known", kind)
	}
	return c.Base + "/" + fmt.Sprintf(p, "namespaces/"+url.PathEscape(namespace)) + "/" + url.PathEscape(name), nil
}

// Get reads an object of a kind such as apps/v1/StatefulSet into to.
func (c *Client) Get(ctx context.Context, kind, namespace, name string, to any) error {
	return c.do(ctx, http.MethodGet, kind, namespace, name, "", "", nil, to)
}

// Apply makes an object what o says, by server-side apply; other fields are left to
// others. o must say its kind, API version, namespace and name.
func (c *Client) Apply(ctx context.Context, o Object) error {
	meta, _ := o["metadata"].(Object)
	kind := fmt.Sprint(o["apiVersion"], "/", o["kind"])
	q := url.Values{"fieldManager": {c.Manager}, "force": {"true"}}
	return c.do(ctx, http.MethodPatch, kind, fmt.Sprint(meta["namespace"]), fmt.Sprint(meta["name"]),
		q.Encode(), "application/apply-patch+yaml", o, nil)
}

// Patch merges a patch into an object.
func (c *Client) Patch(ctx context.Context, kind, namespace, name string, patch Object) error {
	q := url.Values{"fieldManager": {c.Manager}}
	return c.do(ctx, http.MethodPatch, kind, namespace, name, q.Encode(), "application/merge-patch+json", patch, nil)
}

// Delete deletes an object. One that does not exist is deleted.
func (c *Client) Delete(ctx context.Context, kind, namespace, name string) error {
	err := c.do(ctx, http.MethodDelete, kind, namespace, name, "", "", nil, nil)
	if IsNotFound(err) {
		return nil
	}
	return err
}

func (c *Client) do(ctx context.Context, method, kind, namespace, name, query, contentType string, body, to any) error {
	u, err := c.path(kind, namespace, name)
	if err != nil {
		return err
	}
	if query != "" {
		u += "?" + query
	}
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, u, r)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if c.Token != nil {
		token, err := c.Token()
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return failure(resp.StatusCode, fmt.Sprintf("%s %s %s/%s", strings.ToLower(method), kind, namespace, name), b)
	}
	if to == nil {
		return nil
	}
	return json.Unmarshal(b, to)
}

func failure(code int, what string, body []byte) error {
	e := &Error{Code: code, What: what, Message: http.StatusText(code)}
	var s struct {
		Reason  string `json:"reason"`
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &s) == nil && s.Message != "" {
		e.Reason, e.Message = s.Reason, s.Message
	}
	return e
}
