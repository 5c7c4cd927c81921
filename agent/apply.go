package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

const (
	// driftInterval is how often everything is compared with what it shall be,
	// whether or not there is a reason to.
	driftInterval = 5 * time.Second
	driftDelay    = 100 * time.Millisecond
	// retryBase and retryLimit bound the wait before a failed part is tried again.
	retryBase  = 500 * time.Millisecond
	retryLimit = 30 * time.Second
	// grace is how long the broker may not answer about a part, for instance while
	// it restarts, before the part is said to have failed.
	grace = 15 * time.Second
	// startPatience is how long the broker may fail to start at all.
	startPatience = 15 * time.Second
)

// Codes of failed parts.
const (
	codeUnsupported    = "Unsupported"
	codeBroker         = "BrokerRefused"
	codeAccount        = "NotInEffect"
	codeNoAccount      = "NoAccount"
	codeBadLink        = "BadLink"
	codeNotListening   = "NotListening"
	codeNoStream       = "NoStream"
	codeNotOurs        = "NotOurs"
	codeImmutable      = "Immutable"
	codeOverlap        = "SubjectOverlap"
	codeLimit          = "LimitExceeded"
	codeInvalid        = "InvalidConfiguration"
	codeUnavailable    = "Unavailable"
	codeCannotWrite    = "CannotWrite"
	codeOtherJetStream = "JetStreamError"
	// codeNearlyFull is said of a broker that is applied.
	codeNearlyFull = "StorageNearlyFull"
)

// failure is why a part is not applied.
type failure struct {
	code string
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func failf(code, format string, args ...any) error {
	return &failure{code, fmt.Errorf(format, args...)}
}

// result is what came of one part, with one content.
type result struct {
	status  *federationv1.PartStatus
	retry   backoff
	retryAt time.Time
	// unseen is since when the broker does not answer about it.
	unseen time.Time
	// awaiting is since when a stream waits for its origins; awaited: it does not
	// any more.
	awaiting time.Time
	awaited  bool
}

// applier makes the broker what is held. It looks at everything each time: what
// differs is mended, whether it is new or was changed behind its back.
type applier struct {
	*member
	drift   time.Duration
	results map[string]*result
	// firstFailure is since when the broker does not start.
	firstFailure time.Time
	running      bool
	// warning is what was said of the broker's storage, warned since when.
	warning string
	warned  time.Time
	// made and gone are the ids of objects that were made or removed in this pass.
	made, gone map[string]bool
	// drifted is filled when something may have been changed behind its back.
	drifted chan struct{}
	// first is closed after the first pass.
	first chan struct{}
	// fatal gets the reason why the agent cannot go on.
	fatal chan<- error
}

func newApplier(m *member, fatal chan<- error) *applier {
	return &applier{
		member: m, drift: driftInterval, results: map[string]*result{},
		drifted: make(chan struct{}, 1), first: make(chan struct{}), fatal: fatal,
	}
}

// run applies until ctx ends.
func (a *applier) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		a.pass(ctx)
		if n == 0 {
			close(a.first)
		}
		wait := a.drift
		for _, r := range a.results {
			if !r.retryAt.IsZero() {
				wait = min(wait, time.Until(r.retryAt))
			}
		}
		if !a.running {
			wait = min(wait, retryBase)
		}
		t := time.NewTimer(max(wait, 0))
		select {
		case <-ctx.Done():
		case <-a.work:
		case <-a.drifted:
			sleep(ctx, driftDelay) // it seldom comes alone
		case <-t.C:
		}
		t.Stop()
	}
}

// pass applies everything once: the accounts, then the links that use them,
// then the streams and outlets in them. What is removed goes the other way
// round.
func (a *applier) pass(ctx context.Context) {
	h := a.holder.now()
	maps.DeleteFunc(a.results, func(id string, r *result) bool {
		p := h.parts[id]
		return p == nil || p.Hash != r.status.Hash
	})
	a.made, a.gone = map[string]bool{}, map[string]bool{}
	h = a.issueGrants(h)
	errs := a.setAccounts(ctx, h, nil)
	out := a.links.sync(ctx)
	if !a.startedBy(ctx, out) {
		return
	}
	if out.restarted || !a.running {
		a.running = true
		errs = a.setAccounts(ctx, h, nil) // only now they can be verified
	}
	if ctx.Err() != nil {
		return
	}
	a.prober.refresh()
	a.noteBroker(h, out)
	a.noteAccounts(h, errs)
	a.noteLinks(h, out, errs)
	a.publish()
	a.applyStreams(ctx, h)
	a.publish()
	if ctx.Err() == nil {
		a.settle(ctx, h)
	}
}

