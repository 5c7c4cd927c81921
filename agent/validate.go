package agent

import (
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"

	"github.com/nats-io/nkeys"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

// Bounds of what a hub may ask for. They are far above what the hub plans, and
// low enough that no update can exhaust the member.
const (
	maxParts     = 50_000
	maxImports   = 20_000
	maxEndpoints = 64
	maxSubjects  = 1_024
	maxSources   = 1_024
	maxSubject   = 1_024
	maxJWT       = 16 << 10
)

var (
	memberName   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	streamName   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	consumerName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,160}$`)
	objectName   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	partHash     = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// validateUpdate checks everything that can be checked without knowing what is
// held. A part of a kind that this agent does not know is let through: it is
// held, and reported as unsupported.
func validateUpdate(u *federationv1.Update) error {
	seen := make(map[string]bool, len(u.Upserts)+len(u.Removals))
	once := func(id string) error {
		if seen[id] {
			return fmt.Errorf("it names part %q twice", id)
		}
		seen[id] = true
		return nil
	}
	for _, id := range u.Removals {
		if err := once(id); err != nil {
			return err
		}
	}
	for i, p := range u.Upserts {
		if p == nil {
			return fmt.Errorf("its part %d is empty", i)
		}
		if err := once(p.Id); err != nil {
			return err
		}
		if err := validatePart(p); err != nil {
			return fmt.Errorf("part %q: %w", p.Id, err)
		}
	}
	return nil
}

// validatePart checks one part on its own.
func validatePart(p *federationv1.Part) error {
	if p.Id == "" || len(p.Id) > 512 {
		return fmt.Errorf("the id has %d bytes", len(p.Id))
	}
	if !partHash.MatchString(p.Hash) {
		return fmt.Errorf("%q is no hash", p.Hash)
	}
	var id string
	var err error
	switch s := p.Spec.(type) {
	case nil:
		return nil // its hash cannot be checked: part of the content is unknown
	case *federationv1.Part_Broker:
		id, err = federationv1.BrokerID, validateBroker(s.Broker)
	case *federationv1.Part_Account:
		id, err = federationv1.AccountID(s.Account.GetName()), validateAccount(s.Account)
	case *federationv1.Part_Link:
		id, err = federationv1.LinkID(s.Link.GetPeer()), validateLink(s.Link)
	case *federationv1.Part_Stream:
		id, err = federationv1.StreamID(s.Stream.GetAccount(), s.Stream.GetName()), validateStream(s.Stream)
	case *federationv1.Part_Outlet:
		o := s.Outlet
		id, err = federationv1.OutletID(o.GetDestination(), o.GetAccount(), o.GetStream(), o.GetConsumer()), validateOutlet(o)
	}
	if err != nil {
		return err
	}
	if id != p.Id {
		return fmt.Errorf("the content is that of %q", id)
	}
	if h := federationv1.ContentHash(p); h != p.Hash {
		return fmt.Errorf("the content has hash %s instead of %s", h, p.Hash)
	}
	return nil
}

func validateBroker(b *federationv1.BrokerSpec) error {
	if b == nil || b.MaxStorage < 0 || b.MaxMemory < 0 || b.MaxPayload < 0 || b.MaxConnections < 0 {
		return fmt.Errorf("a limit is negative")
	}
	if b.MaxPayload > 64<<20 {
		return fmt.Errorf("max_payload %d: NATS allows at most 64 MiB", b.MaxPayload)
	}
	return nil
}

// accountName tells whether name is that of an application account or of one
// side of a link. The accounts that the member keeps for itself are neither.
func accountName(name string) bool {
	for _, prefix := range []string{federationv1.OutAccount(""), federationv1.InAccount("")} {
		if peer, ok := strings.CutPrefix(name, prefix); ok {
			return memberName.MatchString(strings.TrimPrefix(peer, federationv1.GroupPeer("")))
		}
	}
	return memberName.MatchString(name)
}

func validateAccount(a *federationv1.AccountSpec) error {
	if !accountName(a.GetName()) {
		return fmt.Errorf("%q is no name of an account", a.GetName())
	}
	if a.Application != memberName.MatchString(a.Name) {
		return fmt.Errorf("the name of a link's account, and only that, starts with tx_ or rx_")
	}
	if len(a.Imports) > maxImports {
		return fmt.Errorf("%d imports; at most %d are taken", len(a.Imports), maxImports)
	}
	for _, im := range a.Imports {
		if !accountName(im.GetAccount()) {
			return fmt.Errorf("%q is no name of an account", im.GetAccount())
		}
		if im.Account == a.Name {
			return fmt.Errorf("it imports %q from itself", im.Subject)
		}
		if err := validSubject(im.Subject); err != nil {
			return err
		}
		if im.To != "" {
			if err := validSubject(im.To); err != nil {
				return err
			}
		}
	}
	return nil
}

func validateLink(l *federationv1.LinkSpec) error {
	if !memberName.MatchString(l.GetPeer()) {
		return fmt.Errorf("%q is no name of a member", l.GetPeer())
	}
	switch l.Role {
	case federationv1.LinkSpec_DIAL:
		if len(l.Endpoints) == 0 || len(l.Endpoints) > maxEndpoints {
			return fmt.Errorf("it has %d endpoints", len(l.Endpoints))
		}
		for _, e := range l.Endpoints {
			if err := validateEndpoint(e); err != nil {
				return err
			}
		}
		if l.Grant == nil {
			return fmt.Errorf("it has no grant")
		}
		if len(l.Grant.Out) > maxJWT || len(l.Grant.In) > maxJWT {
			return fmt.Errorf("the grant is too long")
		}
		if l.Incarnation != "" && !federationv1.ValidIncarnation(l.Incarnation) {
			return fmt.Errorf("%q is no incarnation", l.Incarnation)
		}
	case federationv1.LinkSpec_ACCEPT:
		if !nkeys.IsValidPublicUserKey(l.PeerKey) {
			return fmt.Errorf("%q is no public user key", l.PeerKey)
		}
	default:
		return fmt.Errorf("role %d is unknown", l.Role)
	}
	if err := validateGroup(l.Group); err != nil {
		return err
	}
	if len(l.FailoverGroup) > 253 {
		return fmt.Errorf("the name of the failover group is too long")
	}
	return nil
}

// validateGroup checks what bounds the users of accounts that links share.
func validateGroup(g *federationv1.LinkGroup) error {
	if g == nil {
		return nil
	}
	if !memberName.MatchString(g.Name) {
		return fmt.Errorf("%q is no name of a group of links", g.Name)
	}
	if len(g.Origins) == 0 || len(g.Origins) > maxEndpoints {
		return fmt.Errorf("its group has %d origins", len(g.Origins))
	}
	for _, o := range g.Origins {
		if err := validLiteral(o); err != nil {
			return err
		}
		if strings.Contains(o, ".") {
			return fmt.Errorf("%q is no origin", o)
		}
	}
	return nil
}

// validateEndpoint checks an address at which a broker accepts links: host:port.
func validateEndpoint(e string) error {
	host, port, err := net.SplitHostPort(e)
	if err != nil {
		return fmt.Errorf("endpoint %q: expected host:port", e)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("endpoint %q: %q is no port", e, port)
	}
	if host == "" || len(host) > 253 || strings.ContainsFunc(host, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`/\@?#"'`, r)
	}) {
		return fmt.Errorf("endpoint %q: %q is no host", e, host)
	}
	return nil
}

