package federationv1

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
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
	h := StateHasher{make([]byte, 0, 4<<10)}
	for _, id := range ids {
		h.Add(id, parts[id])
	}
	return h.Sum()
}

// StateHasher makes StateHashes one after the other, in the same memory.
type StateHasher struct{ buf []byte }

// Add adds a part. They come in the order of their ids.
func (h *StateHasher) Add(id, hash string) {
	h.buf = append(append(append(append(h.buf, id...), 0), hash...), 0)
}

// Sum is the StateHash of the parts since the last one.
func (h *StateHasher) Sum() string {
	sum := sha256.Sum256(h.buf)
	h.buf = h.buf[:0]
	return hex.EncodeToString(sum[:16])
}
