package hub

import (
	"math"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// Bounds of what an agent may say. They hold for everything that the hub keeps,
// so that one member cannot fill its memory or its API server.
const (
	maxFeatures  = 32
	maxEndpoints = 16
	maxParts     = 20_000
	maxEntries   = 20_000
	maxEarly     = 1024
	maxReport    = 32 << 20 // of all messages of one report
	// maxUnfinished bounds what is kept of the reports of all members of which more
	// is to come.
	maxUnfinished = 128 << 20
	// Beyond maxTold parts that are not applied, at most briefMessage bytes are
	// kept of why each is not.
	maxTold      = 1024
	briefMessage = 64
	maxServers   = 1000
	maxID        = 600
	maxName      = 300
	maxJWT       = 8 << 10
	maxMessage   = 1024
	maxMillis    = 253_402_300_799_000 // the end of year 9999, beyond which times do not encode
)

var (
	hashPattern    = regexp.MustCompile(`^[0-9a-f]{32}$`)
	codePattern    = regexp.MustCompile(`^[A-Z][A-Za-z0-9]{0,63}$`)
	keyPattern     = regexp.MustCompile(`^U[A-Z2-7]{20,63}$`)
	featurePattern = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)
)

func invalid(format string, args ...any) error {
	return refused(reasonMessage, codes.InvalidArgument, format, args...)
}

