package agent

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

func newOutletBase() jetstream.ConsumerConfig { return jetstream.ConsumerConfig{} }

func TestStreamSource(t *testing.T) {
	tr := func(from, to string) *federationv1.Transform { return &federationv1.Transform{From: from, To: to} }
	for _, tc := range []struct {
		name string
		in   *federationv1.Source
		want *jetstream.StreamSource
	}{
		{"remote",
			&federationv1.Source{Origin: "a", Stream: "S", Consumer: "c", DeliverSubject: "d", ApiPrefix: "fedjs.a", Transforms: []*federationv1.Transform{tr("x.>", "y.>")}},
			&jetstream.StreamSource{Name: "S", External: &jetstream.ExternalStream{APIPrefix: "_fedjs.a"},
				Consumer:          &jetstream.StreamConsumerSource{Name: "c", DeliverSubject: "d"},
				SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: "x.>", Destination: "y.>"}}}},
		{"local, all of it", &federationv1.Source{Stream: "S"}, &jetstream.StreamSource{Name: "S"}},
		{"local, one filter", &federationv1.Source{Stream: "S", Filters: []string{"x"}}, &jetstream.StreamSource{Name: "S", FilterSubject: "x"}},
		{"local, filters of which one is renamed", &federationv1.Source{Stream: "S", Filters: []string{"x", "z"}, Transforms: []*federationv1.Transform{tr("x", "y")}},
			&jetstream.StreamSource{Name: "S", SubjectTransforms: []jetstream.SubjectTransformConfig{{Source: "x", Destination: "y"}, {Source: "z"}}}},
	} {
		if d := cmp.Diff(tc.want, streamSource(tc.in)); d != "" {
			t.Errorf("%s: %s", tc.name, d)
		}
	}
}

func TestStreamConfigKeepsWhatIsNotManaged(t *testing.T) {
	p := ordersPart()
	have := newStreamConfig(p)
	have.Description, have.Compression, have.Duplicates = "mine", jetstream.S2Compression, 2*time.Minute
	have.Metadata["mine"], have.Metadata[metaHash] = "yes", "old"
	want := streamConfig(have, p)
	if want.Description != "mine" || want.Compression != jetstream.S2Compression || want.Duplicates != 2*time.Minute || want.Metadata["mine"] != "yes" {
		t.Errorf("got %+v", want)
	}
	if sameStream(have, want) || !sameStream(want, streamConfig(want, p)) {
		t.Error("only a changed mark tells them apart")
	}
	if have.Metadata[metaHash] != "old" {
		t.Error("what is there was modified")
	}
	// A window that would be longer than messages live is refused by NATS.
	short := streamPart(&federationv1.StreamSpec{Account: "app", Name: "ORDERS", Subjects: []string{"orders.>"}, MaxAge: int64(time.Minute)})
	if got := streamConfig(have, short).Duplicates; got != time.Minute {
		t.Errorf("duplicate window %v", got)
	}
}

// Sources are the same in any order, as long as each is.
func TestSameSources(t *testing.T) {
	a := &jetstream.StreamSource{Name: "A", External: &jetstream.ExternalStream{APIPrefix: "p"}}
	b := &jetstream.StreamSource{Name: "B", Consumer: &jetstream.StreamConsumerSource{Name: "c", DeliverSubject: "d"}}
	b2 := &jetstream.StreamSource{Name: "B", Consumer: &jetstream.StreamConsumerSource{Name: "c", DeliverSubject: "e"}}
	list := func(l ...*jetstream.StreamSource) []*jetstream.StreamSource { return l }
	if !sameSources(list(a, b), list(b, a)) || sameSources(list(a, b), list(a, b2)) || sameSources(list(a), list(a, b)) || !sameSources(nil, list()) {
		t.Error("sources are not compared as sets")
	}
}

// How many servers keep a copy is managed, and 0 stands for 1.
func TestStreamReplicas(t *testing.T) {
	spec := &federationv1.StreamSpec{Account: "app", Name: "ORDERS", Subjects: []string{"orders.>"}}
	have := newStreamConfig(streamPart(spec))
	if have.Replicas != 1 {
		t.Errorf("%d copies, want 1", have.Replicas)
	}
	three := streamPart(&federationv1.StreamSpec{Account: "app", Name: "ORDERS", Subjects: []string{"orders.>"}, Replicas: 3})
	want := streamConfig(have, three)
	if want.Replicas != 3 {
		t.Errorf("%d copies, want 3", want.Replicas)
	}
	have.Metadata = want.Metadata
	if sameStream(have, want) {
		t.Error("a stream of one copy is taken for one of three")
	}
}
