package agent

import (
	"time"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/telemetry"
)

const (
	// maxNoted bounds the failed parts that a trace names.
	maxNoted = 8
	// maxApplying bounds the updates that are followed at a time.
	maxApplying = 8
)

// applying follows one update from the hub until each part of it was applied or has
// failed: for a histogram and, if the hub wants that, as part of the hub's trace
// of the change. It is the session's.
type applying struct {
	// earlier is the update before, while it is followed too; nil: it is not.
	earlier *applying
	over    bool
	metrics *metrics
	parts   map[string]string // hashes of those that were not settled, by id
	count   int
	began   time.Time // journalled
	span    *telemetry.Span
	failed  int
}

// follow begins with an update that came, and is journalled by now.
func follow(m *metrics, t *telemetry.Tracer, u *federationv1.Update, came, journalled time.Time) *applying {
	a := &applying{metrics: m, began: journalled, parts: make(map[string]string, len(u.Upserts)), count: len(u.Upserts)}
	for _, p := range u.Upserts {
		a.parts[p.Id] = p.Hash
	}
	if u.Traceparent != "" {
		a.span = t.Start(u.Traceparent, "update", came, telemetry.Parts(len(u.Upserts)+len(u.Removals)))
		a.span.Child("journal", came).Finish(journalled, "")
	}
	return a
}

// then follows another update, too: one change may come in several.
func (a *applying) then(next *applying) *applying {
	next.earlier = a
	for n, at := 1, next; at.earlier != nil; n, at = n+1, at.earlier {
		if n == maxApplying {
			at.earlier.drop("superseded")
			at.earlier = nil
			break
		}
	}
	return next
}

// look settles what v shows as settled; true: nothing is left to wait for.
func (a *applying) look(v *view) bool {
	if a == nil {
		return true
	}
	if a.earlier.look(v) {
		a.earlier = nil
	}
	return a.settle(v) && a.earlier == nil
}

func (a *applying) settle(v *view) bool {
	if a.over {
		return true
	}
	now := time.Now()
	for id, hash := range a.parts {
		s := v.parts[id]
		switch {
		case s == nil || s.Hash != hash: // it is not held any more
		case s.State == federationv1.PartStatus_PENDING:
			continue
		case s.State == federationv1.PartStatus_FAILED:
			if a.failed++; a.failed <= maxNoted {
				a.span.Note("failed", now, telemetry.Part(id, s.Code))
			}
		}
		delete(a.parts, id)
	}
	if len(a.parts) > 0 {
		return false
	}
	a.metrics.apply.Observe(now.Sub(a.began).Seconds())
	why := ""
	if a.failed > 0 {
		why = "parts failed"
	}
	a.end(now, why)
	return true
}

// drop ends the wait for what is not waited for any more.
func (a *applying) drop(why string) {
	now := time.Now()
	for ; a != nil; a = a.earlier {
		if !a.over {
			a.end(now, why)
		}
	}
}

func (a *applying) end(at time.Time, why string) {
	a.over = true
	a.span.Child("apply", a.began).Finish(at, why, telemetry.Parts(a.count))
	a.span.Finish(at, why)
}

// resultOf names what became of an update. After a refusal held is as it was before.
func resultOf(v verdict, u *federationv1.Update, held *held) string {
	switch {
	case v == accepted:
		return "accepted"
	case v == unknownBase:
		return "unknown_base"
	case v == unsaved:
		return federationv1.RefusedUnsaved
	case u.Epoch < held.epoch:
		return federationv1.RefusedEpoch
	case federationv1.MassRemoval(len(held.parts), len(u.Removals)) && !u.RemovalMeant:
		return federationv1.RefusedRemovals
	}
	return federationv1.RefusedInvalid
}