// clean makes a text of a member fit to be kept, logged and shown: at most limit
// bytes, without control characters.
func clean(s string, limit int) string {
	if len(s) > limit {
		for limit > 0 && !utf8.RuneStart(s[limit]) {
			limit--
		}
		s = s[:limit]
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

// plain tells whether s can be kept as it is.
func plain(s string, limit int) bool { return len(s) <= limit && clean(s, limit) == s }

// strip drops the fields that this version does not know, which would otherwise
// be kept, of any size, with a message that is kept.
func strip(m proto.Message) { m.ProtoReflect().SetUnknown(nil) }

// validHello judges a Hello by itself, and cleans its texts.
func validHello(h *federationv1.Hello) error {
	if h == nil {
		return invalid("the first message of a session must be Hello")
	}
	// A later version only adds to this one: what the other side does not know is
	// left out part by part (Hello.features), never by ending the session.
	if h.Protocol == 0 {
		return refused(reasonVersion, codes.FailedPrecondition, "the agent does not say which version of the protocol it speaks; this hub speaks version %d", federationv1.ProtocolVersion)
	}
	if len(h.Features) > maxFeatures {
		return invalid("hello: %d features: at most %d", len(h.Features), maxFeatures)
	}
	for _, f := range h.Features {
		if !featurePattern.MatchString(f) {
			return invalid("hello: feature %q", clean(f, 32))
		}
	}
	if err := validHeld(h.HeldHash); err != nil {
		return err
	}
	if a := h.Agent; a != nil {
		strip(a)
		a.Version, a.BrokerVersion, a.Runtime = clean(a.Version, 64), clean(a.BrokerVersion, 64), clean(a.Runtime, 64)
	}
	if err := validFacts(h.Facts); err != nil {
		return err
	}
	return validStatuses(h.Unapplied)
}

func validHeld(hash string) error {
	if !hashPattern.MatchString(hash) {
		return invalid("held hash %q: expected 32 hexadecimal digits", clean(hash, 64))
	}
	return nil
}

func validFacts(f *federationv1.Facts) error {
	switch {
	case f == nil:
		return nil
	case f.LinkKey != "" && !keyPattern.MatchString(f.LinkKey):
		return invalid("facts: the link key is no public user key")
	case len(f.Endpoints) > maxEndpoints:
		return invalid("facts: %d endpoints: at most %d", len(f.Endpoints), maxEndpoints)
	case f.Storage < 0 || f.StorageCapacity < 0 || f.Memory < 0:
		return invalid("facts: negative capacity")
	case f.Replicas < 0 || f.Replicas > maxServers || f.MaxReplicas < 0 || f.MaxReplicas > maxServers || f.WantedReplicas < 0 || f.WantedReplicas > maxServers:
		return invalid("facts: %d of %d servers, of at most %d: expected 0 to %d", f.Replicas, f.WantedReplicas, f.MaxReplicas, maxServers)
	}
	f.ReplicasReason = clean(f.ReplicasReason, maxName)
	strip(f)
	seen := make(map[string]bool, len(f.Endpoints))
	for _, e := range f.Endpoints {
		if len(e) < 3 || !plain(e, maxName) || seen[e] {
			return invalid("facts: endpoint %q: expected distinct addresses of 3 to %d characters", clean(e, maxName), maxName)
		}
		seen[e] = true
	}
	return nil
}

func validStatuses(parts []*federationv1.PartStatus) error {
	if len(parts) > maxParts {
		return invalid("%d part statuses: at most %d", len(parts), maxParts)
	}
	for _, p := range parts {
		switch {
		case !plain(p.GetId(), maxID) || p.GetId() == "":
			return invalid("part status: id %q", clean(p.GetId(), maxID))
		case !hashPattern.MatchString(p.Hash):
			return invalid("part status of %s: hash %q", p.Id, clean(p.Hash, 64))
		case p.State == federationv1.PartStatus_STATE_UNSPECIFIED || federationv1.PartStatus_State_name[int32(p.State)] == "":
			return invalid("part status of %s: state %d", p.Id, p.State)
		case p.Code != "" && !codePattern.MatchString(p.Code):
			return invalid("part status of %s: code %q: expected CamelCase", p.Id, clean(p.Code, 64))
		}
		p.Message = clean(p.Message, maxMessage)
		strip(p)
	}
	return nil
}

// brief makes the messages short where there are very many of them, together with
// those that are kept already.
func brief(parts []*federationv1.PartStatus, kept int) []*federationv1.PartStatus {
	if len(parts)+kept > maxTold {
		for _, p := range parts {
			p.Message = clean(p.Message, briefMessage)
		}
	}
	return parts
}

// validInventory judges an Inventory by itself and returns what is held.
func validInventory(inv *federationv1.Inventory) (map[string]string, error) {
	if len(inv.GetParts()) > maxParts {
		return nil, invalid("inventory: %d parts: at most %d", len(inv.Parts), maxParts)
	}
	held := make(map[string]string, len(inv.GetParts()))
	for _, p := range inv.GetParts() {
		if p.GetId() == "" || !plain(p.GetId(), maxID) || !hashPattern.MatchString(p.GetHash()) {
			return nil, invalid("inventory: part %q with hash %q", clean(p.GetId(), maxID), clean(p.GetHash(), 64))
		}
		if _, twice := held[p.Id]; twice {
			return nil, invalid("inventory: part %q twice", p.Id)
		}
		held[p.Id] = p.Hash
	}
	if sum := federationv1.StateHash(held); sum != inv.GetHeldHash() {
		return nil, invalid("inventory: its parts have the hash %s, not the stated %q", sum, clean(inv.GetHeldHash(), 64))
	}
	return held, nil
}

// validReport judges a Report by itself, and cleans its texts.
func validReport(r *federationv1.Report) error {
	if err := validHeld(r.HeldHash); err != nil {
		return err
	}
	r.Refusal, r.RefusalCode = clean(r.Refusal, maxMessage), clean(r.RefusalCode, maxName)
	if err := validStatuses(r.Parts); err != nil {
		return err
	}
	if err := validFacts(r.Facts); err != nil {
		return err
	}
	if n := max(len(r.Grants), len(r.Links), len(r.Flows)); n > maxEntries {
		return invalid("report: %d entries of a kind: at most %d", n, maxEntries)
	}
	for _, g := range r.Grants {
		if !isLabel(g.GetPeer()) || !keyPattern.MatchString(g.Key) || !validJWT(g.Out) || !validJWT(g.In) {
			return invalid("report: the grant for %q is malformed", clean(g.GetPeer(), 63))
		}
		strip(g)
	}
	for _, l := range r.Links {
		if !isLabel(l.GetPeer()) || (!l.Removed && !validHealth(l.State, l.Since, l.RttMicros)) {
			return invalid("report: the health of the link to %q is malformed", clean(l.GetPeer(), 63))
		}
		l.Message = clean(l.Message, maxMessage)
	}
	for _, f := range r.Flows {
		names := plain(f.GetBridge(), maxName) && plain(f.GetOrigin(), maxName) && plain(f.GetAccount(), maxName) && plain(f.GetStream(), maxName)
		if !names || (!f.Removed && !validHealth(f.State, f.Since, f.Lag)) {
			return invalid("report: the health of the flow of %q is malformed", clean(f.GetBridge(), maxName))
		}
		f.Message = clean(f.Message, maxMessage)
	}
	return nil
}

// validJWT tells whether s has the form of a JWT: three texts of base64url, joined
// by dots. There may be thousands in a report: no regular expression.
func validJWT(s string) bool {
	if len(s) > maxJWT {
		return false
	}
	empty, dots := true, 0
	for _, c := range []byte(s) {
		switch {
		case c == '.' && empty:
			return false
		case c == '.':
			empty = true
			dots++
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			empty = false
		default:
			return false
		}
	}
	return dots == 2 && !empty
}

// validHealth also bounds the one figure that goes with it: none is negative.
func validHealth(h federationv1.Health, since, figure int64) bool {
	return healthName(h) != "" && since >= 0 && since <= maxMillis && figure >= 0 && figure < math.MaxInt64
}

// healthName is the word for a state in resources; empty if it is none.
func healthName(h federationv1.Health) string {
	switch h {
	case federationv1.Health_PENDING:
		return "Pending"
	case federationv1.Health_UP:
		return "Up"
	case federationv1.Health_DOWN:
		return "Down"
	case federationv1.Health_STANDBY:
		return "Standby"
	}
	return ""
}
