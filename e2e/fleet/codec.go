package main

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// frame is a HubMessage as far as a simulated member looks into it. Members share
// the machine with the hub: what they do not need is not decoded, so that it is the
// hub that is measured.
type frame struct {
	welcome *federationv1.Welcome
	update  *update
	size    int
}

type update struct {
	base, target string
	parts        []part
	removals     []string
}

type part struct {
	id, hash string
	link     *federationv1.LinkSpec // nil: of another kind
}

// codec speaks protobuf, as every client of the hub.
type codec struct{}

var _ encoding.CodecV2 = codec{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("no message: %T", v)
	}
	b, err := proto.Marshal(m)
	return mem.BufferSlice{mem.SliceBuffer(b)}, err
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	if m, ok := v.(proto.Message); ok {
		return proto.Unmarshal(data.Materialize(), m)
	}
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("no message: %T", v)
	}
	b := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer b.Free()
	return f.decode(b.ReadOnlyData())
}

func (f *frame) decode(b []byte) error {
	f.size = len(b)
	return fields(b, func(n protowire.Number, v []byte) error {
		switch n {
		case 1:
			f.welcome = &federationv1.Welcome{}
			return proto.Unmarshal(v, f.welcome)
		case 2:
			f.update = &update{}
			return f.update.decode(v)
		}
		return nil
	})
}

func (u *update) decode(b []byte) error {
	return fields(b, func(n protowire.Number, v []byte) error {
		switch n {
		case 2:
			u.base = string(v)
		case 3:
			u.target = string(v)
		case 4:
			var p part
			if err := p.decode(v); err != nil {
				return err
			}
			u.parts = append(u.parts, p)
		case 5:
			u.removals = append(u.removals, string(v))
		}
		return nil
	})
}

func (p *part) decode(b []byte) error {
	return fields(b, func(n protowire.Number, v []byte) error {
		switch n {
		case 1:
			p.id = string(v)
		case 2:
			p.hash = string(v)
		case 5:
			p.link = &federationv1.LinkSpec{}
			return proto.Unmarshal(v, p.link)
		}
		return nil
	})
}

// fields calls fn for each field of a message that has a length; numbers are
// skipped.
func fields(b []byte, fn func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := fn(num, v); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
