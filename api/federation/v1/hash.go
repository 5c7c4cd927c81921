package federationv1

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"sort"

	"google.golang.org/protobuf/proto"
)

// ProtocolVersion is the version of the protocol that this package describes.
const ProtocolVersion = 1

// EmptyHash is the StateHash of no parts at all.
var EmptyHash = StateHash(nil)

// Seal sets p.Hash to the hash of p's content and returns p. Two parts have the
// same hash if and only if they ask for the same thing.
func Seal(p *Part) *Part {
	p.Hash = ContentHash(p)
	return p
}

// ContentHash is the hash of p's content, whatever p.Hash says: 16 bytes of
// SHA-256 in hex.
func ContentHash(p *Part) string {
	c := &Part{Id: p.Id, Spec: p.Spec}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		panic(fmt.Sprintf("federation: part %s does not encode: %v", p.Id, err)) // only invalid UTF-8, which Validate refuses
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// StateHash is the hash of a set of parts, given as id to part hash.
func StateHash(parts map[string]string) string {
	ids := make([]string, 0, len(parts))
	for id := range parts {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	return SortedStateHash(func(yield func(id, hash string) bool) {
		for _, id := range ids {
			if !yield(id, parts[id]) {
				return
			}
		}
	})
}

// SortedStateHash is the StateHash of parts that come in the order of their ids.
func SortedStateHash(parts iter.Seq2[string, string]) string {
	buf := make([]byte, 0, 4<<10)
	for id, hash := range parts {
		buf = append(append(append(append(buf, id...), 0), hash...), 0)
	}
	sum := sha256.Sum256(buf)
	return hex.EncodeToString(sum[:16])
}
