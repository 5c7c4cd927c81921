package embedded

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// How long a way may take to open, and how long one that shall not is given.
const (
	opens  = 30 * time.Second
	closed = 2 * time.Second
)

// crossing sends messages from each server of one island to a listener on each
// server of another, and tells what is wrong with what arrived.
func crossing(t *testing.T, from, to *island, patience time.Duration) error {
	t.Helper()
	const n = 20
	subject := "ev." + from.name + to.name
	var boxes []*inbox
	for at, s := range to.servers {
		if s != nil {
			boxes = append(boxes, listen(t, to.connect(at), subject))
		}
	}
	var senders []*nats.Conn
	for at, s := range from.servers {
		if s != nil {
			senders = append(senders, from.connect(at))
		}
	}
	// The way is open when each listener hears each sender, or never.
	open := time.Now().Add(patience)
	for heard := false; !heard && time.Now().Before(open); {
		heard = true
		for s, nc := range senders {
			_ = nc.Publish(subject, []byte("open"+strconv.Itoa(s)))
			_ = nc.Flush()
			for _, b := range boxes {
				heard = heard && b.count("open"+strconv.Itoa(s)) > 0
			}
		}
		if !heard {
			<-time.After(20 * time.Millisecond)
		}
	}
	for s, nc := range senders {
		for i := range n {
			_ = nc.Publish(subject, []byte(fmt.Sprintf("%d/%d", s, i)))
		}
		_ = nc.Flush()
	}
	// What comes has come when nothing more does.
	sum := func() (total int) {
		for _, b := range boxes {
			b.mu.Lock()
			for _, c := range b.got {
				total += c
			}
			b.mu.Unlock()
		}
		return total
	}
	for last, quiet := -1, 0; quiet < 10; {
		<-time.After(20 * time.Millisecond)
		if now := sum(); now == last {
			quiet++
		} else {
			last, quiet = now, 0
		}
	}
	for s := range senders {
		for at, b := range boxes {
			for i := range n {
				if c := b.count(fmt.Sprintf("%d/%d", s, i)); c != 1 {
					return fmt.Errorf("from server %d of %s, server %d of %s: %d copies", s, from.name, at, to.name, c)
				}
			}
		}
	}
	return nil
}

// asking sends requests from each server of one island to a responder on each
// server of another.
func asking(t *testing.T, from, to *island, patience time.Duration) error {
	t.Helper()
	for at := range to.servers {
		if to.servers[at] == nil {
			continue
		}
		subject := fmt.Sprintf("svc.%s.%d", to.name, at)
		respond(t, to.connect(at), subject, "q", "yes")
		for f := range from.servers {
			if from.servers[f] == nil {
				continue
			}
			if err := answeredOnce(from.connect(f), subject, patience); err != nil {
				return fmt.Errorf("server %d of %s asks server %d of %s: %w", f, from.name, at, to.name, err)
			}
		}
	}
	return nil
}

// answeredOnce sends requests, as soon as there is a responder.
func answeredOnce(nc *nats.Conn, subject string, patience time.Duration) error {
	err := nats.ErrNoResponders
	for end := time.Now().Add(patience); err != nil; {
		if _, err = nc.Request(subject, nil, 300*time.Millisecond); err != nil && time.Now().After(end) {
			return err
		}
	}
	answers, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		return err
	}
	const n = 10
	for range n {
		if err := nc.PublishRequest(subject, answers.Subject, nil); err != nil {
			return err
		}
		if m, err := answers.NextMsg(5 * time.Second); err != nil || string(m.Data) != "yes" {
			return fmt.Errorf("no answer: %w", err)
		}
	}
	if _, err := answers.NextMsg(30 * time.Millisecond); err == nil {
		return errors.New("a second answer")
	}
	return nil
}

// joined checks that events and requests cross between two islands, both ways.
func joined(t *testing.T, a, b *island, patience time.Duration) error {
	t.Helper()
	for _, w := range []isles{{a, b}, {b, a}} {
		if err := crossing(t, w[0], w[1], patience); err != nil {
			return err
		}
		if err := asking(t, w[0], w[1], patience); err != nil {
			return err
		}
	}
	return nil
}

func patienceFor(works bool) time.Duration {
	if works {
		return opens
	}
	return closed
}

