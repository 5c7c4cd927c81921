package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

// applyStreams makes streams and outlets what is held: what is removed first,
// for its subjects may be wanted by others; then streams that are fed by
// applications, the outlets of them, the streams fed by other streams, and
// outlets of those.
func (a *applier) applyStreams(ctx context.Context, h *held) {
	a.removeContent(ctx, h)
	var own, fed, outlets []*federationv1.Part
	for _, id := range h.ids() {
		switch p := h.parts[id]; {
		case p.GetStream() != nil && len(p.GetStream().Sources) == 0:
			own = append(own, p)
		case p.GetStream() != nil:
			fed = append(fed, p)
		case p.GetOutlet() != nil:
			outlets = append(outlets, p)
		}
	}
	a.each(ctx, h, own, a.ensureStream)
	late := map[string]bool{}
	for _, p := range fed {
		late[federationv1.StreamID(p.GetStream().Account, p.GetStream().Name)] = true
	}
	afterFed := func(p *federationv1.Part) bool {
		return late[federationv1.StreamID(p.GetOutlet().Account, p.GetOutlet().Stream)]
	}
	a.each(ctx, h, slices.DeleteFunc(slices.Clone(outlets), afterFed), a.ensureOutlet)
	a.each(ctx, h, fed, a.ensureStream)
	a.each(ctx, h, slices.DeleteFunc(outlets, func(p *federationv1.Part) bool { return !afterFed(p) }), a.ensureOutlet)
}

// each applies parts one after the other; one that fails does not keep the
// others from it.
func (a *applier) each(ctx context.Context, h *held, parts []*federationv1.Part, apply func(context.Context, *held, *federationv1.Part) error) {
	for _, p := range parts {
		if ctx.Err() != nil {
			return
		}
		if !a.due(p) {
			continue
		}
		err := a.bounded(ctx, func(ctx context.Context) error { return apply(ctx, h, p) })
		if ctx.Err() == nil {
			a.note(p, err)
		}
	}
}

func (a *applier) bounded(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	return f(ctx)
}

// jetStream is the API of an account that is held.
func (a *applier) jetStream(h *held, account string) (jetstream.JetStream, error) {
	if h.parts[federationv1.AccountID(account)] == nil && h.doomed[federationv1.AccountID(account)] == nil {
		return nil, failf(codeNoAccount, "this member does not have account %q", account)
	}
	c, err := a.conns.get(account)
	if err != nil {
		return nil, &failure{codeUnavailable, err}
	}
	return c.js, nil
}

// unexpected tells whether something that was seen applied, and must be applied
// again, was changed by someone else.
func (a *applier) unexpected(p *federationv1.Part) bool {
	r := a.results[p.Id]
	return r != nil && r.status.State == federationv1.PartStatus_APPLIED
}

func (a *applier) ensureStream(ctx context.Context, h *held, p *federationv1.Part) error {
	s := p.GetStream()
	js, err := a.jetStream(h, s.Account)
	if err != nil {
		return err
	}
	a.conns.feeding.Lock()
	defer a.conns.feeding.Unlock()
	st, err := js.Stream(ctx, s.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if err := a.awaitOrigins(ctx, p, nil); err != nil {
			return err
		}
		if _, err := js.CreateStream(ctx, newStreamConfig(p)); err != nil {
			return err
		}
		if a.unexpected(p) {
			a.log.Warn("a stream was deleted behind the agent's back; it is there again, empty", "account", s.Account, "stream", s.Name)
		}
		a.own(h, p.Id)
		return nil
	}
	if err != nil {
		return err
	}
	have := st.CachedInfo().Config
	if !isOurs(have.Metadata) && !h.owned[p.Id] {
		return failf(codeNotOurs, "account %q has a stream %q that was not made by sealane: delete or rename it, and this one is made", s.Account, s.Name)
	}
	a.own(h, p.Id)
	want := streamConfig(have, p)
	if sameStream(have, want) {
		return nil
	}
	if err := immutable(have, want); err != nil {
		return err
	}
	if err := a.awaitOrigins(ctx, p, have.Sources); err != nil {
		return err
	}
	if rt, ok := a.rt.(broker.Shrinker); ok && have.Replicas > 1 && want.Replicas == 1 {
		if err := rt.ToOneReplica(ctx, s.Account, s.Name); err != nil {
			return err
		}
	}
	if a.unexpected(p) {
		a.log.Warn("a stream was changed behind the agent's back, changing it back", "account", s.Account, "stream", s.Name)
	}
	_, err = js.UpdateStream(ctx, want)
	return err
}

