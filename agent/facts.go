package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server/sysmem"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

const (
	// factsInterval is how often the free space is looked at.
	factsInterval = time.Minute
	// storageStep rounds the free space, so that what every message changes is not
	// news.
	storageStep = 64 << 20
	// maxAdvertised is how many addresses a hub takes.
	maxAdvertised = 16
)

// validateAdvertised checks the addresses at which others reach this member.
func validateAdvertised(l []string) error {
	if len(l) > maxAdvertised {
		return fmt.Errorf("--advertise is given %d times; at most %d addresses are used", len(l), maxAdvertised)
	}
	seen := map[string]bool{}
	for _, e := range l {
		if err := validateEndpoint(e); err != nil {
			return fmt.Errorf("--advertise: %w", err)
		}
		if seen[e] {
			return fmt.Errorf("--advertise: %s is given twice", e)
		}
		seen[e] = true
	}
	return nil
}

// observeFacts is what the hub must know of this member.
func observeFacts(linkKey string, endpoints []string, dataDir string) *federationv1.Facts {
	return &federationv1.Facts{
		LinkKey:   linkKey,
		Endpoints: endpoints,
		Storage:   freeBytes(dataDir) / storageStep * storageStep,
		Memory:    max(sysmem.Memory(), 0),
	}
}

// watchFacts follows the free space. Less than a tenth of a change is no news.
func watchFacts(ctx context.Context, pic *picture, dataDir string) {
	t := time.NewTicker(factsInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		old := pic.now().facts
		now := observeFacts(old.LinkKey, old.Endpoints, dataDir)
		if d := now.Storage - old.Storage; max(d, -d) > old.Storage/10 || now.Memory != old.Memory {
			pic.setFacts(now)
		}
	}
}

// hostOf is the host of host:port.
func hostOf(hostPort string) string {
	i := strings.LastIndex(hostPort, ":")
	if i < 0 {
		return hostPort
	}
	return strings.Trim(hostPort[:i], "[]")
}
