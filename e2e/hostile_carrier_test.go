package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"sigs.k8s.io/controller-runtime/pkg/client"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// carrier is evil in transit between berlin and tokyo, of which a queue is moved and a
// stream is copied by way of evil. The queue keeps what no bridge moves.
type carrier struct {
	*passage
	leaf     *rawLeaf // on which berlin sends
	n        int      // messages of each kind
	answered map[string]bool
}

// publish stores k more messages of each kind at berlin.
func (c *carrier) publish(k int) {
	c.t.Helper()
	js, err := jetstream.New(c.conns["berlin"])
	if err != nil {
		c.t.Fatal(err)
	}
	for range k {
		c.n++
		for _, s := range []string{"jobs.moved", "jobs.kept", "spare.job", "log.line"} {
			if _, err := js.Publish(c.t.Context(), s, fmt.Appendf(nil, "%s %d", s, c.n)); err != nil {
				c.t.Fatal(err)
			}
		}
	}
}

// want checks that a stream holds exactly these messages of a subject, in any order.
func (c *carrier) want(member, stream, subject string, numbers ...int) {
	c.t.Helper()
	eventually(c.t, 90*time.Second, fmt.Sprintf("%s of %s holds %v of %s", stream, member, numbers, subject), func() error {
		js, err := jetstream.New(c.conns[member])
		if err != nil {
			return err
		}
		s, err := js.Stream(c.t.Context(), stream)
		if err != nil {
			return err
		}
		var have, should []string
		state := s.CachedInfo().State
		for seq := state.FirstSeq; state.Msgs > 0 && seq <= state.LastSeq; seq++ {
			m, err := s.GetMsg(c.t.Context(), seq)
			switch {
			case errors.Is(err, jetstream.ErrMsgNotFound):
			case err != nil:
				return err
			case strings.HasPrefix(string(m.Data), subject+" "):
				have = append(have, string(m.Data))
			}
		}
		for _, n := range numbers {
			should = append(should, fmt.Sprintf("%s %d", subject, n))
		}
		slices.Sort(have)
		slices.Sort(should)
		if !slices.Equal(have, should) {
			return fmt.Errorf("it holds %q", have)
		}
		return nil
	})
}

// sent waits until evil was sent the job of a number.
func (c *carrier) sent(n int) {
	c.t.Helper()
	eventually(c.t, 60*time.Second, "evil is sent the jobs", func() error {
		_, msgs, err := c.leaf.learnt()
		if !slices.ContainsFunc(msgs, func(m string) bool { return strings.HasSuffix(m, fmt.Sprintf(" jobs.moved %d", n)) }) {
			return errors.Join(errors.New("not yet"), err)
		}
		return nil
	})
}

// confirm answers flow control of a stream's consumer in tokyo's place, with these
// sequences.
func (c *carrier) confirm(stream string, delivered, sequence int) {
	c.t.Helper()
	answered := ""
	eventually(c.t, 30*time.Second, "berlin asks how far "+stream+" has come", func() error {
		c.leaf.mu.Lock()
		defer c.leaf.mu.Unlock()
		for _, r := range slices.Backward(c.leaf.replies) {
			if strings.HasPrefix(r, "$JS.FC."+stream+".") && !c.answered[r] {
				answered, c.answered[r] = r, true
				return nil
			}
		}
		return errors.New("it has not")
	})
	header := fmt.Sprintf("NATS/1.0\r\nNats-Last-Consumer: %d\r\nNats-Last-Stream: %d\r\n\r\n", delivered, sequence)
	c.leaf.send(fmt.Sprintf("HMSG re.tokyo.app.%s %d %d\r\n%s", answered, len(header), len(header), header))
	c.leaf.settle(c.t)
}

// until is the numbers from 1 to n.
func until(n int) (all []int) {
	for i := range n {
		all = append(all, i+1)
	}
	return all
}

