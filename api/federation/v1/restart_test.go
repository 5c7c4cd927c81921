package federationv1_test

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

func TestRestarts(t *testing.T) {
	t.Parallel()
	running := &federationv1.BrokerSpec{MaxStorage: 10, MaxMemory: 10, MaxPayload: 10, MaxConnections: 10, Replicas: 3}
	for name, c := range map[string]struct {
		change func(*federationv1.BrokerSpec)
		want   []federationv1.Restart
	}{
		"nothing": {func(*federationv1.BrokerSpec) {}, nil},
		"all is reloaded": {func(s *federationv1.BrokerSpec) {
			s.MaxStorage, s.MaxMemory, s.MaxPayload, s.MaxConnections, s.Replicas = 11, 11, 1, 1, 1
		}, nil},
		"less storage": {func(s *federationv1.BrokerSpec) { s.MaxStorage = 9 }, []federationv1.Restart{federationv1.RestartStorage}},
		"less memory":  {func(s *federationv1.BrokerSpec) { s.MaxMemory = 9 }, []federationv1.Restart{federationv1.RestartMemory}},
		"durability":   {func(s *federationv1.BrokerSpec) { s.SyncAlways = true }, []federationv1.Restart{federationv1.RestartDurability}},
		"all": {
			func(s *federationv1.BrokerSpec) {
				s.MaxStorage, s.MaxMemory, s.SyncAlways, s.MaxPayload = 1, 1, true, 20
			},
			[]federationv1.Restart{federationv1.RestartStorage, federationv1.RestartMemory, federationv1.RestartDurability},
		},
	} {
		next, _ := proto.Clone(running).(*federationv1.BrokerSpec)
		c.change(next)
		if got := federationv1.Restarts(running, next); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		without := federationv1.WithoutRestarts(running, next)
		if got := federationv1.Restarts(running, without); len(got) > 0 {
			t.Errorf("%s: what is to be reloaded restarts it: %q", name, got)
		}
		if without.MaxPayload != next.MaxPayload || len(c.want) == 0 && !proto.Equal(without, next) {
			t.Errorf("%s: %v is reloaded instead of %v", name, without, next)
		}
	}
	if got := federationv1.Restarts(nil, nil); len(got) > 0 || federationv1.WithoutRestarts(nil, nil) == nil {
		t.Errorf("of nothing: %q", got)
	}
}