// startedBy tells whether the broker runs, and ends the agent if it does not
// start at all.
func (a *applier) startedBy(ctx context.Context, out linkOutcome) bool {
	if out.started {
		a.health.setReady()
		a.firstFailure = time.Time{}
		if err := a.writeURL(); err != nil {
			a.log.Error("cannot write the client URL", "error", err)
		}
		return true
	}
	if ctx.Err() != nil {
		return false
	}
	now := time.Now()
	if a.firstFailure.IsZero() {
		a.firstFailure = now
		a.log.Error("the broker does not start, trying again", "error", out.spec)
	}
	if now.Sub(a.firstFailure) > startPatience && !a.patient {
		select {
		case a.fatal <- fmt.Errorf("the broker does not start: %w", out.spec):
		default:
		}
	}
	return false
}

// advised judges an advisory of JetStream in an account.
func (a *applier) advised(account, subject string) {
	t := strings.Split(strings.TrimPrefix(subject, advisoryPrefix), ".")
	h := a.holder.now()
	switch {
	case len(t) == 3 && t[0] == "STREAM":
		if h.parts[federationv1.StreamID(account, t[2])] != nil {
			wake(a.drifted)
		}
	case len(t) == 4 && t[0] == "CONSUMER":
		for _, p := range h.parts {
			if o := p.GetOutlet(); o != nil && o.Account == account && o.Stream == t[2] && o.Consumer == t[3] {
				wake(a.drifted)
			}
		}
	}
}

// due tells whether a part is to be looked at now.
func (a *applier) due(p *federationv1.Part) bool {
	r := a.results[p.Id]
	return r == nil || !time.Now().Before(r.retryAt)
}

// pending begins with a part.
func (a *applier) pending(p *federationv1.Part) *result {
	r := &result{
		status: &federationv1.PartStatus{Id: p.Id, Hash: p.Hash, State: federationv1.PartStatus_PENDING},
		retry:  backoff{base: retryBase, limit: retryLimit},
	}
	a.results[p.Id] = r
	return r
}

// note records what came of a part.
func (a *applier) note(p *federationv1.Part, err error) {
	now := time.Now()
	r := a.results[p.Id]
	if r == nil {
		r = a.pending(p)
	}
	was := r.status
	if errors.Is(err, errNotYet) {
		r.retryAt = now.Add(originPoll)
		return
	}
	if err == nil {
		r.retry.reset()
		r.retryAt, r.unseen = time.Time{}, time.Time{}
		if was.State != federationv1.PartStatus_APPLIED {
			r.status = &federationv1.PartStatus{Id: p.Id, Hash: p.Hash, State: federationv1.PartStatus_APPLIED}
			a.log.Info("applied", "part", p.Id)
		}
		return
	}
	code := codeOf(err)
	if code == codeUnavailable && was.State != federationv1.PartStatus_FAILED {
		if r.unseen.IsZero() {
			r.unseen = now
		}
		if now.Sub(r.unseen) < grace {
			r.retryAt = now.Add(r.retry.next())
			return
		}
	}
	retrying, message := code != codeUnsupported, messageOf(err)
	if retrying {
		r.retryAt = now.Add(r.retry.next())
	}
	if was.State == federationv1.PartStatus_FAILED && was.Code == code && was.Message == message {
		return
	}
	r.status = &federationv1.PartStatus{Id: p.Id, Hash: p.Hash, State: federationv1.PartStatus_FAILED, Code: code, Message: message, Retrying: retrying}
	a.log.Warn("not applied", "part", p.Id, "code", code, "error", message, "retrying", retrying)
}

// publish shows the results of this pass so far.
func (a *applier) publish() {
	l := make([]*federationv1.PartStatus, 0, len(a.results))
	for _, r := range a.results {
		l = append(l, r.status)
	}
	a.pic.setParts(l)
}

// codeOf is the code of an error that came of applying a part.
func codeOf(err error) string {
	var f *failure
	if errors.As(err, &f) {
		return f.code
	}
	var api *jetstream.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode {
		case 10065: // subjects overlap with an existing stream
			return codeOverlap
		case 10002, 10023, 10026, 10027, 10028, 10047, 10113, 10120, 10121, 10122: // resources, streams, consumers, memory, storage
			return codeLimit
		case 10012, 10025, 10049, 10052, 10053, 10069, // configuration of a stream or consumer
			10093, 10099, 10100, 10101, 10138, 10139, // filters of a consumer
			10144, 10145, 10146, 10147, 10155, 10156: // filters and transforms of sources and streams
			return codeInvalid
		case 10005, 10008, 10076, 10039: // temporarily, or not yet: 10005 until the broker has as many servers
			return codeUnavailable
		}
		if api.Code == 503 {
			return codeUnavailable
		}
		return codeOtherJetStream
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled),
		errors.Is(err, nats.ErrTimeout), errors.Is(err, nats.ErrNoResponders),
		errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionReconnecting),
		errors.Is(err, nats.ErrDisconnected):
		return codeUnavailable
	}
	return codeOtherJetStream
}

