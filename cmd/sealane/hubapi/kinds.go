package hubapi

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

// kindJoinToken is checked like the others and planned by nobody.
const kindJoinToken topology.Kind = "JoinToken"

// kindWords are what users call the kinds, in lower case, the first as it is
// shown.
var kindWords = map[topology.Kind][]string{
	topology.KindTopology: {"topology", "topologies", "messagingtopology", "messagingtopologies", "mtop"},
	topology.KindMember:   {"member", "members", "membercluster", "memberclusters"},
	topology.KindStream:   {"stream", "streams", "mstream"},
	topology.KindBridge:   {"bridge", "bridges", "mbridge"},
	kindJoinToken:         {"token", "tokens", "jointoken", "jointokens"},
}

func namespaced(k topology.Kind) bool { return k == topology.KindStream || k == topology.KindBridge }

// Shown names an object as conditions and reports do: "bridge shop/orders".
func Shown(r topology.ObjectRef) string {
	name := r.Name
	if r.Namespace != "" {
		name = r.Namespace + "/" + r.Name
	}
	return kindWords[r.Kind][0] + " " + name
}

// ParseRef reads KIND/NAME or KIND/NAMESPACE/NAME.
func ParseRef(s, namespace string) (topology.ObjectRef, error) {
	fields := strings.Split(s, "/")
	for kind, words := range kindWords {
		word, _, _ := strings.Cut(strings.ToLower(fields[0]), ".")
		if kind == kindJoinToken || !slices.Contains(words, word) {
			continue
		}
		switch {
		case !namespaced(kind) && len(fields) == 2 && fields[1] != "":
			return topology.ObjectRef{Kind: kind, Name: fields[1]}, nil
		case namespaced(kind) && len(fields) == 2 && fields[1] != "":
			return topology.ObjectRef{Kind: kind, Namespace: namespace, Name: fields[1]}, nil
		case namespaced(kind) && len(fields) == 3 && fields[1] != "" && fields[2] != "":
			return topology.ObjectRef{Kind: kind, Namespace: fields[1], Name: fields[2]}, nil
		}
		return topology.ObjectRef{}, fmt.Errorf("%q: want KIND/NAME, or KIND/NAMESPACE/NAME for streams and bridges", s)
	}
	return topology.ObjectRef{}, fmt.Errorf("%q names no kind: want topology, member, stream or bridge, then /NAME", s)
}

// Input is what the hub compiles. It shares memory with the Snapshot.
func (s *Snapshot) Input() topology.Input {
	return topology.Input{
		Topologies: pointers(s.Topologies), Members: pointers(s.Members), Streams: pointers(s.Streams), Bridges: pointers(s.Bridges),
	}
}

func pointers[T any](items []T) []*T {
	out := make([]*T, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}

// newObject is an empty object of a kind; nil if there is no such kind.
func newObject(k topology.Kind) object {
	switch k {
	case topology.KindTopology:
		return &v1alpha1.MessagingTopology{}
	case topology.KindMember:
		return &v1alpha1.MemberCluster{}
	case topology.KindStream:
		return &v1alpha1.Stream{}
	case topology.KindBridge:
		return &v1alpha1.Bridge{}
	case kindJoinToken:
		return &v1alpha1.JoinToken{}
	}
	return nil
}
