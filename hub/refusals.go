package hub

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// Why an agent was refused, or slowed down: the values of the reason label of
// sealane_hub_agents_refused_total. docs/security.md explains each.
const (
	reasonHandshake   = "handshake"   // TLS failed: no certificate of this federation
	reasonConnections = "connections" // more connections than one member has a use for
	reasonIdentity    = "identity"    // the certificate is no member's, or not any more
	reasonRate        = "rate"        // sessions, renewals or enrolments in too fast succession
	reasonPace        = "pace"        // messages come too fast: not refused, but slowed down
	reasonEncoding    = "encoding"    // a message that does not decode
	reasonSize        = "size"        // a message, or report, that is too large
	reasonMessage     = "message"     // a message that breaks the protocol's rules
	reasonHello       = "hello"       // no Hello came
	reasonVersion     = "version"     // of another version, or has seen a later state
	reasonHeld        = "held"        // says to hold what it was never sent
	reasonClaim       = "claim"       // speaks of links, flows or grants that it has no part in: not refused, but not heard
	reasonChurn       = "churn"       // changes its facts or grants all the time
	reasonStalled     = "stalled"     // does not answer what it was sent
	reasonSilent      = "silent"      // nothing was heard of it
	reasonReplaced    = "replaced"    // a newer session of the same member
	reasonCrowd       = "crowd"       // too many at once: told to come back
	reasonOther       = "other"
)

var refusalReasons = []string{
	reasonHandshake, reasonConnections, reasonIdentity, reasonRate, reasonPace, reasonEncoding, reasonSize, reasonMessage,
	reasonHello, reasonVersion, reasonHeld, reasonClaim, reasonChurn, reasonStalled, reasonSilent, reasonReplaced, reasonCrowd, reasonOther,
}

// refusal is a gRPC status that knows under which reason it is counted.
type refusal struct {
	reason string
	status *status.Status
}

func (r *refusal) Error() string              { return r.status.Err().Error() }
func (r *refusal) GRPCStatus() *status.Status { return r.status }

func refused(reason string, code codes.Code, format string, args ...any) error {
	return &refusal{reason, status.New(code, fmt.Sprintf(format, args...))}
}

// unreadable makes a refusal of an error with which Recv failed because of what
// the agent sent; other errors stay what they are.
func unreadable(err error) error {
	switch status.Code(err) {
	case codes.Internal:
		return refused(reasonEncoding, codes.InvalidArgument, "a message of the agent cannot be read: %s", status.Convert(err).Message())
	case codes.ResourceExhausted:
		return refused(reasonSize, codes.ResourceExhausted, "a message of the agent is too large: %s", status.Convert(err).Message())
	}
	return err
}

// refusedFor counts the end of a call under its reason, if it is a refusal.
func (m *metrics) refusedFor(err error) {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) {
		return
	}
	var r *refusal
	if errors.As(err, &r) {
		m.refused.WithLabelValues(r.reason).Inc()
		return
	}
	switch status.Code(err) {
	case codes.Unauthenticated, codes.PermissionDenied:
		m.refused.WithLabelValues(reasonIdentity).Inc()
	case codes.FailedPrecondition:
		m.refused.WithLabelValues(reasonVersion).Inc()
	case codes.Unavailable, codes.Canceled, codes.Unimplemented, codes.OK: // the hub's own state, or the agent's wish
	default:
		m.refused.WithLabelValues(reasonOther).Inc()
	}
}

// judged wraps a session's messages: what cannot be read is a refusal.
func judged(m *federationv1.AgentMessage, err error) (*federationv1.AgentMessage, error) {
	if err != nil {
		return nil, unreadable(err)
	}
	return m, nil
}
