package demo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// restartAfter leaves time to see what a dead process does to the status.
	restartAfter = 20 * time.Second
	// control is how often the files that cut links are looked for.
	control = 250 * time.Millisecond
)

// reach is how to use a member, for programs.
type reach struct {
	URL   string            `json:"url"`
	Creds map[string]string `json:"creds"`
	Data  string            `json:"data"`
}

// goOn tells how to go on by hand.
func (s *story) goOn(o *Options) {
	kubeconfig := filepath.Join(s.fed.folder.hub(), "kubeconfig")
	ways := map[string]reach{}
	for _, m := range s.fed.members {
		url, err := m.url()
		if err != nil {
			continue // its broker never listened, which a failed step has told
		}
		r := reach{URL: url, Creds: map[string]string{}, Data: m.run.dir}
		files, _ := filepath.Glob(m.creds("*")) // the pattern is good
		for _, f := range files {
			r.Creds[strings.TrimSuffix(filepath.Base(f), ".creds")] = f
		}
		ways[m.name] = r
	}
	if o.JSON {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.step, s.at = "ready", s.began
		outcome := passed
		if len(s.failures) > 0 {
			outcome = failed
		}
		s.emit(outcome, "up until a signal ends it", map[string]any{"folder": s.fed.folder.path, "kubeconfig": kubeconfig, "members": ways})
		return
	}
	sealane := "sealane"
	if self, err := os.Executable(); err == nil {
		sealane = self
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n\n", s.paint("1", "Everything stays up until Ctrl-C. To go on by hand, in another terminal:"))
	fmt.Fprintf(&b, "  export KUBECONFIG=%s\n  alias sealane=%s\n\n", kubeconfig, sealane)
	b.WriteString("  sealane status\n  sealane get links\n  sealane get bridges\n  kubectl explain bridge.spec        # with kubectl: get, apply, edit, wait on every kind\n")
	if o.Topology == "" {
		fmt.Fprintf(&b, "  kubectl apply -f %s   # refused: see sealane status\n", filepath.Join(s.fed.folder.manifests(), cycleFile))
	}
	b.WriteString("\nClients, for instance with the nats command:\n\n")
	shown := 0
	for _, m := range s.fed.members {
		for _, account := range slices.Sorted(maps.Keys(ways[m.name].Creds)) {
			if shown++; shown <= 6 {
				fmt.Fprintf(&b, "  nats --server %s --creds %s sub '>'   # %s\n", ways[m.name].URL, ways[m.name].Creds[account], m.name)
			}
		}
	}
	if shown > 6 {
		fmt.Fprintf(&b, "  and %d more: %s/members/NAME/{url,creds/ACCOUNT.creds}\n", shown-6, s.fed.folder.path)
	}
	first := s.fed.members[0]
	cuttable := first
	for _, m := range s.fed.members {
		if m.name == denver {
			cuttable = m
		}
	}
	fmt.Fprintf(&b, "\nTo try:\n\n")
	if cuttable.link != nil {
		fmt.Fprintf(&b, "  touch %s   # cut the links that others dial to %s; rm heals them\n", cutFile(cuttable), cuttable.name)
	}
	fmt.Fprintf(&b, "  kill -9 $(cat %s)   # the hub: messages keep flowing; it is started again after %s\n", filepath.Join(s.fed.folder.hub(), "pid"), restartAfter)
	fmt.Fprintf(&b, "  kill -9 $(cat %s)   # a member: it comes back too\n", first.run.pidFile())
	s.plain("ready", "%s", b.String())
}

// cutFile is a file that cuts the links dialled to a member while it is there.
func cutFile(m *member) string { return filepath.Join(m.run.dir, "cut") }

// stayUp keeps everything running until ctx ends: what ends is started again
// after a while, and links are cut as the user says.
func (s *story) stayUp(ctx context.Context) {
	tick := time.NewTicker(control)
	defer tick.Stop()
	back := map[*process]time.Time{}
	cut := map[*member]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, p := range s.fed.processes() {
			s.revive(p, back)
		}
		for _, m := range s.fed.members {
			if want := exists(cutFile(m)); m.link != nil && want != cut[m] {
				cut[m] = want
				m.link.set(map[bool]mode{true: blackhole, false: pass}[want])
				s.plain("ready", "%s", map[bool]string{true: "The links dialled to " + m.name + " are cut.", false: "The links dialled to " + m.name + " are healed."}[want])
			}
		}
	}
}

// revive starts a process again that has been dead for long enough.
func (s *story) revive(p *process, back map[*process]time.Time) {
	err := p.died()
	if err == nil {
		return
	}
	at, told := back[p]
	switch {
	case !told:
		back[p] = time.Now().Add(restartAfter)
		s.plain("ready", "%s. It is started again in %s.", upper(err.Error()), restartAfter)
	case time.Now().After(at):
		delete(back, p)
		if err := p.start(); err != nil {
			s.plain("ready", "%s.", upper(err.Error()))
			return
		}
		s.plain("ready", "%s is started again: pid %d.", upper(p.name), p.pid())
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}

func upper(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