// immutable says what cannot be changed of a stream that exists.
func immutable(have, want jetstream.StreamConfig) error {
	const remedy = "only by deleting the stream with its messages: remove it, or give the wanted one another name"
	if have.Storage != want.Storage {
		return failf(codeImmutable, "stream %q has %v storage, and that can be changed to %v %s", want.Name, have.Storage, want.Storage, remedy)
	}
	queue := jetstream.WorkQueuePolicy
	if have.Retention != want.Retention && (have.Retention == queue || want.Retention == queue) {
		return failf(codeImmutable, "stream %q has %v retention, and that can be changed to %v %s", want.Name, have.Retention, want.Retention, remedy)
	}
	return nil
}

func (a *applier) ensureOutlet(ctx context.Context, h *held, p *federationv1.Part) error {
	o := p.GetOutlet()
	js, err := a.jetStream(h, o.Account)
	if err != nil {
		return err
	}
	create := func() error {
		_, err := js.CreatePushConsumer(ctx, o.Stream, outletConfig(jetstream.ConsumerConfig{}, p))
		if err == nil {
			a.own(h, p.Id)
		}
		return err
	}
	err = a.outlet(ctx, h, p, js, create)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if r := a.results[federationv1.StreamID(o.Account, o.Stream)]; r != nil && r.status.State == federationv1.PartStatus_PENDING {
			return fmt.Errorf("%w: the stream is not there", errNotYet)
		}
		return failf(codeNoStream, "account %q has no stream %q", o.Account, o.Stream)
	}
	return err
}

// outlet is ensureOutlet in a stream that exists; create makes the consumer.
func (a *applier) outlet(ctx context.Context, h *held, p *federationv1.Part, js jetstream.JetStream, create func() error) error {
	o := p.GetOutlet()
	c, err := js.PushConsumer(ctx, o.Stream, o.Consumer)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		if a.unexpected(p) {
			a.log.Warn("the consumer of a bridge was deleted behind the agent's back; it is made again, and the destination skips what it has",
				"account", o.Account, "stream", o.Stream, "consumer", o.Consumer)
		}
		return create()
	case errors.Is(err, jetstream.ErrNotPushConsumer):
		return failf(codeNotOurs, "stream %q has a consumer %q that was not made by sealane: delete it, and this one is made", o.Stream, o.Consumer)
	case err != nil:
		return err
	}
	have := c.CachedInfo().Config
	if !isOurs(have.Metadata) && !h.owned[p.Id] {
		return failf(codeNotOurs, "stream %q has a consumer %q that was not made by sealane: delete it, and this one is made", o.Stream, o.Consumer)
	}
	a.own(h, p.Id)
	want := outletConfig(have, p)
	if sameOutlet(have, want) {
		return nil
	}
	if a.unexpected(p) {
		a.log.Warn("the consumer of a bridge was changed behind the agent's back, changing it back",
			"account", o.Account, "stream", o.Stream, "consumer", o.Consumer)
	}
	if sameFixed(have, want) && have.DeliverSubject == want.DeliverSubject {
		return updateOutlet(ctx, js, o, have, want)
	}
	// What cannot be changed is made anew: the destination knows what it has and
	// skips it.
	if err := js.DeleteConsumer(ctx, o.Stream, o.Consumer); err != nil {
		return err
	}
	return create()
}

