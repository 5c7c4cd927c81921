package demo

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/cmd/sealane/hubapi"
)

// builtin holds the manifests of the story, written to be read.
//
//go:embed manifests/*.yaml
var builtin embed.FS

// cycleFile is the one manifest that is wrong, on purpose.
const cycleFile = "60-cycle.yaml"

// manifest is one resource of a file.
type manifest = *unstructured.Unstructured

// writeBuiltin puts the built-in manifests where a person can read and change
// them, and returns the resources of those that are right and of the wrong one.
func writeBuiltin(dir string) (right, wrong []manifest, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	files, err := fs.Glob(builtin, "manifests/*.yaml")
	if err != nil {
		return nil, nil, err
	}
	for _, file := range files {
		b, err := builtin.ReadFile(file)
		if err != nil {
			return nil, nil, err
		}
		name := filepath.Base(file)
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return nil, nil, err
		}
		m, err := parseManifests(name, b)
		if err != nil {
			return nil, nil, err
		}
		if name == cycleFile {
			wrong = m
		} else {
			right = append(right, m...)
		}
	}
	return right, wrong, nil
}

// readManifests reads a file of one or more documents, YAML or JSON.
func readManifests(file string) ([]manifest, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parseManifests(file, b)
}

func parseManifests(file string, b []byte) ([]manifest, error) {
	var out []manifest
	mapper := hubapi.Mapper()
	for d, n := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(b), 4096), 1; ; n++ {
		u := &unstructured.Unstructured{}
		err := d.Decode(&u.Object)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: document %d: %w", file, n, err)
		}
		if len(u.Object) == 0 {
			continue // nothing between two separators
		}
		gvk := u.GroupVersionKind()
		m, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		if err != nil || gvk.Kind == "JoinToken" {
			return nil, fmt.Errorf("%s: document %d: the demo applies kinds of %s, not %s of %q", file, n, v1alpha1.GroupVersion, gvk.Kind, gvk.GroupVersion())
		}
		if u.GetName() == "" {
			return nil, fmt.Errorf("%s: document %d: metadata.name is missing", file, n)
		}
		if m.Scope.Name() == meta.RESTScopeNameNamespace && u.GetNamespace() == "" {
			u.SetNamespace("default")
		}
		out = append(out, u)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: there is no resource in it", file)
	}
	return out, nil
}

// apply makes the hub hold the resources as they are in the manifests.
func apply(ctx context.Context, hub *hubapi.Hub, resources []manifest) error {
	for _, r := range resources {
		err := hub.Apply(ctx, client.ApplyConfigurationFromUnstructured(r.DeepCopy()), client.FieldOwner("sealane-demo"), client.ForceOwnership)
		if err != nil {
			return fmt.Errorf("apply %s: %w", title(r), hub.Explain(err))
		}
	}
	return nil
}

func title(r manifest) string {
	name := r.GetName()
	if ns := r.GetNamespace(); ns != "" {
		name = ns + "/" + name
	}
	return r.GetKind() + " " + name
}

// namedMembers lists the members that the manifests name anywhere, sorted.
func namedMembers(resources []manifest) []string {
	var names []string
	add := func(v any) {
		if s, ok := v.(string); ok && memberName.MatchString(s) {
			names = append(names, s)
		}
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			for key, e := range v {
				switch key {
				case "clusters", "order": // placements, groups and link rules
					if list, ok := e.([]any); ok {
						for _, n := range list {
							add(n)
						}
					}
				case "cluster", "a", "b": // overrides and edges
					add(e)
				default:
					walk(e)
				}
			}
		}
	}
	for _, r := range resources {
		if r.GetKind() == "MemberCluster" {
			names = append(names, r.GetName())
			continue
		}
		walk(r.Object["spec"])
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// missingFrom says which of the named members will not be there.
func missingFrom(members, named []string) error {
	var missing []string
	for _, n := range named {
		if !slices.Contains(members, n) {
			missing = append(missing, n)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("the manifests name %s, which will not join: the members are %s; choose others with --members NAME,NAME",
		strings.Join(missing, ", "), strings.Join(members, ", "))
}
