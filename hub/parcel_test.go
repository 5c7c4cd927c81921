package hub

import (
	"strings"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// A parcel is the same message as without sharing, and tells when all of it is out.
func TestParcel(t *testing.T) {
	small, large := account("small").Part, account("large", strings.Repeat("x.", 2000)+">").Part
	for name, u := range map[string]*federationv1.Update{
		"empty":      {},
		"removals":   {Epoch: 3, BaseHash: hashOf("a"), TargetHash: hashOf("b"), Removals: []string{"link/a", "link/b"}, RemovalMeant: true, Revision: 12, Traceparent: "00-x"},
		"small":      {BaseHash: hashOf("a"), Upserts: []*federationv1.Part{small, small}},
		"large":      {BaseHash: hashOf("a"), Upserts: []*federationv1.Part{large}},
		"all of it":  {Epoch: 1, Upserts: []*federationv1.Part{small, large, small, large, large, small}, Removals: []string{"x"}, Revision: 1},
		"large last": {Upserts: []*federationv1.Part{small, large}},
	} {
		t.Run(name, func(t *testing.T) {
			encoded := &encodedParts{}
			for range 2 { // the second time from what is kept
				written := 0
				p := &parcel{update: u, parts: encoded, written: func() { written++ }}
				data, err := newCodec().Marshal(p)
				if err != nil {
					t.Fatal(err)
				}
				var got federationv1.HubMessage
				if err := proto.Unmarshal(data.Materialize(), &got); err != nil {
					t.Fatal(err)
				}
				want := &federationv1.HubMessage{Body: &federationv1.HubMessage_Update{Update: u}}
				if !proto.Equal(&got, want) {
					t.Errorf("got %v, want %v", &got, want)
				}
				if n := proto.Size(want); p.size != n || data.Len() != n {
					t.Errorf("size %d, %d bytes: want %d", p.size, data.Len(), n)
				}
				// As gRPC does: one reference to send with, one of the caller.
				data.Ref()
				data.Free()
				r := data.Reader()
				if _, err := r.Discard(data.Len() - 1); err != nil || written != 0 {
					t.Fatalf("written before its end: %v", err)
				}
				data.Free()
				if _, err := r.Discard(1); err != nil {
					t.Fatal(err)
				}
				if err := r.Close(); err != nil || written != 1 {
					t.Errorf("written %d times: %v", written, err)
				}
			}
			if want := strings.Contains(name, "large") || name == "all of it"; (len(encoded.parts) == 1) != want {
				t.Errorf("%d parts are kept", len(encoded.parts))
			}
			encoded.forget()
			if encoded.parts != nil || encoded.bytes != 0 {
				t.Error("not forgotten")
			}
		})
	}
	if mem.IsBelowBufferPoolingThreshold(watched) {
		t.Error("gRPC does not give back buffers of that size: no session would be sent a second update")
	}
}
