package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

func ordersPart() *federationv1.Part {
	return streamPart(&federationv1.StreamSpec{Account: "app", Name: "ORDERS", Subjects: []string{"orders.>"}, MaxBytes: 1 << 20})
}

func streamInfo(js jetstream.JetStream, name string) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s, err := js.Stream(ctx, name)
	if err != nil {
		return nil, err
	}
	return s.CachedInfo(), nil
}

func TestAppliesWhatTheHubSends(t *testing.T) {
	hub := startHub(t, newCA(t))
	hub.want("tokyo", accountPart("app"), ordersPart())
	a := startAgent(t, hub, "tokyo")
	hub.applied("tokyo")

	js := a.js("app")
	if _, err := js.Publish(t.Context(), "orders.1", []byte("x")); err != nil {
		t.Fatal(err)
	}
	info, err := streamInfo(js, "ORDERS")
	check(t, err)
	if info.State.Msgs != 1 || info.Config.Metadata[metaManaged] != "true" || info.Config.MaxBytes != 1<<20 {
		t.Errorf("stream: %+v", info)
	}
	hub.look("tokyo", func(m *hubMember) {
		if m.facts.GetStorage() <= 0 || m.facts.GetMemory() <= 0 || m.hello.Agent.BrokerVersion == "" {
			t.Errorf("facts %v, agent %v", m.facts, m.hello.Agent)
		}
	})
	for path, mode := range map[string]os.FileMode{
		"identity/key.pem": 0o600, "seed": 0o600, "creds/app.creds": 0o600, "url": 0o644,
	} {
		fi, err := os.Stat(filepath.Join(a.opts.DataDir, path))
		if err != nil {
			t.Error(err)
		} else if fi.Mode().Perm() != mode {
			t.Errorf("%s has mode %v", path, fi.Mode())
		}
	}

	// The account goes, and its credentials and stream with it.
	hub.want("tokyo", accountPart("other"))
	hub.applied("tokyo")
	eventually(t, "the credentials are those of what is there", func() error {
		if _, err := os.Stat(filepath.Join(a.opts.DataDir, "creds/other.creds")); err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(a.opts.DataDir, "creds/app.creds")); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("app: %v", err)
		}
		return nil
	})
	a.stop()
	if _, err := os.Stat(urlFile(a.opts.DataDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("url after shutdown: %v", err)
	}
}

func TestRunsWithoutTheHub(t *testing.T) {
	t.Parallel()
	hub := startHub(t, newCA(t))
	hub.want("tokyo", accountPart("app"), ordersPart())
	a := startAgent(t, hub, "tokyo")
	hub.applied("tokyo")
	if _, err := a.js("app").Publish(t.Context(), "orders.1", []byte("x")); err != nil {
		t.Fatal(err)
	}
	a.stop()
	hub.stop()

	a.opts.Name, a.opts.Hub, a.opts.Token = "", "", "" // the data folder knows
	start := time.Now()
	a.start()
	info, err := streamInfo(a.js("app"), "ORDERS")
	check(t, err)
	if info.State.Msgs != 1 {
		t.Errorf("messages: %d", info.State.Msgs)
	}
	t.Logf("the stream was there after %v", time.Since(start))

	// A hub that knows nothing asks, and finds that nothing is to be done.
	hub.look("tokyo", func(m *hubMember) { m.held = nil })
	hub.restart()
	hub.applied("tokyo")
	hub.look("tokyo", func(m *hubMember) {
		if m.inventories < 2 {
			t.Errorf("inventories: %d", m.inventories)
		}
	})
}
