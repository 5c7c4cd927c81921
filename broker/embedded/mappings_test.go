package embedded

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// No message of a link is compared with the interfaces of the JetStream domain.
func TestLinkAccountsHaveNoMappings(t *testing.T) {
	a, b := pair(t)
	for _, m := range []struct {
		*member
		peer string
	}{{a, "b"}, {b, "a"}} {
		eventually(t, "no mappings in the link's accounts", func() error {
			if _, err := m.rt.LeafConns(); err != nil {
				return err
			}
			for _, name := range []string{federationv1.InAccount(m.peer), federationv1.OutAccount(m.peer)} {
				z, err := m.rt.server().Accountz(&server.AccountzOptions{Account: m.keyring.Account(name).Public})
				if err != nil {
					return err
				}
				if n := len(z.Account.Mappings); n > 0 {
					return fmt.Errorf("%s has %d: %v", name, n, z.Account.Mappings)
				}
			}
			return nil
		})
	}
}
