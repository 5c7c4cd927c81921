package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/topology"
)

// byteFields and timeFields are numbers that are not shown as such; of limitFields
// 0 stands for none.
var (
	byteFields  = map[protoreflect.Name]bool{"max_storage": true, "max_memory": true, "max_payload": true, "max_bytes": true, "storage": true, "memory": true, "rate_limit": true}
	limitFields = map[protoreflect.Name]bool{"max_bytes": true, "max_messages": true, "max_messages_per_subject": true, "max_age": true, "rate_limit": true}
	timeFields  = map[protoreflect.Name]bool{"max_age": true, "duplicate_window": true}
)

// fieldsOf lists what differs in a part, or all that is set in one that comes or
// goes, by field.
func fieldsOf(p topology.PartChange) []planField {
	var out []planField
	compareMessages("", specOf(p.Before), specOf(p.After), &out)
	slices.SortStableFunc(out, func(a, b planField) int {
		return cmp.Or(strings.Compare(a.Field, b.Field), strings.Compare(a.Before, b.Before), strings.Compare(a.After, b.After))
	})
	return out
}

// specOf is the message in the oneof of a part; nil if there is no part.
func specOf(p *federationv1.Part) protoreflect.Message {
	if p == nil {
		return nil
	}
	m := p.ProtoReflect()
	f := m.WhichOneof(m.Descriptor().Oneofs().ByName("spec"))
	if f == nil {
		return nil
	}
	return m.Get(f).Message()
}

func compareMessages(path string, a, b protoreflect.Message, out *[]planField) {
	some := a
	if some == nil {
		some = b
	}
	if some == nil {
		return
	}
	fields := some.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name := path + f.JSONName()
		inA, inB := a != nil && a.Has(f), b != nil && b.Has(f)
		switch {
		case f.IsList():
			compareLists(name, f, list(a, f, inA), list(b, f, inB), out)
		case f.Kind() == protoreflect.MessageKind && f.Message().Name() == "Grant":
			if before, after := grantText(a, f, inA), grantText(b, f, inB); before != after {
				*out = append(*out, planField{name, before, after})
			}
		case f.Kind() == protoreflect.MessageKind:
			var x, y protoreflect.Message
			if inA {
				x = a.Get(f).Message()
			}
			if inB {
				y = b.Get(f).Message()
			}
			compareMessages(name+".", x, y, out)
		default:
			var before, after string
			if inA || a != nil && b != nil {
				before = scalar(f, a.Get(f))
			}
			if inB || a != nil && b != nil {
				after = scalar(f, b.Get(f))
			}
			if before != after {
				*out = append(*out, planField{name, before, after})
			}
		}
	}
}

// grantText is all of a grant that says something to people: whose key.
func grantText(m protoreflect.Message, f protoreflect.FieldDescriptor, set bool) string {
	if !set {
		return ""
	}
	g, ok := m.Get(f).Message().Interface().(*federationv1.Grant)
	if !ok {
		return ""
	}
	return "for " + g.Peer + ", " + federationv1.ContentHash(&federationv1.Part{Spec: &federationv1.Part_Link{Link: &federationv1.LinkSpec{Grant: g}}})[:8]
}

func list(m protoreflect.Message, f protoreflect.FieldDescriptor, set bool) []string {
	if !set {
		return nil
	}
	l := m.Get(f).List()
	out := make([]string, l.Len())
	for i := range l.Len() {
		if f.Kind() == protoreflect.MessageKind {
			out[i] = element(l.Get(i).Message().Interface())
		} else {
			out[i] = scalar(f, l.Get(i))
		}
	}
	return out
}

// compareLists takes lists for multisets.
func compareLists(name string, f protoreflect.FieldDescriptor, a, b []string, out *[]planField) {
	n := map[string]int{}
	for _, s := range a {
		n[s]--
	}
	for _, s := range b {
		n[s]++
	}
	changed := false
	for _, s := range slices.Sorted(maps.Keys(n)) {
		for range -n[s] {
			*out, changed = append(*out, planField{Field: name, Before: s}), true
		}
		for range n[s] {
			*out, changed = append(*out, planField{Field: name, After: s}), true
		}
	}
	if !changed && !slices.Equal(a, b) && f.Message() == nil {
		*out = append(*out, planField{name, strings.Join(a, ", "), strings.Join(b, ", ")}) // another order
	}
}

func element(m proto.Message) string {
	switch e := m.(type) {
	case *federationv1.Import:
		s := e.Account + " " + e.Subject
		if e.Service {
			s = "service " + s
		}
		if e.To != "" {
			s += " as " + e.To
		}
		return s
	case *federationv1.Transform:
		return e.From + " as " + e.To
	case *federationv1.Source:
		s := e.Stream
		if e.Origin != "" {
			s += " of " + e.Origin
		}
		s += " for " + e.Bridge
		if e.Consumer != "" {
			s += " by " + e.Consumer
		}
		for _, t := range e.Transforms {
			s += ", " + t.From + " as " + t.To
		}
		if len(e.Filters) > 0 {
			s += ", only " + strings.Join(e.Filters, " ")
		}
		return s
	}
	var fields []planField
	compareMessages("", nil, m.ProtoReflect(), &fields)
	words := make([]string, len(fields))
	for i, f := range fields {
		words[i] = f.Field + " " + f.After
	}
	return strings.Join(words, ", ")
}

func scalar(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch {
	case limitFields[f.Name()] && v.Int() == 0, f.Parent().Name() == "AccountLimits" && v.Int() < 0:
		return "unlimited"
	case f.Kind() == protoreflect.EnumKind:
		if e := f.Enum().Values().ByNumber(v.Enum()); e != nil {
			return string(e.Name())
		}
		return fmt.Sprint(v.Enum())
	case byteFields[f.Name()] && v.Int() > 0:
		return topology.Bytes(v.Int())
	case timeFields[f.Name()] && v.Int() > 0:
		return time.Duration(v.Int()).String()
	}
	return v.String()
}
