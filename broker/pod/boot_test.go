package pod

import (
	"crypto/rand"
	"encoding/hex"
	"testing"

	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
)

func TestBoot(t *testing.T) {
	s := &brokerv1.State{
		Generation: 7, Member: "a", Operator: "O", SystemAccount: "SYS", LinkSeed: []byte("seed"),
		Accounts: []*brokerv1.Account{{Name: "_system", Key: "SYS", Token: "t"}, {Name: "app", Key: "APP", Token: "u"}},
		Remotes:  []*brokerv1.Remote{{Peer: "p"}},
	}
	b, err := EncodeBoot(s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeBoot(b)
	if err != nil || !proto.Equal(got, s) {
		t.Errorf("%v, %v", got, err)
	}

	// What does not fit into a Secret: enough to be reached, and older than anything.
	noise := make([]byte, 2<<20)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	s.Accounts[1].Token = hex.EncodeToString(noise)
	if b, err = EncodeBoot(s); err != nil || len(b) > maxBoot {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	got, err = DecodeBoot(b)
	if err != nil || got.Generation != 1 || len(got.Accounts) != 1 || got.Accounts[0].Key != "SYS" || string(got.LinkSeed) != "seed" {
		t.Errorf("%v, %v", got, err)
	}
	if newer(got, s) {
		t.Error("it counts more than the real one")
	}
	if !newer(s, got) || !newer(got, nil) || !newer(&brokerv1.State{Generation: 1, Operator: "other"}, s) {
		t.Error("what counts more does not")
	}
}

func FuzzDecodeBoot(f *testing.F) {
	b, err := EncodeBoot(&brokerv1.State{Generation: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := DecodeBoot(b); err == nil && s == nil {
			t.Error("neither a state nor an error")
		}
	})
}
