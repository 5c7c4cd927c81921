package embedded

import (
	"context"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// letGoLook is how often clients are looked at while their server stops.
	letGoLook = time.Millisecond
	// letGoStill is after how many looks at which a client did nothing it waits for
	// nothing.
	letGoStill = 500
	// letGoMost is how many clients are looked at: a look at more would take longer
	// than a client is quiet. The others are let go by the server, at any moment.
	letGoMost = 1024
)

// letGo lets clients of a server in lame duck mode go one after the other, each while
// it waits for no answer, until the server has stopped or ctx is over. The server
// itself closes connections at any moment: the answer to what was published just
// before is lost, and the publisher runs into its timeout.
func letGo(ctx context.Context, srv *server.Server, stopped <-chan struct{}) {
	tick := time.NewTicker(letGoLook)
	defer tick.Stop()
	waits := waiting{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-stopped:
			return
		case <-tick.C:
		}
		if srv.Addr() != nil {
			continue // whoever was let go might come back
		}
		all, err := srv.Connz(&server.ConnzOptions{Limit: letGoMost})
		if err != nil {
			continue // the server lets go of them by itself
		}
		// Not all at once, for the other servers' sake.
		most := 1 + len(all.Conns)/500
		for _, c := range all.Conns {
			if c.Port == 0 || waits.look(c.Cid, c.InMsgs-c.OutMsgs) || most == 0 {
				continue // those within the process need no other server
			}
			most--
			_ = srv.DisconnectClientByID(c.Cid) // fails if it has gone
		}
	}
}

// waiting tells which clients may wait for an answer, by how many more messages each
// has sent than received: that is one more for each that is yet to be answered, and
// hence at its least when none is. Who only receives never waits. Whoever sends what
// is not answered always does, and is let go by the server.
type waiting map[uint64]*watched

type watched struct {
	last, least int64
	still       int  // looks since it changed
	answered    bool // it has received something while it was watched
}

// look is told the difference at each look.
func (w waiting) look(client uint64, ahead int64) (waits bool) {
	c := w[client]
	if c == nil {
		c = &watched{last: ahead, least: ahead}
		w[client] = c
	}
	c.still++
	if ahead != c.last {
		c.still = 0
	}
	c.answered = c.answered || ahead < c.last
	c.last, c.least = ahead, min(c.least, ahead)
	return ahead > c.least || !c.answered && c.still < letGoStill
}
