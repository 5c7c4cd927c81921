package agent

import (
	"fmt"
	"slices"
	"testing"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// TestUnfedStream: a stream that nothing feeds is taken by NATS, and so is every
// change of what feeds it, there and back, with its messages kept.
func TestUnfedStream(t *testing.T) {
	t.Parallel()
	hub := startHub(t, newCA(t))
	stream := func(name string, sources []string, subjects ...string) *federationv1.Part {
		s := &federationv1.StreamSpec{Account: "app", Name: name, Subjects: subjects, Retain: true}
		for _, src := range sources {
			s.Sources = append(s.Sources, &federationv1.Source{Bridge: "demo/all", Stream: src})
		}
		return streamPart(s)
	}
	origin := stream("ORDERS", nil, "orders.>")
	other := stream("OTHER", nil) // two without anything do not stand in each other's way
	hub.want("tokyo", accountPart("app"), origin, other, stream("ALL", nil))
	a := startAgent(t, hub, "tokyo")
	hub.applied("tokyo")
	js := a.js("app")
	published := 0
	for _, step := range []struct {
		name     string
		sources  []string
		subjects []string
		publish  string
		bound    []string
	}{
		{"nothing feeds it", nil, nil, "", []string{"sealane.unfed.ALL"}},
		{"a source is added", []string{"ORDERS"}, nil, "orders.1", nil},
		{"it goes again", nil, nil, "", []string{"sealane.unfed.ALL"}},
		{"subjects are added", nil, []string{"direct.>"}, "direct.1", []string{"direct.>"}},
		{"and a source", []string{"ORDERS"}, []string{"direct.>"}, "direct.2", []string{"direct.>"}},
		{"subjects go", []string{"ORDERS"}, nil, "orders.2", nil},
		{"nothing feeds it in the end", nil, nil, "", []string{"sealane.unfed.ALL"}},
	} {
		hub.want("tokyo", accountPart("app"), origin, other, stream("ALL", step.sources, step.subjects...))
		hub.applied("tokyo")
		if step.publish != "" {
			_, err := js.Publish(t.Context(), step.publish, []byte("x"))
			check(t, err)
			published++
		}
		eventually(t, step.name, func() error {
			info, err := streamInfo(js, "ALL")
			if err != nil {
				return err
			}
			if !slices.Equal(info.Config.Subjects, step.bound) || len(info.Config.Sources) != len(step.sources) {
				return fmt.Errorf("subjects %v, sources %v", info.Config.Subjects, info.Config.Sources)
			}
			if info.State.Msgs != uint64(published) {
				return fmt.Errorf("%d messages, published were %d", info.State.Msgs, published)
			}
			return nil
		})
	}
}
