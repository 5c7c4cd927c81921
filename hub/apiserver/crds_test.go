package apiserver_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	clientset "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/typed/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealane/sealane/hub/apiserver"
	"github.com/sealane/sealane/hub/crds"
)

const streamsCRD = "streams.messaging.sealane.dev"

func definitions(t *testing.T, s *apiserver.Server) clientset.CustomResourceDefinitionInterface {
	t.Helper()
	c, err := clientset.NewForConfig(s.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	return c.CustomResourceDefinitions()
}

func TestInstallCRDs(t *testing.T) {
	s := start(t, t.TempDir())
	installed := definitions(t, s)
	list := func() map[string]string {
		t.Helper()
		all, err := installed.List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		versions := map[string]string{}
		for _, crd := range all.Items {
			versions[crd.Name] = crd.ResourceVersion
		}
		return versions
	}

	// Several at once, as hubs that start together on a Kubernetes cluster.
	failed := make(chan error, 3)
	for range cap(failed) {
		go func() { failed <- crds.Install(t.Context(), s.RESTConfig()) }()
	}
	for range cap(failed) {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
	before := list()
	if len(before) != 6 {
		t.Fatalf("installed %v", before)
	}
	install(t, s.RESTConfig())
	for name, version := range list() {
		if version != before[name] {
			t.Errorf("%s was written again although nothing changed", name)
		}
	}

	// An older version of the program knew a property that this one does not, and
	// lacked another. Somebody labelled the definition.
	old, err := installed.Get(t.Context(), streamsCRD, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	spec := func(crd *apiextensionsv1.CustomResourceDefinition) map[string]apiextensionsv1.JSONSchemaProps {
		return crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"].Properties
	}
	delete(spec(old), "onRemoval")
	spec(old)["legacy"] = apiextensionsv1.JSONSchemaProps{Type: "string"}
	old.Labels = map[string]string{"team": "platform"}
	if _, err := installed.Update(t.Context(), old, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	install(t, s.RESTConfig())
	crd, err := installed.Get(t.Context(), streamsCRD, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := spec(crd)["legacy"]; ok {
		t.Error("a property that is no more is still there")
	}
	if _, ok := spec(crd)["onRemoval"]; !ok {
		t.Error("a new property is missing")
	}
	if crd.Labels["team"] != "platform" {
		t.Error("a foreign label is gone")
	}

	// Removed by somebody: a restart of the hub brings it back.
	if err := installed.Delete(t.Context(), streamsCRD, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	install(t, s.RESTConfig())
}

// TestInstallCRDsRefused: one that cannot come into force is reported with the
// server's own words, when the time is up.
func TestInstallCRDsRefused(t *testing.T) {
	s := start(t, t.TempDir())
	installed := definitions(t, s)
	other := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "flows.messaging.sealane.dev"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "messaging.sealane.dev",
			Scope: apiextensionsv1.ClusterScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "flows", Kind: "Stream"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}},
			}},
		},
	}
	if _, err := installed.Create(t.Context(), other, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, func() error {
		crd, err := installed.Get(t.Context(), other.Name, metav1.GetOptions{})
		if err == nil && len(crd.Status.AcceptedNames.Kind) == 0 {
			err = errors.New("names not accepted yet")
		}
		return err
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- crds.Install(ctx, s.RESTConfig()) }()
	await(t, func() error {
		crd, err := installed.Get(t.Context(), streamsCRD, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !apihelpers.IsCRDConditionFalse(crd, apiextensionsv1.NamesAccepted) {
			return errors.New("not refused yet")
		}
		return nil
	})
	time.AfterFunc(3*time.Second, cancel) // Install looks a hundred times a second
	err := <-done
	if err == nil || !strings.Contains(err.Error(), streamsCRD) || !strings.Contains(err.Error(), "is already in use") {
		t.Errorf("error %v", err)
	}
	if apierrors.IsNotFound(err) {
		t.Error("taken for a missing definition")
	}
}

// await polls until f succeeds.
func await(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // the pause between two looks
	}
}
