package agent

import (
	"fmt"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// verdict is what became of an update.
type verdict int

const (
	// accepted: journalled; the applier has to look.
	accepted verdict = iota
	// unknownBase: the hub is mistaken about what the agent holds.
	unknownBase
	// refused: as a whole, nothing was changed.
	refused
	// unsaved: the same, but the fault is the disk's, and may pass.
	unsaved
)

// accept checks an update and, if it is sound, makes it the held state. What
// comes from the hub is not trusted: names, sizes and hashes are all checked
// here, once, and nothing is changed unless everything is right.
func (h *holder) accept(u *federationv1.Update) (v verdict, reason string, now *held) {
	var reply verdict
	now, err := h.change(func(n *held) bool {
		reply, reason = n.take(u)
		return reply == accepted
	})
	if err != nil {
		return unsaved, "the journal cannot be written: " + err.Error(), now
	}
	return reply, reason, now
}

// take applies an update to h.
func (h *held) take(u *federationv1.Update) (verdict, string) {
	if u.Epoch < h.epoch {
		return refused, fmt.Sprintf("the update is of epoch %d, but this member has seen epoch %d", u.Epoch, h.epoch)
	}
	if u.BaseHash != h.hash {
		return unknownBase, ""
	}
	if err := validateUpdate(u); err != nil {
		return refused, err.Error()
	}
	if n := len(u.Removals); federationv1.MassRemoval(len(h.parts), n) && !u.RemovalMeant {
		return refused, fmt.Sprintf("it removes %d of %d parts, and the hub does not say that this is meant", n, len(h.parts))
	}
	h.saw(u.Epoch)
	h.revision = max(h.revision, u.Revision)
	for _, id := range u.Removals {
		p := h.parts[id]
		if p == nil {
			return refused, fmt.Sprintf("it removes %q, which this member does not hold", id)
		}
		delete(h.parts, id)
		h.doomed[id] = p
	}
	for _, p := range u.Upserts {
		h.parts[p.Id] = p
		delete(h.doomed, p.Id)
	}
	if len(h.parts) > maxParts {
		return refused, fmt.Sprintf("it would leave %d parts; at most %d are taken", len(h.parts), maxParts)
	}
	h.rehash()
	if h.hash != u.TargetHash {
		return refused, "what it leads to does not have the target hash"
	}
	return accepted, ""
}

// saw moves on to an epoch that is not lower. What revisions the hub had in one
// before says nothing of those in the next.
func (h *held) saw(epoch uint64) {
	if epoch > h.epoch {
		h.epoch, h.revision = epoch, 0
	}
}

// sawEpoch records the epoch of a hub. It returns false if that is lower than
// the highest one seen.
func (h *holder) sawEpoch(epoch uint64) (bool, error) {
	ok := true
	_, err := h.change(func(n *held) bool {
		ok = epoch >= n.epoch
		if epoch <= n.epoch {
			return false
		}
		n.saw(epoch)
		return true
	})
	return ok, err
}
