package embedded

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
)

const (
	// staleLook is how often it is looked for, at most.
	staleLook = 5 * time.Second
	// stalePatience is how long a queue group may have no member before connections are
	// made anew for it, and staleRestart before a server is: its members may come back.
	stalePatience = 10 * time.Second
	staleRestart  = time.Minute
	// staleKicks is how many connections are closed at a look. A parent of many sites
	// must not have all of them come back at once.
	staleKicks = 20
)

// staleInterest finds what a server goes on telling others though nobody is there any
// more. nats-server 2.15.2 counts the interest of subscribers once more in each account
// that theirs imports from when their imports change, and takes back one when they leave
// (processSubsOnConfigReload). To others it looks as if a queue group had members here:
// they send it a part of the requests, or all, and nobody answers. Connections begin with
// what is there; what servers of a cluster tell each other is forgotten with the server
// only (ADR 25).
//
// What has no queue group is left as it is: messages cross a link in vain, and nobody
// misses them. Interest that came over another link is not seen.
type staleInterest struct {
	mu     sync.Mutex
	looked time.Time
	// groups have had members, as imports of their account changed; by its key.
	groups map[string]map[group]*counted
	// leafs are the connections that were told of them, by the key of their account.
	leafs map[string]map[uint64]bool
}

// A group is a queue group, as its members subscribe.
type group struct{ subject, queue string }

// counted is what others are told of a group.
type counted struct {
	from  []string  // keys of the accounts that it imports from
	since time.Time // when its last member was found to have left; zero: somebody is there
}

// reset is called before a server's first note.
func (s *staleInterest) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looked, s.groups, s.leafs = time.Time{}, map[string]map[group]*counted{}, map[string]map[uint64]bool{}
}

// note is told that the server has the token now of an account in place of old, which may be
// none.
func (s *staleInterest) note(srv *server.Server, old, now string) {
	before, err := jwt.DecodeAccountClaims(old)
	if err != nil {
		return // there was none
	}
	after, err := jwt.DecodeAccountClaims(now)
	if err != nil {
		return // the server has not taken it either
	}
	imports := streamImports(before)
	if len(imports) == 0 || slices.Equal(imports, streamImports(after)) {
		return
	}
	groups := groupsOf(srv, before.Subject)
	if len(groups) == 0 {
		return
	}
	up := leafsUp(srv)
	s.mu.Lock()
	defer s.mu.Unlock()
	for g := range groups {
		c := &counted{}
		for _, i := range imports {
			if !server.SubjectsCollide(i.local, g.subject) || len(up[i.account]) == 0 && srv.NumRoutes() == 0 {
				continue
			}
			c.from = append(c.from, i.account)
			if s.leafs[i.account] == nil {
				s.leafs[i.account] = map[uint64]bool{}
			}
			maps.Copy(s.leafs[i.account], up[i.account])
		}
		if len(c.from) == 0 {
			continue // nobody was told
		}
		if s.groups[before.Subject] == nil {
			s.groups[before.Subject] = map[group]*counted{}
		}
		if was := s.groups[before.Subject][g]; was != nil {
			c.from = append(c.from, was.from...)
		}
		slices.Sort(c.from)
		c.from = slices.Compact(c.from)
		s.groups[before.Subject][g] = c
	}
}

// look returns the connections to be made anew, and whether the server is to be.
func (s *staleInterest) look(srv *server.Server, now time.Time) (kick []uint64, restart bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.groups) == 0 || now.Sub(s.looked) < staleLook {
		return nil, false
	}
	s.looked = now
	up := leafsUp(srv)
	if up == nil {
		return nil, false
	}
	for account, told := range s.leafs {
		maps.DeleteFunc(told, func(id uint64, _ bool) bool { return !up[account][id] })
		if len(told) == 0 {
			delete(s.leafs, account)
		}
	}
	routes := srv.NumRoutes() > 0
	if len(s.leafs) == 0 && !routes {
		return nil, false
	}
	wrong := map[string]bool{}
	for account, groups := range s.groups {
		there := groupsOf(srv, account)
		if there == nil {
			continue
		}
		for g, c := range groups {
			switch gone := now.Sub(c.since); {
			case there[g]:
				c.since = time.Time{}
			case c.since.IsZero():
				c.since = now
			case routes:
				restart = restart || gone >= staleRestart
			case gone >= stalePatience:
				for _, from := range c.from {
					wrong[from] = true
				}
			}
		}
	}
	for account := range wrong {
		for id := range s.leafs[account] {
			if len(kick) < staleKicks {
				kick = append(kick, id)
			}
		}
	}
	return kick, restart
}

type streamImport struct{ account, subject, local string }

// streamImports are in an order of their own.
func streamImports(c *jwt.AccountClaims) []streamImport {
	var l []streamImport
	for _, i := range c.Imports {
		if i.Type != jwt.Stream {
			continue
		}
		local := i.Subject
		if i.LocalSubject != "" {
			local = i.LocalSubject.ToSubject()
		}
		l = append(l, streamImport{i.Account, string(i.Subject), string(local)})
	}
	slices.SortFunc(l, func(a, b streamImport) int {
		return slices.Compare([]string{a.account, a.subject, a.local}, []string{b.account, b.subject, b.local})
	})
	return l
}

// groupsOf are the queue groups that have members in an account at this server; nil: it
// is not known.
func groupsOf(srv *server.Server, account string) map[group]bool {
	z, err := srv.Subsz(&server.SubszOptions{Account: account, Subscriptions: true, Limit: 1 << 30})
	if err != nil {
		return nil
	}
	groups := map[group]bool{}
	for _, s := range z.Subs {
		if s.Queue != "" {
			groups[group{s.Subject, s.Queue}] = true
		}
	}
	return groups
}

// leafsUp are the leaf connections by the keys of their accounts; nil: it is not known.
func leafsUp(srv *server.Server) map[string]map[uint64]bool {
	z, err := srv.Leafz(nil)
	if err != nil {
		return nil
	}
	up := map[string]map[uint64]bool{}
	for _, l := range z.Leafs {
		if up[l.Account] == nil {
			up[l.Account] = map[uint64]bool{}
		}
		up[l.Account][l.ID] = true
	}
	return up
}

func kickStale(srv *server.Server, log *slog.Logger, ids []uint64) {
	if len(ids) > 0 {
		log.Info("links connect anew: their peers count on members of a queue group that have left")
	}
	for _, id := range ids {
		_ = srv.DisconnectClientByID(id) // fails if it has gone
	}
}
