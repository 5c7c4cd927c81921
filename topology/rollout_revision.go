package topology

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealane/sealane/api/v1alpha1"
)

// Content is what a topology, and the Streams and Bridges that belong to it, say:
// what a revision keeps. Of the metadata it has only what plans depend on.
type Content struct {
	Topology *v1alpha1.MessagingTopology `json:"topology"`
	Streams  []*v1alpha1.Stream          `json:"streams,omitempty"`
	Bridges  []*v1alpha1.Bridge          `json:"bridges,omitempty"`
}

// ContentOf is what the objects say now of the topology.
func ContentOf(in Input, t *v1alpha1.MessagingTopology) Content {
	c := Content{Topology: &v1alpha1.MessagingTopology{ObjectMeta: planMeta(t), Spec: t.Spec}}
	c.Topology.Spec.Rollout = nil // how to roll out is not rolled out
	for _, s := range in.Streams {
		if belongs(in, t, s.Spec.Topology) {
			c.Streams = append(c.Streams, &v1alpha1.Stream{ObjectMeta: planMeta(s), Spec: s.Spec})
		}
	}
	for _, b := range in.Bridges {
		if belongs(in, t, b.Spec.Topology) {
			c.Bridges = append(c.Bridges, &v1alpha1.Bridge{ObjectMeta: planMeta(b), Spec: b.Spec})
		}
	}
	slices.SortFunc(c.Streams, func(a, b *v1alpha1.Stream) int {
		return compareRefs(refOf(KindStream, a), refOf(KindStream, b))
	})
	slices.SortFunc(c.Bridges, func(a, b *v1alpha1.Bridge) int {
		return compareRefs(refOf(KindBridge, a), refOf(KindBridge, b))
	})
	return c
}

// With is the input in which the content stands for what the topology's objects
// say now.
func (c Content) With(in Input) Input {
	t := c.Topology
	out := in
	out.Topologies, out.Streams, out.Bridges = nil, slices.Clone(c.Streams), slices.Clone(c.Bridges)
	for _, x := range in.Topologies {
		if x.Name == t.Name {
			x = t
		}
		out.Topologies = append(out.Topologies, x)
	}
	for _, s := range in.Streams {
		if !belongs(in, t, s.Spec.Topology) && !slices.ContainsFunc(c.Streams, func(o *v1alpha1.Stream) bool { return refOf(KindStream, o) == refOf(KindStream, s) }) {
			out.Streams = append(out.Streams, s)
		}
	}
	for _, b := range in.Bridges {
		if !belongs(in, t, b.Spec.Topology) && !slices.ContainsFunc(c.Bridges, func(o *v1alpha1.Bridge) bool { return refOf(KindBridge, o) == refOf(KindBridge, b) }) {
			out.Bridges = append(out.Bridges, b)
		}
	}
	return out
}

// Find is the object of that reference in the content, or nil.
func (c Content) Find(ref ObjectRef) metav1.Object {
	switch ref.Kind {
	case KindTopology:
		if c.Topology.Name == ref.Name {
			return c.Topology
		}
	case KindStream:
		for _, s := range c.Streams {
			if refOf(KindStream, s) == ref {
				return s
			}
		}
	case KindBridge:
		for _, b := range c.Bridges {
			if refOf(KindBridge, b) == ref {
				return b
			}
		}
	}
	return nil
}

// belongs tells whether an object that names a topology, or none, is of t.
func belongs(in Input, t *v1alpha1.MessagingTopology, named string) bool {
	return named == t.Name || named == "" && len(in.Topologies) == 1
}

func planMeta(o metav1.Object) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID(), Generation: o.GetGeneration(), CreationTimestamp: o.GetCreationTimestamp(),
	}
}

// Hash is the SHA-256, in hex, of the names and specs: two contents that mean the
// same have the same.
func (c Content) Hash() (string, error) {
	bare := Content{Topology: &v1alpha1.MessagingTopology{ObjectMeta: metav1.ObjectMeta{Name: c.Topology.Name}, Spec: c.Topology.Spec}}
	for _, s := range c.Streams {
		bare.Streams = append(bare.Streams, &v1alpha1.Stream{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name}, Spec: s.Spec})
	}
	for _, b := range c.Bridges {
		bare.Bridges = append(bare.Bridges, &v1alpha1.Bridge{ObjectMeta: metav1.ObjectMeta{Namespace: b.Namespace, Name: b.Name}, Spec: b.Spec})
	}
	data, err := json.Marshal(bare)
	if err != nil {
		return "", fmt.Errorf("hash the content of topology %s: %w", c.Topology.Name, err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

// RevisionName is the name of the revision of a topology whose content has a hash.
func RevisionName(topology, hash string) string { return topology + "-" + hash[:min(10, len(hash))] }

// Encode is the content as a revision keeps it: JSON, compressed with gzip.
func (c Content) Encode() ([]byte, error) {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if err := json.NewEncoder(w).Encode(c); err != nil {
		return nil, fmt.Errorf("encode the content of topology %s: %w", c.Topology.Name, err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compress the content of topology %s: %w", c.Topology.Name, err)
	}
	return out.Bytes(), nil
}

// maxContent is more than the specs of any federation take.
const maxContent = 256 << 20

// DecodeContent reads what Encode wrote.
func DecodeContent(data []byte) (Content, error) {
	var c Content
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err == nil {
		err = json.NewDecoder(io.LimitReader(r, maxContent)).Decode(&c)
	}
	if err == nil && (c.Topology == nil || slices.Contains(c.Streams, nil) || slices.Contains(c.Bridges, nil)) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return Content{}, fmt.Errorf("the content of the revision cannot be read: %w", err)
	}
	return c, nil
}
