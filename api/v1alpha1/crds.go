package v1alpha1

import "embed"

// CRDs holds the generated CustomResourceDefinitions, one YAML file a kind in
// the folder crds.
//
//go:embed crds/*.yaml
var CRDs embed.FS