func validateStream(s *federationv1.StreamSpec) error {
	if !memberName.MatchString(s.GetAccount()) {
		return fmt.Errorf("%q is no name of an application account", s.GetAccount())
	}
	if !streamName.MatchString(s.Name) {
		return fmt.Errorf("%q is no name of a stream", s.Name)
	}
	if s.MaxBytes < 0 || s.MaxMessages < 0 || s.MaxMessagesPerSubject < 0 || s.MaxAge < 0 || s.DuplicateWindow < 0 {
		return fmt.Errorf("a limit is negative")
	}
	if s.Retention < federationv1.StreamSpec_LIMITS || s.Retention > federationv1.StreamSpec_WORK_QUEUE {
		return fmt.Errorf("retention %d is unknown", s.Retention)
	}
	if err := validSubjects(s.Subjects); err != nil {
		return err
	}
	if s.Transform != nil {
		if err := validTransform(s.Transform); err != nil {
			return err
		}
	}
	if len(s.Sources) > maxSources {
		return fmt.Errorf("%d sources; at most %d are taken", len(s.Sources), maxSources)
	}
	for _, src := range s.Sources {
		if err := validateSource(src); err != nil {
			return fmt.Errorf("source %q: %w", src.GetStream(), err)
		}
	}
	return nil
}