// messageOf is what is told of an error: of what JetStream says, the words.
func messageOf(err error) string {
	var f *failure
	var api *jetstream.APIError
	if !errors.As(err, &f) && errors.As(err, &api) {
		return fmt.Sprintf("JetStream: %s (%d)", api.Description, api.ErrorCode)
	}
	return err.Error()
}

func (a *applier) noteBroker(h *held, out linkOutcome) {
	if p := h.parts[federationv1.BrokerID]; p != nil {
		var err error
		if out.spec != nil {
			err = &failure{codeBroker, out.spec}
		}
		a.note(p, err)
		a.warnOfStorage(p)
	}
	for _, p := range h.parts {
		if p.Spec == nil {
			a.note(p, failf(codeUnsupported, "this agent does not know this kind of part: upgrade it"))
		}
	}
}

// noteLinks records what came of the links, and shows the grants that are in
// effect: a dialer can use one as soon as it sees it.
func (a *applier) noteLinks(h *held, out linkOutcome, accounts map[string]error) {
	grants := map[string]*federationv1.Grant{}
	for _, id := range h.ids() {
		p := h.parts[id]
		l := p.GetLink()
		if l == nil {
			continue
		}
		err := errors.Join(accounts[federationv1.OutAccount(l.PeerAt())], accounts[federationv1.InAccount(l.PeerAt())])
		if err != nil {
			err = &failure{codeAccount, err}
		}
		if l.Role == federationv1.LinkSpec_DIAL {
			if !a.links.has(l) {
				err = &failure{codeBadLink, cmp.Or(out.peers[l.Peer], out.spec, errNotConfigured)}
			}
		} else if err == nil {
			if a.rt.LinkPort() == 0 {
				err = failf(codeNotListening, "this member accepts no links: start its agent with --link-listen")
			} else {
				grants[l.Peer], err = a.grant(h, l)
			}
		}
		a.note(p, err)
	}
	a.pic.setGrants(grants)
}

var errNotConfigured = errors.New("the broker does not have the link yet")

// settle forgets what is removed for good: accounts last, when nothing of what
// was in them is left.
func (a *applier) settle(ctx context.Context, h *held) {
	busy := map[string]bool{} // accounts in which something is still to be removed
	gone := map[string]*federationv1.Part{}
	leaving := map[string]bool{} // accounts and links that can go now
	for id, p := range h.doomed {
		if account := contentAccount(p); account != "" {
			if a.gone[id] {
				gone[id] = p
			} else {
				busy[account] = true
			}
		}
	}
	for id, p := range h.doomed {
		switch {
		case contentAccount(p) != "":
		case p.GetAccount() != nil && busy[p.GetAccount().Name]:
		default:
			gone[id], leaving[id] = p, true
		}
	}
	if len(leaving) > 0 {
		for account, err := range a.setAccounts(ctx, h, leaving) {
			if id := federationv1.AccountID(account); leaving[id] {
				a.log.Warn("account is not removed, trying again", "account", account, "error", err)
				delete(gone, id)
			}
		}
		if err := a.keepCreds(a.holder.now()); err != nil {
			a.log.Error("cannot remove credentials", "error", err)
		}
	}
	if len(gone) == 0 && len(a.made) == 0 {
		return
	}
	if _, err := a.holder.change(func(n *held) bool {
		for id := range a.made {
			n.owned[id] = true
		}
		for id, p := range gone {
			if n.doomed[id] == p { // it may have been asked for again since
				delete(n.doomed, id)
				delete(n.owned, id)
			}
		}
		return true
	}); err != nil {
		a.log.Error("cannot write the journal", "error", err)
		return
	}
	for _, id := range slices.Sorted(maps.Keys(gone)) {
		a.log.Info("removed", "part", id)
	}
}

// contentAccount is the account that a stream or outlet is in, else "".
func contentAccount(p *federationv1.Part) string {
	if s := p.GetStream(); s != nil {
		return s.Account
	}
	return p.GetOutlet().GetAccount()
}

// urlFile is where the URL for applications is written.
func urlFile(dataDir string) string { return filepath.Join(dataDir, "url") }

func (a *applier) writeURL() error {
	url := a.rt.ClientURL() + "\n"
	if b, err := os.ReadFile(urlFile(a.dataDir)); err == nil && string(b) == url {
		return nil
	}
	return broker.WriteFile(urlFile(a.dataDir), []byte(url), 0o644)
}
