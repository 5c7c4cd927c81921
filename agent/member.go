package agent

import (
	"log/slog"
	"sync/atomic"

	"github.com/sealane/sealane/broker"
)

// member is what the loops of an agent share. Each loop has a file of its own;
// they meet in what is held, in the picture, and in the broker.
type member struct {
	name    string
	dataDir string
	log     *slog.Logger

	rt      broker.Runtime
	keyring *broker.Keyring
	ident   *atomic.Pointer[identity]
	holder  *holder
	pic     *picture
	conns   *accountConns
	links   *links
	prober  *prober
	facts   *factFinder
	// secrets writes the credentials of applications where they run; nil: nowhere.
	secrets *appSecrets
	health  *health
	proxy   proxyFunc // for links
	// patient tells that the broker's servers are not this process's to start: if they
	// do not, the agent goes on.
	patient bool

	// work has the applier look at everything, work being one slot.
	work chan struct{}
}

func (m *member) wakeApplier() { wake(m.work) }