func validateSource(s *federationv1.Source) error {
	if err := validBridge(s.GetBridge()); err != nil {
		return err
	}
	if s.Origin != "" && !memberName.MatchString(s.Origin) {
		return fmt.Errorf("%q is no name of a member", s.Origin)
	}
	if !streamName.MatchString(s.Stream) {
		return fmt.Errorf("%q is no name of a stream", s.Stream)
	}
	if (s.Consumer == "") != (s.DeliverSubject == "") {
		return fmt.Errorf("consumer and deliver_subject belong together")
	}
	if s.Origin != "" && (s.Consumer == "" || s.ApiPrefix == "") {
		return fmt.Errorf("a remote source needs consumer, deliver_subject and api_prefix")
	}
	if s.Consumer != "" {
		if !consumerName.MatchString(s.Consumer) {
			return fmt.Errorf("%q is no name of a consumer", s.Consumer)
		}
		if len(s.Filters) > 0 {
			return fmt.Errorf("a source with a consumer filters there")
		}
		if err := validLiteral(s.DeliverSubject); err != nil {
			return err
		}
	}
	if s.ApiPrefix != "" {
		if err := validLiteral(s.ApiPrefix); err != nil {
			return err
		}
	}
	if len(s.Transforms) > maxSubjects {
		return fmt.Errorf("it has %d transforms", len(s.Transforms))
	}
	for _, t := range s.Transforms {
		if err := validTransform(t); err != nil {
			return err
		}
	}
	return validSubjects(s.Filters)
}

func validateOutlet(o *federationv1.OutletSpec) error {
	if err := validBridge(o.GetBridge()); err != nil {
		return err
	}
	if !memberName.MatchString(o.Destination) {
		return fmt.Errorf("%q is no name of a member", o.Destination)
	}
	if !memberName.MatchString(o.Account) {
		return fmt.Errorf("%q is no name of an application account", o.Account)
	}
	if !streamName.MatchString(o.Stream) {
		return fmt.Errorf("%q is no name of a stream", o.Stream)
	}
	if !consumerName.MatchString(o.Consumer) {
		return fmt.Errorf("%q is no name of a consumer", o.Consumer)
	}
	if o.RateLimit < 0 {
		return fmt.Errorf("the rate limit is negative")
	}
	if err := validLiteral(o.DeliverSubject); err != nil {
		return err
	}
	return validSubjects(o.Filters)
}

func validBridge(name string) error {
	ns, n, ok := strings.Cut(name, "/")
	if !ok || !objectName.MatchString(ns) || !objectName.MatchString(n) {
		return fmt.Errorf("%q is no namespace/name of a bridge", name)
	}
	return nil
}

func validSubjects(l []string) error {
	if len(l) > maxSubjects {
		return fmt.Errorf("%d subjects; at most %d are taken", len(l), maxSubjects)
	}
	for _, s := range l {
		if err := validSubject(s); err != nil {
			return err
		}
	}
	return nil
}

// validSubject accepts what NATS accepts: tokens without white space or control
// characters, "*" and "$1" alone in their token, ">" alone in the last one.
func validSubject(s string) error {
	if s == "" || len(s) > maxSubject {
		return fmt.Errorf("a subject has %d bytes", len(s))
	}
	tokens := strings.Split(s, ".")
	for i, t := range tokens {
		if t == "" || (t == ">" && i < len(tokens)-1) {
			return fmt.Errorf("%q is no subject", s)
		}
		if strings.ContainsFunc(t, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return fmt.Errorf("%q is no subject: it has white space or control characters", s)
		}
	}
	return nil
}

func validLiteral(s string) error {
	if err := validSubject(s); err != nil {
		return err
	}
	if strings.ContainsAny(s, "*>") {
		return fmt.Errorf("%q must be without wildcards", s)
	}
	return nil
}

func validTransform(t *federationv1.Transform) error {
	if err := validSubject(t.GetFrom()); err != nil {
		return err
	}
	if len(t.To) > maxSubject || strings.ContainsFunc(t.To, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%q is no target of a transform", t.To)
	}
	if t.To == "" {
		return fmt.Errorf("the transform of %q has no target", t.From)
	}
	return nil
}
