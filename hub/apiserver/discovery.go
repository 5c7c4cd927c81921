package apiserver

import (
	"encoding/json"
	"net/http"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver"
	listers "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	genericapiserver "k8s.io/apiserver/pkg/server"
)

// rootDiscovery answers what another server answers in a Kubernetes cluster, and
// the library therefore leaves out: above all /apis, the list of groups with which
// every client begins. The library asks its delegate for what it does not serve.
type rootDiscovery struct {
	genericapiserver.DelegationTarget

	manager aggregated.ResourceManager
	// crds is set before the server runs.
	crds listers.CustomResourceDefinitionLister
}

func newRootDiscovery() *rootDiscovery {
	return &rootDiscovery{
		DelegationTarget: genericapiserver.NewEmptyDelegate(),
		manager:          aggregated.NewResourceManager("apis"),
	}
}

// UnprotectedHandler is called behind authentication and authorization, whatever
// its name says: it is the end of the server's own chain.
func (d *rootDiscovery) UnprotectedHandler() http.Handler {
	apis := aggregated.WrapAggregatedDiscoveryToHandler(http.HandlerFunc(d.groups), d.manager, nil)
	mux := http.NewServeMux()
	mux.Handle("GET /apis", apis)
	mux.Handle("GET /apis/{$}", apis)
	mux.HandleFunc("GET /api/v1/namespaces/{name}", namespace)
	return mux
}

// namespace says that a namespace exists, as every one does here. kubectl asks
// that of its own accord when it does not find an object, and would tell its user
// that the server lacks the kind.
func namespace(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"apiVersion": "v1",
		"kind":       "Namespace",
		"metadata":   map[string]string{"name": r.PathValue("name")},
		"status":     map[string]string{"phase": "Active"},
	})
}

// groups answers clients that do not know the aggregated form.
func (d *rootDiscovery) groups(w http.ResponseWriter, r *http.Request) {
	crds, err := d.crds.List(labels.Everything())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	versions := map[string][]string{
		apiextensionsv1.GroupName: {apiextensionsv1.SchemeGroupVersion.Version},
	}
	for _, crd := range crds {
		if !apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) {
			continue
		}
		for _, v := range crd.Spec.Versions {
			if v.Served && !slices.Contains(versions[crd.Spec.Group], v.Name) {
				versions[crd.Spec.Group] = append(versions[crd.Spec.Group], v.Name)
			}
		}
	}
	// The client reached the server, so it need not be told where that is.
	root := discovery.NewRootAPIsHandler(discovery.DefaultAddresses{}, apiserver.Codecs)
	names := make([]string, 0, len(versions))
	for name := range versions {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		root.AddGroup(apiGroup(name, versions[name]))
	}
	root.ServeHTTP(w, r)
}

func apiGroup(name string, versions []string) metav1.APIGroup {
	slices.SortFunc(versions, func(a, b string) int { return -version.CompareKubeAwareVersionStrings(a, b) })
	g := metav1.APIGroup{Name: name}
	for _, v := range versions {
		g.Versions = append(g.Versions, metav1.GroupVersionForDiscovery{GroupVersion: name + "/" + v, Version: v})
	}
	g.PreferredVersion = g.Versions[0]
	return g
}
