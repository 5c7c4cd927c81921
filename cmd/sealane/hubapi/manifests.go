package hubapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

// Manifest is a resource as a file describes it.
type Manifest struct {
	Object *unstructured.Unstructured
	// Source is the file that it is from.
	Source string
}

// ReadManifests reads the resources in files and folders: *.yaml, *.yml and
// *.json, below folders too if recursive. "-" stands for stdin. Lists are taken
// apart. Resources that are none of Sealane's are named in ignored.
func ReadManifests(paths []string, recursive bool, stdin io.Reader) (all []Manifest, ignored []string, err error) {
	for _, path := range paths {
		files := []string{path}
		if path != "-" {
			if files, err = manifestFiles(path, recursive); err != nil {
				return nil, nil, err
			}
		}
		for _, file := range files {
			found, other, err := readManifestFile(file, stdin)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", file, err)
			}
			all, ignored = append(all, found...), append(ignored, other...)
		}
	}
	return all, ignored, nil
}

func manifestFiles(path string, recursive bool) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	var files []string
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && p != path && !recursive:
			return filepath.SkipDir
		case !d.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(p)):
			files = append(files, p)
		}
		return nil
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s holds no .yaml, .yml or .json file (-R looks into the folders below)", path)
	}
	return files, err
}

func readManifestFile(file string, stdin io.Reader) (all []Manifest, ignored []string, err error) {
	var data []byte
	if file == "-" {
		file = "stdin"
		data, err = io.ReadAll(stdin)
	} else {
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, nil, err
	}
	documents := utilyaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(data)))
	defer documents.Close()
	buf := make([]byte, len(data)+1)
	for {
		n, err := documents.Read(buf)
		if errors.Is(err, io.EOF) {
			return all, ignored, nil
		}
		if err != nil {
			return nil, nil, err
		}
		asJSON, err := yaml.YAMLToJSONStrict(bytes.TrimPrefix(buf[:n], []byte("---\n")))
		if err != nil {
			return nil, nil, err
		}
		if s := strings.TrimSpace(string(asJSON)); s == "null" || s == "" {
			continue // only comments
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(asJSON); err != nil {
			return nil, nil, err
		}
		single := []*unstructured.Unstructured{u}
		if u.IsList() {
			single = nil
			if err := u.EachListItem(func(o runtime.Object) error {
				single = append(single, o.(*unstructured.Unstructured))
				return nil
			}); err != nil {
				return nil, nil, err
			}
		}
		for _, o := range single {
			if o.GroupVersionKind().Group != v1alpha1.GroupVersion.Group {
				ignored = append(ignored, strings.TrimSpace(o.GetKind()+" "+o.GetName()))
				continue
			}
			if o.GetName() == "" {
				return nil, nil, fmt.Errorf("a %s has no metadata.name", o.GetKind())
			}
			all = append(all, Manifest{o, file})
		}
	}
}

// ParseInput makes what the hub would compile of manifests that describe the
// resources as they are, statuses included.
func ParseInput(manifests []Manifest, namespace string) (topology.Input, error) {
	var in topology.Input
	seen := map[topology.ObjectRef]string{}
	for _, m := range manifests {
		ref, err := refOfManifest(m, namespace)
		if err != nil {
			return in, err
		}
		if other, twice := seen[ref]; twice {
			return in, fmt.Errorf("%s is in %s and in %s: keep one", Shown(ref), other, m.Source)
		}
		seen[ref] = m.Source
		m.Object.SetNamespace(ref.Namespace)
		if err := setDefaults(ref.Kind, m.Object.Object); err != nil {
			return in, err
		}
		o := newObject(ref.Kind)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(m.Object.Object, o); err != nil {
			return in, fmt.Errorf("%s: %s: %w", m.Source, Shown(ref), err)
		}
		switch o := o.(type) {
		case *v1alpha1.MessagingTopology:
			in.Topologies = append(in.Topologies, o)
		case *v1alpha1.MemberCluster:
			in.Members = append(in.Members, o)
		case *v1alpha1.Stream:
			in.Streams = append(in.Streams, o)
		case *v1alpha1.Bridge:
			in.Bridges = append(in.Bridges, o)
		}
	}
	return in, nil
}
