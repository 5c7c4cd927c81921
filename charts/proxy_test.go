package charts_test

import (
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/http/httpproxy"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"
)

// TestNoProxy: values of a release that was installed before there was a proxy, which
// --reuse-values brings along, render as without one.
func TestNoProxy(t *testing.T) {
	out, stderr, err := runHelm(t, "template", "x", "agent", "--set", "name=berlin,hub=h:7443,token=slj1.a.b.c,proxy=null")
	if err != nil || strings.Contains(out, "PROXY") {
		t.Errorf("%v\n%s", err, stderr)
	}
}

// TestInsideWithoutProxy: nothing inside the cluster is looked for through the proxy,
// and everything outside is, but for what the user excepts.
func TestInsideWithoutProxy(t *testing.T) {
	env := map[string]string{}
	for _, doc := range documents(render(t, "agent", "testdata/agent/proxy.values.yaml")) {
		var s appsv1.StatefulSet
		if err := yaml.Unmarshal([]byte(doc), &s); err != nil || s.Kind != "StatefulSet" {
			continue
		}
		for _, e := range s.Spec.Template.Spec.Containers[0].Env {
			env[e.Name] = e.Value
			if e.Name == "HTTPS_PROXY" && (e.ValueFrom == nil || e.ValueFrom.SecretKeyRef == nil) {
				t.Error("the proxy, with its password, stands in the pod")
			}
		}
	}
	for _, api := range []string{"10.96.0.1", "fd00:10:96::1"} {
		through := (&httpproxy.Config{
			HTTPSProxy: "http://site:s3cret@proxy.example.com:3128",
			NoProxy:    strings.ReplaceAll(env["NO_PROXY"], "$(KUBERNETES_SERVICE_HOST)", api),
		}).ProxyFunc()
		server := api + ":443"
		if strings.Contains(api, ":") {
			server = "[" + api + "]:443"
		}
		for host, want := range map[string]bool{
			server:                            false,
			"kubernetes.default.svc:443":      false,
			"sealane-links.berlin.svc:7422":   false,
			"sealane-hub.hub.svc:7443":        false,
			"otel.monitoring.svc:4317":        false,
			"sealane-broker.sealane.svc:4222": false,
			"sealane-broker-0.sealane-broker-pods.sealane.svc.k8s.example.com:7521": false,
			"parent.example.com:443": false,
			"192.0.2.7:7422":         false,
			"hub.example.com:443":    true,
			"other.example.com:443":  true,
			"198.51.100.1:7422":      true,
		} {
			if p, err := through(&url.URL{Scheme: "https", Host: host}); err != nil || (p != nil) != want {
				t.Errorf("NO_PROXY %q: to %s through %v, %v", env["NO_PROXY"], host, p, err)
			}
		}
	}
}