// A link between single servers works in either role. As soon as one end has
// several servers, the one that dials must be the spoke of both connections.
func TestClusterLinkRoles(t *testing.T) {
	for _, n := range []int{1, 3} {
		for _, m := range []int{1, 3} {
			for _, hub := range []bool{true, false} {
				t.Run(fmt.Sprintf("%d dial %d, hub %t", n, m, hub), func(t *testing.T) {
					t.Parallel()
					d, a := newIsland(t, "d", n, false), newIsland(t, "a", m, false)
					isles{d, a}.everything()
					d.dial(a, hub)
					startIslands(t, d, a)
					works := !hub || n == 1 && m == 1
					if err := joined(t, d, a, patienceFor(works)); works != (err == nil) {
						t.Errorf("want it to work: %t, got %v", works, err)
					}
				})
			}
		}
	}
}

// The role of a link changes while the broker and its clients go on.
func TestLinkRoleChanges(t *testing.T) {
	a, b := pair(t)
	both(a, b, func(p path) { p.forward("app", "orders.>") })
	dropped := make(chan error, 10)
	ca, cb := a.app("app"), b.app("app", nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { dropped <- err }))
	boxes := map[string]*inbox{"a": listen(t, ca, "orders.>"), "b": listen(t, cb, "orders.>")}
	for round, spoke := range []bool{false, true, false} {
		for i := range b.config.Remotes {
			b.config.Remotes[i].Spoke = spoke
		}
		if b.configure() {
			t.Fatal("the broker restarted")
		}
		eventually(t, "the role", func() error {
			z, err := a.rt.server().Leafz(nil)
			if err != nil {
				return err
			}
			spokes := 0
			for _, l := range z.Leafs {
				if l.IsSpoke {
					spokes++
				}
			}
			if len(z.Leafs) != 2 || (spokes == 0) != spoke {
				return fmt.Errorf("the acceptor is the spoke of %d of %d connections", spokes, len(z.Leafs))
			}
			return nil
		})
		// Each round has messages of its own: those of an earlier one are in the boxes.
		label := fmt.Sprintf("round %d, spoke %t, from ", round, spoke)
		exactlyOnce(t, label+"a", ca, "orders.1", boxes)
		exactlyOnce(t, label+"b", cb, "orders.1", boxes)
	}
	select {
	case err := <-dropped:
		t.Errorf("a client was dropped: %v", err)
	default:
	}
}

// A role of a link's two connections at one of its ends.
type ending struct {
	dials, hub bool
}

func (e ending) inHub() bool  { return !e.hub && !e.dials }
func (e ending) outHub() bool { return e.hub || !e.dials }

// What comes in on a connection of which a member is the spoke it does not pass
// on over another one of which it is the spoke.
func TestClusterTransitRoles(t *testing.T) {
	for _, n := range []int{1, 3} {
		for _, m := range []int{1, 3} {
			ends := []ending{{false, false}, {true, false}, {false, true}, {true, true}}
			for i, left := range ends {
				for _, right := range ends[i:] { // the others are their mirror images
					if (left.hub || right.hub) && n*m > 1 {
						continue
					}
					t.Run(fmt.Sprintf("%d-%d-%d, %+v, %+v", n, m, n, left, right), func(t *testing.T) {
						t.Parallel()
						a, b, c := newIsland(t, "a", n, false), newIsland(t, "b", m, false), newIsland(t, "c", n, false)
						isles{a, b, c}.everything()
						for _, l := range []struct {
							e   ending
							end *island
						}{{left, a}, {right, c}} {
							if l.e.dials {
								b.dial(l.end, l.e.hub)
							} else {
								l.end.dial(b, l.e.hub)
							}
						}
						startIslands(t, a, b, c)
						for _, w := range []struct {
							from, to *island
							works    bool
						}{{a, c, left.inHub() || right.outHub()}, {c, a, right.inHub() || left.outHub()}} {
							err := crossing(t, w.from, w.to, patienceFor(w.works))
							if err == nil {
								err = asking(t, w.from, w.to, patienceFor(w.works))
							}
							if w.works != (err == nil) {
								t.Errorf("%s to %s: want it to work: %t, got %v", w.from.name, w.to.name, w.works, err)
							}
						}
					})
				}
			}
		}
	}
}
