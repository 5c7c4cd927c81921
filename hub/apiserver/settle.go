package apiserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	clientset "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/typed/apiextensions/v1"
	listers "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"

	"github.com/sealane/sealane/hub/crds"
)

// createPause is how long after a kind was established the library holds up the
// first creation of such an object, for the sake of other servers on the same
// store, which may not know the kind yet.
const createPause = 2 * time.Second

// settle puts back the time at which our kinds were established, so that the
// library does not hold up who creates an object at once. It is for a server that
// is alone on its store, and returns when that server, which shares its picture of
// definitions with serving, has seen it.
func settle(ctx context.Context, cfg *rest.Config, seen listers.CustomResourceDefinitionLister) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	definitions, err := crds.Read()
	if err != nil {
		return err
	}
	client, err := clientset.NewForConfig(cfg)
	if err != nil {
		return err
	}
	for _, crd := range definitions {
		err := retry.RetryOnConflict(retry.DefaultBackoff, func() error { return putBack(ctx, client, crd.Name) })
		if err != nil {
			return fmt.Errorf("settle the definition %s: %w", crd.Name, err)
		}
	}
	for _, crd := range definitions {
		for {
			have, err := seen.Get(crd.Name)
			if err == nil && establishedIn(have) != nil && time.Since(establishedIn(have).LastTransitionTime.Time) >= createPause {
				break
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(poll):
			}
		}
	}
	return nil
}

func putBack(ctx context.Context, client clientset.CustomResourceDefinitionsGetter, name string) error {
	crd, err := client.CustomResourceDefinitions().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	c := establishedIn(crd)
	if c == nil {
		return errors.New("not established any more")
	}
	if time.Since(c.LastTransitionTime.Time) >= createPause {
		return nil
	}
	c.LastTransitionTime = metav1.NewTime(time.Now().Add(-createPause))
	_, err = client.CustomResourceDefinitions().UpdateStatus(ctx, crd, metav1.UpdateOptions{})
	return err
}

// establishedIn is the condition that a definition is in force; nil if it is not.
func establishedIn(crd *apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.CustomResourceDefinitionCondition {
	for i := range crd.Status.Conditions {
		if c := &crd.Status.Conditions[i]; c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue {
			return c
		}
	}
	return nil
}