// TestHostileCarrier: who carries a queue can confirm what it was sent in the
// destination's place, and that is lost, and remove single other messages of the stream by
// their sequence. But neither confirming what was never sent nor
// asking for other resets has bridges skip anything, and it reaches no others; when it is
// gone they go on.
func TestHostileCarrier(t *testing.T) {
	t.Parallel()
	f := newFederation(t)
	f.join("berlin", "tokyo")
	f.joinDialing("evil", "oslo")
	world := topology([]v1alpha1.LinkRule{{Name: "edges", Type: v1alpha1.LinkEdges, Edges: []v1alpha1.Edge{
		{A: "berlin", B: "evil"}, {A: "evil", B: "tokyo"}, {A: "berlin", B: "oslo"},
	}}}, "berlin", "evil", "tokyo", "oslo")
	queue := func(name, to, subject string) *v1alpha1.Bridge {
		return &v1alpha1.Bridge{ObjectMeta: named(name), Spec: v1alpha1.BridgeSpec{
			Account: "app", Type: v1alpha1.BridgeQueue, From: at("berlin"), To: at(to), Subjects: []string{subject},
			Stream: &v1alpha1.BridgeStreams{Name: name},
		}}
	}
	work := func(name string) *v1alpha1.Stream {
		return stream(name, v1alpha1.StreamSpec{Placement: at("berlin"), Subjects: []string{name + ".*"}, Retention: v1alpha1.RetentionWorkQueue})
	}
	objects := []client.Object{
		world, work("jobs"), work("spare"), stream("log", v1alpha1.StreamSpec{Placement: at("berlin"), Subjects: []string{"log.*"}}),
		queue("jobs", "tokyo", "jobs.moved"), queue("spare", "oslo", "spare.job"), streamBridge("log", at("berlin"), at("tokyo"), "log", "log"),
	}
	f.create(objects...)
	f.ready(objects...)
	c := &carrier{passage: &passage{federation: f, conns: map[string]*nats.Conn{}}, answered: map[string]bool{}}
	for _, m := range []string{"berlin", "tokyo", "oslo"} {
		c.conns[m] = f.connect(m, "app")
	}
	c.publish(5)
	c.want("tokyo", "jobs", "jobs.moved", until(5)...)
	c.want("tokyo", "log", "log.line", until(5)...)
	leaves := c.usurp("evil")
	c.leaf = leaves["berlin/in"]
	c.publish(5) // with kept ones between: the last moved one is sequence 19
	c.sent(10)
	c.confirm("jobs", 10, 19)
	c.want("berlin", "jobs", "jobs.moved") // they are lost

	// By its sequence it removes one other message, which the bridge does not take: the
	// confirmation has to reach the origin, and the sequence is in a header of it.
	c.publish(1) // the moved one is 21, the kept one 22
	c.sent(11)
	c.confirm("jobs", 11, 22)
	c.want("berlin", "jobs", "jobs.kept", until(10)...)

	// More than it was sent, which is lost, too.
	c.publish(5)
	for _, s := range []string{"jobs", "log"} {
		c.confirm(s, 16, 1_000_000)
	}
	consumers := map[string]bool{}
	c.leaf.mu.Lock()
	for _, r := range c.leaf.replies {
		if part := strings.Split(r, "."); strings.HasPrefix(r, "$JS.FC.") {
			consumers[part[2]+"."+part[3]] = true
		}
	}
	c.leaf.mu.Unlock()
	if len(consumers) != 2 {
		t.Errorf("evil knows of the consumers %v", consumers)
	}
	for name := range consumers {
		c.leaf.publish("fedjs.berlin.app.CONSUMER.RESET."+name, "re.evil", `{"seq":1000000}`)
		c.leaf.publish("re.tokyo.app.$JS.API.CONSUMER.DELETE."+name, "re.evil", "")
		c.leaf.publish("re.tokyo.app."+federationv1.ResetPrefix+"CONSUMER.RESET."+name, "re.evil", `{"seq":1000000}`)
	}
	c.leaf.settle(t)
	for _, r := range leaves {
		r.conn.Close() // evil is gone
	}

	f.members["evil"].restart() // in its place one that is honest
	c.publish(5)
	c.want("tokyo", "jobs", "jobs.moved", append(until(5), until(21)[16:]...)...)
	c.want("tokyo", "log", "log.line", until(21)...)
	c.want("berlin", "jobs", "jobs.kept", append(until(10), until(21)[11:]...)...)
	c.want("berlin", "jobs", "jobs.moved")
	c.want("oslo", "spare", "spare.job", until(21)...)
}
