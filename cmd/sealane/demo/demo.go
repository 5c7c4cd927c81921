package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Options say what the demo does.
type Options struct {
	// Dir keeps everything; empty: a temporary folder.
	Dir string
	// Keep leaves the temporary folder at the end.
	Keep bool
	// Members is a number of cities or a list of names; empty: what the story or
	// the manifests need.
	Members string
	// Topology is a file of manifests to apply instead of the built-in story.
	Topology string
	// Direct lets members reach each other without the proxies that can be cut, to
	// measure links. It is for Topology only: the built-in story cuts links.
	Direct bool
	// Exit ends the demo after the story instead of staying up.
	Exit bool
	// JSON tells the story as one event a line.
	JSON   bool
	Colour bool
	Out    io.Writer
}

// step is a part of the story that checks itself.
type step struct {
	id, title string
	// run returns what it found out, in a line.
	run func(s *story, ctx context.Context) (string, error)
	// needed steps end the story when they fail.
	needed bool
	// about names the processes whose logs help when it fails; empty: all.
	about []string
}

// story is a run of the demo.
type story struct {
	*teller
	fed   *federation
	began time.Time
	// right manifests are applied, the wrong one is there to be refused.
	right, wrong []manifest
	orders       ledger
	// finished counts the steps that passed or failed.
	finished int
	failures []string
}

// Run runs the demo. It returns nil if every step passed, after ctx has ended
// unless o.Exit is set. It leaves no process behind, and no folder that nobody
// asked for.
func Run(ctx context.Context, o Options) error {
	s := &story{began: time.Now(), teller: &teller{out: o.Out, json: o.JSON, colour: o.Colour, step: "demo"}}
	names, steps, err := s.plan(&o)
	if err != nil {
		return err
	}
	dir, err := openFolder(o.Dir, o.Keep)
	if err != nil {
		return err
	}
	defer dir.close()
	if o.Topology == "" {
		if s.right, s.wrong, err = writeBuiltin(dir.manifests()); err != nil {
			return err
		}
	}
	if s.fed, err = newFederation(dir, names, o.Direct); err != nil {
		return err
	}
	defer s.fed.stop()
	s.introduce(&o, dir)

	s.tell(ctx, steps)
	if ctx.Err() == nil {
		s.conclude(len(steps))
		if !o.Exit {
			s.goOn(&o)
			s.stayUp(ctx)
		}
	}
	if !o.JSON {
		s.plain("end", "\nStopping %d processes%s.", len(s.fed.processes()), map[bool]string{true: " and removing " + dir.path}[dir.temporary])
	}
	return s.outcome(len(steps))
}

// plan decides who takes part and what happens.
func (s *story) plan(o *Options) (names []string, steps []step, err error) {
	if o.Topology == "" {
		if o.Direct {
			return nil, nil, errors.New("--direct goes with --topology: the built-in story cuts links")
		}
		if o.Members == "" {
			o.Members = "3"
		}
		names, err = chooseMembers(o.Members)
		if err != nil {
			return nil, nil, err
		}
		if err := missingFrom(names, []string{berlin, denver, tokyo}); err != nil {
			return nil, nil, fmt.Errorf("the built-in story needs berlin, denver and tokyo: give a number of --members, or a --topology of your own")
		}
		return names, builtinSteps(), nil
	}
	if s.right, err = readManifests(o.Topology); err != nil {
		return nil, nil, err
	}
	named := namedMembers(s.right)
	if o.Members == "" {
		names = neededMembers(s.right, named)
	} else if names, err = chooseMembers(o.Members); err != nil {
		return nil, nil, err
	}
	if err := missingFrom(names, named); err != nil {
		return nil, nil, err
	}
	return names, ownSteps(o.Topology), nil
}

func (s *story) introduce(o *Options, dir *folder) {
	kept := "kept"
	if dir.temporary {
		kept = "removed at the end; --dir or --keep keeps it"
	}
	s.plain("demo", "A hub and %d members, each a process of its own on this machine.", len(s.fed.members))
	s.plain("demo", "Folder: %s (%s)", dir.path, kept)
	if o.Topology == "" {
		s.plain("demo", "Manifests to read: %s", dir.manifests())
	}
}

// tell runs the steps. A failed step shows the logs of those concerned.
func (s *story) tell(ctx context.Context, steps []step) {
	for _, st := range steps {
		s.begin(st.id, st.title)
		summary, err := st.run(s, ctx)
		if ctx.Err() != nil {
			return // interrupted: neither passed nor failed
		}
		s.end(err, summary)
		s.finished++
		if err == nil {
			continue
		}
		s.failures = append(s.failures, st.id)
		if !errors.Is(err, errRefused) { // which no process is to blame for
			s.showLogs(st.about)
		}
		switch died := s.fed.died(); {
		case st.needed:
			s.say("The rest of the story needs this step.")
			return
		case died != nil:
			s.say("The rest of the story needs every process.")
			return
		}
		if err := s.fed.restore(); err != nil {
			s.say("%v", err)
			return
		}
	}
}

// logLines is how much of a log is shown after a failure.
const logLines = 15

func (s *story) showLogs(about []string) {
	for _, p := range s.fed.processes() {
		concerned := len(about) == 0 || p == s.fed.hubRun
		for _, name := range about {
			concerned = concerned || p.name == name
		}
		if concerned {
			s.say("Log of %s (%s), its end:\n%s", p.name, p.logFile(), p.tail(logLines))
		}
	}
}

func (s *story) conclude(steps int) {
	outcome, text := passed, fmt.Sprintf("all %d steps passed", steps)
	if len(s.failures) > 0 {
		outcome, text = failed, s.verdict(steps)
	}
	s.finish(outcome, text, s.began)
}

func (s *story) verdict(steps int) string {
	return fmt.Sprintf("%d of %d steps failed: %v", len(s.failures), steps, s.failures)
}

// errInterrupted says that the story did not come to its end.
var errInterrupted = errors.New("interrupted before the story was over")

func (s *story) outcome(steps int) error {
	switch {
	case len(s.failures) > 0:
		return errors.New(s.verdict(steps))
	case s.finished < steps:
		return errInterrupted
	}
	return nil
}
