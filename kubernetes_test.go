package sealane_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

// TestBrokerObjects decodes the objects that an agent makes, which knows Kubernetes
// only as JSON, with the types of Kubernetes: a field that does not exist fails.
func TestBrokerObjects(t *testing.T) {
	t.Parallel()
	kinds := map[string]func() any{
		"Secret":              func() any { return &corev1.Secret{} },
		"Service":             func() any { return &corev1.Service{} },
		"PodDisruptionBudget": func() any { return &policyv1.PodDisruptionBudget{} },
		"StatefulSet":         func() any { return &appsv1.StatefulSet{} },
	}
	files, err := filepath.Glob("broker/statefulset/testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no rendered objects: %v", err)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for doc := range bytes.SplitSeq(bytes.TrimPrefix(b, []byte("---\n")), []byte("\n---\n")) {
			var head struct{ Kind string }
			if err := yaml.Unmarshal(doc, &head); err != nil {
				t.Fatal(err)
			}
			object := kinds[head.Kind]
			if object == nil {
				t.Errorf("%s: kind %q is not expected", path, head.Kind)
				continue
			}
			if err := yaml.UnmarshalStrict(doc, object()); err != nil {
				t.Errorf("%s: %s: %v", path, head.Kind, err)
			}
		}
	}
}
