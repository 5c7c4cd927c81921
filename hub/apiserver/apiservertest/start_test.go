package apiservertest_test

import (
	"os"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/hub/apiserver/apiservertest"
)

func TestMain(m *testing.M) { os.Exit(apiservertest.Main(m)) }

func TestShared(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(apiservertest.Start(t), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	m := &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	if err := c.Create(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if first, second := apiservertest.Start(t), apiservertest.Start(t); first.Host != second.Host {
		t.Error("a second call started another server")
	}
	if _, err := os.Stat(apiservertest.Kubeconfig(t)); err != nil {
		t.Error(err)
	}
}
