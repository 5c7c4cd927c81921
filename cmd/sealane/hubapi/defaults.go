package hubapi

import (
	"fmt"
	"io/fs"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

// schemas are those of the kinds, as the API server has them.
var schemas = sync.OnceValues(func() (map[topology.Kind]*apiextensionsv1.JSONSchemaProps, error) {
	out := map[topology.Kind]*apiextensionsv1.JSONSchemaProps{}
	err := fs.WalkDir(v1alpha1.CRDs, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := v1alpha1.CRDs.ReadFile(path)
		if err != nil {
			return err
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.Unmarshal(data, &crd); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		out[topology.Kind(crd.Spec.Names.Kind)] = crd.Spec.Versions[0].Schema.OpenAPIV3Schema
		return nil
	})
	return out, err
})

// setDefaults does what the API server does where fields are not set.
func setDefaults(kind topology.Kind, o map[string]any) error {
	all, err := schemas()
	if err != nil {
		return err
	}
	return fillIn(all[kind], o)
}

func fillIn(schema *apiextensionsv1.JSONSchemaProps, value any) error {
	if schema == nil {
		return nil
	}
	switch v := value.(type) {
	case map[string]any:
		for name := range schema.Properties {
			field := schema.Properties[name]
			if _, set := v[name]; !set && field.Default != nil {
				var d any
				if err := json.Unmarshal(field.Default.Raw, &d); err != nil {
					return fmt.Errorf("default of %s: %w", name, err)
				}
				v[name] = runtime.DeepCopyJSONValue(d)
			}
			if inner, set := v[name]; set {
				if err := fillIn(&field, inner); err != nil {
					return err
				}
			}
		}
	case []any:
		if schema.Items != nil {
			for _, e := range v {
				if err := fillIn(schema.Items.Schema, e); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
