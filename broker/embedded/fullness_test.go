package embedded

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
)

func TestNearlyFull(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		name  string
		usage *brokerv1.Usage
		want  string
	}{
		{"nothing is known", nil, ""},
		{"room", &brokerv1.Usage{Storage: 79 * mib, StorageLimit: 100 * mib, DiskFree: 10 * mib, DiskSize: 100 * mib}, ""},
		{"storage", &brokerv1.Usage{Storage: 88 * mib, StorageLimit: 100 * mib}, "streams use 85% or more of the 104857600 bytes that the broker may store"},
		{"volume", &brokerv1.Usage{StorageLimit: 100 * mib, DiskFree: 9 * mib, DiskSize: 100 * mib}, "less than 10% of the volume is free"},
		{"volume, almost full", &brokerv1.Usage{DiskFree: 1, DiskSize: 100 * mib}, "less than 5% of the volume is free"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := NearlyFull(tt.usage); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// fillUp stores messages until one is refused, and returns how many were stored
// before and after the broker gave a warning with that text. It may give others: the
// machine's own volume may be nearly full.
func fillUp(t *testing.T, m *member, text string) (before, after int, warned bool) {
	t.Helper()
	js, err := jetstream.New(m.agent("app"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(ctxFor(t), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 128<<10)
	for before+after < 10_000 {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		_, err := js.Publish(ctx, "s", data)
		cancel()
		if err != nil {
			return before, after, warned
		}
		if warned = warned || strings.Contains(m.rt.NearlyFull(), text); warned {
			after++
		} else {
			before++
		}
	}
	t.Fatal("no message was refused")
	return 0, 0, false
}

// A broker that may store no more says so before.
func TestStorageNearlyFull(t *testing.T) {
	m := newMember(t, newAuthority(t), "a")
	m.config.Spec.MaxStorage = 8 << 20
	m.account("app")
	m.start()
	if before, after, warned := fillUp(t, m, "streams use 80% or more"); before == 0 || after == 0 || !warned {
		t.Errorf("%d messages, warned is %v, then %d more; at last %q", before, warned, after, m.rt.NearlyFull())
	}
}
