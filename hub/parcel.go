package hub

import (
	"sync"

	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// parcel is a HubMessage with an update, as it is sent: of a large part that many
// members get all get the same bytes, which are encoded once.
type parcel struct {
	update *federationv1.Update
	parts  *encodedParts
	// size is that of the message, once it is encoded.
	size int
	// written is called when the message is in no queue any more: it went out, or
	// never will.
	written func()
}

// Numbers of fields. A test compares with the encoding of the messages.
const (
	fieldUpdate  = 2 // of HubMessage
	fieldUpserts = 4 // of Update
)

// watched is how large a buffer must be at least for gRPC to give it back, which
// tells that it is done with it.
const watched = 1<<10 + 1

// encode makes the message: what is shared between what is not. The last buffer is
// never shared, and the one whose return is waited for.
func (p *parcel) encode() (mem.BufferSlice, error) {
	u := p.update
	head := &federationv1.Update{
		Epoch: u.Epoch, BaseHash: u.BaseHash, TargetHash: u.TargetHash, Removals: u.Removals,
		RemovalMeant: u.RemovalMeant, Revision: u.Revision, Traceparent: u.Traceparent,
	}
	inner := proto.Size(head)
	parts := make([][]byte, len(u.Upserts))
	for i, part := range u.Upserts {
		var err error
		if parts[i], err = p.parts.encode(part); err != nil {
			return nil, err
		}
		inner += protowire.SizeTag(fieldUpserts) + protowire.SizeBytes(len(parts[i]))
	}
	own := inner
	for _, b := range parts {
		if len(b) >= shared {
			own -= len(b)
		}
	}
	buf := make([]byte, 0, protowire.SizeTag(fieldUpdate)+protowire.SizeVarint(uint64(inner))+own+watched)
	buf = protowire.AppendVarint(protowire.AppendTag(buf, fieldUpdate, protowire.BytesType), uint64(inner))
	p.size = len(buf) + inner
	var out mem.BufferSlice
	begin := 0 // of what is not in out yet
	for _, b := range parts {
		buf = protowire.AppendVarint(protowire.AppendTag(buf, fieldUpserts, protowire.BytesType), uint64(len(b)))
		if len(b) < shared {
			buf = append(buf, b...)
			continue
		}
		out = append(out, mem.SliceBuffer(buf[begin:len(buf):len(buf)]), mem.SliceBuffer(b))
		begin = len(buf)
	}
	buf, err := proto.MarshalOptions{}.MarshalAppend(buf, head)
	if err != nil {
		return nil, err
	}
	last := buf[begin:]
	return append(out, mem.NewBuffer(&last, returned(p.written))), nil
}

// returned is a pool that only tells that a buffer came back.
type returned func()

// Get implements mem.BufferPool.
func (returned) Get(size int) *[]byte { b := make([]byte, size); return &b }

// Put implements mem.BufferPool.
func (r returned) Put(*[]byte) { r() }

const (
	// shared is from which size on the encoding of a part is kept for others, and
	// maxEncoded how much is kept.
	shared     = 512
	maxEncoded = 16 << 20
)

// encodedParts keeps the encoding of large parts for a while.
type encodedParts struct {
	mu    sync.Mutex
	parts map[*federationv1.Part][]byte
	bytes int
}

// encode returns bytes that must not be modified.
func (e *encodedParts) encode(p *federationv1.Part) ([]byte, error) {
	e.mu.Lock()
	b := e.parts[p]
	e.mu.Unlock()
	if b != nil {
		return b, nil
	}
	b, err := proto.Marshal(p)
	if err != nil || len(b) < shared {
		return b, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.bytes+len(b) <= maxEncoded {
		if e.parts == nil {
			e.parts = map[*federationv1.Part][]byte{}
		}
		e.parts[p] = b
		e.bytes += len(b)
	}
	return b, nil
}

// forget drops everything: it was for members that were sent the same at about the
// same time.
func (e *encodedParts) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.parts, e.bytes = nil, 0
}

// heard is an agent's message, and its size as it came: what is kept of it may be much
// less, from when it is decoded.
type heard struct {
	msg  *federationv1.AgentMessage
	size int
}

// hear waits for the next message of a session's agent.
func hear(stream syncStream) (*federationv1.AgentMessage, int, error) {
	h := &heard{msg: &federationv1.AgentMessage{}}
	m, err := judged(h.msg, stream.RecvMsg(h))
	return m, h.size, err
}

// codec is gRPC's own, and knows parcels and what is heard.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(grpcproto.Name)} }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if p, is := v.(*parcel); is {
		return p.encode()
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if h, is := v.(*heard); is {
		h.size, v = data.Len(), h.msg
	}
	return c.CodecV2.Unmarshal(data, v)
}
