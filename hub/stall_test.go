package hub

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/topology"
)

// stalledFleet has c copy from a and b, and a clock. a's and b's outlets come
// before c's stream.
func stalledFleet(t *testing.T) (f *Fleet, pass func(time.Duration), a, c *session) {
	t.Helper()
	clock := time.Unix(1_000_000, 0)
	f = quietFleet()
	f.now = func() time.Time { return clock }
	outlet := &topology.PlannedPart{Part: federationv1.Seal(&federationv1.Part{
		Id:   federationv1.OutletID("c", "app", "S", "x"),
		Spec: &federationv1.Part_Outlet{Outlet: &federationv1.OutletSpec{Destination: "c", Account: "app", Stream: "S", Consumer: "x"}},
	})}
	copies := after(&topology.PlannedPart{Part: federationv1.Seal(&federationv1.Part{
		Id: federationv1.StreamID("app", "S"),
		Spec: &federationv1.Part_Stream{Stream: &federationv1.StreamSpec{Account: "app", Name: "S", Subjects: []string{"s"}, Sources: []*federationv1.Source{
			{Bridge: "n/b", Origin: "a", Stream: "S", Consumer: "x"},
		}}},
	})}, "a", outlet.Part.Id)
	f.Publish(plan(state("a", outlet), state("c", copies)))
	// Everything that is alive is heard of.
	pass = func(d time.Duration) {
		for range 10 {
			clock = clock.Add(d / 10)
			for name, m := range f.members {
				if m.session != nil {
					_ = f.handle(m.session, &federationv1.AgentMessage{Body: &federationv1.AgentMessage_Heartbeat{Heartbeat: &federationv1.Heartbeat{HeldHash: cmpHash(f, name)}}})
				}
			}
			f.sweep()
		}
	}
	c = connect(t, f, "c", federationv1.EmptyHash)
	tell(t, f, c, &federationv1.Report{HeldHash: federationv1.EmptyHash})
	return f, pass, connect(t, f, "a", federationv1.EmptyHash), c
}

func cmpHash(f *Fleet, name string) string {
	if h := f.members[name].heldHash; h != "" {
		return h
	}
	return hashOf("unknown")
}

func isStalled(t *testing.T, s *session) {
	t.Helper()
	select {
	case <-s.ended:
		wantStatus(t, s.err, codes.DeadlineExceeded, "in time")
	default:
		t.Error("the session goes on")
	}
}

// A member that is there and does nothing holds nobody up for ever.
func TestFleetStalled(t *testing.T) {
	goesOn := func(t *testing.T, f *Fleet, c *session) {
		t.Helper()
		if !awake(c) {
			t.Fatal("c sleeps on")
		}
		u := f.next(c)
		if u == nil || len(u.Upserts) != 1 || len(u.Upserts[0].GetStream().Sources) != 0 {
			t.Errorf("c was sent %v, want its stream without the source that does not come", u)
		}
	}
	t.Run("an update is not answered", func(t *testing.T) {
		f, pass, a, c := stalledFleet(t)
		u := f.next(a)
		awake(c)
		pass(answerTimeout / 2)
		if f.next(c) != nil {
			t.Fatal("c is sent its stream at once")
		}
		awake(c)
		pass(answerTimeout)
		isStalled(t, a)
		goesOn(t, f, c)
		f.close(a)
		// It is back: nobody waits for it, and it has its chance.
		a = connect(t, f, "a", federationv1.EmptyHash)
		if p := f.progress["a"]; p.Refusal == "" {
			t.Error("forgotten")
		}
		if again := f.next(a); again == nil || again.TargetHash != u.TargetHash {
			t.Errorf("sent %v", again)
		}
		tell(t, f, a, done(u))
		if p := f.progress["a"]; p.Refusal != "" || !p.Applied(u.Upserts[0].Id, u.Upserts[0].Hash) {
			t.Errorf("%+v", p)
		}
	})
	t.Run("a large update has more time", func(t *testing.T) {
		u := &federationv1.Update{Removals: []string{string(make([]byte, 64<<10*60))}}
		if d := travel(u); d < time.Minute || d > 2*time.Minute {
			t.Errorf("%v", d)
		}
	})
	t.Run("an inventory does not come", func(t *testing.T) {
		f, pass, a, c := stalledFleet(t)
		f.close(a)
		a = connect(t, f, "a", hashOf("something"))
		awake(c)
		f.next(c)
		pass(answerTimeout + 10*time.Second)
		isStalled(t, a)
	})
	t.Run("a report does not end", func(t *testing.T) {
		f, pass, a, _ := stalledFleet(t)
		tell(t, f, a, &federationv1.Report{HeldHash: federationv1.EmptyHash, More: true})
		pass(answerTimeout + 10*time.Second)
		isStalled(t, a)
	})
	t.Run("a part is applied for ever", func(t *testing.T) {
		f, pass, a, c := stalledFleet(t)
		u := f.next(a)
		tell(t, f, a, &federationv1.Report{HeldHash: u.TargetHash})
		p := u.Upserts[0]
		pendingStill := &federationv1.Report{HeldHash: u.TargetHash, Parts: []*federationv1.PartStatus{{Id: p.Id, Hash: p.Hash, State: federationv1.PartStatus_PENDING}}}
		awake(c)
		f.next(c)
		pass(applyTimeout / 2)
		tell(t, f, a, pendingStill)
		awake(c)
		pass(applyTimeout)
		if why := f.progress["a"].Unapplied[p.Id]; why.Code != codeStalled {
			t.Fatalf("%+v", why)
		}
		goesOn(t, f, c)
		tell(t, f, a, pendingStill)
		if why := f.progress["a"].Unapplied[p.Id]; why.Code != codeStalled {
			t.Error("everybody waits again")
		}
		tell(t, f, a, done(u))
		if !f.progress["a"].Applied(p.Id, p.Hash) {
			t.Error("that it is applied at last does not count")
		}
	})
}

