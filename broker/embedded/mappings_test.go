package embedded

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// mapped looks until an account has n mappings.
func (m *member) mapped(account string, n int) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("%d mappings in %s of %s", n, account, m.name), func() error {
		if _, err := m.rt.LeafConns(); err != nil {
			return err
		}
		z, err := m.rt.server().Accountz(&server.AccountzOptions{Account: m.keyring.Account(account).Public})
		if err != nil {
			return err
		}
		if got := len(z.Account.Mappings); got != n {
			return fmt.Errorf("it has %d: %v", got, z.Account.Mappings)
		}
		return nil
	})
}

// No message of a link is compared with the interfaces of the JetStream domain.
func TestLinkAccountsHaveNoMappings(t *testing.T) {
	a, b := pair(t)
	for _, m := range []struct {
		*member
		peer string
	}{{a, "b"}, {b, "a"}} {
		m.mapped(federationv1.InAccount(m.peer), 0)
		m.mapped(federationv1.OutAccount(m.peer), 0)
	}
}

// A message of an application is compared with three, by which all interfaces are
// reached under the domain's name, also after the account's claims changed.
func TestDomainInterfaces(t *testing.T) {
	a := startAll(t, "a")["a"]
	a.account("app")
	a.setAccounts()
	a.mapped("app", 3)
	a.imports("app", "other", "x", "y")
	a.account("other")
	a.setAccounts()
	a.mapped("app", 3)

	ctx := ctxFor(t)
	js, err := jetstream.NewWithDomain(a.app("app"), "a")
	check(t, err)
	_, err = js.AccountInfo(ctx)
	check(t, err)
	kv, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "bucket"})
	check(t, err)
	_, err = kv.PutString(ctx, "key", "value")
	check(t, err)
	entry, err := kv.Get(ctx, "key")
	check(t, err)
	if got := string(entry.Value()); got != "value" {
		t.Errorf("the bucket has %q", got)
	}
	objects, err := js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: "objects"})
	check(t, err)
	_, err = objects.PutString(ctx, "name", "content")
	check(t, err)
	if got, err := objects.GetString(ctx, "name"); err != nil || got != "content" {
		t.Errorf("the object is %q, %v", got, err)
	}
	s, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}})
	check(t, err)
	_, err = js.Publish(ctx, "s", nil)
	check(t, err)
	c, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{})
	check(t, err)
	batch, err := c.Fetch(1)
	check(t, err)
	if m := <-batch.Messages(); m == nil {
		t.Errorf("no message: %v", batch.Error())
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
