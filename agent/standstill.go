package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker/replica"
)

// A stream can forget what it takes from others (ADR 20): nats-server 2.15.2 drops
// all sources of a stream whose replicas become more while messages arrive, and
// takes them up again only with another leader. The agent notices that, and
// whatever else has the same effect: a source is silent, its origin answers, and the
// stream asks nothing of it.
const (
	// standstillPatience is how long a source may be silent, on top of flowSilence. NATS
	// looks after its sources every ten seconds.
	standstillPatience = 15 * time.Second
	// grownLately is how long after it got more replicas a stream is not waited for.
	grownLately = time.Minute
	// askedLately is how long after a reset the stream is taken to look after itself.
	askedLately = 20 * time.Second
	// reviveAgain is how soon a stream is set up anew again, twice as long each time,
	// and at most reviveSeldom.
	reviveAgain  = 30 * time.Second
	reviveSeldom = 10 * time.Minute
	// reviveTimeout bounds one such attempt.
	reviveTimeout = 10 * time.Second
)

// standing is what is remembered of a stream's sources from one look to the next.
type standing struct {
	replicas int
	grown    time.Time
	// silent is since when one is.
	silent time.Time
	tries  int
	next   time.Time
}

// patience is how long silence is left to NATS.
func (s *standing) patience(now time.Time) time.Duration {
	if !s.grown.IsZero() && now.Sub(s.grown) < grownLately {
		return 0
	}
	return standstillPatience
}

// note takes in a look at a stream, and tells whether one of its sources has been
// silent for too long.
func (s *standing) note(now time.Time, replicas int, silent bool) bool {
	if s.replicas > 0 && replicas > s.replicas {
		s.grown = now
	}
	s.replicas = replicas
	if !silent {
		s.silent, s.tries, s.next = time.Time{}, 0, time.Time{}
		return false
	}
	if s.silent.IsZero() {
		s.silent = now
	}
	return now.Sub(s.silent) >= s.patience(now) && !now.Before(s.next)
}

// tried puts off the next attempt.
func (s *standing) tried(now time.Time) {
	s.next = now.Add(min(reviveAgain<<min(s.tries, 10), reviveSeldom))
	s.tries++
}

// isSilent tells whether nothing is heard of a source.
func isSilent(info *jetstream.StreamSourceInfo) bool {
	return info == nil || info.Active < 0 || info.Active > flowSilence
}

// revive sets up the sources of a stream anew if one stands still.
func (f *flows) revive(ctx context.Context, s *federationv1.StreamSpec, info *jetstream.StreamInfo) {
	id := federationv1.StreamID(s.Account, s.Name)
	st := f.standings[id]
	if st == nil {
		st = &standing{}
		f.standings[id] = st
	}
	var silent []*federationv1.Source
	for i, have := range matchSources(s.Sources, info.Sources) {
		// What has an error is tried again by NATS; of remote ones the resets tell.
		if src := s.Sources[i]; isSilent(have) && (src.ApiPrefix != "" || have == nil || have.Error == nil) {
			silent = append(silent, src)
		}
	}
	now := time.Now()
	if !st.note(now, info.Config.Replicas, len(silent) > 0) {
		return
	}
	c, err := f.conns.existing(s.Account)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, reviveTimeout)
	defer cancel()
	i := slices.IndexFunc(silent, func(src *federationv1.Source) bool { return c.forgotten(ctx, now, src) })
	if i < 0 {
		return
	}
	st.tried(now)
	log := f.log.With("account", s.Account, "stream", s.Name, "source", silent[i].Stream, "origin", silent[i].Origin, "attempt", st.tries)
	if info.Config.Replicas > 1 {
		log.Warn("a stream takes nothing although its origin answers: another replica leads it")
		_, err = replica.Request(ctx, c.nc, "$JS.API.STREAM.LEADER.STEPDOWN."+s.Name, nil) // who leads next sets up all sources
	} else {
		log.Warn("a stream takes nothing although its origin answers: its sources are taken away and given back")
		err = f.feedAnew(ctx, c, s, silent)
	}
	if err != nil && ctx.Err() == nil {
		log.Warn("the stream was not set up anew, trying again", "error", err)
	}
}

// forgotten tells whether a source could be taken from and nobody tries.
func (c *accountConn) forgotten(ctx context.Context, now time.Time, src *federationv1.Source) bool {
	if src.ApiPrefix == "" {
		_, err := c.js.Stream(ctx, src.Stream)
		return err == nil
	}
	subject := fmt.Sprintf("%s.CONSUMER.RESET.%s.%s", src.ApiPrefix, src.Stream, src.Consumer)
	if now.Sub(c.asked.last(subject)) < askedLately {
		return false
	}
	return len(silentOrigins(ctx, c.nc, []*federationv1.Source{src})) == 0
}

// feedAnew takes sources away from a stream and gives them back. It goes on after the
// last message of them that it still has; of what it has no more, those that are not
// acknowledged at the origin yet come again.
func (f *flows) feedAnew(ctx context.Context, c *accountConn, s *federationv1.StreamSpec, silent []*federationv1.Source) error {
	f.conns.feeding.Lock()
	defer f.conns.feeding.Unlock()
	info, err := streamOf(ctx, c.js, s.Name)
	if err != nil {
		return err
	}
	keys := map[string]bool{}
	for _, src := range silent {
		keys[sourceKey(streamSource(src))] = true
	}
	without := info.Config
	without.Sources = slices.DeleteFunc(slices.Clone(without.Sources), func(src *jetstream.StreamSource) bool { return keys[sourceKey(src)] })
	without.Subjects = someSubject(without)
	if _, err := c.js.UpdateStream(ctx, without); err != nil {
		return err
	}
	// It must not stay so because time is up; the applier does the rest if this fails.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), apiTimeout)
	defer cancel()
	_, err = c.js.UpdateStream(ctx, info.Config)
	return err
}

func streamOf(ctx context.Context, js jetstream.JetStream, name string) (*jetstream.StreamInfo, error) {
	st, err := js.Stream(ctx, name)
	if err != nil {
		return nil, err
	}
	return st.CachedInfo(), nil
}

// forget drops what is remembered of streams that are not among those of h.
func (f *flows) forget(h *held) {
	maps.DeleteFunc(f.standings, func(id string, _ *standing) bool { return len(h.parts[id].GetStream().GetSources()) == 0 })
}