// A destination that never lets go of what feeds it, and always has something to
// say, keeps a consumer at the origin for so long and not longer.
func TestFleetLetGo(t *testing.T) {
	f, pass, a, c := stalledFleet(t)
	u := f.next(a)
	tell(t, f, a, done(u))
	awake(c)
	fed := f.next(c)
	tell(t, f, c, done(fed))
	outlet := u.Upserts[0].Id

	// The bridge goes; at the origin its stream stays.
	own := &topology.PlannedPart{Part: federationv1.Seal(&federationv1.Part{
		Id:   federationv1.StreamID("app", "S"),
		Spec: &federationv1.Part_Stream{Stream: &federationv1.StreamSpec{Account: "app", Name: "S", Subjects: []string{"s"}}},
	})}
	f.Publish(plan(state("a", own), state("c")))
	u = f.next(a)
	tell(t, f, a, done(u))
	if f.progress["a"].Hash(outlet) == "" {
		t.Fatal("the outlet went although its destination is fed from it")
	}
	for range 9 { // each session claims what was, and ends before it owes anything for too long
		c = connect(t, f, "c", fed.TargetHash)
		tell(t, f, c, &federationv1.Report{HeldHash: fed.TargetHash})
		pass(time.Minute - time.Second)
		f.next(c)
		if awake(a); f.next(a) != nil {
			t.Fatal("the outlet goes too early")
		}
	}
	// It may say what it likes: it is connected, and holds the stream.
	c2 := connect(t, f, "c", fed.TargetHash)
	tell(t, f, c2, &federationv1.Report{HeldHash: fed.TargetHash})
	pass(letGoTimeout - 9*(time.Minute-time.Second) + 10*time.Second)
	if !awake(a) {
		t.Fatal("the origin sleeps on")
	}
	if u := f.next(a); u == nil || len(u.Removals) != 1 || u.Removals[0] != outlet {
		t.Fatalf("sent %v, want the removal of %s", u, outlet)
	} else {
		tell(t, f, a, done(u))
	}
	pass(time.Second)
	if m := f.members["a"]; len(m.kept) > 0 || len(f.progress["a"].Overdue) > 0 {
		t.Errorf("kept %v, overdue %v", m.kept, f.progress["a"].Overdue)
	}
}

// What all members together may keep of unfinished reports is bounded.
func TestFleetUnfinishedReports(t *testing.T) {
	f := quietFleet()
	f.Publish(plan())
	var refusals int
	for i := range maxUnfinished/maxReport + 3 {
		s := connect(t, f, fmt.Sprintf("m%d", i), federationv1.EmptyHash)
		s.partial, s.partialSize, s.partialSince = &federationv1.Report{}, maxReport-1000, f.now()
		err := f.handle(s, reporting(&federationv1.Report{HeldHash: federationv1.EmptyHash, More: true}))
		if err != nil {
			refusals++
			wantStatus(t, err, codes.ResourceExhausted, "at once")
			s.end(err)
			f.close(s)
		}
	}
	if refusals == 0 || refusals > 3 {
		t.Errorf("%d of them are refused", refusals)
	}
}
