package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sealane/sealane/cmd/sealane/hubapi"
)

// account is the tenant in which the built-in story happens.
const account = "shop"

// builtinSteps is the built-in story.
func builtinSteps() []step {
	return []step{
		joinStep(),
		{id: "topology", title: "A topology is applied", run: (*story).applyBuiltin, needed: true},
		{id: "events", title: "An event published at each member arrives exactly once at every other", run: (*story).events},
		{id: "requests", title: "A request is answered locally, and remotely when the local responder stops", run: (*story).requests},
		{id: "cut", title: "A stream bridge whose link is cut loses and doubles nothing", run: (*story).cut, about: []string{tokyo, denver}},
		{id: "queue", title: "A work queue moves", run: (*story).queue, about: []string{berlin, tokyo}},
		{id: "cycle", title: "A cycle of streams is refused", run: (*story).cycle, about: []string{berlin, denver}},
		{id: "hub", title: "The hub is killed, a member too, and messages keep flowing", run: (*story).hubKilled},
	}
}

func joinStep() step {
	return step{id: "join", title: "A hub starts and members join", run: (*story).join, needed: true}
}

// join starts the hub, and then all members at once, each with a token of its
// own.
func (s *story) join(ctx context.Context) (string, error) {
	at := time.Now()
	if err := s.fed.startHub(ctx); err != nil {
		return "", err
	}
	s.say("hub up after %s: pid %d, API at %s, agents at %s", seconds(time.Since(at)), s.fed.hubRun.pid(), s.fed.api.Server, s.fed.hubAt)
	err := s.eachMember(func(m *member) error {
		if err := s.fed.join(ctx, m); err != nil {
			return err
		}
		if err := s.fed.awaitConnected(ctx, m); err != nil {
			return err
		}
		s.say("%s joined with its own token: pid %d, %s after the start", m.name, m.run.pid(), seconds(time.Since(s.began)))
		return nil
	})
	return fmt.Sprintf("%d members connected", len(s.fed.members)), err
}

// eachMember does something with all members side by side.
func (s *story) eachMember(do func(*member) error) error {
	errs := make([]error, len(s.fed.members))
	var all sync.WaitGroup
	for i, m := range s.fed.members {
		all.Go(func() { errs[i] = do(m) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// applyBuiltin applies everything that is right and waits until it is Ready.
func (s *story) applyBuiltin(ctx context.Context) (string, error) {
	at := time.Now()
	if err := apply(ctx, s.fed.api, s.right); err != nil {
		return "", err
	}
	s.say("%d resources applied: one MessagingTopology, and the Streams and Bridges of %s", len(s.right), s.fed.folder.manifests())
	r, err := s.fed.awaitFine(ctx, 30*time.Second)
	if err != nil {
		return "", err
	}
	ready := time.Since(s.began)
	s.tellReady(ctx)
	s.sayData(map[string]float64{"readySeconds": ready.Round(time.Millisecond).Seconds()}, "Ready %s after it was applied, %s after the start of the demo", seconds(time.Since(at)), seconds(ready))
	return r.Summary, nil
}

// tellReady names the links and their round-trip times.
func (s *story) tellReady(ctx context.Context) {
	snap, err := s.fed.api.Snapshot(ctx)
	if err != nil {
		return // the next step will find out
	}
	links := snap.Links()
	var told []string
	for i, l := range links {
		if i == 6 {
			told = append(told, fmt.Sprintf("and %d more", len(links)-i))
			break
		}
		rtt := "not measured yet"
		if l.RTTMicros > 0 {
			rtt = fmt.Sprintf("%.1f ms there and back", float64(l.RTTMicros)/1000)
		}
		told = append(told, fmt.Sprintf("%s %s, %s", l.Name(), l.State, rtt))
	}
	if len(told) > 0 {
		s.say("links: %s", strings.Join(told, "; "))
	}
}

// judgement asks the hub how things are.
func (s *story) judgement(ctx context.Context) (*hubapi.Snapshot, *hubapi.Report, error) {
	snap, err := s.fed.api.Snapshot(ctx)
	if err != nil {
		return nil, nil, err
	}
	return snap, hubapi.Judge(snap, time.Now()), nil
}
