package embedded

import (
	"cmp"
	"net/http"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	brokerv1 "github.com/sealane/sealane/api/broker/v1"
	"github.com/sealane/sealane/broker"
)

// Observe tells what the node and its server are about; with streams also what
// each stream of the server is about.
func (n *Node) Observe(streams bool) *brokerv1.Observation {
	n.lookForStale()
	n.mu.RLock()
	srv := n.srv
	o := &brokerv1.Observation{
		Name: n.opts.Name, Server: n.name, Version: server.VERSION, Generation: n.state.GetGeneration(),
		Phase: brokerv1.Observation_RUNNING, Problem: n.problem, Restart: n.restart,
		Usage: &brokerv1.Usage{},
	}
	n.mu.RUnlock()
	o.Usage.DiskFree, o.Usage.DiskSize = diskSpace(n.opts.DataDir)
	o.Usage.Cpu, o.Usage.Processors = processorTime()
	o.Usage.MemoryTotal = memoryTotal()
	if srv == nil {
		o.Phase = brokerv1.Observation_STOPPED
		if n.Fresh() {
			o.Phase = brokerv1.Observation_FRESH
		}
		return o
	}
	h := srv.Healthz(nil)
	o.Healthy, o.Health = h.StatusCode == http.StatusOK, h.Error
	var keys []string
	if z, err := srv.Leafz(nil); err == nil {
		for _, l := range z.Leafs {
			keys = append(keys, l.Account)
			o.Leafs = append(o.Leafs, &brokerv1.Leaf{Id: l.ID, Account: l.Account})
		}
	}
	if v, err := srv.Varz(nil); err == nil {
		o.Usage.Connections, o.Usage.Messages = int64(v.Connections), v.InMsgs+v.OutMsgs
	}
	j, err := srv.Jsz(&server.JSzOptions{Accounts: streams, Streams: streams, Config: streams})
	if err != nil {
		o.Healthy, o.Health = false, err.Error()
		return o
	}
	o.Usage.Storage, o.Usage.Memory = int64(j.Store), int64(j.Memory)
	o.Usage.StorageLimit, o.Usage.MemoryLimit = j.Config.MaxStore, j.Config.MaxMemory
	o.Usage.StorageReserved, o.Usage.MemoryReserved = int64(j.ReservedStore), int64(j.ReservedMemory)
	o.Meta = &brokerv1.Meta{}
	if m := j.Meta; m != nil {
		o.Meta.Leader, o.Meta.Size, o.Meta.Peers = m.Leader, int32(m.Size), peersOf(m.Replicas)
	}
	for _, a := range j.AccountDetails {
		keys = append(keys, a.Id)
		for _, s := range a.Streams {
			o.Streams = append(o.Streams, streamOf(a.Id, s, o.Server))
		}
	}
	trimDomainMappings(srv, keys)
	return o
}

// lookForStale mends what the server tells others of queue groups that have left.
func (n *Node) lookForStale() {
	srv := n.server()
	if srv == nil {
		return
	}
	kick, restart := n.accounts.stale.look(srv, time.Now())
	kickStale(srv, n.log, kick)
	if restart {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.restart = cmp.Or(n.restart, "other servers count on members of queue groups that have left")
	}
}

func streamOf(account string, s server.StreamDetail, self string) *brokerv1.Stream {
	out := &brokerv1.Stream{Account: account, Name: s.Name}
	if s.Config != nil {
		out.Replicas = int32(s.Config.Replicas)
		out.Held = s.Config.Metadata[broker.Held] != ""
		out.Interest = s.Config.Retention == server.InterestPolicy && s.State.Consumers > 0
	}
	if s.Cluster != nil {
		out.Leader = s.Cluster.Leader == self
		out.Peers = peersOf(s.Cluster.Replicas)
		out.Moving = s.Cluster.Desired != nil
	}
	return out
}

func peersOf(l []*server.PeerInfo) []*brokerv1.Peer {
	var out []*brokerv1.Peer
	for _, p := range l {
		// The server adds this to the names of peers that it has not heard of.
		name := p.Name
		if strings.HasPrefix(name, "Server name unknown") {
			name = ""
		}
		out = append(out, &brokerv1.Peer{Name: name, Current: p.Current, Offline: p.Offline, Id: p.Peer})
	}
	return out
}
