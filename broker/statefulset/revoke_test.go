package statefulset

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealane/sealane/broker"
)

// The user of a namespace that lost access is let go by every server, and not let in
// again, whatever it had copied; others are not disturbed, and a later one works.
func TestRevokedUser(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.account("app")
	w.start()
	w.settled(3)
	issued := time.Now().Add(-time.Minute)
	as := func(namespace string, at time.Time) nats.Option {
		creds, err := broker.UserCredsIn(w.keyring, "app", namespace, at, time.Now().Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return nats.UserCredentialBytes(creds)
	}
	var lost, kept []*nats.Conn
	for n := range 3 {
		lost = append(lost, w.app("app", n, as("shop", issued), nats.NoReconnect()))
		kept = append(kept, w.app("app", n, as("web", issued)))
	}
	revoke := func() {
		t.Helper()
		claims, errs := w.keyring.Accounts("a", w.parts)
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		broker.RevokeUser(claims["app"], w.keyring.AppUserIn("app", "shop"), issued.Add(time.Second))
		if errs := w.rt.SetAccounts(ctxFor(t), claims); len(errs) > 0 {
			t.Fatal(errs)
		}
	}
	revoke()
	eventually(t, "its clients are let go", func() error {
		for n, nc := range lost {
			if !nc.IsClosed() {
				return fmt.Errorf("that of server %d is still there", n)
			}
		}
		return nil
	})
	for n := range 3 {
		if _, err := w.tryApp("app", n, as("shop", issued)); !errors.Is(err, nats.ErrAuthorization) && !errors.Is(err, nats.ErrAuthRevoked) {
			t.Errorf("it is let in again by server %d: %v", n, err)
		}
		if kept[n].Stats().Reconnects > 0 || !kept[n].IsConnected() {
			t.Errorf("another user was let go by server %d", n)
		}
		w.app("app", n, as("shop", issued.Add(2*time.Second)))
	}
}
