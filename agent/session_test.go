package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
)

func TestRefusesAsAWhole(t *testing.T) {
	hub := startHub(t, newCA(t))
	hub.want("tokyo", accountPart("app"))
	startAgent(t, hub, "tokyo")
	hub.applied("tokyo")
	var held map[string]string
	hub.look("tokyo", func(m *hubMember) { held = m.held })

	// One bad part among good ones: nothing is taken.
	bad := streamPart(&federationv1.StreamSpec{Account: "app", Name: "../x", Subjects: []string{"x"}})
	hub.want("tokyo", accountPart("app"), ordersPart(), bad)
	eventually(t, "the refusal", func() (err error) {
		hub.look("tokyo", func(m *hubMember) {
			if len(m.refusals) != 1 || !strings.Contains(m.refusals[0], bad.Id) {
				err = fmt.Errorf("refusals %q", m.refusals)
			}
		})
		return err
	})
	// A hub that is mistaken about what is held is told.
	hub.raw("tokyo", &federationv1.Update{Epoch: 1, BaseHash: federationv1.EmptyHash, TargetHash: federationv1.EmptyHash})
	eventually(t, "the inventory", func() (err error) {
		hub.look("tokyo", func(m *hubMember) {
			if m.inventories != 2 || len(m.held) != 1 || m.held["account/app"] != held["account/app"] {
				err = fmt.Errorf("%d inventories, held %v", m.inventories, m.held)
			}
		})
		return err
	})
	hub.want("tokyo", accountPart("app"), ordersPart())
	hub.applied("tokyo")
}

// A hub that comes back gets a session, has nothing to send, and one that was
// restored from before the agent's epoch is not listened to.
func TestHubComesBack(t *testing.T) {
	t.Parallel()
	hub := startHub(t, newCA(t))
	hub.epoch = 2
	hub.want("tokyo", accountPart("app"), ordersPart())
	a := startAgent(t, hub, "tokyo")
	hub.applied("tokyo")
	reports := func(sessions int) (n int) {
		t.Helper()
		eventually(t, "a session", func() (err error) {
			hub.look("tokyo", func(m *hubMember) {
				if n = m.reports; m.sessions != sessions || len(m.parts) != 2 || m.open == nil {
					err = fmt.Errorf("%d sessions, parts %v", m.sessions, m.parts)
				}
			})
			return err
		})
		return n
	}
	reports(1)
	hub.stop()
	hub.restart()
	reports(2)
	hub.look("tokyo", func(m *hubMember) {
		if m.hello.Epoch != 2 || len(m.hello.Unapplied) != 0 || m.inventories != 1 {
			t.Errorf("hello %v, %d inventories", m.hello, m.inventories)
		}
	})

	hub.stop()
	hub.epoch = 1
	hub.look("tokyo", func(m *hubMember) { m.sessions = 0 })
	hub.want("tokyo") // an old hub that wants it all gone
	hub.restart()
	eventually(t, "the old hub is tried more than once", func() (err error) {
		hub.look("tokyo", func(m *hubMember) {
			if m.sessions < 3 {
				err = fmt.Errorf("%d sessions", m.sessions)
			}
		})
		return err
	})
	hub.look("tokyo", func(m *hubMember) {
		if len(m.parts) != 0 {
			t.Errorf("it was told %v", m.parts)
		}
	})
	if _, err := streamInfo(a.js("app"), "ORDERS"); err != nil {
		t.Error(err)
	}
}

// A connection that is open but dead is noticed and replaced.
func TestHalfDeadConnection(t *testing.T) {
	t.Parallel()
	hub := startHub(t, newCA(t))
	wire := newProxy(t, hub.addr)
	hub.want("tokyo", accountPart("app"))
	a := newAgent(t, hub, "tokyo")
	a.opts.Hub = wire.addr()
	a.start()
	hub.applied("tokyo")
	wire.stall()
	hub.want("tokyo", accountPart("app"), ordersPart()) // swallowed
	within(t, keepaliveTime+keepaliveTimeout+backoffBase+10*time.Second, "another session", func() (err error) {
		hub.look("tokyo", func(m *hubMember) {
			if m.sessions < 2 {
				err = fmt.Errorf("%d sessions", m.sessions)
			}
		})
		return err
	})
	hub.applied("tokyo")
}

// An update that cannot be kept is not applied, and asked for again.
func TestDiskFails(t *testing.T) {
	t.Parallel()
	hub := startHub(t, newCA(t))
	hub.want("tokyo", accountPart("app"))
	a := startAgent(t, hub, "tokyo")
	hub.applied("tokyo")
	dir := filepath.Join(a.opts.DataDir, "journal")
	check(t, os.Rename(dir, dir+".away"))
	hub.want("tokyo", accountPart("app"), ordersPart())
	eventually(t, "the refusal", func() (err error) {
		hub.look("tokyo", func(m *hubMember) {
			if len(m.refusals) != 1 || !strings.Contains(m.refusals[0], "journal") {
				err = fmt.Errorf("refusals %q", m.refusals)
			}
		})
		return err
	})
	if _, err := streamInfo(a.js("app"), "ORDERS"); err == nil {
		t.Error("it was applied without being kept")
	}
	check(t, os.Rename(dir+".away", dir))
	hub.look("tokyo", func(m *hubMember) { m.hold = false })
	hub.applied("tokyo")
}

