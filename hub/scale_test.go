package hub

import (
	"context"
	"crypto/tls"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/topology"
)

// BenchmarkThousandMembers measures how long a change that concerns all of 1,000
// members takes to reach the last of them, over real TLS connections, and what a
// member costs in memory. The memory is that of both ends, since the agents are
// in this process too.
func BenchmarkThousandMembers(b *testing.B) {
	const members = 1000
	h := newTestHub(b)
	prefix := unique("scale")
	states := func(round int) *topology.Plan {
		all := make([]*topology.MemberState, members)
		for i := range all {
			all[i] = state(fmt.Sprintf("%s-%d", prefix, i), account("app", fmt.Sprintf("r%d.>", round)))
		}
		return plan(all...)
	}
	current := states(0)
	h.fleet.Publish(current)
	certs := make([]tls.Certificate, members)
	for i := range certs {
		certs[i] = h.admit(b, fmt.Sprintf("%s-%d", prefix, i))
	}
	before := heap()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	arrived := make(chan struct{}, members)
	var up sync.WaitGroup
	for i, cert := range certs {
		up.Add(1)
		held := current.Members[fmt.Sprintf("%s-%d", prefix, i)].Hash
		go h.follow(ctx, b, cert, held, up.Done, arrived)
	}
	start := time.Now()
	up.Wait()
	b.Logf("%d sessions open in %v", members, time.Since(start).Round(time.Millisecond))
	perMember := float64(heap()-before) / members / 1024
	round := 0
	for b.Loop() {
		b.StopTimer()
		round++
		next := states(round)
		b.StartTimer()
		h.fleet.Publish(next)
		for range members {
			<-arrived
		}
		b.StopTimer()
		for _, s := range next.Members {
			eventually(b, "held", func() bool {
				h.fleet.mu.RLock()
				defer h.fleet.mu.RUnlock()
				return h.fleet.members[s.Cluster].heldHash == s.Hash
			})
		}
		b.StartTimer()
	}
	b.ReportMetric(perMember, "KiB/member")
}

// admit makes a member without the detour over a token.
func (h *testHub) admit(t testing.TB, name string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	der, notAfter, err := h.authority.Issue(name, anIncarnation, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	cert := pair(t, [][]byte{der}, key)
	m := &v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := h.client.Create(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	m.Status.Identity = &v1alpha1.MemberIdentity{KeyHash: keyHash(cert.Leaf.RawSubjectPublicKeyInfo), NotAfter: metav1.NewTime(notAfter)}
	if err := h.client.Status().Update(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return cert
}

// follow is an agent that takes every update.
func (h *testHub) follow(ctx context.Context, t testing.TB, cert tls.Certificate, held string, up func(), arrived chan<- struct{}) {
	conn, err := grpc.NewClient("passthrough:///"+h.addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: h.authority.pool(), ServerName: "localhost", Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13,
	})))
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	stream, err := federationv1.NewFederationClient(conn).Sync(ctx)
	if err == nil {
		err = stream.Send(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Hello{Hello: hello(held)}})
	}
	for err == nil {
		var m *federationv1.HubMessage
		if m, err = stream.Recv(); err != nil {
			break
		}
		if u := m.GetUpdate(); u != nil {
			arrived <- struct{}{}
			err = stream.Send(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Report{Report: done(u)}})
		} else {
			up()
		}
	}
	if ctx.Err() == nil {
		t.Error(err)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
