// Package crds has an API server serve the kinds of api/v1alpha1.
package crds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	clientset "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/typed/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/yaml"

	"github.com/sealane/sealane/api/v1alpha1"
)

// poll is the pause between two looks at the server.
const poll = 10 * time.Millisecond

// Install makes the API server behind cfg, an embedded one or a Kubernetes
// cluster's, serve the kinds of api/v1alpha1 as this version of the program
// knows them, and returns when it does, to clients that begin with discovery too. It gives up after a minute.
func Install(ctx context.Context, cfg *rest.Config) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	crds, err := Read()
	if err != nil {
		return err
	}
	client, err := clientset.NewForConfig(cfg)
	if err != nil {
		return err
	}
	for _, crd := range crds {
		if err := installCRD(ctx, client, crd); err != nil {
			return fmt.Errorf("install the definition %s: %w", crd.Name, err)
		}
	}
	for _, crd := range crds {
		if err := awaitCRD(ctx, client, crd); err != nil {
			return fmt.Errorf("wait for the definition %s: %w", crd.Name, err)
		}
	}
	return awaitDiscovery(ctx, cfg, crds)
}

// Read returns the definitions that are built in.
func Read() ([]*apiextensionsv1.CustomResourceDefinition, error) {
	paths, err := fs.Glob(v1alpha1.CRDs, "crds/*.yaml")
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, errors.New("no resource definitions are built in")
	}
	crds := make([]*apiextensionsv1.CustomResourceDefinition, len(paths))
	for i, p := range paths {
		b, err := fs.ReadFile(v1alpha1.CRDs, p)
		if err != nil {
			return nil, err
		}
		crds[i] = &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.UnmarshalStrict(b, crds[i]); err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
	}
	return crds, nil
}

// installCRD replaces the whole spec, so that a property which this version does
// not know any more is gone, and keeps other people's labels and annotations.
func installCRD(ctx context.Context, client clientset.CustomResourceDefinitionsGetter, want *apiextensionsv1.CustomResourceDefinition) error {
	crds := client.CustomResourceDefinitions()
	return retry.OnError(retry.DefaultBackoff, func(err error) bool {
		// AlreadyExists and NotFound: somebody else installed or removed it between
		// our two calls.
		return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
	}, func() error {
		have, err := crds.Get(ctx, want.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = crds.Create(ctx, want, metav1.CreateOptions{})
			return err
		}
		if err != nil {
			return err
		}
		next := have.DeepCopy()
		next.Spec = *want.Spec.DeepCopy()
		// The server fills these in; leaving them out would only look like a change.
		next.Spec.Conversion = have.Spec.Conversion
		next.Labels = merged(have.Labels, want.Labels)
		next.Annotations = merged(have.Annotations, want.Annotations)
		if equality.Semantic.DeepEqual(have, next) {
			return nil
		}
		_, err = crds.Update(ctx, next, metav1.UpdateOptions{})
		return err
	})
}

func merged(have, want map[string]string) map[string]string {
	out := maps.Clone(have)
	if out == nil && len(want) > 0 {
		out = map[string]string{}
	}
	maps.Copy(out, want)
	return out
}

// errGone: the definition does not exist.
var errGone = errors.New("it does not exist")

// awaitCRD waits until objects of the kind can be listed: Established alone comes
// a moment before that.
func awaitCRD(ctx context.Context, client clientset.CustomResourceDefinitionsGetter, crd *apiextensionsv1.CustomResourceDefinition) error {
	rc := client.(interface{ RESTClient() rest.Interface }).RESTClient()
	var last error
	for {
		err := checkCRD(ctx, client, rc, crd)
		if err == nil {
			return nil
		}
		if errors.Is(err, errGone) {
			// It was being deleted when it was installed.
			err = cmp.Or(installCRD(ctx, client, crd), err)
		}
		if ctx.Err() == nil || last == nil {
			last = err // and not that the time was up
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		case <-time.After(poll):
		}
	}
}

func checkCRD(ctx context.Context, client clientset.CustomResourceDefinitionsGetter, rc rest.Interface, crd *apiextensionsv1.CustomResourceDefinition) error {
	have, err := client.CustomResourceDefinitions().Get(ctx, crd.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return errGone
	case err != nil:
		return err
	case have.DeletionTimestamp != nil:
		return errors.New("it is being deleted")
	}
	established := false
	for _, c := range have.Status.Conditions {
		switch {
		case c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue:
			established = true
		case c.Type == apiextensionsv1.NamesAccepted && c.Status == apiextensionsv1.ConditionFalse,
			c.Type == apiextensionsv1.NonStructuralSchema && c.Status == apiextensionsv1.ConditionTrue:
			return fmt.Errorf("%s: %s", c.Reason, c.Message)
		}
	}
	if !established {
		return errors.New("not established yet")
	}
	for _, v := range crd.Spec.Versions {
		if !v.Served {
			continue
		}
		if err := rc.Get().AbsPath("/apis", crd.Spec.Group, v.Name, crd.Spec.Names.Plural).Param("limit", "1").Do(ctx).Error(); err != nil {
			return err
		}
	}
	return nil
}

// awaitDiscovery waits until the server names the kinds to clients that ask what
// there is: it does so a moment after it serves them.
func awaitDiscovery(ctx context.Context, cfg *rest.Config, crds []*apiextensionsv1.CustomResourceDefinition) error {
	client, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return err
	}
	for {
		missing, err := undiscovered(client, crds)
		if err == nil && missing == "" {
			return nil
		}
		if missing != "" {
			err = fmt.Errorf("the server does not name %s yet", missing)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for discovery: %w: %w", context.Cause(ctx), err)
		case <-time.After(poll):
		}
	}
}

// undiscovered is a resource that discovery lacks.
func undiscovered(client discovery.DiscoveryInterface, crds []*apiextensionsv1.CustomResourceDefinition) (string, error) {
	_, lists, err := client.ServerGroupsAndResources()
	var partial *discovery.ErrGroupDiscoveryFailed
	if err != nil && !errors.As(err, &partial) { // of somebody else's groups
		return "", err
	}
	found := map[string]bool{}
	for _, l := range lists {
		for _, r := range l.APIResources {
			found[l.GroupVersion+"/"+r.Name] = true
		}
	}
	for _, crd := range crds {
		for _, v := range crd.Spec.Versions {
			if name := crd.Spec.Group + "/" + v.Name + "/" + crd.Spec.Names.Plural; v.Served && !found[name] {
				return name, nil
			}
		}
	}
	return "", nil
}
