package main

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
)

// item is one thing of a listing.
type item struct {
	namespace, name string
	row             []cell
	// object is what -o json and yaml print.
	object any
}

// listing is what "get" and "token list" print.
type listing struct {
	// kind in lower case, as -o name shows it.
	kind   string
	header []string
	items  []item
}

// shown prepares a resource for printing: lists leave the kind out, and managed
// fields are noise.
func shown(o client.Object, kind string) client.Object {
	o.GetObjectKind().SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
	o.SetManagedFields(nil)
	return o
}

// show writes the items of that namespace (empty: all) and those names (none:
// all) in a format. Names that match nothing are an error, after the rest.
func (l listing) show(env *environment, format, namespace string, names []string) error {
	all := l.items
	if namespace != "" {
		all = slices.DeleteFunc(slices.Clone(all), func(i item) bool { return i.namespace != namespace })
	}
	chosen := all
	var missing []string
	if len(names) > 0 {
		chosen = nil
		for _, n := range names {
			before := len(chosen)
			for _, i := range all {
				if i.name == n {
					chosen = append(chosen, i)
				}
			}
			if len(chosen) == before {
				missing = append(missing, n)
			}
		}
	}
	if err := l.write(env, format, namespace, chosen, len(names) == 1); err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("no %s %s%s; %s", l.kind, quoted(missing), inNamespace(namespace), existing(all))
	}
	return nil
}

func (l listing) write(env *environment, format, namespace string, chosen []item, single bool) error {
	switch format {
	case "json", "yaml":
		if len(chosen) == 0 && single {
			return nil
		}
		var doc any
		if single && len(chosen) == 1 {
			doc = chosen[0].object
		} else {
			objects := make([]any, len(chosen))
			for i, c := range chosen {
				objects[i] = c.object
			}
			doc = asList(objects)
		}
		if format == "json" {
			return printJSON(env.out, doc)
		}
		return printYAML(env.out, doc)
	case "name":
		for _, c := range chosen {
			fmt.Fprintln(env.out, l.kind+"/"+c.name)
		}
		return nil
	}
	if len(chosen) == 0 {
		if !single {
			fmt.Fprintf(env.err, "There is no %s%s.\n", l.kind, inNamespace(namespace))
		}
		return nil
	}
	rows := make([][]cell, len(chosen))
	for i, c := range chosen {
		rows[i] = c.row
	}
	env.table(env.out, env.outColour, "", l.header, rows)
	return nil
}

// asList is a kubectl List if the objects are resources, else a plain one.
func asList(objects []any) map[string]any {
	l := map[string]any{"items": objects}
	if len(objects) > 0 {
		if _, ok := objects[0].(runtime.Object); !ok {
			return l
		}
	}
	l["apiVersion"], l["kind"], l["metadata"] = "v1", "List", metav1.ListMeta{}
	return l
}

func quoted(names []string) string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(q, ", ")
}

func inNamespace(ns string) string {
	if ns == "" {
		return ""
	}
	return " in namespace " + ns
}

// existing lists what there is instead of a name that is not there.
func existing(all []item) string {
	if len(all) == 0 {
		return "there is none"
	}
	var names []string
	for _, i := range all {
		names = append(names, i.name)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > 10 {
		names = append(names[:10], fmt.Sprintf("and %d more", len(names)-10))
	}
	return "there are: " + strings.Join(names, ", ")
}