// updateOutlet changes what can be changed of an outlet's consumer. A pause is
// not part of an update.
func updateOutlet(ctx context.Context, js jetstream.JetStream, o *federationv1.OutletSpec, have, want jetstream.ConsumerConfig) error {
	pause := want.PauseUntil
	want.PauseUntil = have.PauseUntil
	if !sameOutlet(have, want) {
		if _, err := js.UpdatePushConsumer(ctx, o.Stream, want); err != nil {
			return err
		}
	}
	var err error
	switch {
	case samePause(have.PauseUntil, pause):
	case pause == nil:
		_, err = js.ResumeConsumer(ctx, o.Stream, o.Consumer)
	default:
		_, err = js.PauseConsumer(ctx, o.Stream, o.Consumer, *pause)
	}
	return err
}

// own notes that an object is this agent's, if the journal does not say so yet.
func (a *applier) own(h *held, id string) {
	if !h.owned[id] {
		a.made[id] = true
	}
}

// removeContent removes streams and outlets that are not wanted any more: what
// takes messages from elsewhere, then what gives them away, then the rest.
func (a *applier) removeContent(ctx context.Context, h *held) {
	rank := func(p *federationv1.Part) int {
		switch {
		case p.GetOutlet() != nil:
			return 1
		case len(p.GetStream().GetSources()) > 0:
			return 0
		default:
			return 2
		}
	}
	ids := slices.Sorted(maps.Keys(h.doomed))
	for r := range 3 {
		for _, id := range ids {
			p := h.doomed[id]
			if contentAccount(p) == "" || rank(p) != r || ctx.Err() != nil {
				continue
			}
			if err := a.bounded(ctx, func(ctx context.Context) error { return a.removeOne(ctx, h, p) }); err != nil {
				a.log.Warn("not removed, trying again", "part", id, "error", err)
				continue
			}
			a.gone[id] = true
		}
	}
}

func (a *applier) removeOne(ctx context.Context, h *held, p *federationv1.Part) error {
	js, err := a.jetStream(h, contentAccount(p))
	var f *failure
	if errors.As(err, &f) && f.code == codeNoAccount {
		return nil // it went with its account
	}
	if err != nil {
		return err
	}
	if o := p.GetOutlet(); o != nil {
		return a.removeOutlet(ctx, h, js, p.Id, o)
	}
	s := p.GetStream()
	st, err := js.Stream(ctx, s.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	have := st.CachedInfo().Config
	switch {
	case !isOurs(have.Metadata) && !h.owned[p.Id]:
		a.log.Warn("a stream that is not wanted any more was not made by sealane, leaving it alone", "account", s.Account, "stream", s.Name)
		return nil
	case s.Retain:
		_, err = js.UpdateStream(ctx, retained(have))
		return err
	default:
		return ignore(js.DeleteStream(ctx, s.Name), jetstream.ErrStreamNotFound)
	}
}

func (a *applier) removeOutlet(ctx context.Context, h *held, js jetstream.JetStream, id string, o *federationv1.OutletSpec) error {
	c, err := js.PushConsumer(ctx, o.Stream, o.Consumer)
	if err != nil {
		return ignore(err, jetstream.ErrStreamNotFound, jetstream.ErrConsumerNotFound, jetstream.ErrNotPushConsumer)
	}
	if !isOurs(c.CachedInfo().Config.Metadata) && !h.owned[id] {
		return nil
	}
	return ignore(js.DeleteConsumer(ctx, o.Stream, o.Consumer), jetstream.ErrStreamNotFound, jetstream.ErrConsumerNotFound)
}

// retained is the configuration of a stream that is kept without being fed by
// anyone but applications.
func retained(c jetstream.StreamConfig) jetstream.StreamConfig {
	c.Sources = nil
	c.Subjects = someSubject(c)
	c.Metadata = maps.Clone(c.Metadata)
	if c.Metadata == nil {
		c.Metadata = map[string]string{}
	}
	for _, k := range []string{metaManaged, metaPart, metaHash} {
		delete(c.Metadata, k)
	}
	c.Metadata[metaRetained] = "true"
	return c
}

func ignore(err error, those ...error) error {
	for _, t := range those {
		if errors.Is(err, t) {
			return nil
		}
	}
	return err
}