// A member that lost its whole journal starts with nothing, is sent everything
// again, and finds its messages where they were.
func TestLostJournal(t *testing.T) {
	t.Parallel()
	hub := startHub(t, newCA(t))
	hub.want("tokyo", accountPart("app"), ordersPart())
	a := startAgent(t, hub, "tokyo")
	hub.applied("tokyo")
	publish(t, a.connect("app"), "orders.1", 1, 10)
	a.stop()
	for _, f := range []string{"current", "previous"} {
		check(t, os.Truncate(filepath.Join(a.opts.DataDir, "journal", f), 10))
	}
	a.start()
	eventually(t, "the member says that it holds nothing", func() (err error) {
		hub.look("tokyo", func(m *hubMember) {
			if m.hello.HeldHash != federationv1.EmptyHash {
				err = fmt.Errorf("hello %v", m.hello)
			}
		})
		return err
	})
	hub.applied("tokyo")
	info, err := streamInfo(a.js("app"), "ORDERS")
	check(t, err)
	if info.State.Msgs != 10 {
		t.Errorf("%d messages", info.State.Msgs)
	}
}

// A grant is the same bytes for as long as the peer's key is the same, and
// worthless once it is another.
func TestGrants(t *testing.T) {
	t.Parallel()
	hub := startHub(t, newCA(t))
	a := startAgent(t, hub, "tokyo")
	startAgent(t, hub, "osaka")
	f := newFed(t, hub, "tokyo", "osaka")
	f.accept("osaka", "tokyo")
	f.push()
	first := proto.CloneOf(hub.grant("tokyo", "osaka"))
	a.stop()
	hub.look("tokyo", func(m *hubMember) { clear(m.grants) })
	a.start()
	if again := hub.grant("tokyo", "osaka"); !proto.Equal(first, again) {
		t.Errorf("after a restart %v, before %v", again, first)
	}
	f.dial("osaka", "tokyo", a.linkAddr(), "", 0)
	f.push()
	hub.link("osaka", "tokyo", federationv1.Health_UP)
	eventually(t, "the accepting end is up", func() (err error) {
		hub.look("tokyo", func(m *hubMember) {
			if m.links["osaka"].GetState() != federationv1.Health_UP {
				err = fmt.Errorf("%v", m.links)
			}
		})
		return err
	})

	// The member came back with another key: the old one is dropped at once.
	f.links["tokyo"]["osaka"] = acceptPart("osaka", newUserKey(t))
	f.push()
	hub.link("osaka", "tokyo", federationv1.Health_DOWN)
	hub.link("tokyo", "osaka", federationv1.Health_DOWN)
	eventually(t, "the new grant", func() (err error) {
		hub.look("tokyo", func(m *hubMember) {
			if g := m.grants["osaka"]; g.GetKey() == first.Key {
				err = fmt.Errorf("%v", g)
			}
		})
		return err
	})
	// With the old key again it works again, by a new grant.
	f.links["tokyo"]["osaka"] = acceptPart("osaka", first.Key)
	f.push()
	eventually(t, "another grant", func() (err error) {
		hub.look("tokyo", func(m *hubMember) {
			if g := m.grants["osaka"]; g.GetKey() != first.Key || g.GetOut() == first.Out {
				err = fmt.Errorf("%v", g)
			}
		})
		return err
	})
	f.dial("osaka", "tokyo", a.linkAddr(), "", 0)
	f.push()
	hub.link("osaka", "tokyo", federationv1.Health_UP)

	// The peer is gone: the message says so.
	addr := a.linkAddr()
	a.stop()
	eventually(t, "why the link is down", func() (err error) {
		want := "no leaf connection to tokyo (" + addr + ": connection refused)"
		hub.look("osaka", func(m *hubMember) {
			if l := m.links["tokyo"]; l.GetState() != federationv1.Health_DOWN || l.GetMessage() != want {
				err = fmt.Errorf("%v", l)
			}
		})
		return err
	})
}

// What a link needs and is not there is said.
func TestLinkFailures(t *testing.T) {
	hub := startHub(t, newCA(t))
	a := newAgent(t, hub, "tokyo")
	a.opts.LinkListen = ""
	a.start()
	accept := acceptPart("osaka", newUserKey(t))
	dial := dialPart("kyoto", &federationv1.Grant{Peer: "kyoto", Key: "wrong", Out: "x", In: "y"}, "127.0.0.1:1")
	hub.want("tokyo", accountPart("app"), accept, dial)
	if s := hub.failed("tokyo", accept.Id, codeNotListening); !strings.Contains(s.Message, "--link-listen") {
		t.Errorf("%v", s)
	}
	hub.failed("tokyo", dial.Id, codeBadLink)
	hub.status("tokyo", "account/app", func(s *federationv1.PartStatus) bool { return s.State == federationv1.PartStatus_APPLIED })
	hub.look("tokyo", func(m *hubMember) {
		if len(m.grants) != 0 {
			t.Errorf("granted %v without listening", m.grants)
		}
	})
}
