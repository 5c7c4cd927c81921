package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server/sysmem"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

const (
	// factsInterval is how often the free space is looked at.
	factsInterval = time.Minute
	// measureInterval is the same for servers elsewhere, which come and go.
	measureInterval = 2 * time.Second
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

// factFinder finds out what the hub must know of this member.
type factFinder struct {
	linkKey    string
	advertised []string
	dataDir    string
	rt         broker.Runtime
}

func (f *factFinder) find() *federationv1.Facts {
	facts := &federationv1.Facts{
		LinkKey: f.linkKey, Endpoints: f.advertised,
		Storage: freeBytes(f.dataDir), Memory: max(sysmem.Memory(), 0),
		Replicas: 1, MaxReplicas: 1,
		LinkRoles: true,
	}
	if m, ok := f.rt.(broker.Measurer); !ok {
		facts.LinkGroups = true // of a broker in several servers they are not known to work
		facts.StorageCapacity = capacity(facts.Storage, f.dataDir)
		facts.Memory = memoryLimit(facts.Memory, cgroupLimits)
	} else {
		c := m.Capacity()
		facts.Storage, facts.Memory = c.Storage, c.Memory
		facts.Replicas, facts.MaxReplicas = int32(c.Servers), int32(c.Max)
		facts.WantedReplicas, facts.ReplicasReason = int32(c.Wanted), c.Why
		if len(f.advertised) == 0 {
			facts.Endpoints = c.Endpoints
		}
	}
	facts.Storage = facts.Storage / storageStep * storageStep
	facts.StorageCapacity = facts.StorageCapacity / storageStep * storageStep
	return facts
}

// unlessMuch is the old number as long as the new one differs by no more than a tenth.
func unlessMuch(old, now int64) int64 {
	if d := now - old; max(d, -d) <= old/10 {
		return old
	}
	return now
}

// watch follows what changes. Less than a tenth of the space is no news.
func (f *factFinder) watch(ctx context.Context, pic *picture) {
	interval := factsInterval
	if _, ok := f.rt.(broker.Measurer); ok {
		interval = measureInterval
	}
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		old, now := pic.now().facts, f.find()
		now.Storage = unlessMuch(old.Storage, now.Storage)
		now.StorageCapacity = unlessMuch(old.StorageCapacity, now.StorageCapacity)
		pic.setFacts(now)
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
